"""What tasks, images and media look like under `/v1`. Times are Unix seconds, money is decimal text in USD."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any

import msgspec
from litestar import Request, Response

from gateway.core import assets, retention
from gateway.core.assets import AssetRecord
from gateway.core.charging import Stopped
from gateway.core.errors import CODES, GatewayError
from gateway.core.lifecycle import STAGE, STATUS, State
from gateway.core.pricing import dollars
from gateway.core.runtime import Runtime
from gateway.core.tasks import Plan, TaskRecord, estimated
from gateway.core.thumbnails import THUMBNAIL

STOPPED = {
    Stopped.ASKED: "The order is under way. The task ends as soon as it can; what is delivered by then is kept.",
    Stopped.NOTHING_SENT: "No provider had taken the order, so nothing is billed.",
    Stopped.AT_PROVIDER: "The provider was told to stop, and did.",
    Stopped.NOT_STOPPED: "The provider could not be stopped: it goes on, and bills the order. Its result is dropped.",
    Stopped.DELIVERED: "The provider had finished: the order is billed, and its result is kept.",
    Stopped.FAILED: "The order had come to nothing before it could be stopped.",
    Stopped.UNKNOWN: "Nobody knew whether the provider took the order. The reservation stands until that is settled.",
}


# How we stand with a provider is not the caller's business.
OUTCOMES = {"BadCredential": "Unavailable"}


SHARED = (
    "It is one of several routes that share this model's work by weight: which one is tried first is the task's lot."
)


class Cost(msgspec.Struct):
    """What is held for a task while it runs, and what it cost in the end. Decimal USD."""

    reserved: str | None
    charged: str | None
    currency: str = "USD"


class Cancellation(msgspec.Struct):
    """What a cancel, or the end of the task's time, could stop, and what of it is billed: null while nobody knows."""

    stopped: str
    billed: str | None
    message: str


class AttemptBody(msgspec.Struct):
    """One try on one provider."""

    number: int
    provider: str
    model: str
    started_at: int
    ended_at: int | None
    outcome: str | None
    error: str | None


class MediaBody(msgspec.Struct, omit_defaults=True):
    """One picture or film that we keep."""

    id: str
    object: str
    task_id: str
    url: str
    media_type: str
    bytes: int
    sha256: str
    created: int
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    fps: float | None = None
    thumbnail_url: str | None = None
    blurhash: str | None = None
    revised_prompt: str | None = None
    expires_at: int | None = None


class TaskBody(msgspec.Struct):
    """A task as its owner sees it."""

    id: str
    task_id: str
    object: str
    type: str
    model: str
    status: str
    stage: str | None
    progress: int
    queue_position: int | None
    estimated_time_remaining: int | None
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    metadata: dict[str, str]
    result: dict[str, Any] | None
    error: str | None
    error_code: str | None
    error_details: dict[str, Any] | None
    cost: Cost
    cancellation: Cancellation | None
    provider: str | None
    attempts: list[AttemptBody]
    adjusted: dict[str, Any]
    retry_of: str | None
    webhook_url: str | None


class AcceptedTaskBody(TaskBody):
    """A task that was just accepted, and where to ask for it."""

    check_status_url: str


class PlannedRoute(msgspec.Struct):
    """A way in which a request could be served."""

    provider: str
    model: str


class SkippedModel(msgspec.Struct):
    """A model to fall back on that cannot do what is asked, and why."""

    model: str
    reason: str


class PlanBody(msgspec.Struct):
    """What a request would come to. `route` is tried first, `fallbacks` after it, in order, while nothing was bought.

    The fallbacks are further routes of the model, then those of `fallback_models`, but for those that are `skipped`.
    `price_as_of` is the day at which the card's price was read; both amounts are null where no price is known.
    """

    object: str
    cost: Cost
    price_as_of: str | None
    route: PlannedRoute
    fallbacks: list[PlannedRoute]
    skipped: list[SkippedModel]
    reason: str
    adjusted: dict[str, Any]


class ImageBody(msgspec.Struct, omit_defaults=True):
    """One picture of a synchronous reply: its address or its bytes, never both."""

    url: str | None = None
    b64_json: str | None = None
    revised_prompt: str | None = None


