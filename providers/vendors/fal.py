"""fal.ai's queue: one protocol for all models, by plain HTTP, because the official client sends lost orders again.

The vendor's name of a model is the path of its endpoint, such as `fal-ai/flux/dev`. An order is answered with the
addresses at which to ask for it. There is no status for a failure: a job that has failed is COMPLETED too, and its
result is an error.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from providers.contract import (
    Broken,
    Callback,
    Done,
    Input,
    Order,
    Output,
    Pending,
    Progress,
    ProviderError,
    Refused,
    Report,
    Role,
    Unavailable,
)
from providers.fanout import FanOut
from providers.fault import Fault, read_fault
from providers.keyset import KeySet, is_signed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from providers.card import Card, ModelCard
    from providers.http import Http

Answer = TypeVar("Answer")

ONCE = {"x-fal-no-retry": "1", "x-app-fal-disable-fallback": "1"}
"""Headers by which fal runs an order once, and nowhere else than at the endpoint that was named."""
NO_JOB = "/fal-ai/flux/requests/00000000-0000-0000-0000-000000000000/status"
KEYS = "https://rest.fal.ai/.well-known/jwks.json"
KEYS_LAST, KEYS_PAUSE = dt.timedelta(days=1), dt.timedelta(minutes=1)
STAMP, TOLERANCE = re.compile(r"[0-9]{1,12}"), 300
"""Of callbacks: their time in seconds, and how far it may be from ours."""
BLOCKED = "content_policy_violation"
EXHAUSTED = "exhausted_balance"
EXHAUSTED_WORDS = re.compile(r"(?i)exhausted balance|user is locked")
PERCENT = re.compile(r"\b(\d{1,3})%\|")
"""What a progress bar prints."""

FIELDS: Mapping[Role, str] = {
    Role.IMAGE: "image_url", Role.REFERENCE: "image_url", Role.MASK: "mask_url", Role.VIDEO: "video_url",
    Role.FIRST_FRAME: "image_url", Role.LAST_FRAME: "end_image_url",
    Role.STYLE: "style_image_url", Role.CONTROL: "control_image_url",
}  # fmt: skip


class Form(NamedTuple):
    """How endpoints are asked: a film's seconds, and its frames per second, are numbers unless there is a pattern."""

    seconds: str | None = None
    fields: Mapping[Role, str] = FIELDS
    takes_prompt: bool = True
    fps: str | None = None


USUAL = Form()
FORMS: Mapping[str, Form] = {
    "fal-ai/kling-video/v3/turbo/": Form("{}"),
    "fal-ai/kling-video/v3/": Form("{}", {**FIELDS, Role.FIRST_FRAME: "start_image_url"}),
    "fal-ai/kling-video/o": Form("{}"),
    "fal-ai/kling-video/": Form("{}", {**FIELDS, Role.LAST_FRAME: "tail_image_url"}),
    "fal-ai/veo3": Form("{}s"),
    "fal-ai/recraft/upscale/": Form(takes_prompt=False),
    "fal-ai/bria/background/remove": Form(takes_prompt=False),
    "fal-ai/bytedance-upscaler/": Form(takes_prompt=False, fps="{}fps"),
}
"""By the beginning of the model's name; the first that fits."""


class Job(msgspec.Struct, frozen=True):
    """Where to ask for an order. Never built from the model's name, of which fal leaves parts out."""

    status_url: str
    response_url: str
    cancel_url: str


class Status(msgspec.Struct, frozen=True):
    """How a job stands. `queue_position` counts those ahead; a failure shows in `error`, or only in the result."""

    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    queue_position: Any = None
    logs: Any = None
    error: Any = None
    error_type: Any = None

    @property
    def progress(self) -> float | None:
        """The last percentage that the model has printed, from 0 to 1; None when it prints none."""
        lines = self.logs if isinstance(self.logs, list) else []
        found = [PERCENT.findall(str(line.get("message"))) for line in lines if isinstance(line, dict)]
        numbers = [int(number) for one in found for number in one]
        return min(numbers[-1], 100) / 100 if numbers else None

    @property
    def note(self) -> str:
        """The stage in words."""
        if self.status == "IN_QUEUE" and isinstance(self.queue_position, int):
            return f"in queue, {self.queue_position} ahead"
        return self.status.replace("_", " ").lower()

    @property
    def fault(self) -> Fault | None:
        """What the status itself says of a failure."""
        if not self.error and not self.error_type:
            return None
        message = self.error if isinstance(self.error, str) else None
        return Fault(message, (str(self.error_type),) if self.error_type else ())


class Result(msgspec.Struct, frozen=True):
    """What a job has made, as far as all models agree: files in one of these members, and which of them are unsafe."""

    images: Any = None
    image: Any = None
    videos: Any = None
    video: Any = None
    has_nsfw_concepts: Any = None

    @property
    def files(self) -> list[Any]:
        """The entries of the first member that holds some."""
        found: Any = next((one for one in (self.images, self.image, self.videos, self.video) if one), [])
        return found if isinstance(found, list) else [found]


