"""Events: what happened to a task, recorded in the transaction in which it happened."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.tables import EVENTS


async def record(
    connection: AsyncConnection, task_id: str, sequence: int, type: str, at: dt.datetime, data: dict[str, Any]
) -> None:
    """Writes event number `sequence` of a task. A number that is already used is refused by the database."""
    row = {"task_id": task_id, "sequence": sequence, "type": type, "at": at, "data": data}
    await connection.execute(insert(EVENTS), row)