class ImagesBody(msgspec.Struct, omit_defaults=True):
    """The reply of a synchronous image request, as the OpenAI SDK reads it."""

    created: int
    data: list[ImageBody]
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    size: str | None = None
    usage: dict[str, Any] | None = None


class Page(msgspec.Struct):
    """A page of a list; `last_id` is the `after` of the next one."""

    object: str
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def task_body(rt: Runtime, task: TaskRecord, base: str) -> TaskBody:
    """The task in the wire's words, with links below `base`."""
    return TaskBody(**_task_members(rt, task, base))


def accepted(request: Request[Any, Any, Any], rt: Runtime, task: TaskRecord) -> Response[AcceptedTaskBody]:
    """The reply 202: the task, and where to ask for it."""
    base = str(request.base_url).rstrip("/")
    body = AcceptedTaskBody(**_task_members(rt, task, base), check_status_url=f"{base}/v1/tasks/{task.id}")
    headers = task_headers(task) | {"Location": f"/v1/tasks/{task.id}"}
    return Response(body, status_code=202, headers=headers)


def media_body(rt: Runtime, asset: AssetRecord, base: str) -> MediaBody:
    """An asset in the wire's words."""
    thumbnail = asset.picture(THUMBNAIL)
    return MediaBody(
        id=asset.id, object=asset.kind, task_id=asset.task_id, url=assets.link(rt, asset, base),
        media_type=asset.media_type, bytes=asset.size, sha256=asset.sha256, created=unix(asset.created_at),
        width=asset.width, height=asset.height, seconds=asset.seconds, fps=asset.fps, blurhash=asset.blurhash,
        thumbnail_url=assets.link(rt, thumbnail, base) if thumbnail else None, revised_prompt=asset.revised_prompt,
        expires_at=unix_or_none(retention.end_of(rt.settings, asset.created_at, asset.retention_days)),
    )  # fmt: skip


async def images_body(rt: Runtime, task: TaskRecord, base: str, *, inline: bool) -> ImagesBody:
    """The reply of a completed synchronous request: links, or with `inline` the bytes."""
    images = []
    for asset in task.assets:
        image = ImageBody(revised_prompt=asset.revised_prompt)
        if inline:
            image.b64_json = base64.b64encode(await assets.whole(rt, asset)).decode()
        else:
            image.url = assets.link(rt, asset, base)
        images.append(image)
    first = task.assets[0] if task.assets else None
    parameters = task.generation.get("parameters", {})
    return ImagesBody(
        created=unix(task.created_at),
        data=images,
        background=parameters.get("background"),
        output_format=first.media_type.removeprefix("image/") if first else None,
        quality=parameters.get("quality"),
        size=f"{first.width}x{first.height}" if first else None,
        # A vendor's account in other terms than tokens is none that the SDK can read.
        usage=task.usage if task.usage and "total_tokens" in task.usage else None,
    )


def plan_body(plan: Plan) -> PlanBody:
    """The reply of a dry run."""
    # With which of its credentials a provider is asked is not the caller's business.
    places = dict.fromkeys(one.route.place for one in plan.candidates)
    routes = [PlannedRoute(*place) for place in places]
    price = plan.candidates[0].route.price
    return PlanBody(
        object="plan",
        cost=Cost(_usd(plan.quoted), None),
        price_as_of=price.as_of.isoformat() if price else None,
        route=routes[0],
        fallbacks=routes[1:],
        skipped=[SkippedModel(model, reason) for model, reason in plan.skipped.items()],
        reason=SHARED if _shares(plan) else "It is the first route that can honour every member of the request.",
        adjusted=plan.adjusted,
    )


def _shares(plan: Plan) -> bool:
    """Whether several routes are first, so that the task's lot decides between them."""
    first = plan.candidates[0]
    return sum((one.choice, one.route.order) == (first.choice, first.route.order) for one in plan.candidates) > 1


def page(entries: list[Any], has_more: bool) -> Page:
    """A page of bodies that have ids."""
    first, last = (entries[0].id, entries[-1].id) if entries else (None, None)
    return Page("list", entries, first, last, has_more)