class Fal(FanOut):
    """Any model of fal.ai."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        http.fault = read
        self._keys: tuple[Ed25519PublicKey, ...] = ()
        self._keys_asked: dt.datetime | None = None

    async def submit_one(self, order: Order) -> Pending:
        """Puts the order into the queue."""
        members = self._members(order)
        told = {"fal_webhook": order.callback_url} if order.callback_url else None
        place = f"/{quote(order.model)}"
        job = await self._ask("POST", place, Job, paid=True, json=members, params=told, headers=ONCE)
        return Pending(self._kept(job), poll_after=self.card.poll_after)

    async def poll_one(self, job: str) -> Pending | Done:
        """Looks at the status, and at the result when the job is over. One that fal does not know is Broken."""
        at = _job(job)
        try:
            status = await self._ask("GET", at.status_url, Status, params={"logs": "1"})
        except Refused as refusal:
            raise Broken(refusal.message, code=refusal.code) from refusal
        if status.status != "COMPLETED":
            return Pending(job, poll_after=self.card.poll_after, progress=status.progress, note=status.note)
        try:
            result = await self._ask("GET", at.response_url, Result)
        except ProviderError as error:
            raise self._reason(error, status.fault) from error
        if status.fault is not None:
            raise self.http.failure(status.fault)
        return self._read(result)

    async def cancel_one(self, job: str) -> None:
        """Asks fal to stop. Refused when the job is over already, or unknown."""
        await self.http.send("PUT", _job(job).cancel_url, paid=False, headers=self._headers())

    async def hear(self, callback: Callback) -> None:
        """Checks the signature by the keys that fal publishes. Refused when it is not fal's, or too old.

        They are asked for once a day, and when a signature fits none of them, at most once a minute.
        """
        stamp = callback.headers.get("x-fal-webhook-timestamp", "")
        now = self.http.now()
        if not STAMP.fullmatch(stamp) or abs(now.timestamp() - int(stamp)) > TOLERANCE:
            raise Refused("The callback has no time, or is too old")
        signature, message = callback.headers.get("x-fal-webhook-signature", ""), _signed(callback)
        asked = self._keys_asked
        if asked and now - asked < KEYS_LAST and is_signed(message, signature, self._keys):
            return
        if asked is None or now - asked >= KEYS_PAUSE:
            self._keys_asked = now
            self._keys = await self._published()
        if not self._keys:
            raise Unavailable(f"{self.card.title} has not told its keys for callbacks")
        if not is_signed(message, signature, self._keys):
            raise Refused(f"The callback is not signed by {self.card.title}")

    async def _published(self) -> tuple[Ed25519PublicKey, ...]:
        """The keys of another host, which gets no credential."""
        async with self.http.guard(paid=False):
            answer = await self.http.client.get(KEYS)
            answer.raise_for_status()
        return self.http.decode(answer.content, KeySet).usable()

    async def watch(self, job: str, report: Report) -> None:
        """Reports from the stream of a job's status, for as long as one call may take. Several jobs are only polled."""
        if job.startswith("["):
            return
        address = f"{self.http.base_url}{_job(job).status_url}/stream"
        fraction = 0.0
        async with (
            self.http.guard(paid=False),
            self.http.client.stream("GET", address, params={"logs": "1"}, headers=self._headers()) as answer,
        ):
            if answer.is_error:
                await answer.aread()
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if (status := _event(line)) is None:
                    continue
                if status.status == "COMPLETED":
                    return
                fraction = max(fraction, status.progress or 0.0)
                await report(Progress(fraction, status.note))

    async def probe(self) -> None:
        """Asks for a job that cannot be. That fal does not find it shows that it takes the credential."""
        try:
            await self.http.send("GET", NO_JOB, paid=False, headers=self._headers())
        except Refused:
            return

    def _members(self, order: Order) -> dict[str, Any]:
        """The members that the caller gave, under the endpoint's names, and no others."""
        wanted, card, form = order.generation, self.card.model(order.model), _form(order.model)
        if wanted.prompt and not form.takes_prompt:
            raise Refused(f"{card.title if card else self.card.title} takes no prompt", param="prompt")
        parameters = dict(wanted.parameters)
        for name, pattern in (("seconds", form.seconds), ("fps", form.fps)):
            if pattern is not None and name in parameters:
                parameters[name] = pattern.format(parameters[name])
        members = (card.renamed(parameters) if card else parameters) | dict(wanted.extras)
        if wanted.prompt:
            members["prompt"] = wanted.prompt
        if wanted.n != 1:
            members["num_images"] = wanted.n
        if wanted.size is not None:
            width, _, height = wanted.size.partition("x")
            members["image_size"] = {"width": int(width), "height": int(height)}
        if wanted.aspect_ratio is not None:
            members["aspect_ratio"] = wanted.aspect_ratio
        return members | _files(order, card, form.fields)

    def _kept(self, job: Job) -> str:
        """The job as the core keeps it: paths alone, for the credential goes to the card's own host and to no other."""
        try:
            paths = Job(*(urlsplit(url).path for url in (job.status_url, job.response_url, job.cancel_url)))
        except ValueError:
            paths = Job("", "", "")
        if not all(path.startswith("/") for path in (paths.status_url, paths.response_url, paths.cancel_url)):
            raise Broken(f"{self.card.title} took the order and does not say where to ask for it")
        return msgspec.json.encode(paths).decode()

    def _reason(self, error: ProviderError, fault: Fault | None) -> ProviderError:
        """Why a job that is over has no result.

        A trouble that fal has a word for is the job's, however it would be read of a call; one without may be of the
        way to the result, so that it is looked for again, unless the status has told already that the job failed.
        """
        if error.code is None and fault is not None:
            return self.http.failure(fault)
        if isinstance(error, Unavailable) and error.code is not None:
            return Broken(error.message, code=error.code)
        return error

    def _read(self, result: Result) -> Done:
        """The files. One that is flagged as unsafe comes as a black picture: it is not delivered."""
        flags = result.has_nsfw_concepts if isinstance(result.has_nsfw_concepts, list) else []
        unsafe = {place for place, flag in enumerate(flags) if flag is True}
        safe = [one for place, one in enumerate(result.files) if place not in unsafe]
        outputs = tuple(output for one in safe if (output := _output(one)) is not None)
        if not outputs and unsafe:
            raise self.http.failure(Fault(f"{self.card.title} found what it had made unsafe", (BLOCKED,)))
        if not outputs:
            raise Broken(f"{self.card.title} answered without a file")
        return Done(outputs)

    async def _ask(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        *,
        paid: bool = False,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = self._headers() | dict(headers or {})
        return await self.http.request(method, path, answer, paid=paid, json=json, params=params, headers=sent)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Key {self.http.secrets['api_key']}"}


def read(body: Any) -> Fault:
    """Reads fal's error bodies: of a model, a list of what is wrong; of the platform, a text with its kind."""
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, list):
        return _wrong([one for one in detail if isinstance(one, dict)])
    if not isinstance(detail, str):
        status = body.get("status") if isinstance(body, dict) else None
        return Fault(codes=(status,)) if isinstance(status, str) else read_fault(body)
    words = (EXHAUSTED if EXHAUSTED_WORDS.search(detail) else None, body.get("error_type"))
    return Fault(detail, tuple(word for word in words if isinstance(word, str)))


