"""Videos: `POST /v1/video/generations`, which answers with a task, and `/v1/videos`, as the OpenAI SDK has it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from msgspec import Meta

from gateway.core import tasks, videos
from gateway.core.assets import AssetRecord
from gateway.core.errors import GatewayError, allowed, invalid
from gateway.core.ids import is_id
from gateway.core.keys import Caller
from gateway.core.lifecycle import STATUS, State
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from gateway.core.thumbnails import SPRITESHEET, THUMBNAIL
from gateway.core.wording import edges
from gateway.dialects.creating import CreateRequest, Pictures, Received, planned, receiving, require_prompt
from gateway.dialects.wire import Page, accepted, page, task_headers, unix, unix_or_none
from gateway.web.body import taking
from gateway.web.query import order_of, page_size
from gateway.web.serving import serve
from providers.contract import Generation, Kind, Operation, Role

# The model of a request that names none, as OpenAI documents it, where there is a model or an alias of that name.
DEFAULT_MODEL, UNNAMED = "sora-2", ""
# Members that become parameters of the generation under the same name.
PARAMETERS = ("quality", "style", "seed", "negative_prompt", "cfg_scale")
PICTURES = {
    "image": Role.IMAGE, "input_reference": Role.IMAGE, "first_frame": Role.FIRST_FRAME, "last_frame": Role.LAST_FRAME,
    "reference_images": Role.REFERENCE,
}  # fmt: skip
FILMS = {"video": Role.VIDEO}
VIDEO = "video"
VARIANTS = (VIDEO, THUMBNAIL, SPRITESHEET)
STATUSES = {**STATUS, State.CANCELLED: STATUS[State.FAILED]} | {
    state: "in_progress" for state, word in STATUS.items() if word == "processing"
}
NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")
Measure = int | float | Annotated[str, Meta(max_length=16)]
Text = Annotated[str, Meta(max_length=32)]


class VideoGenerationRequest(CreateRequest, kw_only=True):
    """What may be sent to `POST /v1/video/generations`. Which values a model takes stands in `/v1/models`."""

    model: Annotated[str, Meta(description="A model or alias of `/v1/models`.")]
    prompt: Annotated[str, Meta(description="What the video should show.")]
    n: int = 1
    seconds: Annotated[Measure | None, Meta(description="How long it should be; `duration` means the same.")] = None
    duration: Measure | None = None
    size: Annotated[
        Text | None, Meta(description="WIDTHxHEIGHT in pixels, or such as `720p`; `resolution` means the same.")
    ] = None
    resolution: Text | None = None
    aspect_ratio: Annotated[str, Meta(max_length=16)] | None = None
    fps: Annotated[Measure | None, Meta(description="Frames per second; `framerate` means the same.")] = None
    framerate: Measure | None = None
    quality: str | None = None
    style: str | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    cfg_scale: float | None = None
    image: Pictures | None = None
    input_reference: Pictures | None = None
    first_frame: Pictures | None = None
    last_frame: Pictures | None = None
    reference_images: Pictures | None = None
    response_format: Annotated[Literal["url"] | None, Meta(description="Films come by their URL.")] = None
    asynchronous: Annotated[bool, Meta(description="It is always so: films take their time.")] = msgspec.field(
        name="async", default=True
    )


class VideoRequest(VideoGenerationRequest, kw_only=True):
    """What may be sent to `POST /v1/videos`, as JSON or as a form: the OpenAI SDK sends `prompt`, `seconds`, `size`."""

    model: Annotated[
        str, Meta(description="Without it sora-2, and where nothing has that name the first that makes films.")
    ] = UNNAMED


class VideoEnhancementRequest(CreateRequest, kw_only=True):
    """What may be sent to `POST /v1/video/enhancements`, as a form or as JSON."""

    model: Annotated[str | None, Meta(description="Without it, the first that enhances films.")] = None
    prompt: str = ""
    video: Annotated[Pictures | None, Meta(description="A file of a form, a URL, or the id of a video of yours.")] = (
        None
    )
    resolution: Text | None = None
    scale: Annotated[float, Meta(gt=0, le=16, description="How many times as wide and as high.")] | None = None
    fps: Annotated[Measure | None, Meta(description="Frames per second; `framerate` means the same.")] = None
    framerate: Measure | None = None


class VideoError(msgspec.Struct):
    """Why a video was not made."""

    code: str
    message: str


class VideoBody(msgspec.Struct):
    """A video and how far it is, as the OpenAI SDK reads it."""

    id: str
    object: str
    model: str
    status: str
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: VideoError | None


class DeletedVideoBody(msgspec.Struct):
    """What a deletion answers."""

    id: str
    object: str = "video.deleted"
    deleted: bool = True


@post(
    ["/v1/video/generations", "/v1/videos/generations", "/v1/videos/generations/async"],
    operation_class=taking(VideoGenerationRequest, form=True),
    status_code=202,
)
async def generate(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """Makes videos, from words alone or from a picture too: answers 202 with a task, at once."""
    async with receiving(request, rt, VideoGenerationRequest, PICTURES) as received:
        return await _generate(request, rt, caller, received, lambda task: accepted(request, rt, task))


@post("/v1/videos", operation_class=taking(VideoRequest, form=True), status_code=200)
async def create_video(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """Makes a video, as the OpenAI SDK asks for it: answers with the video, which is not there yet."""

    def reply(task: TaskRecord) -> Response[Any]:
        return Response(_video_body(rt, task), headers=task_headers(task))

    async with receiving(request, rt, VideoRequest, PICTURES) as received:
        return await _generate(request, rt, caller, received, reply)


@post("/v1/video/enhancements", operation_class=taking(VideoEnhancementRequest, form=True), status_code=202)
async def enhance(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[Any]:
    """Makes a film larger, or smoother: answers 202 with a task, at once."""
    async with receiving(request, rt, VideoEnhancementRequest, FILMS, films=True) as received:
        body = received.body
        given = await videos.named(rt, caller, received.pictures)
        if not given:
            raise GatewayError("missing_parameter", "video is required.", param="video")
        wanted = msgspec.structs.replace(received.wanted(request, to_enhancement(rt, body)), pictures=given)
        if body.dry_run:
            return await planned(rt, caller, wanted)
        return accepted(request, rt, await tasks.create(rt, caller, wanted, here=False))


def to_enhancement(rt: Runtime, body: VideoEnhancementRequest) -> Generation:
    """The enhancement that the body asks for."""
    parameters: dict[str, Any] = {name: value for name in ("resolution", "scale") if (value := getattr(body, name))}
    fps = _one_of(body, "fps", "framerate", _measure)
    if fps is not None:
        parameters["fps"] = fps
    model = body.model if body.model is not None else rt.catalog.first_for(Kind.VIDEO, Operation.UPSCALE)
    if model is None:
        raise GatewayError("unsupported_operation", "No model here enhances films.", param="model")
    return Generation(
        Kind.VIDEO, Operation.UPSCALE, model, body.prompt, parameters=parameters, extras=body.provider_options
    )


async def _generate(
    request: Request[Any, Any, Any],
    rt: Runtime,
    caller: Caller,
    received: Received[Any],
    reply: Callable[[TaskRecord], Response[Any]],
) -> Response[Any]:
    wanted = received.wanted(request, to_generation(rt, received.body))
    if received.body.dry_run:
        return await planned(rt, caller, wanted)
    return reply(await tasks.create(rt, caller, wanted, here=False))


def to_generation(rt: Runtime, body: VideoGenerationRequest) -> Generation:
    """The generation that the body asks for; raises what no model could honour."""
    require_prompt(body.prompt)
    parameters = {name: value for name in PARAMETERS if (value := getattr(body, name)) is not None}
    for name, synonym in (("seconds", "duration"), ("fps", "framerate")):
        measure = _one_of(body, name, synonym, _measure)
        if measure is not None:
            parameters[name] = measure
    size = body.size if _agree(body) else _one_of(body, "size", "resolution", lambda _, value: value)
    if size is not None and size != "auto" and edges(size) is None:
        # Such as 720p: some models have a word where others have pixels.
        parameters["resolution"], size = size, None
    return Generation(
        kind=Kind.VIDEO,
        operation=Operation.GENERATION,
        model=_default_model(rt) if body.model == UNNAMED else body.model,
        prompt=body.prompt,
        n=body.n,
        size=size,
        aspect_ratio=body.aspect_ratio,
        parameters=parameters,
        extras=body.provider_options,
    )


def _agree(body: VideoGenerationRequest) -> bool:
    """Whether the size is one of that resolution: 1280x720 is 720p."""
    found = edges(body.size or "")
    return found is not None and body.resolution == f"{min(found)}p"


def _default_model(rt: Runtime) -> str:
    named = DEFAULT_MODEL if DEFAULT_MODEL in rt.catalog.names() else None
    return named or rt.catalog.first_for(Kind.VIDEO, Operation.GENERATION) or DEFAULT_MODEL


def _one_of(body: CreateRequest, name: str, synonym: str, read: Callable[[str, Any], Any]) -> Any:
    """The value that is given by one of two names for the same thing, or by both alike."""
    given = {one: read(one, value) for one in (name, synonym) if (value := getattr(body, one)) not in (None, "")}
    if len(given) == 2 and given[name] != given[synonym]:
        raise invalid(synonym, f"{name} and {synonym} mean the same, and are given with different values.")
    return next(iter(given.values()), None)


def _measure(name: str, value: float | str) -> int | float | str:
    """A number, also where it came as text, as OpenAI has it; `auto` stays what it is."""
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        if not NUMBER.fullmatch(value):
            raise invalid(name, f"{name} must be a number.")
        value = float(value)
    return int(value) if value == int(value) else value


@get("/v1/videos")
async def list_videos(
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    after: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    order: FromQuery[str | None] = None,
) -> Page:
    """The key's own videos, the newest first, those that are still made among them."""
    if after is not None and not is_id(after, "task"):
        raise invalid("after", "after must be the id of a video.")
    found, more = await tasks.listing(
        rt, caller.key_id, type=Kind.VIDEO, after=after, limit=page_size(limit),
        descending=order_of(order) == "desc", deleted=False,
    )  # fmt: skip
    return page([_video_body(rt, task) for task in found], more)


