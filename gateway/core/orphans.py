"""Orphans: objects in the store that nothing refers to, and assets whose bytes are gone from it.

A process that dies between storing bytes and saying so leaves the former. What was stored less than a day ago, or for a
task that goes on, is never taken for one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import and_, or_, select

from gateway.core import assets
from gateway.core.assets import AssetRecord
from gateway.core.ids import is_id
from gateway.core.lifecycle import FINAL
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, TASKS
from storage.objects import Found, ObjectError

log = logging.getLogger(__name__)
PLACES = ("media/", "inputs/")
# The keys that this program makes, and no others: whatever else lies in the store is somebody else's.
OURS = re.compile(r"(?:media/[a-z0-9_]+/\d+-\d+(?:-[0-9a-f]{64})?(?:\.[a-z]+)?|inputs/[a-z0-9_]+/\d+)", re.ASCII)
# Under this each installation leaves its mark in the store that it uses.
MARKS = "installations/"
AGE = dt.timedelta(days=1)
LISTED, AT_ONCE = 500, 50


def is_ours(key: str) -> bool:
    """Whether this program makes such keys."""
    return OURS.fullmatch(key) is not None and is_id(_task_of(key), "task")


async def unknown(rt: Runtime) -> AsyncIterator[list[Found]]:
    """Objects that nothing refers to, batch by batch. An object that does not look like ours is left alone."""
    for place in PLACES:
        async for batch in _batches(rt, place):
            found = await _unknown(rt, batch)
            if found:
                yield found


async def delete(rt: Runtime, found: Sequence[Found]) -> list[Found]:
    """Deletes objects that nothing refers to, and returns those that the store did not let go."""
    failed: list[Found] = []
    for start in range(0, len(found), AT_ONCE):
        some = found[start : start + AT_ONCE]
        done = await asyncio.gather(*(_deletes(rt, one) for one in some))
        failed += [one for one, well in zip(some, done, strict=True) if not well]
    return failed


async def missing(rt: Runtime) -> AsyncIterator[list[AssetRecord]]:
    """Assets that owners still find in their lists, and whose bytes the store no longer lists, batch by batch."""
    listed, present, after = _Listed(rt), set[str](), None
    until = rt.now() - AGE
    while batch := await _live(rt, after, until):
        after = batch[-1]
        present = {key for key in present if _task_of(key) == batch[0].task_id}
        present |= await listed.up_to(after.task_id)
        yield [asset for asset in batch if asset.object_key not in present]


async def gone(rt: Runtime, lost: Sequence[AssetRecord]) -> list[AssetRecord]:
    """Those whose bytes are not there when they are asked for: that a list leaves something out is no proof."""
    return [asset for asset in lost if await rt.objects.find(asset.object_key) is None]


async def strangers(rt: Runtime, mark: str) -> list[str] | None:
    """The marks of other installations in the store; None when it does not bear ours."""
    marks = [found.key.removeprefix(MARKS) async for found in rt.objects.list(MARKS)]
    return [one for one in marks if one != mark] if mark in marks else None


async def leave_mark(rt: Runtime, mark: str) -> None:
    """Says in the store that this installation uses it. Raises ObjectError."""
    await rt.objects.put(MARKS + mark, b"An installation of Heliograph keeps its objects here.\n", "text/plain")


async def _deletes(rt: Runtime, found: Found) -> bool:
    try:
        await rt.objects.delete(found.key)
    except ObjectError as error:
        log.warning("%s could not be deleted: %s", found.key, error)
        return False
    return True


async def _batches(rt: Runtime, place: str) -> AsyncIterator[list[Found]]:
    batch: list[Found] = []
    async for found in rt.objects.list(place):
        batch.append(found)
        if len(batch) == LISTED:
            yield batch
            batch = []
    if batch:
        yield batch


async def _unknown(rt: Runtime, batch: Sequence[Found]) -> list[Found]:
    old = [found for found in batch if found.modified_at <= rt.now() - AGE and is_ours(found.key)]
    task_ids = {_task_of(found.key) for found in old}
    tasks = select(TASKS.c.id, TASKS.c.state, TASKS.c.inputs).where(TASKS.c.id.in_(task_ids))
    kept = assets.RECORDS.where(ASSETS.c.task_id.in_(task_ids), ASSETS.c.erased_at.is_(None))
    async with rt.db.read() as connection:
        rows = (await connection.execute(tasks)).all()
        named = {
            key
            for row in (await connection.execute(kept)).mappings()
            for key in assets.object_keys(assets.record_of(row))
        }
    named |= {one["place"] for row in rows for one in row.inputs}
    busy = {row.id for row in rows if row.state not in FINAL}
    return [found for found in old if found.key not in named and _task_of(found.key) not in busy]


async def _live(rt: Runtime, after: AssetRecord | None, until: dt.datetime) -> list[AssetRecord]:
    task_id, position = ASSETS.c.task_id, ASSETS.c.position
    statement = assets.RECORDS.where(ASSETS.c.deleted_at.is_(None), ASSETS.c.created_at <= until)
    if after is not None:
        rest = and_(task_id == after.task_id, position > after.position)
        statement = statement.where(task_id >= after.task_id, or_(task_id > after.task_id, rest))
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement.order_by(task_id, position).limit(LISTED))).mappings().all()
    return [assets.record_of(row) for row in rows]


def _task_of(key: str) -> str:
    return key.split("/")[1]


class _Listed:
    """The store's list of media, read on as far as it is needed: tasks come in the order of their ids."""

    def __init__(self, rt: Runtime) -> None:
        self._found = rt.objects.list(PLACES[0])
        self._next: Found | None = None

    async def up_to(self, task_id: str) -> set[str]:
        """The keys that follow, up to those of this task."""
        keys = set()
        self._next = self._next or await anext(self._found, None)
        while self._next is not None and _task_of(self._next.key) <= task_id:
            keys.add(self._next.key)
            self._next = await anext(self._found, None)
        return keys