def _wrong(details: list[dict[str, Any]]) -> Fault:
    """What a model finds wrong with an order, the first thing in words."""
    if not details:
        return Fault()
    message, place = details[0].get("msg"), details[0].get("loc")
    param = ".".join(str(step) for step in place if step != "body") if isinstance(place, list) else None
    return Fault(
        message if isinstance(message, str) else None,
        tuple(kind for one in details if isinstance(kind := one.get("type"), str)),
        param or None,
    )


def _signed(callback: Callback) -> bytes:
    """What the signature is made over: who was told what, and when."""
    names = ("request-id", "user-id", "timestamp")
    parts = [callback.headers.get(f"x-fal-webhook-{name}", "") for name in names]
    return "\n".join([*parts, hashlib.sha256(callback.body).hexdigest()]).encode()


def _form(model: str) -> Form:
    return next((form for start, form in FORMS.items() if model.startswith(start)), USUAL)


def _files(order: Order, card: ModelCard | None, fields: Mapping[Role, str]) -> dict[str, Any]:
    """The inputs as data addresses. A member that may hold several is a list, and has the plural for its name."""
    found: dict[str, list[str]] = {}
    for one in order.inputs:
        found.setdefault(fields[one.role], []).append(_address(one))
    lists = {fields[role] for role, rule in card.inputs.items() if rule.max > 1} if card else set()
    return {
        f"{name}s" if name in lists or len(given) > 1 else name: given if name in lists or len(given) > 1 else given[0]
        for name, given in found.items()
    }


def _address(one: Input) -> str:
    return f"data:{one.media_type};base64,{b64encode(one.data).decode()}"


def _job(job: str) -> Job:
    return msgspec.json.decode(job, type=Job)


def _event(line: str) -> Status | None:
    """The status in a line of the stream, None when there is none in it."""
    if not line.startswith("data:"):
        return None
    try:
        return msgspec.json.decode(line.removeprefix("data:"), type=Status)
    except msgspec.DecodeError:
        return None


def _output(file: Any) -> Output | None:
    """The output of an entry, None when it has no address."""
    entry = {"url": file} if isinstance(file, str) else file
    if not isinstance(entry, dict):
        return None
    url, media_type = entry.get("url"), entry.get("content_type")
    if not isinstance(url, str) or not url:
        return None
    return Output(
        media_type if isinstance(media_type, str) and media_type else None,
        url=url,
        width=_edge(entry.get("width")),
        height=_edge(entry.get("height")),
    )


def _edge(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
