"""Retention: how long media, and what was asked for, are kept after their task has ended."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, false, or_, select

from gateway.core.runtime import Runtime
from gateway.core.settings import Settings
from gateway.core.tables import TASKS, VIRTUAL_KEYS

T, K = TASKS.c, VIRTUAL_KEYS.c


class Over(NamedTuple):
    """A task whose time is over."""

    ended_at: dt.datetime
    id: str


def end_of(settings: Settings, since: dt.datetime | None, days: int | None) -> dt.datetime | None:
    """Until when is kept what is there since then; None: for ever. `days` is what its key says, if it says anything."""
    kept = settings.retention_days if days is None else days
    return since + dt.timedelta(days=kept) if since is not None and kept else None


async def over(rt: Runtime, after: Over | None, limit: int) -> list[Over]:
    """Ended tasks of which more is left than their bill, although their time is over: the oldest first."""
    async with rt.db.read() as connection:
        own = select(K.retention_days).where(K.retention_days > 0).distinct()
        condition = _condition(rt, [*(await connection.execute(own)).scalars()])
        statement = (
            select(T.ended_at, T.id)
            .join(VIRTUAL_KEYS, T.key_id == K.id)
            .where(T.ended_at.is_not(None), T.erased_at.is_(None), condition)
            .order_by(T.ended_at, T.id)
            .limit(limit)
        )
        if after is not None:
            later = and_(T.ended_at == after.ended_at, T.id > after.id)
            statement = statement.where(T.ended_at >= after.ended_at, or_(T.ended_at > after.ended_at, later))
        return [Over(*row) for row in (await connection.execute(statement)).all()]


def _condition(rt: Runtime, own: Sequence[int]) -> ColumnElement[bool]:
    """The time of a task is over: by what its key says, else by the setting."""
    now, usual = rt.now(), rt.settings.retention_days
    ways = [(K.retention_days == days, days) for days in own]
    if usual:
        ways.append((K.retention_days.is_(None), usual))
    return or_(false(), *(and_(way, T.ended_at <= now - dt.timedelta(days=days)) for way, days in ways))
