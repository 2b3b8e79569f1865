"""Inventory: how many media are kept, and how many bytes, by kind and by key.

The bytes are those that owners are told of their media. The small pictures beside them are not counted.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select

from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, VIRTUAL_KEYS


class Held(msgspec.Struct, frozen=True):
    """What one key has of one kind of media."""

    key_id: str
    name: str
    kind: str
    count: int
    bytes: int


async def held(rt: Runtime) -> list[Held]:
    """What every key has of every kind, by key; what is deleted does not count."""
    key = VIRTUAL_KEYS.c
    kept = (
        select(ASSETS.c.key_id, ASSETS.c.kind, func.count().label("count"), func.sum(ASSETS.c.size).label("bytes"))
        .where(ASSETS.c.deleted_at.is_(None))
        .group_by(ASSETS.c.key_id, ASSETS.c.kind)
        .subquery()
    )
    statement = (
        select(key.id, key.name, kept.c.kind, kept.c.count, kept.c.bytes)
        .join(kept, kept.c.key_id == key.id)
        .order_by(key.id, kept.c.kind)
    )
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).all()
    # A sum of whole numbers is a decimal for PostgreSQL.
    return [Held(id, name, kind, int(count), int(size)) for id, name, kind, count, size in rows]
