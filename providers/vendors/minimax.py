"""MiniMax, whose models are asked by four APIs that have grown one beside the other.

- `image-01` at `/v1/image_generation` answers with the pictures.
- `MiniMax-H3-Image` at `/v1/images/generations`, with pictures `/v1/images/edits`, does so after up to 600 seconds.
- Hailuo and the older films at `/v1/video_generation` are tasks, whose film is a file that has to be asked for.
- `MiniMax-H3` at `/v2/video_generation` is a task that says where its film is.

The older two say with status 200 what went wrong, in `base_resp`; the newer ones have a status for it. What follows a
slash in a model's name is a way to use it, and is not sent. A job is the version of its API and the task's id, `v1:17`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from providers.contract import (
    Blocked,
    Broken,
    Callback,
    Done,
    Input,
    Kind,
    Order,
    Output,
    Pending,
    ProviderError,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.fanout import FanOut
from providers.fault import Fault, read_fault

if TYPE_CHECKING:
    from providers.card import Card, ModelCard
    from providers.http import Http

INVALID, OUTPUT_SENSITIVE = 2013, 1027
"""The vendor's codes for parameters that it does not take, and for what it made and withholds."""
PROBE = "/v2/query/video_generation?page_num=1&page_size=1"
INNER_CODE = re.compile(r"\((\d{4})\)")
"""How a message of the newer APIs ends: with the code that the older ones have in `base_resp`."""
OF_SIZE = re.compile(r"(?i)\b(width|height|aspect|size)")
WAITING = ("preparing", "queueing", "processing", "queued", "running")
FAILED = ("fail", "failed", "cancelled", "expired")
TEXT_RATIO = "16:9"
"""The shape of a film of text alone for which none is asked, as the vendor's own client has it: one must be named."""
REFERENCE = "reference_image"
"""The newer films' word for a picture that is no frame; the frames are called as here."""


