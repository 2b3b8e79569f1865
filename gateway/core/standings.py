"""Standings: how far tasks are, how long they still take, and where they stand in their line.

How far a task is says its provider; until it does, the time that such tasks took before. What a task is expected to
take stands in its event `started`, so that every process says the same, and nothing that was said is taken back when
later tasks take longer.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.durations import learned
from gateway.core.lifecycle import State
from gateway.core.runtime import Runtime
from gateway.core.slots import IN_LINE
from gateway.core.tables import EVENTS, TASKS
from storage.database import DatabaseUnavailable

T, E = TASKS.c, EVENTS.c
EXPECTED = "expected_seconds"
STARTED = E.type.endswith(".started")
# Below that a provider's word says too little about the rest.
TELLING = 5


class Estimate(NamedTuple):
    """How far a task is, in percent, and how many seconds it still takes, if anybody can say."""

    progress: int
    seconds_left: int | None


class Standing(NamedTuple):
    """What other rows than its own say of a task: the seconds that it was to take, and its place in its line."""

    expected_seconds: float | None = None
    queue_position: int | None = None


def estimate(said: int, passed: float, expected: float | None) -> Estimate:
    """The estimate of a task that began `passed` seconds ago; `said` is how far its provider said that it is."""
    progress = said or learned(passed, expected)
    if said >= TELLING:
        return Estimate(progress, math.ceil(passed * (100 - said) / said))
    if expected is None or passed >= expected:
        return Estimate(progress, None)
    return Estimate(progress, math.ceil(expected - passed))


def seconds_between(began: dt.datetime | None, until: dt.datetime) -> float:
    """How long that was; 0 for what has not begun."""
    return 0.0 if began is None else max((until - began).total_seconds(), 0.0)


async def of_rows(connection: AsyncConnection, rows: Sequence[RowMapping]) -> dict[str, Standing]:
    """How the tasks of these rows stand, by id; of those that neither run nor wait there is nothing to say."""
    found: dict[str, Standing] = {}
    running = [row["id"] for row in rows if row["started_at"] is not None and row["state"] != State.COMPLETED]
    if running:
        started = select(E.task_id, E.data).where(E.task_id.in_(running), STARTED)
        for task_id, data in (await connection.execute(started)).all():
            found[task_id] = Standing(expected_seconds=data.get(EXPECTED))
    waiting = [row for row in rows if row["state"] == State.QUEUED and row["due_at"] is None]
    for key_id in {row["key_id"] for row in waiting}:
        mine = [row["id"] for row in waiting if row["key_id"] == key_id]
        for task_id, place in (await connection.execute(_places(key_id, mine))).all():
            found[task_id] = Standing(queue_position=place)
    return found


async def shown(rt: Runtime, task_id: str) -> int:
    """How far a task was said to be until its provider said so for the first time: that is not taken back."""
    statement = select(T.started_at, E.data).join(EVENTS, E.task_id == T.id).where(T.id == task_id, STARTED)
    try:
        async with rt.db.read() as connection:
            row = (await connection.execute(statement)).first()
    except DatabaseUnavailable:
        return 0
    return 0 if row is None else learned(seconds_between(row.started_at, rt.now()), row.data.get(EXPECTED))


def _places(key_id: str, task_ids: Sequence[str]) -> Any:
    place = func.row_number().over(order_by=(T.rank, T.id)).label("place")
    line = select(T.id, place).where(T.key_id == key_id, IN_LINE).subquery()
    return select(line.c.id, line.c.place).where(line.c.id.in_(task_ids))