def task_headers(task: TaskRecord) -> dict[str, str]:
    """What every reply for a generation says of its task."""
    headers = {"X-Heliograph-Task-Id": task.id}
    if task.replayed:
        headers["Idempotent-Replayed"] = "true"
    if task.provider is not None:
        headers["X-Heliograph-Provider"] = task.provider
    if task.charged is not None:
        headers["X-Heliograph-Cost"] = dollars(task.charged)
    if task.adjusted:
        headers["X-Heliograph-Adjusted"] = json.dumps(task.adjusted)
    return headers


def failure(task: TaskRecord) -> GatewayError:
    """The error of a task that did not complete."""
    if task.state is State.CANCELLED:
        return GatewayError("cancelled", "The task was cancelled.", task_id=task.id, headers=task_headers(task))
    return GatewayError(
        task.error_code or "internal_error",
        task.error_message or "The task failed.",
        param=task.error_param,
        task_id=task.id,
        headers=task_headers(task),
    )


def _task_members(rt: Runtime, task: TaskRecord, base: str) -> dict[str, Any]:
    code = CODES[task.error_code] if task.error_code else None
    progress, seconds_left = estimated(rt, task)
    return {
        "id": task.id, "task_id": task.id, "object": "task", "type": f"{task.kind}.{task.operation}",
        "model": task.model, "status": STATUS[task.state], "stage": STAGE.get(task.state), "progress": progress,
        "queue_position": task.queue_position, "estimated_time_remaining": seconds_left,
        "created_at": unix(task.created_at), "started_at": unix_or_none(task.started_at),
        "completed_at": unix_or_none(task.ended_at), "expires_at": unix_or_none(_end(rt, task)),
        "metadata": task.labels, "result": _result(rt, task, base), "error": task.error_message,
        "error_code": task.error_code,
        "error_details": code and {"type": code.type, "param": task.error_param, "retryable": code.retryable},
        "cost": Cost(_usd(task.quoted), _usd(task.charged)), "cancellation": _cancellation(task),
        "provider": task.provider,
        "attempts": [
            AttemptBody(one.number, one.provider, one.model, unix(one.started_at), unix_or_none(one.ended_at),
                        OUTCOMES.get(one.outcome or "", one.outcome), one.error_message)
            for one in task.attempts
        ],
        "adjusted": task.adjusted, "retry_of": task.retry_of, "webhook_url": task.webhook_url,
    }  # fmt: skip


def _result(rt: Runtime, task: TaskRecord, base: str) -> dict[str, Any] | None:
    if task.state is not State.COMPLETED and not (task.state is State.CANCELLED and task.assets):
        return None
    data = [media_body(rt, asset, base) for asset in task.assets]
    urls = [one.url for one in data]
    first = urls[0] if urls else None
    return {
        "url": first, f"{task.kind}_url": first, f"{task.kind}_urls": urls,
        "thumbnail_url": data[0].thumbnail_url if data else None,
        "created": unix_or_none(task.ended_at), "data": data,
    }  # fmt: skip


def _end(rt: Runtime, task: TaskRecord) -> dt.datetime | None:
    """When what was asked for is erased; None for what never is, or is already."""
    return None if task.erased_at else retention.end_of(rt.settings, task.ended_at, task.retention_days)


def _cancellation(task: TaskRecord) -> Cancellation | None:
    waits = task.cancel_asked_at is not None and not task.final
    stopped = Stopped.ASKED if waits else task.stopped and Stopped(task.stopped)
    if not stopped:
        return None
    unknown = stopped in (Stopped.ASKED, Stopped.UNKNOWN) and task.charged is None
    return Cancellation(stopped, None if unknown else dollars(task.charged or 0), STOPPED[stopped])


def unix(time: dt.datetime) -> int:
    """Unix seconds."""
    return int(time.timestamp())


def unix_or_none(time: dt.datetime | None) -> int | None:
    """Unix seconds of a time that may not have come."""
    return None if time is None else unix(time)


def _usd(amount: int | None) -> str | None:
    return None if amount is None else dollars(amount)
