"""Turns: the right to move a row. Whoever last raised its version has it; the queue only rings bells.

A table takes part when it has `id`, `version` (whose turn it is), `due_at` (when to ring again) and `rings` (bells
since the last turn). A message carries the version that it was rung for, so a late or doubled one is stale by itself.
A renewed turn silences the bells that were rung before: only a row that was rung since can be taken.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

from sqlalchemy import Select, Table, Update, bindparam, case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from gateway.core.ports import Message
from storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)
MAX_BACKOFF = 6
# Seconds after which a renewal that failed is tried again.
SOON = 1.0


class TurnLost(Exception):
    """Somebody else has the turn now: whatever this one wanted to write is no longer true. A normal end."""


class Turn:
    """A turn that was taken. All writing to the row goes through it, so that none happens out of turn."""

    def __init__(
        self, db: Database, table: Table, row: Mapping[str, Any], now: Callable[[], dt.datetime], lease: float
    ) -> None:
        self.db = db
        self.table = table
        self.row = row
        self.id: str = row["id"]
        self.version: int = row["version"]
        self.now = now
        self.lease = dt.timedelta(seconds=lease)

    async def write(self, connection: AsyncConnection, **values: Any) -> None:
        """Changes the row and raises its version, inside the caller's transaction.

        The turn is kept for another lease, unless `values` says when the row is due (None: never again), which gives
        it back. Raises TurnLost when the turn is no longer ours; the caller's transaction then rolls back.
        """
        values = {"due_at": self.now() + self.lease, "version": self.version + 1, "rings": 0} | values
        await self._change(connection, values)
        self.version += 1

    async def renew(self, **values: Any) -> None:
        """Keeps the turn for another lease, and silences bells rung meanwhile. Raises TurnLost when it is gone."""
        async with self.db.write_one() as connection:
            await self._change(connection, {"due_at": self.now() + self.lease, "rings": 0} | values)

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        """Renews the turn in the background, at a third of its lease, while the block runs a long call."""
        ended = asyncio.Event()
        renewal = asyncio.create_task(self._renew_until(ended))
        try:
            yield
        finally:
            # A renewal under way comes to its end: a query that is broken off costs its connection.
            ended.set()
            await renewal

    async def _change(self, connection: AsyncConnection, values: dict[str, Any]) -> None:
        changed = await connection.execute(
            _mine(self.table), {"turn_id": self.id, "turn_version": self.version} | values
        )
        if changed.rowcount != 1:
            raise TurnLost(self.id)

    async def _renew_until(self, ended: asyncio.Event) -> None:
        usual = pause = self.lease.total_seconds() / 3
        with suppress(TurnLost):
            while not ended.is_set():
                try:
                    async with asyncio.timeout(pause):
                        await ended.wait()
                except TimeoutError:
                    # The others wait for a lease after trouble with the database: within it we must have spoken.
                    pause = usual if await self._try_to_renew() else min(SOON, usual)

    async def _try_to_renew(self) -> bool:
        """Renews, or leaves it: what the long call brings home must not be lost to trouble with the database."""
        try:
            await self.renew()
        except TurnLost:
            raise
        except DatabaseUnavailable:
            log.warning("%s was not renewed: the database does not answer", self.id)
        except Exception:
            log.exception("%s was not renewed", self.id)
        else:
            return True
        return False


async def take(
    db: Database, table: Table, message: Message, now: Callable[[], dt.datetime], lease: float
) -> Turn | None:
    """Takes the turn that the message rings for; None when the message is stale."""
    values = {"version": message.version + 1, "rings": 0, "due_at": now() + dt.timedelta(seconds=lease)}
    async with db.write_one() as connection:
        taken = await connection.execute(
            _rung(table), {"turn_id": message.id, "turn_version": message.version} | values
        )
        row = taken.mappings().one_or_none()
    return Turn(db, table, row, now, lease) if row is not None else None


async def start(
    db: Database,
    connection: AsyncConnection,
    table: Table,
    first: Select[Any],
    now: Callable[[], dt.datetime],
    lease: float,
) -> Turn | None:
    """Takes the turn of a row that was never due, in the caller's transaction; `first` selects its id."""
    values = {"version": table.c.version + 1, "rings": 0, "due_at": now() + dt.timedelta(seconds=lease)}
    statement = update(table).where(table.c.id == first.scalar_subquery(), table.c.due_at.is_(None))
    started = await connection.execute(statement.values(takes=table.c.takes + 1, **values).returning(table))
    row = started.mappings().one_or_none()
    return Turn(db, table, row, now, lease) if row is not None else None


async def ring(
    db: Database,
    table: Table,
    kind: str,
    now: dt.datetime,
    lease: float,
    limit: int,
    among: Select[Any] | None = None,
) -> list[Message]:
    """The messages of rows that are due, each pushed back so that the next sweep does not ring it again at once.

    Only `due_at` moves, doubling with each unanswered bell: the version stays, so messages already queued stay good.
    `among` selects the ids of those that may be rung.
    """
    later = {rings: now + dt.timedelta(seconds=lease * 2**rings) for rings in range(MAX_BACKOFF + 1)}
    due = select(table.c.id).where(table.c.due_at <= now).order_by(table.c.due_at).limit(limit)
    if among is not None:
        due = due.where(table.c.id.in_(among))
    statement = (
        update(table)
        .where(table.c.id.in_(due.with_for_update(skip_locked=True)), table.c.due_at <= now)
        .values(
            due_at=case(*((table.c.rings == rings, time) for rings, time in later.items()), else_=later[MAX_BACKOFF]),
            rings=table.c.rings + 1,
        )
        .returning(table.c.id, table.c.version)
    )
    async with db.write_one() as connection:
        return [Message(kind, id, version) for id, version in (await connection.execute(statement)).all()]


# The hot statements are built once: what changes is in their parameters, which also name the columns that are set.


@cache
def _mine(table: Table) -> Update:
    return update(table).where(table.c.id == bindparam("turn_id"), table.c.version == bindparam("turn_version"))


@cache
def _rung(table: Table) -> ReturningUpdate[Any]:
    return _mine(table).where(table.c.rings > 0).values(takes=table.c.takes + 1).returning(table)
