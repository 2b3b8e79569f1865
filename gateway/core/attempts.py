"""Attempts: the rows of a task's tries, each written before its order is sent and closed after."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import RowMapping, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.choosing import Candidate
from gateway.core.pricing import quote
from gateway.core.tables import ATTEMPTS

ATTEMPT = update(ATTEMPTS).where(
    ATTEMPTS.c.task_id == bindparam("of_task"), ATTEMPTS.c.number == bindparam("of_number")
)


def opened(task_id: str, number: int, taken: Candidate, now: dt.datetime) -> dict[str, Any]:
    """The row of a try on that route, with its price there."""
    route = taken.route
    return {
        "task_id": task_id, "number": number, "provider": route.provider, "credential": route.credential,
        "model": route.card.name, "choice": taken.choice, "quoted": quote(taken.generation, route.card, route.price),
        "priced_on": route.price.as_of if route.price else None, "started_at": now, "outputs": [],
    }  # fmt: skip


async def find(connection: AsyncConnection, task_id: str) -> list[RowMapping]:
    """The attempts of a task, in order."""
    statement = select(ATTEMPTS).where(ATTEMPTS.c.task_id == task_id).order_by(ATTEMPTS.c.number)
    return list((await connection.execute(statement)).mappings())


async def close(connection: AsyncConnection, task_id: str, number: int, **values: Any) -> None:
    """Writes what has become of it."""
    await connection.execute(ATTEMPT, {"of_task": task_id, "of_number": number} | values)
