"""The watch: looks at the rows after every commit, so that what may never be is seen at the moment when it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gateway.core.lifecycle import EDGES, FINAL, State

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


class Row(NamedTuple):
    """What is watched of a task."""

    id: str
    key_id: str
    state: str
    version: int
    due_at: str | None
    sequence: int
    progress: int
    cancelled: bool
    held: int
    charged: int | None
    rings: int
    takes: int


class Account(NamedTuple):
    """What is watched of an account."""

    id: str
    key_id: str | None
    running: int
    waiting: int
    concurrent: int | None
    spent: int
    reserved: int


ROWS = """SELECT id, key_id, state, version, due_at, sequence, progress, cancel_asked_at IS NOT NULL, held, charged,
          rings, takes FROM tasks"""
ACCOUNTS = "SELECT id, key_id, running, waiting, concurrent, spent, reserved FROM accounts"
# What may still change once a task is final: the money of an unknown outcome.
ENDURING = ("state", "version", "due_at", "sequence", "progress", "cancelled")


class Watch:
    """Compares what is committed with what was before, and writes the history of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[str, Row] = {}
        self.states: Counter[str] = Counter()
        self._holder: dict[str, Process | None] = {}
        self._changes = -1

    def look(self, process: Process | None) -> None:
        """Sees what `process` has just committed."""
        raw = self.world.server.raw
        if raw.total_changes == self._changes:
            return
        self._changes = raw.total_changes
        for values in raw.execute(ROWS).fetchall():
            row = Row(*values)
            before = self.rows.get(row.id)
            if row != before:
                self.rows[row.id] = row
                self._changed(process, before, row)
        self._count(Account(*values) for values in raw.execute(ACCOUNTS).fetchall())

    def held_by(self, process: Process) -> list[str]:
        """The states of the tasks whose turn that process has."""
        return [row.state for row in self.rows.values()
                if row.due_at is not None and self._holder.get(row.id) is process]  # fmt: skip

    @property
    def all_final(self) -> bool:
        return all(row.state in FINAL for row in self.rows.values())

    def _changed(self, process: Process | None, before: Row | None, row: Row) -> None:
        who = process.name if process else "-"
        if before is None or before.version != row.version:
            self._holder[row.id] = process
        self.world.note(who, f"{self.world.short(row.id)}: {_difference(before, row)}")
        if before is None:
            self._require(row.state == State.QUEUED, f"{row.id} begins as {row.state}")
            return
        if before.state != row.state:
            self.states[row.state] += 1
        moved = f"{row.id}: {before.state} became {row.state}"
        self._require(_may_become(State(before.state), State(row.state)), moved)
        for name in ("version", "sequence", "progress", "cancelled"):
            self._require(getattr(row, name) >= getattr(before, name), f"{row.id}: {name} fell")
        if before.state in FINAL:
            for name in ENDURING:
                stands = getattr(row, name) == getattr(before, name)
                self._require(stands, f"{row.id} was final, and its {name} changed")

    def _count(self, accounts: Iterable[Account]) -> None:
        """What the accounts say of running and waiting tasks and of money held is what the tasks say."""
        living = [row for row in self.rows.values() if row.state not in FINAL]
        for account in accounts:
            if account.key_id is None:
                continue
            mine = [row for row in living if row.key_id == account.id]
            waiting = sum(row.due_at is None for row in mine)
            counted = (waiting, len(mine) - waiting)
            said = (account.waiting, account.running)
            self._require(said == counted, f"{account.id} says waiting, running = {said}, and there are {counted}")
            at_work = sum(row.state != State.QUEUED for row in mine)
            most = self.world.settings.key_concurrency if account.concurrent is None else account.concurrent
            self._require(at_work <= most, f"{account.id} has {at_work} at work, of {most}")
            held = sum(row.held for row in self.rows.values() if row.key_id == account.id)
            self._require(account.reserved == held, f"{account.id} has {account.reserved} reserved, its tasks {held}")

    def _require(self, holds: bool, promise: str) -> None:
        if not holds:
            self.world.violate(promise)


def _may_become(before: State, after: State) -> bool:
    """Whether a task may be seen in one state and then in the other; storing may begin and end in one commit."""
    through_storing = State.STORING in EDGES[before] and after in EDGES[State.STORING]
    return before == after or after in EDGES[before] or through_storing


def _difference(before: Row | None, row: Row) -> str:
    names = [name for name in Row._fields[2:] if before is None or getattr(before, name) != getattr(row, name)]
    return ", ".join(f"{name}={getattr(row, name)}" for name in names)