@get("/v1/videos/{video_id:str}")
async def get_video(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    video_id: FromPath[str],
) -> Response[Any]:
    """How a video stands; to whoever wants to see it, such as a browser or a player, the video itself."""
    task, asset = await videos.find(rt, caller.key_id, video_id)
    if _wants_to_see(request):
        return await serve(request, rt, videos.content(task, asset))
    return Response(_video_body(rt, task, asset, video_id), headers=task_headers(task))


@get("/v1/videos/{video_id:str}/content")
async def get_content(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    video_id: FromPath[str],
    variant: FromQuery[str | None] = None,
) -> Response[Any]:
    """The video, or by `variant` its thumbnail, or a sheet of its frames."""
    if variant is not None and variant not in VARIANTS:
        raise allowed("variant", variant, VARIANTS)
    video = videos.content(*await videos.find(rt, caller.key_id, video_id))
    if variant in (None, VIDEO):
        return await serve(request, rt, video)
    picture = video.picture(variant or "")
    if picture is None:
        raise GatewayError("media_not_found", f"There is no {variant} of this video.", param="variant")
    return await serve(request, rt, picture)


@delete("/v1/videos/{video_id:str}", status_code=200)
async def delete_video(
    rt: NamedDependency[Runtime], caller: NamedDependency[Caller], video_id: FromPath[str]
) -> DeletedVideoBody:
    """Deletes a video for good, bytes included, or one that was not made from the list; by a task's id all of it."""
    task, asset = await videos.find(rt, caller.key_id, video_id)
    await videos.delete(rt, task, None if video_id == task.id else asset)
    return DeletedVideoBody(video_id)


