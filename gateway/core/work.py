"""Work: a task whose turn was taken, and the ways in which a step may leave it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import Any, cast

import msgspec
from sqlalchemy import RowMapping, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import assets, attempts, events, ledger, outbox
from gateway.core.assets import Landed
from gateway.core.bells import ring_to_deliver, ring_to_start
from gateway.core.catalog import Way
from gateway.core.charging import Stopped, of_failure
from gateway.core.choosing import Candidate
from gateway.core.inputs import Upload
from gateway.core.insisting import insisting
from gateway.core.lifecycle import FINAL, State, check
from gateway.core.ports import Note
from gateway.core.runtime import Runtime
from gateway.core.standings import EXPECTED, shown
from gateway.core.tables import ASSETS, ATTEMPTS, TASKS
from gateway.core.turns import Turn, TurnLost
from providers.contract import Generation, Progress, Provider, ProviderError
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
SHORTEST, LONGEST = 1.0, 30.0


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
        # The last attempt, once it is known.
        self.attempt: Mapping[str, Any] | None = None
        self._freed = False
        # What has just happened and is to be told, as word and number; and the deliveries that tell of it.
        self._news: tuple[str, int] | None = None
        self._told: list[str] = []

    @cached_property
    def generations(self) -> list[Generation]:
        """What the caller asked for, then the same of each model to fall back on.

        Raises msgspec.ValidationError when another version wrote it.
        """
        every = [self.task["generation"], *(one["generation"] for one in self.task["fallbacks"])]
        return [msgspec.convert(one, Generation) for one in every]

    @cached_property
    def uploads(self) -> list[Upload]:
        """The pictures and films that came with the task; raises as `generations` does."""
        return msgspec.convert(self.task["inputs"], list[Upload])

    @property
    def generation(self) -> Generation:
        """What the caller asked for, of the model that the last attempt is for."""
        return self.generations[self.attempt["choice"] if self.attempt else 0]

    @property
    def adjusted(self) -> dict[str, Any]:
        """What of it differs from the request, in the words of an alias or of another model."""
        choice = self.attempt["choice"] if self.attempt else 0
        if choice == 0:
            return dict(self.task["adjusted"])
        asked = self.task["model"]
        return {**self.task["fallbacks"][choice - 1]["adjusted"], "model": [asked, self.generation.model]}

    @property
    def way(self) -> Way:
        """Provider, credential and vendor's model of the last attempt."""
        assert self.attempt is not None  # noqa: S101 - whoever asks has begun one
        return self.attempt["provider"], self.attempt["credential"], self.attempt["model"]

    @property
    def provider(self) -> Provider | None:
        """Whom the last attempt went to; None when there is none, or it has left the configuration."""
        attempt = self.attempt
        return None if attempt is None else self.rt.catalog.provider(attempt["provider"], attempt["credential"])

    def charge_of_failure(self, error: ProviderError) -> int | None:
        """What the last attempt costs although it came to nothing."""
        return of_failure(self.rt.catalog, self.generation, self.attempt, error) if self.attempt else None

    @property
    def seconds_left(self) -> float:
        """How long the task may still take."""
        left: dt.timedelta = self.task["deadline_at"] - self.rt.now()
        return left.total_seconds()

    @property
    def seconds_since_stop(self) -> float:
        """How long ago its owner, or its deadline, wished it to end."""
        wished: dt.datetime = min(self.task["cancel_asked_at"] or self.task["deadline_at"], self.task["deadline_at"])
        return (self.rt.now() - wished).total_seconds()

    def later(self) -> dt.datetime:
        """When to try again: after a quarter of the time that the task has waited already, within bounds."""
        waited = (self.rt.now() - self.task["created_at"]).total_seconds()
        return self.rt.now() + dt.timedelta(seconds=min(max(waited / 4, SHORTEST), LONGEST))

    @insisting
    async def attempts(self) -> list[RowMapping]:
        """The attempts so far, in order."""
        async with self.rt.db.read() as connection:
            found = await attempts.find(connection, self.id)
        self.attempt = cast(Mapping[str, Any], found[-1]) if found else None
        return found

    async def begin(self, number: int, taken: Candidate) -> None:
        """Records the intention to send the task over a route, and its price there, before anything is sent."""
        attempt = attempts.opened(self.id, number, taken, self.rt.now())
        await self._insist_on(attempt)
        self.started, self.attempt = True, attempt
        self._tell()

    @insisting
    async def _insist_on(self, attempt: Mapping[str, Any]) -> None:
        try:
            await self._begin(attempt)
        except TurnLost:
            # Perhaps it was we who moved the row: a commit stands whose answer was lost.
            if not await self._begun(attempt):
                raise

    async def _begin(self, attempt: Mapping[str, Any]) -> None:
        async with self._transaction() as connection:
            values = {} if self.started else {"started_at": attempt["started_at"]}
            event = None if self.started else "started"
            facts = {EXPECTED: self.rt.durations.expected(self.generations[0])}
            await self._move(connection, State.SUBMITTING, event, facts, provider=attempt["provider"], **values)
            await connection.execute(insert(ATTEMPTS), attempt)

    async def _begun(self, attempt: Mapping[str, Any]) -> bool:
        """Takes over a commit of `begin` that stands. Only ours has that version, that state and that very attempt."""
        stands = select(TASKS.c.state, TASKS.c.version, TASKS.c.sequence).where(TASKS.c.id == self.id)
        of = (ATTEMPTS.c.task_id == self.id, ATTEMPTS.c.number == attempt["number"])
        async with self.rt.db.read() as connection:
            state, version, sequence = (await connection.execute(stands)).one()
            started_at = (await connection.execute(select(ATTEMPTS.c.started_at).where(*of))).scalar()
        if (State(state), version, started_at) != (State.SUBMITTING, self.turn.version + 1, attempt["started_at"]):
            return False
        self.state, self.turn.version, self.sequence = State(state), version, sequence
        return True

    @insisting
    async def wait(
        self, number: int, job: str, due_at: dt.datetime, fraction: float | None, *, stopped: Stopped | None = None
    ) -> None:
        """Leaves the task with the vendor until `due_at`, and gives the turn back."""
        risen = await self._risen(fraction)
        async with self._transaction() as connection:
            # A wish to cancel that came meanwhile need not wait for the next look.
            new_wish = await self._cancel_asked(connection) and not self.task["cancel_asked_at"]
            due_at = self.rt.now() if new_wish else due_at
            event = outbox.PROGRESS if risen and await outbox.wants_progress(connection, self.task, risen) else None
            changes = {"due_at": due_at, "progress": risen, "stopped": stopped}
            await self._move(connection, State.WAITING, event, {"progress": risen}, **changes)
            await attempts.close(connection, self.id, number, job=job)
        self.progress = risen
        self._tell()

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
            await attempts.close(connection, self.id, number, outputs=msgspec.to_builtins(landed), **values)

    @insisting
    async def requeue(self, number: int, outcome: str, message: str) -> None:
        """Puts the task back after a try that surely cost nothing, and keeps the turn.

        An earlier wish to cancel wins: the task is cancelled then.
        """
        now = self.rt.now()
        async with self._transaction() as connection:
            if await self._cancel_asked(connection):
                await self._end(connection, State.CANCELLED, "cancelled", stopped=Stopped.NOTHING_SENT)
            else:
                await self._move(connection, State.QUEUED, None)
            await attempts.close(connection, self.id, number, outcome=outcome, error_message=message, ended_at=now)
        self._tell()

    @insisting
    async def note(self, **values: Any) -> bool:
        """Writes values to the row, and keeps the turn. False when its owner wishes to cancel it by now."""
        async with self._transaction() as connection:
            wished = await self._cancel_asked(connection)
            await self.turn.write(connection, **values)
        self.task = {**self.task, **values}
        return not wished

    @insisting
    async def pause(self, due_at: dt.datetime) -> None:
        """Leaves a queued task until `due_at`, and gives the turn back. A wish to cancel need not wait so long."""
        async with self._transaction() as connection:
            due_at = self.rt.now() if await self._cancel_asked(connection) else min(due_at, self.task["deadline_at"])
            await self.turn.write(connection, due_at=due_at, takes=0)

    @insisting
    async def complete(
        self,
        number: int,
        landed: list[Landed],
        *,
        charged: int | None,
        adjusted: dict[str, Any],
        unknown: int = 0,
        usage: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> None:
        """Ends the task well: assets, charge, event and state in one transaction.

        Also straight from the vendor's answer, when its bytes are in our store and checked already. An earlier wish
        to cancel makes it a cancelled one, which keeps what was bought. Of `unknown` further outputs the price stays
        held.
        """
        now, kept = self.rt.now(), ledger.share(self.task["held"], charged, unknown, self.generation.n)
        if self.state is not State.STORING:
            check(self.state, State.STORING)
            self.state = State.STORING
        changes: dict[str, Any] = {"adjusted": adjusted, "stopped": None}
        if usage is not None:
            changes["usage"] = usage
        async with self._transaction() as connection:
            if await self._cancel_asked(connection):
                changes["stopped"] = Stopped.DELIVERED
                await self._end(connection, State.CANCELLED, "cancelled", charged=charged, kept=kept, **changes)
            else:
                changes["progress"] = 100
                await self._end(connection, State.COMPLETED, "completed", charged=charged, kept=kept, **changes)
            await connection.execute(insert(ASSETS), assets.rows_of(self.rt, self.task, landed))
            await attempts.close(connection, self.id, number, outcome="done", ended_at=now, **values)
            self.rt.crash.pass_by("complete.before_commit")
        self.rt.crash.pass_by("complete.after_commit")
        self._tell()

    @insisting
    async def fail(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        number: int | None = None,
        outcome: str = "broken",
        charged: int | None = None,
        unknown: bool = False,
        stopped: Stopped | None = None,
        **values: Any,
    ) -> None:
        """Ends the task badly, with what the caller may know of it; `values` are further ones of the attempt.

        `unknown` leaves held what is reserved, for the order may have been taken. An earlier wish to cancel makes it
        a cancelled task.
        """
        now = self.rt.now()
        failure: dict[str, Any] = {"error_code": code, "error_message": message, "error_param": param}
        failure["stopped"] = stopped
        async with self._transaction() as connection:
            cancelled = await self._cancel_asked(connection)
            if cancelled:
                stopped = stopped or (Stopped.UNKNOWN if unknown else Stopped.FAILED)
                failure = {"stopped": stopped}
            target = State.CANCELLED if cancelled else State.FAILED
            kept = self.task["held"] if unknown else 0
            await self._end(connection, target, target.value, charged=charged, kept=kept, **failure)
            if number is not None:
                closing = {"outcome": outcome, "error_code": code, "error_message": message, "ended_at": now}
                await attempts.close(connection, self.id, number, **closing, **values)
        log.info("%s ended %s: %s", self.id, self.state, code)
        self._tell()

    async def stop(self, number: int, stopped: Stopped, charged: int | None) -> None:
        """Ends a task that is with a provider, because its owner wished so or its time is over."""
        unknown = stopped is Stopped.UNKNOWN
        if self.task["cancel_asked_at"]:
            return await self.cancel(number, stopped=stopped, charged=charged, unknown=unknown)
        message = "The provider did not finish in the time that the task had."
        await self.fail("timeout", message, number=number, charged=charged, stopped=stopped, unknown=unknown)

    @insisting
    async def cancel(
        self,
        number: int | None = None,
        *,
        stopped: Stopped = Stopped.NOTHING_SENT,
        charged: int | None = None,
        unknown: bool = False,
    ) -> None:
        """Ends the task because its owner wished so; `charged` is for an order that goes on at the provider."""
        now, kept = self.rt.now(), self.task["held"] if unknown else 0
        async with self._transaction() as connection:
            await self._end(connection, State.CANCELLED, "cancelled", charged=charged, kept=kept, stopped=stopped)
            if number is not None:
                await attempts.close(connection, self.id, number, outcome="cancelled", ended_at=now)
        self._tell()

    async def report(self, progress: Progress) -> None:
        """Notes how far the vendor has come; never falls, and writes only what a caller could notice."""
        risen = await self._risen(progress.fraction)
        self.rt.hub.tell(Note(self.id, self.task["key_id"], risen, progress.note, progress.preview))
        if risen > self.progress:
            self.progress = risen
            # What the vendor is about to deliver is worth more than the number that could not be written.
            with suppress(DatabaseUnavailable):
                await self.turn.renew(progress=risen)

    async def _risen(self, fraction: float | None) -> int:
        if not fraction:
            return self.progress
        return max(self.progress or await shown(self.rt, self.id), min(int(fraction * 100), 99))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction; when it does not come to its commit, this object stands where it stood before."""
        before = self.state, self.sequence, self.turn.version
        self._news, self._told = None, []
        try:
            async with self.rt.db.write() as connection:
                yield connection
                if self._news is not None:
                    self._told = await outbox.tell(connection, self.rt, self.task, *self._news)
        except BaseException:
            self.state, self.sequence, self.turn.version = before
            self._told = []
            raise

    async def _cancel_asked(self, connection: AsyncConnection) -> bool:
        """Whether its owner wished to cancel since the turn was taken; from here to the commit nobody can."""
        wish = select(TASKS.c.cancel_asked_at).where(TASKS.c.id == self.id).with_for_update()
        return (await connection.execute(wish)).scalar() is not None

    async def _move(
        self, connection: AsyncConnection, target: State, event: str | None, facts: Any = None, **values: Any
    ) -> None:
        check(self.state, target)
        sequence = self.sequence + (event is not None)
        await self.turn.write(connection, state=target, sequence=sequence, takes=0, **values)
        if event is not None:
            type = f"{self.task['kind']}.{self.task['operation']}.{event}"
            await events.record(connection, self.id, sequence, type, self.rt.now(), facts or {})
            self._news = event, sequence
        self.state, self.sequence = target, sequence

    async def _end(
        self,
        connection: AsyncConnection,
        target: State,
        event: str,
        *,
        charged: int | None = None,
        kept: int = 0,
        **values: Any,
    ) -> None:
        """Moves the task to a final state, and settles what was held for it in the same transaction.

        What is `kept` of that stays held for a while, as the price of what nobody knows.
        """
        values |= {"held": kept, "charged": charged}
        if kept:
            values["held_until"] = self.rt.now() + dt.timedelta(seconds=self.rt.settings.unknown_seconds)
        await self._move(connection, target, event, due_at=None, ended_at=self.rt.now(), **values)
        self._freed = await ledger.settle(connection, self.rt, self.task, charged, kept=kept)

    def _tell(self) -> None:
        """After the commit: tells followers and whoever delivers; at the end also who waits for task or slot."""
        self.rt.hub.tell(Note(self.id, self.task["key_id"], self.progress, sequence=self.sequence))
        ring_to_deliver(self.rt, self._told)
        if self.state in FINAL:
            self.rt.waiter.tell(self.id)
            if self._freed:
                ring_to_start(self.rt, self.task["key_id"])
