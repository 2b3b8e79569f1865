"""Usage: what the tasks of a key have brought and cost, by model."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import func, select

from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, TASKS


class ModelUsage(msgspec.Struct, frozen=True):
    """What one model has brought: outputs by kind, and their cost in micro-USD."""

    model: str
    kind: str
    count: int
    cost: int


async def by_model(rt: Runtime, key_id: str, since: dt.datetime, until: dt.datetime) -> list[ModelUsage]:
    """The outputs and costs of the tasks that ended in the time; media that were deleted since count as well."""
    ended = (TASKS.c.key_id == key_id, TASKS.c.ended_at >= since, TASKS.c.ended_at < until)
    counted = select(func.count()).select_from(ASSETS).where(ASSETS.c.task_id == TASKS.c.id).scalar_subquery()
    each = select(
        TASKS.c.model, TASKS.c.kind, counted.label("count"), func.coalesce(TASKS.c.charged, 0).label("cost")
    ).where(*ended)
    tasks = each.subquery()
    statement = (
        select(tasks.c.model, tasks.c.kind, func.sum(tasks.c.count), func.sum(tasks.c.cost))
        .group_by(tasks.c.model, tasks.c.kind)
        .order_by(tasks.c.model, tasks.c.kind)
    )
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).all()
    return [ModelUsage(model, kind, int(count), int(cost)) for model, kind, count, cost in rows if count or cost]
