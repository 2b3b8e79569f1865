"""Slots: a task runs when it has one. Who waits gets one in turn: key by key, and within a key by rank.

The key that was served longest ago comes first, so that the many tasks of one key do not delay another's. Within a
key, each step of priority is worth a minute of waiting: a late task of high priority overtakes, and none waits for
ever.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from sqlalchemy import RowMapping, and_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import accounts, turns
from gateway.core.lifecycle import State
from gateway.core.runtime import Runtime
from gateway.core.tables import ACCOUNTS, TASKS
from gateway.core.turns import Turn

log = logging.getLogger(__name__)
A, T = ACCOUNTS.c, TASKS.c
STEP = dt.timedelta(minutes=1)
LOWEST, USUAL, HIGHEST = 1, 5, 10
IN_LINE = and_(T.state == State.QUEUED, T.due_at.is_(None))


def rank(now: dt.datetime, priority: int) -> int:
    """The place of a new task among those of its key, in microseconds: the lowest goes first."""
    return int((now - priority * STEP).timestamp() * 1_000_000)


async def start_next(rt: Runtime) -> Turn | None:
    """Gives a slot to the task whose turn it is, and takes its first turn; None when none may start."""
    values = {"now": rt.now(), "most": rt.settings.key_concurrency}
    async with rt.db.write() as connection:
        key_id = (await connection.execute(SERVE, values)).scalar()
        if key_id is None:
            return None
        first = select(T.id).where(T.key_id == key_id, IN_LINE).order_by(T.rank, T.id).limit(1)
        turn = await turns.start(rt.db, connection, TASKS, first, rt.now, rt.settings.lease_seconds)
        if turn is None:
            # Only rows that were changed behind our back can bring that about.
            log.error("%s counts tasks that do not wait: counted anew", key_id)
            await connection.execute(RECOUNT, {"of_key": key_id})
        rt.crash.pass_by("start.before_commit")
    return turn


async def startable(rt: Runtime, limit: int) -> int:
    """How many tasks may start now, counted up to `limit`."""
    free = func.coalesce(A.concurrent, rt.settings.key_concurrency) - A.running
    statement = select(A.waiting, free).where(_may_start(rt.settings.key_concurrency)).limit(limit)
    async with rt.db.read() as connection:
        found = (await connection.execute(statement)).all()
    count = sum(min(waiting, room) for waiting, room in found)
    return min(int(count), limit)


async def give_back(connection: AsyncConnection, key_id: str) -> None:
    """Makes a task that took a slot at its creation wait for one instead, in the same transaction."""
    values = {"running": A.running - 1, "waiting": A.waiting + 1}
    await connection.execute(update(ACCOUNTS).where(A.id == key_id).values(values))


async def leave_line(rt: Runtime, task_id: str, key_id: str) -> int | None:
    """Takes a task out of the line, so that it ends at once: the version to ring for, or None if it has a slot."""
    async with rt.db.write() as connection:
        # First the account, then the task, as whoever gives it a slot does.
        await accounts.lock(connection, key_id)
        out = update(TASKS).where(T.id == task_id, IN_LINE)
        version: int | None = (
            await connection.execute(out.values(due_at=rt.now(), rings=T.rings + 1).returning(T.version))
        ).scalar()
        if version is not None:
            values = {"running": A.running + 1, "waiting": A.waiting - 1}
            await connection.execute(update(ACCOUNTS).where(A.id == key_id).values(values))
    return version


async def overdue(rt: Runtime, limit: int) -> list[RowMapping]:
    """Tasks (`id`, `key_id`) that still wait for a slot when their time is over."""
    late = select(T.id, T.key_id).where(IN_LINE, T.deadline_at <= rt.now()).limit(limit)
    async with rt.db.read() as connection:
        return list((await connection.execute(late)).mappings())


def _may_start(most: Any) -> Any:
    return and_(A.waiting > 0, A.running < func.coalesce(A.concurrent, most))


def _serving() -> Any:
    """Takes one task of the key that was served longest ago from those that wait to those that run."""
    most: Any = bindparam("most")
    next_key = select(A.id).where(_may_start(most)).order_by(A.served_at).limit(1).with_for_update()
    values = {"waiting": A.waiting - 1, "running": A.running + 1, "served_at": bindparam("now", type_=A.served_at.type)}
    # Said twice, as the row may have changed while its lock was waited for.
    found = update(ACCOUNTS).where(A.id == next_key.scalar_subquery(), _may_start(most))
    return found.values(values).returning(A.id)


def _recounting() -> Any:
    """Counts a key's tasks anew."""
    mine = select(func.count()).select_from(TASKS).where(T.key_id == A.id)
    values = {
        "waiting": mine.where(IN_LINE).scalar_subquery(),
        "running": mine.where(T.due_at.is_not(None)).scalar_subquery(),
    }
    return update(ACCOUNTS).where(A.id == bindparam("of_key")).values(values)


SERVE, RECOUNT = _serving(), _recounting()
