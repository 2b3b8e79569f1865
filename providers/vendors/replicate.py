"""Replicate: one protocol for all models, by plain HTTP. An order becomes a prediction, and is looked at until it ends.

The vendor's name of a model is `owner/name` for an official one, and `owner/name:version` for any other; with
`deployment = true` among its options it is a deployment of one's own. What a model's inputs are called is its own
affair: its options say it, see `providers/form.py`. Of a prediction everything but the id is read with leniency,
because an order whose answer is not understood is bought all the same.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import re
from collections.abc import Iterator, Mapping
from mimetypes import guess_type
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from providers.card import CardError
from providers.contract import (
    Broken,
    Callback,
    Done,
    Input,
    Kind,
    Lost,
    Order,
    Output,
    Pending,
    ProviderError,
    RateLimited,
    Refused,
    Role,
    Unavailable,
)
from providers.fanout import FanOut
from providers.fault import MAX_RETRY_AFTER, Fault, read_fault
from providers.form import Form, filled, painted
from providers.http import Part
from providers.webhook import check_age, decoded, is_signed

if TYPE_CHECKING:
    from providers.card import Card, ModelCard
    from providers.http import Http

INLINE = 256 * 1024
"""Bytes up to which an input goes along in the order; what is larger is uploaded before it."""
LONGEST_WAIT = 60
"""Seconds for which Replicate holds a connection at most."""
VIDEO_POLL_AFTER = 5.0
KEY_PAUSE = dt.timedelta(minutes=1)
"""For how long the key of callbacks is not asked for again."""
ADDRESS = "text/uri-list"
"""The media type of an input that was turned into its address."""

RUNNING = ("starting", "processing", "queued")
SUCCEEDED, FAILED, CANCELED, ABORTED = "succeeded", "failed", "canceled", "aborted"
BLOCKED, NO_CREDIT = "content_policy_violation", "insufficient_credit"
DELIVERY = ".replicate.delivery"

NAME = re.compile(r"(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<version>[0-9a-f]{64}))?", re.ASCII)
PERCENT = re.compile(r"\b(\d{1,3})%\|")
"""What a progress bar prints."""
LOG_TAIL = 4096
CODE = re.compile(r"\bE\d{3,5}\b")
FIELD = re.compile(r"(?:^|[\s-])input\.(\w+)")
RESETS = re.compile(r"resets in ~?(\d+(?:\.\d+)?)\s?s")
# What only words tell, for most models are somebody else's behind Replicate.
UNSAFE = re.compile(
    r"(?i)\bnsfw\b|(?<!case[- ])\bsensitive\b|\bsafety\b|\bflagged\b|\bcontent polic|\bmoderat(?:ed|ion)\b"
)
CREDIT = re.compile(r"(?i)insufficient credit|spend limit|\bbilling\b")
PASSING = re.compile(
    r"(?i)high demand|overloaded|(?:temporarily|currently) unavailable|try again later|please retry|interrupted"
    r"|too many requests|rate.?limit|\b(?:429|503)\b|resource.?exhausted|queue is full"
    r"|unexpected error handling prediction|\bE(?:1000|003|004)\b"
)


class Prediction(msgspec.Struct, frozen=True):
    """How a prediction stands."""

    id: str
    status: Any = None
    model: Any = None
    version: Any = None
    output: Any = None
    error: Any = None
    logs: Any = None
    metrics: Any = None
    completed_at: Any = None
    data_removed: Any = None

    @property
    def runs(self) -> bool:
        """Whether it may still come to something. A status that is new here counts as running until there is an end."""
        if self.status in RUNNING:
            return True
        return self.status not in (SUCCEEDED, FAILED, CANCELED, ABORTED) and not self.completed_at

    @property
    def printed(self) -> str:
        """The end of what the model has printed."""
        return self.logs[-LOG_TAIL:] if isinstance(self.logs, str) else ""

    @property
    def progress(self) -> float | None:
        """The last percentage that the model has printed, from 0 to 1; None when it prints none."""
        numbers = PERCENT.findall(self.printed)
        return min(int(numbers[-1]), 100) / 100 if numbers else None


class File(msgspec.Struct, frozen=True):
    """An upload: where a model finds it."""

    urls: dict[str, str]


class WebhookKey(msgspec.Struct, frozen=True):
    """What callbacks are signed with: base64 after `whsec_`."""

    key: str


class Options(Form, frozen=True, forbid_unknown_fields=True):
    """How a model is asked, and where: with `deployment` the name is that of a deployment, and not of a model.

    `wait` is for how many seconds Replicate may hold its answer back until the result is there.
    """

    deployment: bool = False
    wait: int | None = None


class Model:
    """A model of the card, and where it is ordered; raises CardError when the card and its options do not fit."""

    def __init__(self, card: ModelCard, where: str, longest_wait: float) -> None:
        self.card = card
        self.options = filled(Options, card, where)
        wait, name = self.options.wait, NAME.fullmatch(card.name)
        if wait is not None and not 1 <= wait <= longest_wait:
            raise CardError(f"{where}.wait has to be from 1 to {longest_wait:g} seconds")
        if name is None:
            raise CardError(f"{where}: the name has to be owner/name, or owner/name:version with 64 hexadecimal digits")
        self.version = name["version"]
        if self.version and self.options.deployment:
            raise CardError(f"{where}: a deployment has no version")
        kind = "deployments" if self.options.deployment else "models"
        self.path = "/predictions" if self.version else f"/{kind}/{name['model']}/predictions"

    @property
    def bills_failures(self) -> bool:
        """Whether a failed prediction may be billed: official ones bill what they make, all others their time."""
        return self.card.billed_on_failure or bool(self.version) or self.options.deployment


class Replicate(FanOut):
    """Any model that runs on Replicate."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        http.fault = read
        longest_wait = min(LONGEST_WAIT, card.timeout - 1)
        self._models = {
            one.name: Model(one, f"{card.name}, model {one.name}, options", longest_wait) for one in card.models
        }
        self._key: bytes | None = None
        self._key_asked: dt.datetime | None = None
        self._asking = asyncio.Lock()

    async def submit(self, order: Order) -> Pending | Done:
        """Uploads what is too large to go along, which costs nothing; then sends as many orders as it takes."""
        inputs = [await self._handed_over(one, self._model(order)) for one in order.inputs]
        return await super().submit(msgspec.structs.replace(order, inputs=tuple(inputs)))

    async def submit_one(self, order: Order) -> Pending | Done:
        """Creates the prediction: the one call that costs money."""
        model = self._model(order)
        body: dict[str, Any] = {"input": model.options.members(order, model.card)}
        if model.version:
            body["version"] = model.version
        # It calls nothing else, and refuses the whole order for it.
        if order.callback_url is not None and order.callback_url.startswith("https://"):
            body |= {"webhook": order.callback_url, "webhook_events_filter": ["completed"]}
        headers = {"prefer": f"wait={model.options.wait}"} if model.options.wait else {}
        try:
            return self._read(await self._ask("POST", model.path, paid=True, json=body, headers=headers), model)
        except Refused as error:
            if error.param:
                error.param = model.options.names(model.card).get(error.param, error.param)
            raise

    async def poll_one(self, job: str) -> Pending | Done:
        """Looks at the prediction. One that Replicate does not know is Broken."""
        try:
            prediction = await self._ask("GET", _path(job))
        except Refused as refusal:
            raise Broken(refusal.message, code=refusal.code) from refusal
        return self._read(prediction, self._model_of(prediction))

    async def cancel_one(self, job: str) -> None:
        """Asks Replicate to stop; what ran until then may be billed."""
        await self.http.send("POST", f"{_path(job)}/cancel", paid=False, headers=self._headers())

    async def hear(self, callback: Callback) -> None:
        """Checks the signature, as Standard Webhooks has it. Refused when it is not Replicate's, or too old.

        The key is asked for once, and again when a signature does not fit it, at most once a minute: it may be new.
        """
        check_age(callback, self.http.now())
        if self._key is not None and is_signed(callback, self._key):
            return
        key = await self._webhook_key()
        if key is None:
            raise Unavailable(f"{self.card.title} has not told its key for callbacks")
        if not is_signed(callback, key):
            raise Refused(f"The callback is not signed by {self.card.title}")

    async def probe(self) -> None:
        """Asks for the account."""
        await self.http.send("GET", "/account", paid=False, headers=self._headers())

    async def _handed_over(self, one: Input, model: Model) -> Input:
        """The same input as its address: that of an upload, or one that holds the bytes."""
        if one.role is Role.MASK:
            one = await asyncio.to_thread(painted, one, model.options.mask)
        if len(one.data) <= INLINE:
            address = f"data:{one.media_type};base64,{base64.b64encode(one.data).decode()}"
        else:
            address = await self._uploaded(one)
        return msgspec.structs.replace(one, media_type=ADDRESS, data=address.encode())

    async def _uploaded(self, one: Input) -> str:
        name = f"{one.role}.{one.media_type.rpartition('/')[2]}"
        parts = (Part("content", one.data, name, one.media_type),)
        file = await self.http.request("POST", "/files", File, paid=False, parts=parts, headers=self._headers())
        if not file.urls.get("get"):
            raise Broken(f"{self.card.title} took a file and does not say where it is")
        return file.urls["get"]

    async def _webhook_key(self) -> bytes | None:
        """The key of callbacks, asked for unless somebody just did; None when nobody has got it yet."""
        async with self._asking:
            now = self.http.now()
            if self._key_asked is None or now - self._key_asked >= KEY_PAUSE:
                self._key_asked = now
                found = await self.http.request(
                    "GET", "/webhooks/default/secret", WebhookKey, paid=False, headers=self._headers()
                )
                self._key = decoded(found.key)
            return self._key

    def _model(self, order: Order) -> Model:
        if order.model not in self._models:
            raise Refused(f"{self.card.title} has no such model here", param="model")
        return self._models[order.model]

    def _model_of(self, prediction: Prediction) -> Model | None:
        """The model that a prediction is of, as far as it can be told."""
        names = (f"{prediction.model}:{prediction.version}", str(prediction.model))
        return next((self._models[name] for name in names if name in self._models), None)

    def _read(self, prediction: Prediction, model: Model | None) -> Pending | Done:
        """How it stands; what failed is raised."""
        if prediction.runs:
            is_video = model is not None and model.card.kind is Kind.VIDEO
            pause = VIDEO_POLL_AFTER if is_video else self.card.poll_after
            note = str(prediction.status) if prediction.status else None
            return Pending(prediction.id, poll_after=pause, progress=prediction.progress, note=note)
        outputs = () if prediction.status in (FAILED, CANCELED, ABORTED) else _outputs(prediction.output)
        if outputs:
            usage = prediction.metrics if isinstance(prediction.metrics, dict) and prediction.metrics else None
            return Done(outputs, usage=usage, job=prediction.id)
        raise self._failure(prediction, model)

    def _failure(self, prediction: Prediction, model: Model | None) -> ProviderError:
        """Why a prediction that has ended came to nothing."""
        if prediction.status == CANCELED:
            return Broken(f"The job was cancelled on {self.card.title}", code=CANCELED)
        if prediction.status == ABORTED:
            # Its deadline passed before it began, which is not billed.
            return Lost(f"{self.card.title} gave the job up before it began", code=ABORTED)
        fault = _reason(prediction) or Fault(*self._silence(prediction))
        error = self.http.failure(fault)
        if type(error) is Broken and PASSING.search(fault.message or "") and model and not model.bills_failures:
            return Lost(error.message, code=error.code)
        return error

    def _silence(self, prediction: Prediction) -> tuple[str, tuple[str, ...]]:
        """What to say of a prediction that gives no reason, with a code."""
        if prediction.data_removed:
            return f"{self.card.title} has removed what it had made", ("data_removed",)
        if UNSAFE.search(prediction.printed):
            return f"{self.card.title} found what it had made unsafe", (BLOCKED,)
        return f"{self.card.title} finished without a file", ("no_output",)

    async def _ask(
        self, method: str, path: str, *, paid: bool = False, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Prediction:
        sent = self._headers() | dict(headers or {})
        try:
            return await self.http.request(method, path, Prediction, paid=paid, json=json, headers=sent)
        except RateLimited as limit:
            if limit.retry_after is None and (found := RESETS.search(limit.message)):
                limit.retry_after = min(float(found[1]), MAX_RETRY_AFTER)
            raise

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.http.secrets['api_key']}"}


