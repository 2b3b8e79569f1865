"""Work: a task whose turn was taken, and the ways in which a step may leave it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar, cast

import msgspec
from sqlalchemy import RowMapping, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import assets, events
from gateway.core.assets import Landed
from gateway.core.lifecycle import FINAL, State, check
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, ATTEMPTS, TASKS
from gateway.core.turns import Turn, TurnLost
from providers.contract import Generation, Progress
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
SHORTEST, LONGEST = 1.0, 30.0
# Seconds beyond the task's deadline for which its outcome is still tried to be recorded.
GRACE = 600


P = ParamSpec("P")
T = TypeVar("T")


def insisting(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Repeats a transaction while the database does not answer: what it records is paid for, and is nowhere else.

    A commit whose answer was lost is found done: the row's version is not ours any more, which is TurnLost.
    """

    @wraps(method)
    async def insist(*args: P.args, **kwargs: P.kwargs) -> T:
        work = cast("Work", args[0])
        while True:
            try:
                return await method(*args, **kwargs)
            except DatabaseUnavailable as error:
                if work.seconds_left <= -GRACE:
                    raise
                log.warning("%s: the database does not answer (%s), trying again", work.id, error)
                await work.rt.sleep(SHORTEST)

    return insist


class Work:
    """A task in our turn. Each method below is one transaction, and raises TurnLost when the turn has gone."""

    def __init__(self, rt: Runtime, turn: Turn) -> None:
        self.rt = rt
        self.turn = turn
        self.task: Mapping[str, Any] = turn.row
        self.id: str = turn.id
        self.state = State(self.task["state"])
        self.sequence: int = self.task["sequence"]
        self.progress: int = self.task["progress"]
        self.started: bool = self.task["started_at"] is not None

    @cached_property
    def generation(self) -> Generation:
        """What the caller asked for. Raises msgspec.ValidationError when another version wrote it."""
        return msgspec.convert(self.task["generation"], Generation)

    @property
    def seconds_left(self) -> float:
        """How long the task may still take."""
        left: dt.timedelta = self.task["deadline_at"] - self.rt.now()
        return left.total_seconds()

    def later(self) -> dt.datetime:
        """When to try again: after a quarter of the time that the task has waited already, within bounds."""
        waited = (self.rt.now() - self.task["created_at"]).total_seconds()
        return self.rt.now() + dt.timedelta(seconds=min(max(waited / 4, SHORTEST), LONGEST))

    @insisting
    async def attempts(self) -> list[RowMapping]:
        """The attempts so far, in order."""
        statement = select(ATTEMPTS).where(ATTEMPTS.c.task_id == self.id).order_by(ATTEMPTS.c.number)
        async with self.rt.db.read() as connection:
            return list((await connection.execute(statement)).mappings())

    @insisting
    async def begin(self, number: int, provider: str, model: str) -> None:
        """Records the intention to send the task to a provider, before anything is sent."""
        try:
            await self._begin(number, provider, model)
        except TurnLost:
            # Perhaps it was we who moved the row: a commit stands whose answer was lost.
            if not await self._begun():
                raise
        self.started = True

    async def _begin(self, number: int, provider: str, model: str) -> None:
        now = self.rt.now()
        async with self._transaction() as connection:
            values = {} if self.started else {"started_at": now}
            event = None if self.started else "started"
            await self._move(connection, State.SUBMITTING, event, provider=provider, **values)
            attempt = {"task_id": self.id, "number": number, "provider": provider, "model": model}
            await connection.execute(insert(ATTEMPTS), attempt | {"started_at": now, "outputs": []})

    async def _begun(self) -> bool:
        """Takes over a commit of `begin` that stands. Only ours raises the version by one and the state as well."""
        stands = select(TASKS.c.state, TASKS.c.version, TASKS.c.sequence).where(TASKS.c.id == self.id)
        async with self.rt.db.read() as connection:
            state, version, sequence = (await connection.execute(stands)).one()
        if (State(state), version) != (State.SUBMITTING, self.turn.version + 1):
            return False
        self.state, self.turn.version, self.sequence = State(state), version, sequence
        return True

    @insisting
    async def wait(self, number: int, job: str, due_at: dt.datetime, fraction: float | None) -> None:
        """Leaves the task with the vendor until `due_at`, and gives the turn back."""
        async with self._transaction() as connection:
            # A wish to cancel that came meanwhile need not wait for the next look.
            due_at = self.rt.now() if await self._cancel_asked(connection) else due_at
            await self._move(connection, State.WAITING, None, due_at=due_at, progress=self._risen(fraction))
            await _close(connection, self.id, number, job=job)

    @insisting
    async def store(
        self,
        number: int,
        landed: list[Landed],
        *,
        due_at: dt.datetime | None = None,
        usage: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> None:
        """Records what the vendor delivered; with `due_at`, gives the turn back to go on then."""
        changes: dict[str, Any] = {} if due_at is None else {"due_at": due_at}
        if usage is not None:
            changes["usage"] = usage
        async with self._transaction() as connection:
            await self._move(connection, State.STORING, None, **changes)
            await _close(connection, self.id, number, outputs=msgspec.to_builtins(landed), **values)

    @insisting
    async def requeue(self, number: int, outcome: str, message: str, due_at: dt.datetime | None = None) -> None:
        """Puts the task back after a try that surely cost nothing; keeps the turn unless `due_at` gives it back.

        An earlier wish to cancel wins: the task is cancelled then.
        """
        now = self.rt.now()
        turn = {} if due_at is None else {"due_at": due_at}
        async with self._transaction() as connection:
            if await self._cancel_asked(connection):
                await self._move(connection, State.CANCELLED, "cancelled")
            else:
                await self._move(connection, State.QUEUED, None, **turn)
            await _close(connection, self.id, number, outcome=outcome, error_message=message, ended_at=now)
        if self.state is State.CANCELLED:
            self.rt.waiter.tell(self.id)

    @insisting
    async def complete(
        self,
        number: int,
        landed: list[Landed],
        *,
        charged: int | None,
        adjusted: dict[str, Any],
        usage: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> None:
        """Ends the task well: assets, charge, event and state in one transaction. An earlier wish to cancel wins.

        Also straight from the vendor's answer, when its bytes are in our store and checked already.
        """
        now = self.rt.now()
        if self.state is not State.STORING:
            check(self.state, State.STORING)
            self.state = State.STORING
        changes: dict[str, Any] = {"progress": 100, "charged": charged, "adjusted": adjusted}
        if usage is not None:
            changes["usage"] = usage
        async with self._transaction() as connection:
            if await self._cancel_asked(connection):
                await self._move(connection, State.CANCELLED, "cancelled")
                await _close(connection, self.id, number, outcome="cancelled", ended_at=now, **values)
            else:
                await self._move(connection, State.COMPLETED, "completed", **changes)
                await connection.execute(insert(ASSETS), assets.rows_of(self.rt, self.task, landed))
                await _close(connection, self.id, number, outcome="done", ended_at=now, **values)
                self.rt.crash.pass_by("complete.before_commit")
        self.rt.crash.pass_by("complete.after_commit")
        self.rt.waiter.tell(self.id)

    @insisting
    async def fail(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        number: int | None = None,
        outcome: str = "broken",
        **values: Any,
    ) -> None:
        """Ends the task badly, with what the caller may know of it; `values` are further ones of the attempt.

        An earlier wish to cancel wins.
        """
        now = self.rt.now()
        async with self._transaction() as connection:
            if await self._cancel_asked(connection):
                await self._move(connection, State.CANCELLED, "cancelled")
            else:
                await self._move(
                    connection, State.FAILED, "failed", error_code=code, error_message=message, error_param=param
                )
            if number is not None:
                ending = {"outcome": outcome, "error_code": code, "error_message": message, "ended_at": now}
                await _close(connection, self.id, number, **ending, **values)
        log.info("%s ended %s: %s", self.id, self.state, code)
        self.rt.waiter.tell(self.id)

    @insisting
    async def cancel(self, number: int | None = None) -> None:
        """Ends the task because its owner wished so."""
        now = self.rt.now()
        async with self._transaction() as connection:
            await self._move(connection, State.CANCELLED, "cancelled")
            if number is not None:
                await _close(connection, self.id, number, outcome="cancelled", ended_at=now)
        self.rt.waiter.tell(self.id)

    async def report(self, progress: Progress) -> None:
        """Notes how far the vendor has come; never falls, and writes only what a caller could notice."""
        risen = self._risen(progress.fraction)
        if risen > self.progress:
            self.progress = risen
            # What the vendor is about to deliver is worth more than the number that could not be written.
            with suppress(DatabaseUnavailable):
                await self.turn.renew(progress=risen)

    def _risen(self, fraction: float | None) -> int:
        return self.progress if fraction is None else max(self.progress, min(int(fraction * 100), 99))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction; when it does not come to its commit, this object stands where it stood before."""
        before = self.state, self.sequence, self.turn.version
        try:
            async with self.rt.db.write() as connection:
                yield connection
        except BaseException:
            self.state, self.sequence, self.turn.version = before
            raise

    async def _cancel_asked(self, connection: AsyncConnection) -> bool:
        """Whether its owner wished to cancel since the turn was taken; from here to the commit nobody can."""
        wish = select(TASKS.c.cancel_asked_at).where(TASKS.c.id == self.id).with_for_update()
        return (await connection.execute(wish)).scalar() is not None

    async def _move(self, connection: AsyncConnection, target: State, event: str | None, **values: Any) -> None:
        check(self.state, target)
        sequence = self.sequence + (event is not None)
        if target in FINAL:
            values |= {"due_at": None, "ended_at": self.rt.now()}
        await self.turn.write(connection, state=target, sequence=sequence, takes=0, **values)
        if event is not None:
            type = f"{self.task['kind']}.{self.task['operation']}.{event}"
            await events.record(connection, self.id, sequence, type, self.rt.now(), {})
        self.state, self.sequence = target, sequence


ATTEMPT = update(ATTEMPTS).where(
    ATTEMPTS.c.task_id == bindparam("of_task"), ATTEMPTS.c.number == bindparam("of_number")
)


async def _close(connection: AsyncConnection, task_id: str, number: int, **values: Any) -> None:
    await connection.execute(ATTEMPT, {"of_task": task_id, "of_number": number} | values)
