"""`/v1/images/…`: pictures made, edited, varied and enlarged, on routes that wait for them or do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from msgspec import Meta

from gateway.core import tasks
from gateway.core.errors import GatewayError, invalid, shown
from gateway.core.keys import Caller
from gateway.core.preparing import Wanted
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from gateway.dialects.creating import (
    CreateRequest,
    Pictures,
    planned,
    preferences,
    receiving,
    require_prompt,
    waited,
)
from gateway.dialects.streaming import streamed
from gateway.dialects.wire import ImagesBody, accepted, images_body
from gateway.web.body import taking
from providers.contract import Generation, Kind, Operation, Role

# How long after its deadline a task may take to say that it is over.
LAST_SECONDS = 1.0
INLINE_BY_DEFAULT = ("gpt-image", "chatgpt-image")
# Members that become parameters of the generation under the same name.
PARAMETERS = (
    "quality", "style", "background", "output_format", "output_compression", "moderation", "negative_prompt", "seed",
    "steps", "cfg_scale", "style_preset", "input_fidelity", "strength", "scale", "mode",
)  # fmt: skip
PICTURES = {
    "image": Role.IMAGE, "images": Role.IMAGE, "mask": Role.MASK, "style_image": Role.STYLE,
    "control_image": Role.CONTROL,
}  # fmt: skip
# What is worked on, where no other picture says what becomes of it.
PLAIN = {"image": Role.IMAGE}
# A generation works on no picture, but may be led by some: what it shows, its style, its lines.
GUIDES = {
    "image": Role.REFERENCE, "images": Role.REFERENCE, "style_image": Role.STYLE, "control_image": Role.CONTROL,
}  # fmt: skip
Model = Annotated[str, Meta(description="A model or alias of `/v1/models`.")]
DefaultModel = Annotated[
    str | None, Meta(description="A model or alias of `/v1/models`; without it, the one that the settings name.")
]


class ImageRequest(CreateRequest, kw_only=True):
    """What may be said of any picture. Which values a model takes stands in `/v1/models`."""

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


class ImageGenerationRequest(ImageRequest, kw_only=True):
    """What may be sent to `POST /v1/images/generations`. Which values a model takes stands in `/v1/models`."""

    model: Model
    prompt: Annotated[str, Meta(description="What the picture should show.")]
    image: Annotated[Pictures | None, Meta(description="For models that make new pictures from others.")] = None
    images: Pictures | None = None
    style_image: Pictures | None = None
    control_image: Pictures | None = None


class ImageEditRequest(ImageRequest, kw_only=True):
    """What may be sent to `POST /v1/images/edits`, as a form or as JSON."""

    model: DefaultModel = None
    prompt: Annotated[str, Meta(description="What the picture should become.")] = ""
    image: Pictures | None = None
    images: Pictures | None = None
    mask: Annotated[
        Pictures | None, Meta(description="As large as the first picture, and transparent where that is to change.")
    ] = None
    style_image: Pictures | None = None
    control_image: Pictures | None = None
    input_fidelity: str | None = None
    strength: float | None = None


class ImageWorkRequest(ImageRequest, kw_only=True):
    """What may be sent where a picture is all that is needed, as a form or as JSON."""

    model: DefaultModel = None
    prompt: str = ""
    image: Pictures | None = None


class ImageVariationRequest(ImageWorkRequest, kw_only=True):
    """What may be sent to `POST /v1/images/variations`, as a form or as JSON. A picture is enough."""

    strength: float | None = None


class ImageUpscaleRequest(ImageWorkRequest, kw_only=True):
    """What may be sent to `POST /v1/images/upscales`, as a form or as JSON. A picture is enough."""

    scale: Annotated[float, Meta(gt=0, le=16, description="How many times as wide and as high.")] | None = None
    mode: str | None = None


Request_ = Request[Any, Any, Any]


@post("/v1/images/generations", operation_class=taking(ImageGenerationRequest, form=True), status_code=200)
async def generate(request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> Response[Any]:
    """Makes pictures. Waits for them; with `async: true` or `Prefer: respond-async` answers 202 with a task."""
    return await _make(request, rt, caller, ImageGenerationRequest, GUIDES, Operation.GENERATION)


@post("/v1/images/generations/async", operation_class=taking(ImageGenerationRequest, form=True), status_code=202)
async def generate_async(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """As `POST /v1/images/generations` with `async: true`."""
    return await _make(request, rt, caller, ImageGenerationRequest, GUIDES, Operation.GENERATION, asynchronous=True)


@post("/v1/images/edits", operation_class=taking(ImageEditRequest, form=True), status_code=200)
async def edit(request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> Response[Any]:
    """Makes pictures from pictures: changed by a prompt, where a mask says, in the style of another."""
    return await _make(request, rt, caller, ImageEditRequest, PICTURES, Operation.EDIT)


@post("/v1/images/variations", operation_class=taking(ImageVariationRequest, form=True), status_code=200)
async def vary(request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> Response[Any]:
    """Makes pictures that are like a picture."""
    return await _make(request, rt, caller, ImageVariationRequest, PLAIN, Operation.VARIATION)


@post("/v1/images/upscales", operation_class=taking(ImageUpscaleRequest, form=True), status_code=200)
async def upscale(request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> Response[Any]:
    """Makes a picture larger."""
    return await _make(request, rt, caller, ImageUpscaleRequest, PLAIN, Operation.UPSCALE)


@post("/v1/images/outpaints", operation_class=taking(ImageWorkRequest, form=True), status_code=200)
async def outpaint(request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> Response[Any]:
    """Goes on with a picture beyond its edges; by how much, the model's own parameters say."""
    return await _make(request, rt, caller, ImageWorkRequest, PLAIN, Operation.OUTPAINT)


