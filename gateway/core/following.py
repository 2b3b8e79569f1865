"""Following: one who follows tasks, and what is told: each fact once, in order, and nothing after the last one.

What is told waits with the follower until it is taken. One who takes too slowly loses progress first, which is
overtaken anyway; then he is dismissed, for what has happened stands in the database and can be asked for again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from gateway.core.grants import Grant
from gateway.core.lifecycle import FINAL, State
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord, estimated
from providers.contract import Preview

QUEUED, STARTED, PROGRESS, PREVIEW = "queued", "started", "progress", "preview"
MOST_PASSING, MOST_WAITING = 32, 512
"""How much waits for a follower until progress is dropped, and until he is dismissed."""
MOST_PREVIEWS = 2
"""How many of what waits may be previews, which are large."""
MOST_KNOWN = 10_000
"""Of how many tasks is remembered what a follower was told."""


class End(StrEnum):
    """Why a follower is told nothing more."""

    REVOKED = "revoked"
    EXPIRED = "expired"
    SLOW = "slow"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Told:
    """What followers are told: an event, with the task as it stood then, or how far it is by now.

    `sequence` is the event's number; that of progress and previews is the number of the last event before.
    """

    word: str
    task: TaskRecord
    sequence: int
    at: dt.datetime
    recorded: bool = True
    seconds_left: int | None = None
    note: str | None = None
    preview: Preview | None = None
    rendered: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.task.final

    @property
    def type(self) -> str:
        """What webhooks call it."""
        return f"{self.task.kind}.{self.task.operation}.{self.word}"

    @property
    def place(self) -> tuple[int, int]:
        """Its place among all that is told of its task."""
        return self.sequence, self.task.progress


def of_event(rt: Runtime, task: TaskRecord, type: str, sequence: int, at: dt.datetime, data: dict[str, Any]) -> Told:
    """What is told of an event, also when the task has gone on since."""
    word = type.rpartition(".")[2]
    if word in FINAL:
        return Told(word, msgspec.structs.replace(task, progress=estimated(rt, task).progress), sequence, at)
    ends: dict[str, Any] = {
        "ended_at": None,
        "error_code": None,
        "error_message": None,
        "error_param": None,
        "charged": None,
    }
    seconds_left = None
    if word == QUEUED:
        ends |= {"started_at": None, "provider": None, "attempts": ()}
    elif task.expected_seconds is not None:
        seconds_left = int(task.expected_seconds + 1)
    running = State.QUEUED if word == QUEUED else State.SUBMITTING if word == STARTED else State.WAITING
    then = msgspec.structs.replace(task, state=running, progress=int(data.get(PROGRESS, 0)), assets=(), **ends)
    return Told(word, then, sequence, at, seconds_left=seconds_left)


def of_progress(rt: Runtime, task: TaskRecord, sequence: int, note: str | None = None) -> Told:
    """How far the task is now."""
    progress, seconds_left = estimated(rt, task)
    now = msgspec.structs.replace(task, progress=progress)
    return Told(PROGRESS, now, sequence, rt.now(), recorded=False, seconds_left=seconds_left, note=note)


class Follower:
    """One who follows the tasks of a grant, of some kinds. Iterating over it takes what it is told."""

    def __init__(self, grant: Grant, kinds: frozenset[str] | None = None) -> None:
        self.grant = grant
        self.kinds = kinds
        self.ended: End | None = None
        self._waiting: deque[Told] = deque()
        self._woken = asyncio.Event()
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._muted: set[str] = set()
        self._holds = 0
        self._held: list[Told] = []

    def allows(self, task: TaskRecord) -> bool:
        """Whether the task is one that this follower may follow."""
        in_kind = self.kinds is None or task.kind in self.kinds
        return in_kind and task.key_id == self.grant.key_id and self.grant.allows(task.id, task.labels)

    def tell(self, told: Told) -> None:
        """Tells it, unless it was told already, or is overtaken by what was; never waits."""
        if not self._holds:
            self._take(told)
        elif told.recorded or not _is_full(self._held, told):
            self._held.append(told)

    def hold(self) -> None:
        """Keeps what comes until as many calls of `release`, so that it does not overtake what was before."""
        self._holds += 1

    def release(self, past: Sequence[Told]) -> None:
        """Tells what was before, then what has come meanwhile."""
        self._holds -= 1
        for told in past:
            self._take(told)
        if not self._holds:
            held, self._held = self._held, []
            for told in held:
                self._take(told)

    def assume(self, task_id: str, sequence: int, progress: int) -> None:
        """Takes it for told already up to here."""
        self._known[task_id] = sequence, progress
        self._known.move_to_end(task_id)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def mute(self, task_id: str) -> None:
        """Tells nothing more of that task."""
        if len(self._muted) < MOST_KNOWN:
            self._muted.add(task_id)

    def unmute(self, task_id: str) -> None:
        """Tells of that task again."""
        self._muted.discard(task_id)

    def end(self, why: End) -> None:
        """Tells nothing more: what waits is dropped."""
        if self.ended is None:
            self.ended = why
            self._waiting.clear()
            self._woken.set()

    def __aiter__(self) -> Follower:
        """Itself."""
        return self

    async def __anext__(self) -> Told:
        """What comes next; the end, once this follower is dismissed."""
        while not self._waiting:
            if self.ended:
                raise StopAsyncIteration
            self._woken.clear()
            await self._woken.wait()
        return self._waiting.popleft()

    def _take(self, told: Told) -> None:
        task_id = told.task.id
        if self.ended or task_id in self._muted or not self._is_news(told) or not self.allows(told.task):
            return
        if not told.recorded and _is_full(self._waiting, told):
            return
        if len(self._waiting) >= MOST_WAITING:
            self.end(End.SLOW)
            return
        progress = max(told.task.progress, self._known.get(task_id, (0, 0))[1])
        self.assume(task_id, told.sequence, progress)
        self._waiting.append(told)
        self._woken.set()

    def _is_news(self, told: Told) -> bool:
        sequence, progress = self._known.get(told.task.id, (0, 0))
        if told.recorded:
            return told.sequence > sequence
        if told.word == PREVIEW:
            return told.sequence >= sequence
        return told.sequence >= sequence and told.task.progress > progress


def _is_full(waiting: Collection[Told], told: Told) -> bool:
    """Whether so much waits that what passes by is to be dropped."""
    if told.preview is not None and sum(one.preview is not None for one in waiting) >= MOST_PREVIEWS:
        return True
    return len(waiting) >= MOST_PASSING
