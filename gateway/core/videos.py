"""Videos: tasks that make films, as one who only wants the film sees them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import exists, update

from gateway.core import assets, erasing, tasks
from gateway.core.assets import AssetRecord
from gateway.core.errors import GatewayError
from gateway.core.ids import is_id
from gateway.core.keys import Caller
from gateway.core.lifecycle import State
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, TASKS
from gateway.core.tasks import TaskRecord
from gateway.core.uploads import Given
from providers.contract import Kind


async def find(rt: Runtime, key_id: str, video_id: str) -> tuple[TaskRecord, AssetRecord | None]:
    """The task that makes a video, and the video once it is there. Raises `video_not_found`.

    The id is that of the task, which stands for its first video, or that of one of its videos.
    """
    try:
        if is_id(video_id, assets.PREFIXES[Kind.VIDEO]):
            asset = await assets.get(rt, video_id, key_id)
            return await tasks.get(rt, key_id, asset.task_id), asset
        task = await tasks.get(rt, key_id, video_id)
    except GatewayError as error:
        raise _not_found() from error
    if task.kind != Kind.VIDEO or task.deleted_at is not None:
        raise _not_found()
    return task, next(iter(task.assets), None)


def content(task: TaskRecord, asset: AssetRecord | None) -> AssetRecord:
    """The video itself; raises `video_not_ready` while it is made, and `media_not_found` when it never will be."""
    if asset is not None:
        return asset
    if not task.final:
        raise _not_ready("The video is not ready yet.", task)
    state = "was deleted" if task.state is State.COMPLETED else f"{task.state}"
    raise GatewayError("media_not_found", f"There is no content: the video {state}.")


async def named(rt: Runtime, caller: Caller, given: Sequence[Given]) -> tuple[Given, ...]:
    """The same films, where one is named by its task by the id of the film itself; raises as `content` does."""
    found = []
    for one in given:
        if one.text is not None and is_id(one.text, "task"):
            asset = content(*await find(rt, caller.key_id, one.text))
            found.append(msgspec.structs.replace(one, text=asset.id))
        else:
            found.append(one)
    return tuple(found)


async def delete(rt: Runtime, task: TaskRecord, asset: AssetRecord | None = None) -> None:
    """Deletes one video of a task, or all of them; with the last the task is no video any more.

    Raises `video_not_ready` while it runs.
    """
    if not task.final:
        raise _not_ready(f"The video is still made: cancel it first, by POST /v1/tasks/{task.id}/cancel.", task)
    for one in task.assets if asset is None else (asset,):
        await erasing.delete(rt, one)
    left = exists().where(ASSETS.c.task_id == task.id, ASSETS.c.deleted_at.is_(None))
    async with rt.db.write() as connection:
        await connection.execute(update(TASKS).where(TASKS.c.id == task.id, ~left).values(deleted_at=rt.now()))


def _not_ready(message: str, task: TaskRecord) -> GatewayError:
    return GatewayError("video_not_ready", message, task_id=task.id)


def _not_found() -> GatewayError:
    return GatewayError("video_not_found", "There is no such video.")