def read(body: Any) -> Fault:
    """Reads `{"title", "detail", "status", "invalid_fields": [{"field"}]}`, of which only `detail` is always there."""
    if not isinstance(body, dict):
        return read_fault(body)
    detail, title = body.get("detail"), body.get("title")
    words = next((one for one in (detail, title) if isinstance(one, str) and one), None)
    if words is None:
        return read_fault(body)
    fields = body.get("invalid_fields")
    named = fields[0].get("field") if isinstance(fields, list) and fields and isinstance(fields[0], dict) else None
    field = FIELD.search(words)
    param = named.removeprefix("input.") if isinstance(named, str) else field[1] if field else None
    codes = [BLOCKED] if UNSAFE.search(words) else []
    if body.get("status") == 402 or CREDIT.search(words):
        codes.append(NO_CREDIT)
    return Fault(words, (*codes, *CODE.findall(words)), param)


def _reason(prediction: Prediction) -> Fault | None:
    """The reason that a prediction gives, None for none."""
    error = prediction.error
    words = error if isinstance(error, str) else read(error).message if error else None
    if not words:
        return None
    return Fault(words, (*((BLOCKED,) if UNSAFE.search(words) else ()), *CODE.findall(words)))


def _path(job: str) -> str:
    return f"/predictions/{quote(job, safe='')}"


