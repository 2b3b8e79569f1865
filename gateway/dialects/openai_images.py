"""`POST /v1/images/generations`: one route that is synchronous, waiting or asynchronous by one field or header."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from msgspec import Meta

from gateway.core import tasks
from gateway.core.errors import GatewayError, invalid
from gateway.core.keys import Caller
from gateway.core.lifecycle import State
from gateway.core.runtime import Runtime
from gateway.core.tasks import Wanted
from gateway.dialects.errors import after_acceptance
from gateway.dialects.wire import accepted, failure, images_body, plan_body, task_headers
from gateway.web.body import read, taking
from gateway.web.idempotency import idempotency_of
from providers.contract import Generation, Kind, Operation

INLINE_BY_DEFAULT = ("gpt-image", "chatgpt-image")
WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,4})\"?$", re.IGNORECASE)
# Members that become parameters of the generation under the same name.
PARAMETERS = (
    "quality", "style", "background", "output_format", "output_compression", "moderation", "negative_prompt", "seed",
    "steps", "cfg_scale", "style_preset",
)  # fmt: skip
# Said for the vendor's records only: passed on where a card lists it, no promise to the caller where none does.
HINTS = ("user", "safety_identifier")
NOT_OFFERED = ("webhook_url", "webhook_headers", "webhook_events", "fallback_models", "priority")

Label = Annotated[str, Meta(max_length=512)]
Labels = Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=16)]


class ImageGenerationRequest(msgspec.Struct):
    """What may be sent to `POST /v1/images/generations`. Which values a model takes stands in `/v1/models`."""

    model: Annotated[str, Meta(description="A model or alias of `/v1/models`.")]
    prompt: Annotated[str, Meta(description="What the picture should show.")]
    n: int = 1
    size: Annotated[str, Meta(max_length=32, description="`auto` or WIDTHxHEIGHT in pixels.")] | None = None
    aspect_ratio: Annotated[str, Meta(max_length=16)] | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    moderation: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    style_preset: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    asynchronous: Annotated[bool, Meta(description="Answer 202 with the task at once.")] = msgspec.field(
        name="async", default=False
    )
    stream: bool = False
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    metadata: Labels = {}
    provider_options: dict[str, Any] = {}
    strict: Annotated[bool, Meta(description="Refuse members that are unknown here.")] = False
    user: Annotated[str, Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    webhook_url: Any = None
    webhook_headers: Any = None
    webhook_events: Any = None
    fallback_models: Any = None
    priority: Any = None
    dry_run: Annotated[bool, Meta(description="Only say what it would cost and where it would be done.")] = False


@post("/v1/images/generations", operation_class=taking(ImageGenerationRequest), status_code=200)
async def generate(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """Makes pictures. Waits for them; with `async: true` or `Prefer: respond-async` answers 202 with a task."""
    body, unknown = await read(request, ImageGenerationRequest)
    asynchronous, wait = _preferences(request)
    return await _generate(request, rt, caller, body, unknown, body.asynchronous or asynchronous, wait)


@post("/v1/images/generations/async", operation_class=taking(ImageGenerationRequest), status_code=202)
async def generate_async(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """As `POST /v1/images/generations` with `async: true`."""
    body, unknown = await read(request, ImageGenerationRequest)
    return await _generate(request, rt, caller, body, unknown, True, None)


async def _generate(
    request: Request[Any, Any, Any],
    rt: Runtime,
    caller: Caller,
    body: ImageGenerationRequest,
    unknown: dict[str, Any],
    asynchronous: bool,
    wait: float | None,
) -> Response[Any]:
    generation = to_generation(body)
    hints = {name: value for name in HINTS if (value := getattr(body, name)) is not None}
    if body.dry_run:
        return Response(
            plan_body(tasks.plan(rt, Wanted(generation, unknown, hints, strict=body.strict))), status_code=200
        )
    idempotency = idempotency_of(request, await request.body())
    wanted = Wanted(generation, unknown, hints, strict=body.strict, labels=body.metadata, idempotency=idempotency)
    task = await tasks.create(rt, caller, wanted, here=not asynchronous)
    if asynchronous:
        return accepted(request, rt, task)
    replayed = task.replayed
    base = str(request.base_url).rstrip("/")
    with after_acceptance(task):
        await rt.waiter.final(task.id, rt.settings.sync_seconds if wait is None else wait)
        task = msgspec.structs.replace(await tasks.get(rt, caller.key_id, task.id), replayed=replayed)
        if task.state is State.COMPLETED:
            reply = await images_body(rt, task, base, inline=_inline(rt, body))
            return Response(reply, headers=task_headers(task))
    if task.final:
        raise failure(task)
    if wait is not None:
        return accepted(request, rt, task)
    raise GatewayError(
        "timeout",
        f"The picture is not ready yet, and this request waits no longer. The work goes on: "
        f"GET /v1/tasks/{task.id} has the result when it is done.",
        task_id=task.id,
        headers=task_headers(task),
    )


def to_generation(body: ImageGenerationRequest) -> Generation:
    """The generation that the body asks for; raises what no model could honour."""
    if not body.prompt.strip():
        raise GatewayError("missing_parameter", "prompt must not be empty.", param="prompt")
    for name in NOT_OFFERED:
        if getattr(body, name) is not None:
            raise invalid(name, f"{name} is not offered.", code="unsupported_parameter")
    if body.stream:
        raise invalid("stream", f"The model {body.model[:64]!r} does not stream.", code="unsupported_parameter")
    if body.partial_images:
        raise invalid("partial_images", "partial_images needs stream: true.")
    parameters = {name: value for name in PARAMETERS if (value := getattr(body, name)) is not None}
    return Generation(
        kind=Kind.IMAGE,
        operation=Operation.GENERATION,
        model=body.model,
        prompt=body.prompt,
        n=body.n,
        # Open WebUI sends an empty size when none is set.
        size=body.size or None,
        aspect_ratio=body.aspect_ratio,
        parameters=parameters,
        extras=body.provider_options,
    )


def _inline(rt: Runtime, body: ImageGenerationRequest) -> bool:
    default = rt.catalog.model(body.model).response_format
    if default is None:
        default = "b64_json" if body.model.startswith(INLINE_BY_DEFAULT) else "url"
    return (body.response_format or default) == "b64_json"


def _preferences(request: Request[Any, Any, Any]) -> tuple[bool, float | None]:
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


router = Router("/", route_handlers=[generate, generate_async], tags=["Images"])
SHAPES = (ImageGenerationRequest,)
