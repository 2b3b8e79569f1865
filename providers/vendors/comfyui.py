"""ComfyUI: a workflow with the order's values in it joins a server's queue, and is looked at until it is done.

The workflows are data, see `providers/workflow.py`. The id of a job is made from the order's own reference, so that an
order whose answer got lost is looked up and not sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit
from uuid import NAMESPACE_URL, uuid5

import aiohttp
import msgspec

from providers.card import Card, ModelCard
from providers.contract import (
    Broken,
    Done,
    Input,
    Lost,
    Order,
    Output,
    Pending,
    ProviderError,
    Refused,
    Report,
    Unavailable,
)
from providers.fanout import FanOut, jobs_of
from providers.fault import Fault, read_fault
from providers.http import Http, Part
from providers.jobs import OVER, Entry, Failure, File, Job, Kept, Queue, files_of
from providers.line import stay
from providers.listener import HELLO, Listener
from providers.workflow import Definition, Workflows

BUILT_IN = Path(__file__).with_suffix("")
Found = TypeVar("Found")
FOLDER = "heliograph"
UNKNOWN_JOB = "job_not_found"
CONNECT_TIMEOUT, HEARTBEAT = 5.0, 20.0
# A node that asks a vendor with a content policy raises a plain exception, and only its words tell.
_MODERATED = re.compile(r"(?i)\bcontent[_ ]filter|\bmoderat(?:ed|ion)\b|\bnsfw\b")
_FILE_PATH = re.compile(r"(?:\b[A-Za-z]:)?(?:[/\\][^\s/\\'\":,]+){2,}")


class NodeError(msgspec.Struct, frozen=True):
    """What the server finds wrong, with the whole or with a node."""

    type: str
    message: str = ""
    details: str = ""
    extra_info: Any = None


class NodeErrors(msgspec.Struct, frozen=True):
    """What it finds wrong with one node."""

    errors: list[NodeError] = []
    class_type: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What it answers to a prompt. With an id and errors, a part of the workflow was left out and the rest runs."""

    prompt_id: str | None = None
    error: NodeError | str | None = None
    node_errors: dict[str, NodeErrors] | list[Any] = {}


class Queued(Answer, frozen=True, kw_only=True):
    """The answer to a prompt that was taken."""

    prompt_id: Annotated[str, msgspec.Meta(min_length=1)]


class Uploaded(msgspec.Struct, frozen=True):
    """Where an input lies now."""

    name: str
    subfolder: str = ""


