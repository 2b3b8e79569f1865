"""What all routes share that make something: their common members, how bodies with pictures are read, and replies."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar import Request, Response
from msgspec import Meta

from gateway.core import tasks
from gateway.core.endpoints import Webhook
from gateway.core.errors import GatewayError, invalid
from gateway.core.keys import Caller
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from gateway.core.prompt_settings import TemplateName
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from gateway.core.uploads import Given
from gateway.dialects.errors import after_acceptance
from gateway.dialects.wire import accepted, failure, plan_body, task_headers
from gateway.web.body import convert, read
from gateway.web.form import Form, is_form, read_form
from gateway.web.idempotency import idempotency_of
from providers.contract import Generation, Role

WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,4})\"?$", re.IGNORECASE)
# Said for the vendor's records only: passed on where a card lists it, no promise to the caller where none does.
HINTS = ("user", "safety_identifier")
# Members that are objects, which a form can only send as JSON.
OBJECTS = ("metadata", "provider_options", "webhook_headers")

Label = Annotated[str, Meta(max_length=512)]
Labels = Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=16)]
T = TypeVar("T", bound="CreateRequest")
B = TypeVar("B", bound="CreateRequest")


class Named(msgspec.Struct):
    """A picture by its address: a URL, a data URL in base64, or the id of media of yours."""

    image_url: str | None = None
    url: str | None = None
    file_id: str | None = None
    id: str | None = None


Picture = str | Named
Pictures = Annotated[
    str | Named | list[str | Named],
    Meta(description="In a form, a file. In JSON a URL, a data URL in base64, or the id of media of yours."),
]


class CreateRequest(msgspec.Struct, kw_only=True):
    """What may be said of any work."""

    metadata: Labels = {}
    provider_options: dict[str, Any] = {}
    strict: Annotated[bool, Meta(description="Refuse members that are unknown here.")] = False
    user: Annotated[str, Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    webhook_url: (
        Annotated[
            str,
            Meta(
                max_length=8192,
                description="Where to POST to when the task has ended, or to what `webhook_events` say.",
            ),
        ]
        | None
    ) = None
    webhook_headers: (
        Annotated[
            dict[str, str], Meta(max_length=16, description="Sent along with each webhook of the task. Kept encrypted.")
        ]
        | None
    ) = None
    webhook_events: Annotated[
        tuple[str, ...],
        Meta(
            max_length=10, description="Of `started`, `progress`, `completed`, `failed`, `cancelled`; the last three."
        ),
    ] = ()
    fallback_models: Annotated[
        tuple[str, ...],
        Meta(max_length=5, description="Models to try, in order, when the first one's routes take nothing."),
    ] = ()
    priority: Annotated[
        int, Meta(ge=1, le=10, description="Among the key's own waiting tasks; the highest goes first, and 5 is usual.")
    ] = 5
    timeout: Annotated[float, Meta(gt=0, le=86_400, description="Seconds after which the task is given up.")] | None = (
        None
    )
    enhance: Annotated[bool, Meta(description="Whether the prompt is enhanced before it is sent.")] | None = None
    enhance_template: Annotated[TemplateName, Meta(description="How the prompt is enhanced.")] | None = None
    dry_run: Annotated[bool, Meta(description="Only say what it would cost and where it would be done.")] = False


class Received(msgspec.Struct, Generic[T], frozen=True):
    """A body that was read: what it is, the members that it does not know, its pictures, and what tells it apart."""

    body: T
    unknown: dict[str, Any]
    pictures: tuple[Given, ...]
    fingerprint: bytes
    texts: bool = False

    def wanted(self, request: Request[Any, Any, Any], generation: Generation) -> Wanted:
        """The work that is wanted, of which `generation` is what the dialect has understood."""
        body = self.body
        hints = {name: value for name in HINTS if (value := getattr(body, name)) is not None}
        return Wanted(
            generation, self.unknown, hints, strict=body.strict, labels=body.metadata, priority=body.priority,
            timeout=body.timeout, fallback_models=body.fallback_models, pictures=self.pictures, texts=self.texts,
            enhance=body.enhance, template=body.enhance_template,
            idempotency=None if body.dry_run else idempotency_of(request, self.fingerprint),
            webhook=self._webhook(str(request.base_url).rstrip("/")),
        )  # fmt: skip

    def _webhook(self, base: str) -> Webhook | None:
        body = self.body
        if body.webhook_url is not None:
            return Webhook(body.webhook_url, body.webhook_headers or {}, body.webhook_events, base)
        for name in ("webhook_headers", "webhook_events"):
            if getattr(body, name):
                raise invalid(name, f"{name} needs webhook_url.")
        return None


@asynccontextmanager
async def receiving(
    request: Request[Any, Any, Any],
    rt: Runtime,
    shape: type[B],
    roles: Mapping[str, Role],
    *,
    films: bool = False,
) -> AsyncIterator[Received[B]]:
    """The body, JSON or a form, for as long as the block lasts: then its files are gone.

    `roles` are the members in which pictures come, with `films` films too.
    Raises what `read` and `read_form` raise.
    """
    if not is_form(request):
        body, unknown = await read(request, shape, form=True)
        yield Received(body, unknown, tuple(_named(body, roles)), await request.body())
        return
    most = rt.settings.max_upload_bytes if films else rt.settings.max_picture_bytes
    async with read_form(request, most) as form:
        body, unknown = _of_form(form, shape, roles)
        files = [Given(roles[one.field], one.field, file=one.path) for one in form.files]
        yield Received(body, unknown, tuple(files), form.fingerprint, texts=True)


def _of_form(form: Form, shape: type[B], roles: Mapping[str, Role]) -> tuple[B, dict[str, Any]]:
    """The texts of a form as the body; raises `invalid_parameter` for a file where a text belongs, and the reverse."""
    for one in form.files:
        if one.field not in roles:
            raise invalid(one.field, f"{one.field} takes no file. Files go to: {', '.join(roles)}.")
    texts = dict(form.texts)
    for name in roles:
        if name in texts:
            raise invalid(name, f"{name} must be a file in a form. Its URL, data URL or id can be sent as JSON.")
    for name in OBJECTS:
        if isinstance(text := texts.get(name), str):
            texts[name] = _object(name, text)
    return convert(texts, shape, texts=True)


def _object(name: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(name, f"{name} must be the text of a JSON object in a form.") from error


def _named(body: CreateRequest, roles: Mapping[str, Role]) -> list[Given]:
    """The pictures that a JSON body names, in the order of its members."""
    found = []
    for name, role in roles.items():
        value = getattr(body, name, None)
        several = value if isinstance(value, list) else [] if value is None else [value]
        found += [Given(role, name, text=_text(one)) for one in several]
    return found


def _text(one: str | Named) -> str:
    return one if isinstance(one, str) else one.image_url or one.url or one.file_id or one.id or ""


def require_prompt(prompt: str) -> None:
    """Raises `missing_parameter` for a prompt that says nothing."""
    if not prompt.strip():
        raise GatewayError("missing_parameter", "prompt must not be empty.", param="prompt")


async def planned(rt: Runtime, caller: Caller, wanted: Wanted) -> Response[Any]:
    """The reply of a dry run."""
    return Response(plan_body(await tasks.plan(rt, caller, wanted)), status_code=200)


async def waited(
    request: Request[Any, Any, Any],
    rt: Runtime,
    task: TaskRecord,
    key_id: str,
    seconds: float,
    reply: Callable[[TaskRecord], Any],
    *,
    soft: bool,
) -> Response[Any]:
    """The finished task, as `reply` renders it, when it completes in time.

    After that `soft` answers 202 with the task, else it is `timeout`. Raises what the task failed with.
    """
    replayed = task.replayed
    with after_acceptance(task):
        await rt.waiter.final(task.id, seconds)
        task = msgspec.structs.replace(await tasks.get(rt, key_id, task.id), replayed=replayed)
        if task.state is State.COMPLETED:
            return Response(await reply(task), headers=task_headers(task))
    if task.final:
        raise failure(task)
    if soft:
        return accepted(request, rt, task)
    raise GatewayError(
        "timeout",
        f"The result is not ready yet, and this request waits no longer. The work goes on: "
        f"GET /v1/tasks/{task.id} has the result when it is done.",
        task_id=task.id,
        headers=task_headers(task),
    )


def preferences(request: Request[Any, Any, Any]) -> tuple[bool, float | None]:
    """What the Prefer header says: whether to answer at once, and for how many seconds to wait before that."""
    asynchronous, wait = False, None
    for preference in ",".join(request.headers.getall("prefer", [])).split(","):
        word = preference.partition(";")[0].strip()
        if word.lower() == "respond-async":
            asynchronous = True
        elif match := WAIT.match(word):
            wait = float(match[1])
    # RFC 7240: together they mean to wait that long, and to answer 202 then.
    return asynchronous and wait is None, wait
