"""Hubs: what Socket.IO and SignalR have in common: what is told, by which names, and what a client may call."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core import feed, tasks
from gateway.core.errors import CODES, GatewayError, invalid
from gateway.core.following import PREVIEW, QUEUED, Follower, Told
from gateway.core.lifecycle import STAGE, STATUS
from gateway.core.pricing import dollars
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from gateway.dialects.errors import render
from gateway.dialects.wire import media_body, task_body
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
IMAGES, VIDEOS = frozenset({"image"}), frozenset({"video"})
NAMES = {"image": "ImageGeneration", "video": "VideoGeneration"}
SUBSCRIBE, UNSUBSCRIBE = "SubscribeToTask", "UnsubscribeFromTask"
METHODS = (SUBSCRIBE, UNSUBSCRIBE)
# Calls of one connection: so many at once, then so many in a second.
BURST, RATE = 100, 20.0
# For so long after a client could make its first call, what comes waits: it may say where it left off.
FIRST_SECONDS = 0.25


class Calls:
    """How many calls a connection may still make."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._left, self._at = float(BURST), time()

    def take(self) -> None:
        """Counts one; raises `rate_limit_exceeded`."""
        now = self._time()
        self._left, self._at = min(self._left + (now - self._at) * RATE, BURST), now
        if self._left < 1:
            raise GatewayError("rate_limit_exceeded", "Too many calls over this connection. Retry after 1 second.")
        self._left -= 1


def welcome(follower: Follower) -> None:
    """Releases, a moment from now, a follower that was held from its beginning."""
    asyncio.get_running_loop().call_later(FIRST_SECONDS, follower.release, ())


async def call(
    rt: Runtime, follower: Follower, calls: Calls, base: str, method: str, arguments: list[Any]
) -> dict[str, Any]:
    """What a method answers to a client; an error in the shape that the API has for them."""
    try:
        calls.take()
        return await _called(rt, follower, base, method, arguments)
    except GatewayError as error:
        return dict(render(error).content)
    except DatabaseUnavailable:
        return dict(render(GatewayError("database_unavailable", "The database does not answer.")).content)
    except Exception:
        log.exception("%s failed", method)
        return dict(render(GatewayError("internal_error", "Something went wrong on our side.")).content)


async def _called(rt: Runtime, follower: Follower, base: str, method: str, arguments: list[Any]) -> dict[str, Any]:
    if method not in METHODS:
        raise invalid("method", f"This hub has no such method. It has: {', '.join(METHODS)}.")
    task_id = arguments[0] if arguments else None
    if not isinstance(task_id, str):
        raise invalid("task_id", "task_id must be the id of a task.")
    options = arguments[1] if len(arguments) > 1 and arguments[1] is not None else {}
    task = await tasks.get(rt, follower.grant.key_id, task_id)
    if not follower.allows(task):
        raise GatewayError("task_not_found", "There is no such task here.")
    if method == UNSUBSCRIBE:
        follower.mute(task.id)
    else:
        await _subscribe(rt, follower, task, _after(options))
    body: dict[str, Any] = msgspec.to_builtins(task_body(rt, await tasks.get(rt, task.key_id, task.id), base))
    return body


async def _subscribe(rt: Runtime, follower: Follower, task: TaskRecord, after: int | None) -> None:
    follower.unmute(task.id)
    past: list[Told] = []
    follower.hold()
    try:
        past = [] if after is None else await feed.past(rt, task, after)
    finally:
        follower.release(past)


def _after(options: Any) -> int | None:
    if not isinstance(options, dict):
        raise invalid("options", 'The second argument must be an object such as {"after": 0}.')
    after = options.get("after")
    if after is None or (isinstance(after, int) and not isinstance(after, bool) and 0 <= after < 2**31):
        return after
    raise invalid("after", "after must be the number of an event.")


def named(rt: Runtime, told: Told, base: str) -> tuple[str, dict[str, Any]] | None:
    """The event's name and its one object; None for what hubs do not tell of. Made once for all of the same address."""
    if told.word == QUEUED:
        return None
    place = "hub", base
    if place not in told.rendered:
        name = "Preview" if told.word == PREVIEW else NAMES[told.task.kind] + told.word.capitalize()
        told.rendered[place] = name, _members(rt, told, base)
    found: tuple[str, dict[str, Any]] = told.rendered[place]
    return found


def _members(rt: Runtime, told: Told, base: str) -> dict[str, Any]:
    task = told.task
    members = {
        "taskId": task.id, "task_id": task.id, "sequence": told.sequence, "status": STATUS[task.state],
        "progress": task.progress, "progressPercentage": task.progress, "stage": STAGE.get(task.state),
        "estimatedTimeRemaining": told.seconds_left, "message": told.note, "model": task.model,
        "operation": task.operation, "metadata": task.labels, "timestamp": told.at.isoformat(),
        "cost": None if task.charged is None else dollars(task.charged), "provider": task.provider,
    }  # fmt: skip
    if told.preview is not None:
        image = base64.b64encode(told.preview.data).decode()
        members |= {"mediaType": told.preview.media_type, "image": f"data:{told.preview.media_type};base64,{image}"}
    if told.last:
        members |= _ending(rt, told, base)
    return {name: value for name, value in members.items() if value is not None}


def _ending(rt: Runtime, told: Told, base: str) -> dict[str, Any]:
    task = told.task
    media = [media_body(rt, asset, base) for asset in task.assets]
    urls = [one.url for one in media]
    seconds = task.ended_at and task.started_at and (task.ended_at - task.started_at).total_seconds()
    return {
        f"{task.kind}Url": urls[0] if urls else None, f"{task.kind}Urls": urls or None,
        "thumbnailUrl": media[0].thumbnail_url if media else None,
        "durationSeconds": seconds, "duration": seconds, "error": task.error_message, "errorCode": task.error_code,
        "isRetryable": CODES[task.error_code].retryable if task.error_code else None,
    }  # fmt: skip
