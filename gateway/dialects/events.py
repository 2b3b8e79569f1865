"""`GET /v1/tasks/{id}/events`: what happens to a task as server-sent events, from where the client left off."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from gateway.core import payloads, tasks
from gateway.core.errors import GatewayError, invalid
from gateway.core.feed import Feed, past
from gateway.core.following import Follower, Told
from gateway.core.grants import Grant
from gateway.core.payloads import News
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from gateway.web.sse import event, stream

PLACE = re.compile(r"(\d{1,9})(?:-(\d{1,3}))?")
After = Annotated[
    str | None,
    QueryParameter(name="after", description="The id of the last event that was seen; Last-Event-ID goes before it."),
]


@get("/v1/tasks/{task_id:str}/events")
async def follow_task(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    feed: NamedDependency[Feed],
    grant: NamedDependency[Grant],
    task_id: FromPath[str],
    after: After = None,
) -> Response[Any]:
    """The task's events so far, then those that come, with progress and previews between them; ends with the last one.

    Each has an id: whoever comes back with it as Last-Event-ID goes on there. 204 when nothing more will come.
    """
    task = await tasks.get(rt, grant.key_id, task_id)
    if not grant.allows(task.id, task.labels):
        raise GatewayError("task_not_found", "There is no such task.")
    sequence, progress = _place(request.headers.get("last-event-id"), after)
    follower = Follower(Grant(grant.key_id, task.id, until=grant.until))
    follower.assume(task.id, sequence, progress)
    if task.final and not await past(rt, task, sequence):
        # What an EventSource takes for the end; it would come back for ever otherwise.
        return Response(None, status_code=204)
    feed.check_room(grant.key_id)
    if request.state.get("head"):
        return Response(b"", media_type="text/event-stream")
    base = str(request.base_url).rstrip("/")
    return stream(_events(rt, feed, follower, task, sequence, base))


async def _events(
    rt: Runtime, feed: Feed, follower: Follower, task: TaskRecord, sequence: int, base: str
) -> AsyncGenerator[bytes, None]:
    follower.hold()
    async with feed.following(follower):
        follower.release(await past(rt, task, sequence))
        async for told in follower:
            yield _event(rt, told, base)
            if told.last:
                return


def _event(rt: Runtime, told: Told, base: str) -> bytes:
    place = "stream", base
    if place not in told.rendered:
        id = f"{told.sequence}" if told.recorded else f"{told.sequence}-{told.task.progress}"
        data = payloads.of_task(
            rt, told.type, msgspec.structs.asdict(told.task), told.task.assets, base, told.sequence
        ) | {"estimated_time_remaining": told.seconds_left, "message": told.note}
        if told.preview is not None:
            image = base64.b64encode(told.preview.data).decode()
            data["preview"] = {"media_type": told.preview.media_type, "b64_json": image}
        data = {name: value for name, value in data.items() if value is not None}
        news = News(f"{told.task.id}.{id}", told.type, told.at)
        told.rendered[place] = event(told.type, id, msgspec.Raw(payloads.body(news, data).encode()))
    rendered: bytes = told.rendered[place]
    return rendered


def _place(header: str | None, query: str | None) -> tuple[int, int]:
    """Up to where the client has seen everything: the number of an event, and a progress after it."""
    name, given = ("Last-Event-ID", header) if header else ("after", query)
    if not given:
        return 0, 0
    found = PLACE.fullmatch(given) if given.isascii() else None
    if found is None:
        raise invalid(name, f"{name} must be the id of an event, such as 2 or 2-40.")
    return int(found[1]), int(found[2] or 0)


router = Router("/", route_handlers=[follow_task], tags=["Tasks"])
