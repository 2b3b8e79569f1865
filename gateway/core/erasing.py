"""Erasing: what is deleted is gone from the store and from the rows. Of a task its bill remains.

First a row says that an asset is deleted, and from then on nobody finds it; then its bytes go; then the row says that
they are gone. Whoever dies between, or finds the store away, leaves rows that say what is still to be done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import assets, payloads
from gateway.core.assets import AssetRecord
from gateway.core.inputs import Upload
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, ATTEMPTS, TASKS
from gateway.core.webhook_tables import DELIVERIES, DELIVERY_ATTEMPTS
from storage.objects import ObjectError

log = logging.getLogger(__name__)
AT_ONCE = 50
# What of a generation a bill needs: what was ordered, of which size, and how many of it.
BILLED = ("kind", "operation", "model", "n", "size", "aspect_ratio")
# Providers quote prompts in their refusals.
ERASED = "What was said about this failure was erased."


class Content(msgspec.Struct, frozen=True):
    """What is there of a task beside its bill: assets whose bytes may be in the store, and pictures that came with it.

    With `whole` the rest of it goes with them: what was asked for, in all its words.
    """

    task_id: str
    assets: tuple[AssetRecord, ...]
    inputs: tuple[Upload, ...] = ()
    generation: dict[str, Any] = {}
    whole: bool = True

    @property
    def keys(self) -> list[str]:
        """The keys of all its objects."""
        return [key for asset in self.assets for key in assets.object_keys(asset)] + [one.place for one in self.inputs]


async def delete(rt: Runtime, asset: AssetRecord) -> None:
    """Deletes an asset for its owner; what it was made from goes with the last asset of its task.

    When this returns, nobody finds it any more. What the store does not let go now is erased later.
    """
    if await erase(rt, await hide(rt, [asset])):
        log.warning("%s is deleted, and its bytes will be when the store answers", asset.id)


async def hide(rt: Runtime, found: Sequence[AssetRecord]) -> list[Content]:
    """Deletes assets as far as anybody can see: nobody finds them any more. What is to be erased for it."""
    await _hide(rt, ASSETS.c.id.in_([asset.id for asset in found]))
    return await _deleted(rt, found)


async def forget(rt: Runtime, batch: Sequence[Content]) -> list[str]:
    """Erases tasks that have ended, with all their assets. The ids of those that the store did not let go."""
    await _hide(rt, ASSETS.c.task_id.in_([one.task_id for one in batch]))
    return await erase(rt, batch)


async def finish(rt: Runtime) -> None:
    """Erases what was deleted while the store was away, or by a process that has died since."""
    async for batch in deleted(rt):
        await erase(rt, batch)


async def deleted(rt: Runtime) -> AsyncIterator[list[Content]]:
    """What is deleted, and whose bytes may still be there, batch by batch."""
    after = ""
    while True:
        statement = assets.RECORDS.where(
            ASSETS.c.deleted_at.is_not(None), ASSETS.c.erased_at.is_(None), ASSETS.c.id > after
        )
        async with rt.db.read() as connection:
            rows = (await connection.execute(statement.order_by(ASSETS.c.id).limit(AT_ONCE))).mappings().all()
        if not rows:
            return
        after = rows[-1]["id"]
        yield await _deleted(rt, [assets.record_of(row) for row in rows])


async def contents(rt: Runtime, task_ids: Sequence[str]) -> list[Content]:
    """All that is there of these tasks."""
    wanted = select(TASKS.c.id, TASKS.c.generation, TASKS.c.inputs).where(TASKS.c.id.in_(task_ids))
    kept = assets.RECORDS.where(ASSETS.c.task_id.in_(task_ids), ASSETS.c.erased_at.is_(None))
    async with rt.db.read() as connection:
        tasks = (await connection.execute(wanted.order_by(TASKS.c.id))).mappings().all()
        found = [assets.record_of(row) for row in (await connection.execute(kept)).mappings()]
    return [
        Content(
            task["id"],
            tuple(asset for asset in found if asset.task_id == task["id"]),
            tuple(msgspec.convert(one, Upload) for one in task["inputs"]),
            task["generation"],
        )
        for task in tasks
    ]


async def erase(rt: Runtime, batch: Sequence[Content]) -> list[str]:
    """Deletes the objects, then what the rows hold. The ids of tasks whose objects the store did not let go."""
    done = await asyncio.gather(*(_delete_objects(rt, one) for one in batch))
    gone = [one for one, well in zip(batch, done, strict=True) if well]
    if gone:
        await _write(rt, gone)
    return [one.task_id for one, well in zip(batch, done, strict=True) if not well]


async def _hide(rt: Runtime, which: Any) -> None:
    statement = update(ASSETS).where(which, ASSETS.c.deleted_at.is_(None))
    tries = update(ATTEMPTS).where(ATTEMPTS.c.task_id.in_(select(ASSETS.c.task_id).where(which)))
    async with rt.db.write() as connection:
        await connection.execute(statement.values(deleted_at=rt.now(), revised_prompt=None, blurhash=None))
        # What has landed is only needed until the task ends, and tells as much of the picture.
        await connection.execute(tries.values(outputs=[]))


async def _deleted(rt: Runtime, hidden: Sequence[AssetRecord]) -> list[Content]:
    """Deleted assets by their tasks: with all of the task where none of its assets is left."""
    task_ids = sorted({asset.task_id for asset in hidden})
    left = select(ASSETS.c.task_id).where(ASSETS.c.task_id.in_(task_ids), ASSETS.c.deleted_at.is_(None)).distinct()
    async with rt.db.read() as connection:
        some = set((await connection.execute(left)).scalars())
    parts = [
        Content(task_id, tuple(asset for asset in hidden if asset.task_id == task_id), whole=False)
        for task_id in task_ids
        if task_id in some
    ]
    return parts + await contents(rt, [task_id for task_id in task_ids if task_id not in some])


async def _delete_objects(rt: Runtime, content: Content) -> bool:
    try:
        for key in content.keys:
            await rt.objects.delete(key)
    except ObjectError as error:
        log.warning("%s could not be erased: %s", content.task_id, error)
        return False
    return True


async def _write(rt: Runtime, gone: Sequence[Content]) -> None:
    """Says that the objects are gone, and takes out of the rows what is no bill."""
    now = rt.now()
    erased = {"erased_at": now, "deleted_at": func.coalesce(ASSETS.c.deleted_at, now)}
    media = update(ASSETS).where(ASSETS.c.id.in_([asset.id for one in gone for asset in one.assets]))
    tries = update(ATTEMPTS).where(ATTEMPTS.c.task_id.in_([one.task_id for one in gone]))
    bills = [
        {"of_task": one.task_id, "bill": {name: one.generation[name] for name in BILLED if name in one.generation}}
        for one in gone
        if one.whole
    ]
    async with rt.db.write() as connection:
        await connection.execute(media.values(**erased, revised_prompt=None, blurhash=None))
        await connection.execute(tries.values(outputs=[]))
        if bills:
            whole = [one.task_id for one in gone if one.whole]
            await connection.execute(update(ATTEMPTS).where(ATTEMPTS.c.task_id.in_(whole)).values(error_message=None))
            await connection.execute(TASK.values(erased_at=now), bills)
            await _hush(connection, whole)


async def _hush(connection: AsyncConnection, task_ids: Sequence[str]) -> None:
    """Takes out of the webhooks of these tasks, sent or not, what is no bill, and what receivers said to them."""
    # In the order in which attempts lock them, too.
    told = (
        select(DELIVERIES.c.id, DELIVERIES.c.body).where(DELIVERIES.c.task_id.in_(task_ids)).order_by(DELIVERIES.c.id)
    )
    rows = (await connection.execute(told)).all()
    if rows:
        bodies = [{"of_delivery": row.id, "left": payloads.erased(row.body)} for row in rows]
        await connection.execute(DELIVERY, bodies)
        said = update(DELIVERY_ATTEMPTS).where(DELIVERY_ATTEMPTS.c.delivery_id.in_([row.id for row in rows]))
        await connection.execute(said.values(reply=None))


DELIVERY = update(DELIVERIES).where(DELIVERIES.c.id == bindparam("of_delivery")).values(body=bindparam("left"))
TASK = (
    update(TASKS)
    .where(TASKS.c.id == bindparam("of_task"), TASKS.c.erased_at.is_(None))
    .values(
        generation=bindparam("bill", type_=TASKS.c.generation.type),
        fallbacks=[],
        labels={},
        inputs=[],
        enhancement=None,
        error_message=case((TASKS.c.error_message.is_not(None), ERASED)),
    )
)
