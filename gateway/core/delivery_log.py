"""The log of deliveries: what was sent to an endpoint and what came of it, and a way to have it sent again."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, RowMapping, and_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import endpoints, ids
from gateway.core.bells import ring
from gateway.core.endpoints import DEFAULT
from gateway.core.errors import GatewayError
from gateway.core.outbox import Stage
from gateway.core.ports import DELIVERY, Message
from gateway.core.runtime import Runtime
from gateway.core.webhook_tables import DELIVERIES, DELIVERY_ATTEMPTS, ENDPOINTS

D, E, A = DELIVERIES.c, ENDPOINTS.c, DELIVERY_ATTEMPTS.c


class AttemptRecord(msgspec.Struct, frozen=True):
    """One try, and the beginning of what the receiver said."""

    number: int
    at: dt.datetime
    milliseconds: int
    status: int | None
    error: str | None
    reply: str | None


class DeliveryRecord(msgspec.Struct, frozen=True):
    """A delivery as the owner of its endpoint may see it."""

    id: str
    endpoint_id: str
    task_id: str | None
    event_id: str
    type: str
    state: str
    created_at: dt.datetime
    ended_at: dt.datetime | None
    due_at: dt.datetime | None
    attempts: tuple[AttemptRecord, ...] = ()


FIELDS = tuple(name for name in DeliveryRecord.__struct_fields__ if name != "attempts")


async def listing(
    rt: Runtime, key_id: str, endpoint_id: str, *, state: str | None, after: str | None, limit: int
) -> tuple[list[DeliveryRecord], bool]:
    """A page of the deliveries of an endpoint, the newest first, and whether more follow."""
    await endpoints.get(rt, key_id, endpoint_id)
    statement = select(DELIVERIES).where(_of(key_id, endpoint_id)).order_by(D.id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.where(D.state == state)
    if after is not None:
        statement = statement.where(D.id < after)
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).mappings().all()
        return [await _record(connection, row) for row in rows[:limit]], len(rows) > limit


async def redeliver(rt: Runtime, key_id: str, endpoint_id: str, delivery_id: str) -> DeliveryRecord:
    """Sends a delivery once more, now, and if need be by the whole schedule.

    Raises `endpoint_not_found`, `delivery_not_found` or `endpoint_disabled`.
    """
    await _enabled(rt, key_id, endpoint_id)
    again = update(DELIVERIES).where(D.id == delivery_id, _of(key_id, endpoint_id)).values(_anew(rt))
    async with rt.db.write() as connection:
        row = None
        if ids.is_id(delivery_id, "del"):
            await _refuse_disabled(connection, delivery_id)
            row = (await connection.execute(again.returning(DELIVERIES))).mappings().first()
        if row is None:
            raise GatewayError("delivery_not_found", "There is no such delivery.")
        record = await _record(connection, row)
    ring(rt, Message(DELIVERY, row["id"], row["version"]))
    return record


async def replay(rt: Runtime, key_id: str, endpoint_id: str, since: dt.datetime) -> int:
    """Sends once more what was given up, or skipped, of all that happened since then: how much that is."""
    await _enabled(rt, key_id, endpoint_id)
    missed = (D.created_at >= since, D.state.in_((Stage.FAILED, Stage.SKIPPED)))
    statement = update(DELIVERIES).where(_of(key_id, endpoint_id), *missed)
    async with rt.db.write() as connection:
        return (await connection.execute(statement.values(_anew(rt)))).rowcount


def _of(key_id: str, endpoint_id: str) -> ColumnElement[bool]:
    if endpoint_id != DEFAULT:
        return and_(D.key_id == key_id, D.endpoint_id == endpoint_id)
    single = select(E.id).where(E.key_id == key_id, E.task_id.is_not(None))
    return and_(D.key_id == key_id, D.endpoint_id.in_(single))


def _anew(rt: Runtime) -> dict[str, Any]:
    return {"state": Stage.PENDING, "retries": 0, "due_at": rt.now(), "rings": D.rings + 1, "ended_at": None}


async def _enabled(rt: Runtime, key_id: str, endpoint_id: str) -> None:
    endpoint = await endpoints.get(rt, key_id, endpoint_id)
    if endpoint.disabled_at is not None:
        raise _disabled(endpoint.reason)


async def _refuse_disabled(connection: AsyncConnection, delivery_id: str) -> None:
    """The endpoint of a single task may be disabled, too."""
    reason = select(E.reason).join(DELIVERIES, D.endpoint_id == E.id)
    found = (await connection.execute(reason.where(D.id == delivery_id, E.disabled_at.is_not(None)))).first()
    if found is not None:
        raise _disabled(found.reason)


def _disabled(reason: str | None) -> GatewayError:
    return GatewayError("endpoint_disabled", f"The webhook endpoint is disabled: {reason}.")


async def _record(connection: AsyncConnection, row: RowMapping) -> DeliveryRecord:
    tried = select(DELIVERY_ATTEMPTS).where(A.delivery_id == row["id"]).order_by(A.number)
    fields = AttemptRecord.__struct_fields__
    attempts = [
        AttemptRecord(**{name: one[name] for name in fields}) for one in (await connection.execute(tried)).mappings()
    ]
    return DeliveryRecord(**{name: row[name] for name in FIELDS}, attempts=tuple(attempts))