@post("/v1/images/background-removals", operation_class=taking(ImageWorkRequest, form=True), status_code=200)
async def remove_background(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """Cuts what a picture shows out of its background."""
    return await _make(request, rt, caller, ImageWorkRequest, PLAIN, Operation.REMOVE_BACKGROUND)


async def _make(
    request: Request_,
    rt: Runtime,
    caller: Caller,
    shape: type[ImageRequest],
    roles: Mapping[str, Role],
    operation: Operation,
    *,
    asynchronous: bool = False,
) -> Response[Any]:
    async with receiving(request, rt, shape, roles) as received:
        body: Any = received.body
        generation = to_generation(rt, body, operation)
        if operation is not Operation.GENERATION and not any(one.role is Role.IMAGE for one in received.pictures):
            raise GatewayError("missing_parameter", "image is required.", param="image")
        wanted = received.wanted(request, generation)
        at_once, wait = preferences(request)
        asynchronous = asynchronous or body.asynchronous or at_once
        if body.stream and asynchronous:
            raise invalid("stream", "stream and async exclude each other; a task's events tell of it too.")
        if body.partial_images and not (body.stream or asynchronous):
            raise invalid("partial_images", "partial_images needs stream: true, or async: true and a follower.")
        if body.dry_run:
            return await planned(rt, caller, wanted)
        if body.stream:
            return await _stream(rt, caller, wanted, body)
        # Asked for before there is a task: after that, nothing about the model may fail.
        inline = _inline(rt, body, generation.model)
        task = await tasks.create(rt, caller, wanted, here=not asynchronous)
    # What came with the request is in the store by now: nothing of it lies here while the work goes on.
    if asynchronous:
        return accepted(request, rt, task)
    patience = _patience(rt, body) if wait is None else wait
    reply = _reply(request, rt, inline=inline)
    return await waited(request, rt, task, caller.key_id, patience, reply, soft=wait is not None)


async def _stream(rt: Runtime, caller: Caller, wanted: Wanted, body: ImageRequest) -> Response[Any]:
    """A model that has no previews can only be streamed by who says that none are wanted."""
    if body.partial_images is None and not rt.catalog.model(wanted.generation.model).streams:
        raise invalid(
            "stream", f"The model {shown(wanted.generation.model)} has no previews; send partial_images: 0 with it.",
            code="unsupported_parameter",
        )  # fmt: skip
    task = await tasks.create(rt, caller, wanted, here=True)
    return streamed(rt, task, _patience(rt, body))


def to_generation(rt: Runtime, body: Any, operation: Operation) -> Generation:
    """The generation that the body asks for; raises what no model could honour."""
    if operation is Operation.GENERATION:
        require_prompt(body.prompt)
    parameters = {name: value for name in PARAMETERS if (value := getattr(body, name, None)) is not None}
    return Generation(
        kind=Kind.IMAGE,
        operation=operation,
        model=_default_model(rt, operation) if body.model is None else body.model,
        prompt=body.prompt,
        n=body.n,
        # Open WebUI sends an empty size when none is set.
        size=body.size or None,
        aspect_ratio=body.aspect_ratio,
        parameters=parameters,
        extras=body.provider_options,
        partial_images=body.partial_images or 0,
    )


def _default_model(rt: Runtime, operation: Operation) -> str:
    """The model that the settings name for the operation, else the first one that does it."""
    named = {
        Operation.EDIT: rt.settings.edit_model,
        Operation.VARIATION: rt.settings.variation_model,
        Operation.UPSCALE: rt.settings.upscale_model,
    }
    model = named.get(operation) or rt.catalog.first_for(Kind.IMAGE, operation)
    if model is None:
        raise GatewayError("unsupported_operation", f"No model here does {operation}.", param="model")
    return model


def _reply(request: Request_, rt: Runtime, *, inline: bool) -> Callable[[TaskRecord], Any]:
    base = str(request.base_url).rstrip("/")

    async def reply(task: TaskRecord) -> ImagesBody:
        return await images_body(rt, task, base, inline=inline)

    return reply


def _patience(rt: Runtime, body: ImageRequest) -> float:
    """How long a synchronous request waits: what is under way when its time is over is bought, and goes on."""
    longest = rt.settings.sync_seconds
    return longest if body.timeout is None else min(body.timeout + LAST_SECONDS, longest)


def _inline(rt: Runtime, body: ImageRequest, model: str) -> bool:
    default = rt.catalog.model(model).response_format
    if default is None:
        default = "b64_json" if model.startswith(INLINE_BY_DEFAULT) else "url"
    return (body.response_format or default) == "b64_json"


router = Router(
    "/",
    route_handlers=[generate, generate_async, edit, vary, upscale, outpaint, remove_background],
    tags=["Images"],
)
SHAPES = (
    ImageGenerationRequest, ImageEditRequest, ImageVariationRequest, ImageUpscaleRequest, ImageWorkRequest,
)  # fmt: skip