class BaseResp(msgspec.Struct, frozen=True):
    """How a call went, beside status 200: anything but 0 is a failure."""

    status_code: int = 0
    status_msg: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What all answers may have. Nothing is certain to be there, for a failure leaves out what a success has."""

    base_resp: BaseResp | None = None

    @property
    def fault(self) -> Fault | None:
        """The failure that stands in the answer, None when there is none."""
        base = self.base_resp or BaseResp()
        sized = base.status_code == INVALID and OF_SIZE.search(base.status_msg or "")
        return Fault(base.status_msg, (str(base.status_code),), "size" if sized else None) if base.status_code else None


Answered = TypeVar("Answered", bound=Answer)


class Drawn(msgspec.Struct, frozen=True):
    """The pictures of the older API, as it was asked for them."""

    image_urls: list[Any] | None = None
    image_base64: list[Any] | None = None


class Pictures(Answer, frozen=True):
    """Pictures, and what the vendor counts of them; the newer API has entries with `url` or `b64_json`."""

    data: Drawn | list[Any] | None = None
    metadata: Any = None
    usage: Any = None

    @property
    def outputs(self) -> list[Output]:
        """Whatever of it is a picture."""
        if isinstance(self.data, Drawn):
            return _outputs(self.data.image_urls or [], self.data.image_base64 or [])
        entries = [one for one in self.data or [] if isinstance(one, dict)]
        return _outputs(
            [one.get("url") for one in entries], [one.get("b64_json") for one in entries if not one.get("url")]
        )


class Accepted(Answer, frozen=True):
    """A task that was taken."""

    task_id: str | int | None = None


class Film(Answer, frozen=True):
    """How a task of the first version stands."""

    status: str | None = None
    file_id: str | int | None = None
    error_message: str | None = None
    video_width: Any = None
    video_height: Any = None

    @property
    def fault(self) -> Fault | None:
        """The failure of the look; where there is a status, what else there is belongs to the task."""
        return None if self.status else super().fault

    @property
    def reason(self) -> Fault:
        """Why the task failed."""
        fault = super().fault or Fault()
        return msgspec.structs.replace(fault, message=self.error_message or fault.message)


class Retrieved(Answer, frozen=True):
    """What the files API says of a file: for a while, where its bytes are."""

    file: dict[str, Any] | None = None


class Task(msgspec.Struct, frozen=True):
    """How a task of the second version stands."""

    status: str = ""
    content: dict[str, Any] | None = None
    error: Any = None
    duration: Any = None
    usage: Any = None

    @property
    def reason(self) -> Fault:
        """Why the task failed, the status itself when nothing else is said."""
        return read({"error": self.error}) if self.error else Fault(f"the task is {self.status}", (self.status,))


class Looked(Answer, frozen=True):
    """What a look at a task of the second version gives."""

    task: Task | None = None


class MiniMax(FanOut):
    """MiniMax's pictures and films."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        http.fault = read

    async def submit_one(self, order: Order) -> Pending | Done:
        """Sends the order: for pictures, which come with the answer, or for one film."""
        card = self.card.model(order.model)
        if card is None:
            raise Refused(f"{self.card.title} has no such model", param="model")
        if card.kind is Kind.IMAGE:
            return await self._draw(order, card)
        version = "v2" if order.model.startswith("MiniMax-H3") else "v1"
        members = (_film_v2 if version == "v2" else _film_v1)(order, card)
        accepted = await self._call("POST", f"/{version}/video_generation", Accepted, paid=True, json=members)
        if not accepted.task_id:
            raise Broken(f"{self.card.title} took the order and does not say how to ask for it")
        return Pending(f"{version}:{accepted.task_id}", poll_after=self.card.poll_after)

    async def poll_one(self, job: str) -> Pending | Done:
        """Looks at a task; when a film of the first version is done, asks for the address of its file as well."""
        version, _, task = job.partition(":")
        return await (self._look_v2(job, task) if version == "v2" else self._look_v1(job, task))

    async def cancel_one(self, job: str) -> None:
        """Takes a task out of the queue. Refused when it is not in there, or of the first version, which cannot.

        It is looked at first: what stops a task that waits also throws away one that is done, and its film with it.
        """
        version, _, task = job.partition(":")
        if version != "v2" or (await self._task(task)).status != "queued":
            raise Refused(f"{self.card.title} cannot stop this any more")
        await self._call("DELETE", f"/v2/video_generation/{quote(task, safe='')}", Answer)

    async def hear(self, callback: Callback) -> Mapping[str, Any] | None:
        """Answers the challenge by which the vendor tries an address out, and takes note of anything about a task.

        Callbacks are not signed: that the address was known is all that speaks for one, so that nothing in it counts.
        """
        try:
            told = msgspec.json.decode(callback.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = None
        if isinstance(told, dict) and isinstance(told.get("challenge"), str):
            return {"challenge": told["challenge"]}
        if isinstance(told, dict) and ("task_id" in told or "task" in told):
            return None
        raise Refused(f"this is no callback of {self.card.title}")

    async def probe(self) -> None:
        """Asks for the list of tasks."""
        await self._call("GET", PROBE, Answer)

    async def _draw(self, order: Order, card: ModelCard) -> Done:
        """Orders pictures. Those that the vendor withholds it counts, and does not deliver."""
        if order.model.startswith("image-01"):
            path, members = "/v1/image_generation", _picture_v1(order, card)
        else:
            path = "/v1/images/edits" if order.inputs else "/v1/images/generations"
            members = _picture_h3(order, card)
        answer = await self._call("POST", path, Pictures, paid=True, json=members)
        outputs = tuple(answer.outputs[: order.generation.n])
        counts = answer.metadata if isinstance(answer.metadata, dict) else {}
        if not outputs and str(counts.get("failed_count") or 0) != "0":
            raise self.http.failure(Fault(f"{self.card.title} withheld what it had made", (str(OUTPUT_SENSITIVE),)))
        if not outputs:
            raise Broken(f"{self.card.title} answered without a picture")
        usage = answer.usage if isinstance(answer.usage, dict) else counts or None
        cost = card.usage_price.cost(usage) if card.usage_price and usage else None
        return Done(outputs, cost=cost, usage=usage)

    async def _look_v1(self, job: str, task: str) -> Pending | Done:
        film = await self._call("GET", f"/v1/query/video_generation?task_id={quote(task, safe='')}", Film)
        status = (film.status or "").lower()
        if status in WAITING:
            return Pending(job, poll_after=self.card.poll_after, note=status)
        if status in FAILED:
            raise self._failed(film.reason)
        if status != "success" or not film.file_id:
            raise Broken(f"{self.card.title} does not say how its task stands")
        path = f"/v1/files/retrieve?file_id={quote(str(film.file_id), safe='')}"
        found = await self._call("GET", path, Retrieved)
        url = (found.file or {}).get("download_url")
        return self._done(url, width=_count(film.video_width), height=_count(film.video_height))

    async def _look_v2(self, job: str, name: str) -> Pending | Done:
        task = await self._task(name)
        if task.status in WAITING:
            return Pending(job, poll_after=self.card.poll_after, note=task.status)
        if task.status in FAILED:
            raise self._failed(task.reason)
        if task.status != "succeeded":
            raise Broken(f"{self.card.title} does not say how its task stands")
        done = self._done((task.content or {}).get("url"), seconds=_count(task.duration))
        return msgspec.structs.replace(done, usage=task.usage if isinstance(task.usage, dict) else None)

    async def _task(self, name: str) -> Task:
        looked = await self._call("GET", f"/v2/query/video_generation/{quote(name, safe='')}", Looked)
        return looked.task or Task()

    def _done(self, url: Any, **claims: Any) -> Done:
        if not isinstance(url, str) or not url:
            raise Broken(f"{self.card.title} answered without a film")
        return Done((Output("video/mp4", url=url, **claims),))

    def _failed(self, fault: Fault) -> ProviderError:
        """The error of a task that came to nothing: whatever is no refusal is final all the same."""
        error = self.http.failure(fault)
        return error if isinstance(error, Refused) else Broken(error.message, code=error.code)

    async def _call(
        self, method: str, path: str, answer: type[Answered], *, paid: bool = False, json: Any = None
    ) -> Answered:
        """One call, whose failure may come with status 200. Without an order, a refusal is of an unknown task."""
        headers = {"authorization": f"Bearer {self.http.secrets['api_key']}"}
        try:
            answered = await self.http.request(method, path, answer, paid=paid, json=json, headers=headers)
            if answered.fault is not None:
                raise self.http.failure(answered.fault, "broken" if paid else "unavailable")
        except (Refused, Unsure) as error:
            if paid or isinstance(error, Blocked):
                raise
            otherwise = Unavailable if isinstance(error, Unsure) else Broken
            raise otherwise(error.message, code=error.code) from error
        return answered


def read(body: Any) -> Fault:
    """Reads the error bodies of all four APIs: `base_resp`, or `error` with the older code at the end of its words."""
    try:
        fault = msgspec.convert(body, Answer).fault
    except msgspec.ValidationError:
        fault = None
    if fault is not None:
        return fault
    fault = read_fault(body)
    inner = INNER_CODE.findall(fault.message or "")
    return msgspec.structs.replace(fault, codes=(*inner[-1:], *fault.codes))


def _picture(order: Order, card: ModelCard) -> dict[str, Any]:
    """The members of any order for pictures, but for the size and the pictures that go with it."""
    wanted = order.generation
    if wanted.size is not None and wanted.aspect_ratio is not None:
        raise Refused("size and aspect_ratio exclude each other", param="size")
    number = {"n": wanted.n} if wanted.n != 1 else {}
    shape = {"aspect_ratio": wanted.aspect_ratio} if wanted.aspect_ratio is not None else {}
    return _members(order, card) | number | shape


def _picture_v1(order: Order, card: ModelCard) -> dict[str, Any]:
    """The members of an order for `image-01`, whose `-live` variant knows shapes only."""
    members, size = _picture(order, card), order.generation.size
    if size is not None and card.size_rule is not None:
        width, _, height = size.partition("x")
        members |= {"width": int(width), "height": int(height)}
    elif size is not None:
        members["aspect_ratio"] = dict(zip(card.sizes, card.aspect_ratios, strict=True))[size]
    if order.inputs:
        members["subject_reference"] = [{"type": "character", "image_file": _address(one)} for one in order.inputs]
    return members


def _picture_h3(order: Order, card: ModelCard) -> dict[str, Any]:
    """The members of an order for H3-Image. Addresses are asked for: ten large pictures do not fit into an answer."""
    members, size = _picture(order, card) | {"response_format": "url"}, order.generation.size
    if size is not None and "area" in members:
        raise Refused("size and resolution exclude each other", param="size")
    if members.get("disable_prompt_enhanced") and size is None and "aspect_ratio" not in members:
        raise Refused("without prompt enhancement a size or an aspect_ratio is needed", param="disable_prompt_enhanced")
    if size is not None:
        members["size"] = size
    if order.inputs:
        members["images"] = [{"image_url": _address(one)} for one in order.inputs]
    return members


def _film_v1(order: Order, card: ModelCard) -> dict[str, Any]:
    members = _members(order, card) | _callback(order)
    for one in order.of(Role.FIRST_FRAME, Role.LAST_FRAME):
        members[f"{one.role}_image"] = _address(one)
    if subjects := order.of(Role.REFERENCE):
        members["subject_reference"] = [{"type": "character", "image": [_address(one)]} for one in subjects]
    return members


def _film_v2(order: Order, card: ModelCard) -> dict[str, Any]:
    """The members of an order for MiniMax-H3, which must name length and resolution: by default those of the card."""
    ratio = order.generation.aspect_ratio
    if ratio is not None and order.of(Role.FIRST_FRAME, Role.LAST_FRAME):
        raise Refused("a film that begins or ends with a picture has the shape of that", param="aspect_ratio")
    members = _members(order, card)
    text = {"type": "text", "text": members.pop("prompt", "")}
    roles = [REFERENCE if one.role is Role.REFERENCE else one.role for one in order.inputs]
    pictures = [
        {"type": "image_url", "image_url": {"url": _address(one)}, "role": role}
        for role, one in zip(roles, order.inputs, strict=True)
    ]
    defaults = {name: card.parameters[name].default for name in ("seconds", "resolution")}
    return {
        **card.renamed(defaults),
        **members,
        "content": [text, *pictures],
        "ratio": ratio or ("adaptive" if pictures else TEXT_RATIO),
        **_callback(order),
    }


def _members(order: Order, card: ModelCard) -> dict[str, Any]:
    """The members that all orders have, and those that the caller gave."""
    wanted = order.generation
    prompt = {"prompt": wanted.prompt} if wanted.prompt else {}
    model = {"model": order.model.partition("/")[0]}
    return model | prompt | card.renamed(wanted.parameters) | dict(wanted.extras)


def _callback(order: Order) -> dict[str, str]:
    return {"callback_url": order.callback_url} if order.callback_url else {}


def _address(one: Input) -> str:
    return f"data:{one.media_type};base64,{b64encode(one.data).decode()}"


def _outputs(urls: list[Any], texts: list[Any]) -> list[Output]:
    """The pictures at these addresses, and those of these texts in base64."""
    found = [Output(url=url) for url in urls if isinstance(url, str) and url]
    for text in texts:
        with suppress(ValueError, TypeError):
            found += [Output(data=b64decode(text, validate=True))] if text else []
    return found


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
