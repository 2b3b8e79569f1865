"""Cleanup: a run that erases what is over, what was deleted before it could be erased, and what nothing refers to.

Which process does it, and when, is the turn of the one row of `cleanups`, as it is with a task: one at a time, and
another goes on when it dies. It works in batches, and whatever it has done stays done.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.core import erasing, orphans, retention, turns
from gateway.core.assets import AssetRecord
from gateway.core.erasing import Content
from gateway.core.errors import GatewayError
from gateway.core.ports import CLEANUP, Message
from gateway.core.runtime import Runtime
from gateway.core.schedules import next_time
from gateway.core.tables import CLEANUPS
from gateway.core.turns import Turn, TurnLost
from storage.database import DatabaseUnavailable
from storage.objects import ObjectError

log = logging.getLogger(__name__)
ROW, PROBE = "cleanup", "probe"
# After how long a run is taken up again that the store broke off.
SOON = dt.timedelta(minutes=15)
LISTED = 100


class Amount(msgspec.Struct):
    """So many media, inputs or orphans, and their bytes together.

    The small pictures beside media are part of those, and count for nothing: the bytes are those that owners are told.
    """

    count: int = 0
    bytes: int = 0

    def add(self, sizes: Sequence[int]) -> None:
        """Adds some of these sizes."""
        self.count += len(sizes)
        self.bytes += sum(sizes)


class Report(msgspec.Struct):
    """What a run has erased, or would: tasks, of which the bill is left, with the media and pictures that were theirs.

    `failed` counts what the store did not let go. `missing` are assets whose bytes are gone, of which the first are
    named, and `given_up` those that were deleted for it: these are among the media that were erased. A run that is not
    `complete` goes on later; `notes` say why something was left alone.
    """

    dry_run: bool
    complete: bool = True
    tasks: int = 0
    media: Amount = msgspec.field(default_factory=Amount)
    inputs: Amount = msgspec.field(default_factory=Amount)
    orphans: Amount = msgspec.field(default_factory=Amount)
    failed: int = 0
    missing: int = 0
    missing_ids: list[str] = []
    given_up: int = 0
    notes: list[str] = []


async def ring(rt: Runtime) -> None:
    """Sees to it that the next run is due when the setting says, and takes it up when that is now."""
    row, schedule = await _row(rt), rt.settings.cleaning_schedule
    if row["schedule"] != schedule:
        changed = update(CLEANUPS).where(CLEANUPS.c.id == ROW, CLEANUPS.c.started_at.is_(None))
        async with rt.db.write_one() as connection:
            await connection.execute(changed.values(schedule=schedule, due_at=next_time(schedule, rt.now())))
    for message in await turns.ring(rt.db, CLEANUPS, CLEANUP, rt.now(), rt.settings.lease_seconds, 1):
        await rt.executor.submit(message)


async def handle(rt: Runtime, message: Message) -> None:
    """Does the run that the message rings for, unless somebody else is at it."""
    turn = await turns.take(rt.db, CLEANUPS, message, rt.now, rt.settings.lease_seconds)
    if turn is not None:
        with suppress(TurnLost):
            await _in_turn(rt, turn, Run(rt, dry_run=False))


async def run(rt: Runtime, *, dry_run: bool, seconds: float | None = None, give_up: bool = False) -> Report:
    """A run at once, for at most about so many seconds; with `dry_run` it only counts.

    `give_up` deletes assets whose bytes are gone, as their owners would. What the time did not suffice for is left to
    the next run, which is due at once. Raises `cleanup_running`, and `store_unmarked` for `give_up` where the store
    does not bear the mark of this installation: in a wrong one all bytes are gone.
    """
    until = None if seconds is None else rt.now() + dt.timedelta(seconds=seconds)
    one = Run(rt, dry_run=dry_run, until=until, give_up=give_up)
    if dry_run:
        await one.whole((await _row(rt))["mark"])
        return one.report
    if give_up and await orphans.strangers(rt, (await _row(rt))["mark"]) is None:
        raise GatewayError(
            "store_unmarked",
            "The object store does not bear the mark of this installation, so that nothing is given up. See whether "
            "the settings name the right one; a cleanup without give_up leaves the mark.",
        )
    turn = await _seize(rt)
    if turn is None:
        raise GatewayError("cleanup_running", "A cleanup is under way already.")
    with suppress(TurnLost):
        await _in_turn(rt, turn, one)
    return one.report


class Standing(msgspec.Struct, frozen=True):
    """When the next run is due, since when one is under way, and what the last one did."""

    due_at: dt.datetime | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    report: Report | None


async def standing(rt: Runtime) -> Standing:
    """How it stands with cleaning up."""
    row = await _row(rt)
    report = None if row["report"] is None else msgspec.convert(row["report"], Report)
    return Standing(row["due_at"], row["started_at"], row["ended_at"], report)


class Run:
    """One run, step by step, until it is done, or out of time, or the process is to stop."""

    def __init__(self, rt: Runtime, *, dry_run: bool, until: dt.datetime | None = None, give_up: bool = False) -> None:
        self.rt = rt
        self.until = until
        self.give_up = give_up
        self.report = Report(dry_run)
        # After how long the next run goes on with this one; None when the schedule says.
        self.again: dt.timedelta | None = None

    async def whole(self, mark: str) -> None:
        """All of it. `mark` is that of this installation."""
        try:
            await self._over()
            await self._deleted()
            await self._unknown(mark)
            await self._missing()
        except _Enough:
            self.report.complete, self.again = False, dt.timedelta(0)
        except ObjectError as error:
            self.report.complete, self.again = False, SOON
            self._note(f"The object store failed: {error}.")

    async def _over(self) -> None:
        after = None
        while batch := await retention.over(self.rt, after, erasing.AT_ONCE):
            after = batch[-1]
            contents = await erasing.contents(self.rt, [one.id for one in batch])
            failed = [] if self.report.dry_run else await erasing.forget(self.rt, contents)
            await self._count(contents, failed)

    async def _deleted(self) -> None:
        async for contents in erasing.deleted(self.rt):
            failed = [] if self.report.dry_run else await erasing.erase(self.rt, contents)
            await self._count(contents, failed)

    async def _unknown(self, mark: str) -> None:
        strangers = await orphans.strangers(self.rt, mark)
        if strangers:
            names = ", ".join(strangers)
            self._note(
                f"Objects that nothing refers to were left alone, for other installations use this store: {names}. "
                f"Delete {orphans.MARKS}… of those that are no more."
            )
            return
        if strangers is None and not self.report.dry_run:
            # Whoever else uses the store has until the next run to say so.
            await orphans.leave_mark(self.rt, mark)
            self.report.notes.append("This was the first run with this store: objects were left alone.")
            return
        async for found in orphans.unknown(self.rt):
            failed = [] if self.report.dry_run else await orphans.delete(self.rt, found)
            self.report.orphans.add([one.size for one in found if one not in failed])
            await self._pause(len(failed), len(found))

    async def _missing(self) -> None:
        async for lost in orphans.missing(self.rt):
            self.report.missing += len(lost)
            self.report.missing_ids += [one.id for one in lost][: LISTED - len(self.report.missing_ids)]
            if self.give_up and not self.report.dry_run:
                await self._give_up(lost)
            await self._pause()

    async def _give_up(self, lost: Sequence[AssetRecord]) -> None:
        for start in range(0, len(lost), erasing.AT_ONCE):
            gone = await orphans.gone(self.rt, lost[start : start + erasing.AT_ONCE])
            if gone:
                self.report.given_up += len(gone)
                contents = await erasing.hide(self.rt, gone)
                await self._count(contents, await erasing.erase(self.rt, contents))

    def _note(self, words: str) -> None:
        log.warning("cleanup: %s", words)
        self.report.notes.append(words)

    async def _count(self, contents: Sequence[Content], failed: Sequence[str]) -> None:
        """Adds what was erased of a batch."""
        gone = [one for one in contents if one.task_id not in failed]
        self.report.tasks += sum(one.whole for one in gone)
        self.report.media.add([asset.size for one in gone for asset in one.assets])
        self.report.inputs.add([upload.size for one in gone for upload in one.inputs])
        await self._pause(len(failed), len(contents))

    async def _pause(self, failed: int = 0, tried: int = 1) -> None:
        """Between two batches: the moment to stop. Raises ObjectError when all failed because the store is away."""
        self.report.failed += failed
        if failed == tried:
            await self.rt.objects.find(orphans.MARKS + PROBE)
        if self.rt.executor.stopping or (self.until is not None and self.rt.now() >= self.until):
            raise _Enough


class _Enough(Exception):
    """There is more to do, and no time for it."""


async def _in_turn(rt: Runtime, turn: Turn, one: Run) -> None:
    """The run itself, renewing its turn; then says what came of it, and when the next one is due."""
    async with rt.db.write_one() as connection:
        await turn.write(connection, started_at=rt.now())
    log.info("cleaning up")
    try:
        async with turn.renewing():
            await one.whole(turn.row["mark"])
    except DatabaseUnavailable:
        raise  # nothing can be written now: once the turn is over, somebody takes it up
    except Exception as error:
        # It would fail in the same way at once: the next one is that of the schedule.
        one.report.complete = False
        one.report.notes.append(f"It failed: {type(error).__name__}.")
        log.exception("the cleanup failed")
    now = rt.now()
    due_at = next_time(rt.settings.cleaning_schedule, now) if one.again is None else now + one.again
    report = msgspec.to_builtins(one.report)
    async with rt.db.write_one() as connection:
        await turn.write(connection, due_at=due_at, started_at=None, ended_at=now, report=report)
    _tell(one.report)


def _tell(report: Report) -> None:
    log.info("cleaned up: %s", msgspec.json.encode(msgspec.structs.replace(report, missing_ids=[], notes=[])).decode())
    if report.missing > report.given_up:
        log.warning("cleanup: the bytes of %s media are not in the store", report.missing - report.given_up)


async def _row(rt: Runtime) -> Any:
    """The row, made when there is none: the first run is due at once, so that the store gets its mark."""
    statement = select(CLEANUPS).where(CLEANUPS.c.id == ROW)
    async with rt.db.read() as connection:
        row = (await connection.execute(statement)).mappings().first()
    if row is not None:
        return row
    made = {
        "id": ROW, "mark": secrets.token_hex(8), "schedule": rt.settings.cleaning_schedule, "version": 0, "rings": 0,
        "takes": 0, "due_at": None if next_time(rt.settings.cleaning_schedule, rt.now()) is None else rt.now(),
    }  # fmt: skip
    # Another process may be making it just now.
    with suppress(IntegrityError):
        async with rt.db.write_one() as connection:
            await connection.execute(insert(CLEANUPS), made)
    return await _row(rt)


async def _seize(rt: Runtime) -> Turn | None:
    """The turn, unless somebody is at it, and alive."""
    await _row(rt)
    now = rt.now()
    idle = or_(CLEANUPS.c.started_at.is_(None), CLEANUPS.c.due_at <= now)
    rung = update(CLEANUPS).where(CLEANUPS.c.id == ROW, idle).values(due_at=now, rings=CLEANUPS.c.rings + 1)
    async with rt.db.write_one() as connection:
        version = (await connection.execute(rung.returning(CLEANUPS.c.version))).scalar()
    if version is None:
        return None
    return await turns.take(rt.db, CLEANUPS, Message(CLEANUP, ROW, version), rt.now, rt.settings.lease_seconds)