def _outputs(output: Any) -> tuple[Output, ...]:
    """The files in an output of any shape, in their order: those on Replicate's hosts, or if none is, all others."""
    texts = list(dict.fromkeys(_texts(output)))
    held = [made for text in texts if (made := _held(text)) is not None]
    urls = [text for text in texts if _host(text)]
    delivered = [url for url in urls if _host(url).endswith(DELIVERY)] or urls
    return (*held, *(Output(guess_type(urlsplit(url).path, strict=False)[0], url=url) for url in delivered))


def _texts(output: Any) -> Iterator[str]:
    """Every text in it, at any depth."""
    waiting = [output]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list | dict):
            waiting.extend(reversed(list(one.values()) if isinstance(one, dict) else one))


def _held(text: str) -> Output | None:
    """The output of an address that holds the bytes themselves."""
    head, comma, data = text.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        return None
    try:
        found = base64.b64decode(data, validate=True)
    except binascii.Error:
        return None
    return Output(head.removeprefix("data:").partition(";")[0] or None, data=found) if found else None


def _host(text: str) -> str:
    """The host of a text that is an address, with a dot before it; empty for any other text."""
    if not text.startswith("https://") or re.search(r"\s", text):
        return ""
    try:
        host = urlsplit(text).hostname
    except ValueError:
        return ""
    return f".{host}" if host else ""
