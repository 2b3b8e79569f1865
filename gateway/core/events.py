"""Events: what happened to a task, recorded in the transaction in which it happened."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.tables import EVENTS


async def record(
    connection: AsyncConnection, task_id: str, sequence: int, type: str, at: dt.datetime, data: dict[str, Any]
) -> None:
    """Writes event number `sequence` of a task. A number that is already used is refused by the database."""
    row = {"task_id": task_id, "sequence": sequence, "type": type, "at": at, "data": data}
    await connection.execute(insert(EVENTS), row)


async def last_progress(connection: AsyncConnection, task_id: str) -> int:
    """The percentage that the task's events last spoke of; 0 when none has yet."""
    told = select(EVENTS.c.data).where(EVENTS.c.task_id == task_id, EVENTS.c.type.endswith(".progress"))
    found = (await connection.execute(told.order_by(EVENTS.c.sequence.desc()).limit(1))).scalar()
    return found["progress"] if found else 0
