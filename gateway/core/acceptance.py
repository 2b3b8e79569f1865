"""Acceptance: a new task's rows, its reservation and its claim are made in one transaction, or nothing is."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import accounts, claims, events, ledger, slots
from gateway.core.advance import go_on
from gateway.core.bells import ring_to_start
from gateway.core.claims import Idempotency
from gateway.core.errors import GatewayError, counted
from gateway.core.ledger import Reserved
from gateway.core.ports import Note
from gateway.core.runtime import Runtime
from gateway.core.tables import TASKS
from gateway.core.turns import Turn
from gateway.core.webhook_tables import ENDPOINTS
from storage.database import DatabaseUnavailable

# What a client is told that is refused because its key is full: nobody knows when a task ends.
FULL_SECONDS = 5


async def accept(
    rt: Runtime, row: dict[str, Any], idempotency: Idempotency | None, *, here: bool, endpoint: dict[str, Any] | None
) -> str | None:
    """Makes the row, its claim and its first event; the id of the task that another request with the claim has made.

    `endpoint` is the row of the one that hears of this task alone.

    Raises DatabaseUnavailable when there surely is no task. A commit whose answer is lost may stand, and the client
    must not be told to send its request again: the same row is made once more, which waits for what is still under
    way, and finds it.
    """
    committing = False
    try:
        async with rt.db.write() as connection:
            await _insert(connection, rt, row, idempotency, here=here, endpoint=endpoint)
            rt.crash.pass_by("accept.before_commit")
            committing = True
    except GatewayError as error:
        # What the first of two equal requests has reserved may be what the second one lacks.
        earlier = await claims.find(rt, row["key_id"], idempotency) if idempotency else None
        if earlier is None:
            raise error
        return earlier
    except IntegrityError as error:
        return await _taken(rt, row, idempotency, error)
    except DatabaseUnavailable:
        if not committing:
            raise
        return await _accept_again(rt, row, idempotency, here=here, endpoint=endpoint)
    return None


async def _accept_again(
    rt: Runtime, row: dict[str, Any], idempotency: Idempotency | None, *, here: bool, endpoint: dict[str, Any] | None
) -> str | None:
    try:
        async with rt.db.write() as connection:
            # Whatever of the first try is still under way holds this lock: behind it we see what became of it, and it
            # alone may have used up the last of a budget or a rate.
            await accounts.lock(connection, row["key_id"])
            if not await _stands(connection, row["id"]):
                await _insert(connection, rt, row, idempotency, here=here, endpoint=endpoint)
    except IntegrityError as error:
        return await _taken(rt, row, idempotency, error)
    except DatabaseUnavailable as error:
        message = f"The database does not answer. GET /v1/tasks/{row['id']} will tell whether the task was accepted."
        raise GatewayError("database_unavailable", message, task_id=row["id"]) from error
    return None


async def _stands(connection: AsyncConnection, task_id: str) -> bool:
    return (await connection.execute(select(TASKS.c.id).where(TASKS.c.id == task_id))).first() is not None


async def _taken(
    rt: Runtime, row: dict[str, Any], idempotency: Idempotency | None, error: IntegrityError
) -> str | None:
    """Whose task stands in the way of ours: another request's, by its id, or our own from a commit unheard of.

    Raises `error` when it is neither: then something else is wrong, and there is no task.
    """
    earlier = await claims.find(rt, row["key_id"], idempotency) if idempotency else None
    if earlier is not None and earlier != row["id"]:
        return earlier
    async with rt.db.read() as connection:
        ours = await _stands(connection, row["id"])
    if not ours:
        raise error
    return None


async def _insert(
    connection: AsyncConnection,
    rt: Runtime,
    row: dict[str, Any],
    idempotency: Idempotency | None,
    *,
    here: bool,
    endpoint: dict[str, Any] | None,
) -> None:
    reserved = await ledger.reserve(connection, rt, row["key_id"], row["owner"], row["held"], here=here)
    rt.crash.pass_by("accept.after_reserve")
    row |= _place(rt, here=await _finds_room(connection, rt, reserved, here=here))
    await connection.execute(insert(TASKS), row)
    if endpoint is not None:
        await connection.execute(insert(ENDPOINTS), endpoint)
    await reserved.record(connection, rt, row["id"])
    type = f"{row['kind']}.{row['operation']}.queued"
    await events.record(connection, row["id"], 1, type, row["created_at"], {})
    if idempotency is not None:
        await claims.make(connection, row["key_id"], idempotency, row["id"], row["created_at"])


async def _finds_room(connection: AsyncConnection, rt: Runtime, reserved: Reserved, *, here: bool) -> bool:
    """Whether the first turn is this process's. Raises `rate_limit_exceeded` if the key is full and none may wait."""
    key = next(row for row in reserved.rows if row["id"] == reserved.key_id)
    most = rt.settings.key_concurrency if key["concurrent"] is None else key["concurrent"]
    if rt.settings.concurrency_overflow == "refuse" and key["running"] + key["waiting"] > most:
        full = f"This key runs {counted(most, 'task')} already, as many as it may."
        message = f"{full} Please retry after {FULL_SECONDS} seconds."
        raise GatewayError("rate_limit_exceeded", message, retry_after=FULL_SECONDS)
    # Who waits in the line goes first.
    if here and key["running"] + key["waiting"] > most:
        await slots.give_back(connection, reserved.key_id)
        return False
    return here


def _place(rt: Runtime, *, here: bool) -> dict[str, Any]:
    """Whose turn a new task is: this process's, which has taken it, or nobody's, until it gets a slot."""
    if not here:
        return {"version": 0, "takes": 0, "due_at": None}
    return {"version": 1, "takes": 1, "due_at": rt.now() + dt.timedelta(seconds=rt.settings.lease_seconds)}


def start(rt: Runtime, row: dict[str, Any]) -> None:
    """Takes the first turn of an accepted task here, if it is ours; else rings for whoever has room."""
    rt.hub.tell(Note(row["id"], row["key_id"], sequence=row["sequence"]))
    if row["version"] == 0:
        return ring_to_start(rt, row["key_id"])
    whole = {column.name: row.get(column.name) for column in TASKS.c}
    turn = Turn(rt.db, TASKS, whole, rt.now, rt.settings.lease_seconds)
    rt.executor.spawn(go_on(rt, turn), f"task {row['id']}")
