"""Claims: an Idempotency-Key stands for the one task that was made with it, however often the request comes."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.errors import GatewayError
from gateway.core.runtime import Runtime
from gateway.core.tables import CLAIMS

KEPT = dt.timedelta(hours=24)


class Idempotency(msgspec.Struct, frozen=True):
    """A caller's own name for a request, and a digest of route and body, by which a repetition is told from a slip."""

    text: str
    fingerprint: str


async def find(rt: Runtime, key_id: str, idempotency: Idempotency) -> str | None:
    """The id of the task that the same request has made before, or None.

    Raises `idempotency_key_reused` when it was another request.
    """
    statement = select(CLAIMS.c.task_id, CLAIMS.c.fingerprint).where(
        CLAIMS.c.key_id == key_id, CLAIMS.c.text == idempotency.text, CLAIMS.c.created_at > rt.now() - KEPT
    )
    async with rt.db.read() as connection:
        claim = (await connection.execute(statement)).first()
    if claim is None:
        return None
    if claim.fingerprint != idempotency.fingerprint:
        message = "This Idempotency-Key was used for another request. A new request needs a new one."
        raise GatewayError("idempotency_key_reused", message)
    task_id: str = claim.task_id
    return task_id


async def make(
    connection: AsyncConnection, key_id: str, idempotency: Idempotency, task_id: str, now: dt.datetime
) -> None:
    """Claims the text for a new task, in the transaction that makes it; raises IntegrityError when it is taken.

    Until that transaction ends, whoever else wants the text waits.
    """
    mine = (CLAIMS.c.key_id == key_id, CLAIMS.c.text == idempotency.text)
    await connection.execute(delete(CLAIMS).where(*mine, CLAIMS.c.created_at <= now - KEPT))
    values = {"key_id": key_id, "text": idempotency.text, "fingerprint": idempotency.fingerprint}
    await connection.execute(insert(CLAIMS), values | {"task_id": task_id, "created_at": now})


async def purge(rt: Runtime) -> None:
    """Forgets what is older than a day."""
    async with rt.db.write_one() as connection:
        await connection.execute(delete(CLAIMS).where(CLAIMS.c.created_at <= rt.now() - KEPT))