class ComfyUI(FanOut):
    """One ComfyUI server."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        http.fault = _fault
        self._workflows = {
            model.name: Workflows(model, BUILT_IN, f"{card.name}, model {model.name}") for model in card.models
        }

    async def submit_one(self, order: Order) -> Pending:
        """Uploads the inputs, which costs nothing, and queues the workflow."""
        workflows, job = self._workflows[order.model], _job_id(order)
        workflow, asked = workflows.pick(order)
        values = workflows.values(order, workflow) | {"filename_prefix": f"{FOLDER}/{job}"}
        for role in dict.fromkeys(one.role for one in order.inputs):
            values[role] = [await self._upload(one) for one in order.of(role)]
        body = {"prompt": workflow.filled(values), "prompt_id": job}
        # The server keeps these with the job, and tells its progress to the client of that id.
        body |= {"client_id": job, "extra_data": _extra(order, workflow.outputs)}
        try:
            queued = await self.http.request("POST", "/prompt", Queued, paid=True, json=body, headers=self._headers())
            if queued.node_errors:
                with suppress(ProviderError):
                    await self.cancel_one(queued.prompt_id)
                raise self.http.failure(_told(queued), "refused")
        except Refused as error:
            raise self._blamed(error, asked.get(workflow.type_at(error.param) or "")) from error
        return Pending(queued.prompt_id, poll_after=self.card.poll_after, note="pending")

    async def poll_one(self, job: str) -> Pending | Done:
        """Looks at the job; Lost when the server does not know it, for it keeps its jobs in memory alone.

        One that failed is a failure, whatever it has saved by then: nobody says which files would have been the last.
        """
        found = await self._look(job)
        if found is None:
            raise Lost(f"{self.card.title} has lost the job: perhaps it was restarted", code="job_lost")
        if found.status == "cancelled":
            raise Broken(f"The job was cancelled on {self.card.title}", code="cancelled")
        if found.status == "failed":
            raise self.http.failure(_reason(found.execution_error or Failure()))
        if found.status != "completed":
            return Pending(job, poll_after=self.card.poll_after, note=found.status)
        outputs = tuple(self._output(file) for file in files_of(found))
        if not outputs:
            raise Broken(f"{self.card.title} finished without an output")
        return Done(outputs, cost=0)

    async def find(self, order: Order) -> Pending | None:
        """Whether the server knows jobs of the order; how those that it knows stand is what the next poll says."""
        jobs = [_job_id(one) for one in self._split(order)]
        found = [job for job in jobs if await self._look(job) is not None]
        job = "".join(found) if len(jobs) == 1 else msgspec.json.encode(found).decode()
        return Pending(job, poll_after=self.card.poll_after) if found else None

    async def cancel_one(self, job: str) -> None:
        """Stops this job and no other, whether it waits or runs."""
        try:
            await self._post(f"/api/jobs/{quote(job, safe='')}/cancel")
        except Refused:
            # A server before 0.26. One that is older still ignores the id, and would interrupt whatever runs.
            await self._post("/queue", {"delete": [job]})
            if any(one.id == job for one in (await self._get("/queue", Queue)).queue_running):
                await self._post("/interrupt", {"prompt_id": job})

    async def watch(self, job: str, report: Report) -> None:
        """Reports the sampler's steps, with previews where the order asked for them.

        Several jobs are followed in turn, which is how the server works on them.
        """
        jobs, numbers = jobs_of(job)[0], count()
        for place, one in enumerate(jobs):
            await self._listen(Listener(one, place / len(jobs), 1 / len(jobs), numbers), report)

    async def read(self, output: Output) -> AsyncIterator[bytes]:
        """Streams a file. It comes from this server whatever its address says, so that the key goes nowhere else."""
        url = f"{self.http.base_url}/view?{urlsplit(output.url or '').query}"
        stream = self.http.client.stream("GET", url, headers=self._headers())
        async with self.http.guard(paid=False), stream as response:
            if not response.is_success:
                await response.aread()
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                yield chunk

    async def models(self) -> tuple[ModelCard, ...]:
        """The models whose nodes and files the server has. One answer says it all; it is megabytes."""
        definitions = await self._get("/object_info", dict[str, Definition])
        found = (workflows.card_at(definitions) for workflows in self._workflows.values())
        return tuple(card for card in found if card is not None)

    async def probe(self) -> None:
        """Asks for the queue, which no other program would answer."""
        await self._get("/queue", Queue)

    async def _upload(self, given: Input) -> str:
        """The name by which a workflow loads an input. The server keeps the same bytes once."""
        name = f"{hashlib.sha256(given.data).hexdigest()}.{given.media_type.rpartition('/')[2]}"
        parts = (Part("image", given.data, name, given.media_type), Part("type", "input"), Part("subfolder", FOLDER))
        answer = await self.http.send("POST", "/upload/image", paid=False, parts=parts, headers=self._headers())
        found = self.http.decode(answer.content, Uploaded)
        return f"{found.subfolder}/{found.name}" if found.subfolder else found.name

    async def _look(self, job: str) -> Job | None:
        """The job as the server knows it, or None."""
        place = quote(job, safe="")
        try:
            return await self._get(f"/api/jobs/{place}", Job)
        except Refused as error:
            if error.code == UNKNOWN_JOB:
                return None
        # A server before 0.8. The queue is asked first: a job that leaves it meanwhile is in the history by then.
        try:
            queue = await self._get("/queue", Queue)
            if any(one.id == job for one in queue.queue_running + queue.queue_pending):
                return Job(job, "queued")
            history = await self._get(f"/history/{place}", dict[str, Entry])
        except Refused as error:
            # Every server has these two: something else has answered in its place.
            raise Unavailable(error.message, code=error.code) from error
        return history[job].job() if job in history else None

    async def _listen(self, listener: Listener, report: Report) -> None:
        """Reports what the socket tells of a job until it is over."""
        timeout, place = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT), quote(listener.job, safe="")
        url = f"{self.http.base_url}/ws?clientId={place}"
        try:
            async with (
                aiohttp.ClientSession(trust_env=False, timeout=timeout, middlewares=(stay,)) as session,
                session.ws_connect(url, headers=self._headers(), heartbeat=HEARTBEAT) as socket,
            ):
                await socket.send_str(HELLO)
                # Nothing is told twice: of a job that was over before we listened we shall never hear.
                found = await self._look(listener.job)
                if found is None or found.status in OVER:
                    return
                async for message in socket:
                    progress = listener.hear(message.data)
                    if listener.over:
                        return
                    if progress is not None:
                        await report(progress)
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self.card.title} could not be asked for its progress") from error

    def _blamed(self, error: Refused, member: str | None) -> ProviderError:
        """The error for a workflow that was not taken: the caller's when it is about a member of the request."""
        if member is not None:
            return Refused(error.message, code=error.code, param=member)
        if error.code is None:
            # These are not the server's words: something before it has answered, and passed nothing on.
            return Unavailable(error.message)
        if error.code == "value_not_in_list":
            return Unavailable(f"{self.card.title} lacks something: {error.message}", code=error.code)
        return Broken(f"The workflow does not fit {self.card.title}: {error.message}", code=error.code)

    def _output(self, file: File) -> Output:
        query = {"filename": file.filename, "subfolder": file.subfolder or "", "type": file.type or "output"}
        return Output(file.media_type, url=f"{self.http.base_url}/view?{urlencode(query)}")

    async def _get(self, path: str, answer: type[Found]) -> Found:
        return await self.http.request("GET", path, answer, paid=False, headers=self._headers())

    async def _post(self, path: str, json: Any = None) -> None:
        await self.http.send("POST", path, paid=False, json=json, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        key = self.http.secrets.get("api_key")
        return {"authorization": key if " " in key else f"Bearer {key}"} if key else {}


def _job_id(order: Order) -> str:
    """The id of an order's job: servers since 0.25 take none but such a UUID."""
    return str(uuid5(NAMESPACE_URL, f"heliograph:{order.idempotency_key}"))


def _extra(order: Order, outputs: tuple[str, ...]) -> dict[str, Any]:
    """What the server is to keep with a job. It makes previews only when it is asked to."""
    extra: dict[str, Any] = {"heliograph": Kept(order.generation.kind, outputs)}
    return extra | ({"preview_method": "auto"} if order.generation.partial_images else {})


def _fault(body: Any) -> Fault:
    """The server's account of a failure."""
    try:
        return _told(msgspec.convert(body, Answer))
    except msgspec.ValidationError:
        return read_fault(body)


def _told(answer: Answer) -> Fault:
    """The first thing that is wrong; `param` is its place, `node.input`."""
    for node, found in answer.node_errors.items() if isinstance(answer.node_errors, dict) else ():
        for error in found.errors:
            name = error.extra_info.get("input_name") if isinstance(error.extra_info, dict) else None
            words = f"{found.class_type}: {error.message}: {error.details}"
            return Fault(_without_paths(words), (error.type,), f"{node}.{name}")
    if isinstance(answer.error, NodeError):
        return Fault(_without_paths(f"{answer.error.message} {answer.error.details}"), (answer.error.type,))
    return Fault(answer.error, (UNKNOWN_JOB,) if answer.error == "Job not found" else ())


def _reason(failure: Failure) -> Fault:
    """Why a job failed."""
    words = f"{failure.node_type}: {failure.exception_message}" if failure.exception_message else None
    moderated = ("content_filtered",) if _MODERATED.search(failure.exception_message) else ()
    codes = (*moderated, *filter(None, (failure.exception_type,)))
    return Fault(_without_paths(words) if words else None, codes)


def _without_paths(text: str) -> str:
    """The server's folders are nobody's business."""
    return _FILE_PATH.sub("[file]", text)