@post(["/v1/videos/{video_id:str}/remix", "/v1/videos/edits", "/v1/videos/extensions"], status_code=400)
async def change_video(caller: NamedDependency[Caller]) -> None:
    """Refused today: no model that is served here can remix, edit or extend a video."""
    message = "No model that is served here can remix, edit or extend a video. Make a new one: POST /v1/videos."
    raise GatewayError("unsupported_operation", message)


def _wants_to_see(request: Request[Any, Any, Any]) -> bool:
    """Whether it is not JSON that the client asks for: a browser or a player never does, nor who asks for a part."""
    accept = request.headers.get("accept", "")
    if "application/json" in accept:
        return False
    return "video/" in accept or "text/html" in accept or "range" in request.headers


def _video_body(rt: Runtime, task: TaskRecord, asset: AssetRecord | None = None, id: str | None = None) -> VideoBody:
    """The video by its task, or by the `id` of one of several the `asset` that it is."""
    done = task.state is State.COMPLETED
    asset = asset or next(iter(task.assets), None)
    return VideoBody(
        id=id or task.id, object="video", model=task.model, status=STATUSES[task.state], progress=task.progress,
        created_at=unix(task.created_at), completed_at=unix_or_none(task.ended_at) if done else None, expires_at=None,
        prompt=task.generation.get("prompt", ""), seconds=_seconds(rt, task, asset), size=_size(rt, task, asset),
        remixed_from_video_id=None, error=_error(task),
    )  # fmt: skip


def _error(task: TaskRecord) -> VideoError | None:
    if task.state is State.CANCELLED:
        return VideoError("cancelled", "The video was cancelled.")
    if task.state is State.FAILED:
        return VideoError(task.error_code or "internal_error", task.error_message or "The video could not be made.")
    return None


def _seconds(rt: Runtime, task: TaskRecord, asset: AssetRecord | None) -> str:
    """What was ordered, and where nothing was, what came or is to come."""
    seconds = task.generation.get("parameters", {}).get("seconds")
    if seconds is None:
        seconds = round(asset.seconds) if asset and asset.seconds else _default(rt, task, "seconds")
    return str(seconds)


def _size(rt: Runtime, task: TaskRecord, asset: AssetRecord | None) -> str:
    if asset is not None:
        return f"{asset.width}x{asset.height}"
    return str(task.generation.get("size") or _default(rt, task, "size"))


def _default(rt: Runtime, task: TaskRecord, name: str) -> Any:
    """What the model's first route makes by itself; `auto` where its card does not say."""
    model = rt.catalog.find(task.model)
    if model is None:
        return "auto"
    card = model.routes[0].card
    parameter = card.parameters.get(name)
    return (card.default_size if name == "size" else parameter and parameter.default) or "auto"


router = Router(
    "/",
    route_handlers=[
        generate, create_video, enhance, list_videos, get_video, get_content, delete_video, change_video,
    ],
    tags=["Videos"],
)  # fmt: skip
SHAPES = (VideoGenerationRequest, VideoRequest, VideoEnhancementRequest)
