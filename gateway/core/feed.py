"""The feed: what happens to tasks, brought to all who follow them in this process, whichever process moves them.

A note from the hub says at once that something happened; what it was is read from the database. It is also looked at
every second, by one query for all: a broker that is away costs a second, and nothing else. Whether keys are still good
is looked at in the same round.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import or_, select

from gateway.core import ids, keys, tasks
from gateway.core.errors import GatewayError
from gateway.core.following import PREVIEW, STARTED, End, Follower, Told, of_event, of_progress
from gateway.core.lifecycle import FINAL, State
from gateway.core.ports import Note
from gateway.core.runtime import Runtime
from gateway.core.slots import IN_LINE
from gateway.core.tables import EVENTS, TASKS
from gateway.core.tasks import TaskRecord
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
T = TASKS.c
INTERVAL = 1.0
# A task may become visible so long after its id was made: no transaction takes longer.
OVERLAP = dt.timedelta(seconds=30)
MOST_NOTES, MOST_AT_ONCE = 10_000, 500
# With more notes than that waiting, previews, which are large, are left out of those that come.
MOST_PREVIEWS = 64


@dataclass(slots=True)
class Story:
    """A task that somebody may follow, and what was told of it."""

    key_id: str
    sequence: int = 0
    progress: int = 0
    started: bool = False
    ended_at: dt.datetime | None = None
    task: TaskRecord | None = None

    @property
    def runs(self) -> bool:
        """Whether there may be progress to tell of: between the event of its beginning and that of its end.

        The task was read after its events, and may have begun or ended since.
        """
        return self.started and self.ended_at is None and self.task is not None and not self.task.final


class Feed:
    """Brings news of tasks to their followers. `run` must run meanwhile."""

    def __init__(self, rt: Runtime, interval: float = INTERVAL) -> None:
        self.rt = rt
        self.interval = interval
        self._followers: dict[str, set[Follower]] = {}
        self._stories: dict[str, Story] = {}
        self._notes: deque[Note] = deque(maxlen=MOST_NOTES)
        self._woken = asyncio.Event()
        # Nobody joins within a round.
        self._lock = asyncio.Lock()
        self._looked = 0.0
        self._stopping = False

    @asynccontextmanager
    async def following(self, follower: Follower) -> AsyncIterator[Follower]:
        """Brings the follower whatever happens from here on, for as long as the block lasts."""
        await self.add(follower)
        try:
            yield follower
        finally:
            self.remove(follower)

    async def add(self, follower: Follower) -> None:
        """From now on the follower is told. Raises `rate_limit_exceeded` when its key has too many here already."""
        key_id = follower.grant.key_id
        self.check_room(key_id)
        if self._stopping:
            follower.end(End.STOPPING)
        async with self._lock:
            if key_id not in self._followers:
                await self._begin(key_id)
            self._followers[key_id].add(follower)

    def check_room(self, key_id: str) -> None:
        """Raises `rate_limit_exceeded` when the key has as many followers here as it may."""
        if len(self._followers.get(key_id, ())) >= self.rt.settings.key_connections:
            message = "This key follows its tasks over as many connections as it may. Close one of them first."
            raise GatewayError("rate_limit_exceeded", message)

    def remove(self, follower: Follower) -> None:
        """The follower is told nothing more."""
        key_id = follower.grant.key_id
        others = self._followers.get(key_id, set())
        others.discard(follower)
        if not others:
            self._forget(key_id)

    def stop(self) -> None:
        """Dismisses everybody, so that a process that stops waits for nobody: they go on at another one."""
        self._stopping = True
        for follower in [one for others in self._followers.values() for one in others]:
            follower.end(End.STOPPING)

    async def run(self) -> None:
        """Brings news for ever."""
        with self.rt.hub.overhearing(self._hear):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.interval):
                        await self._woken.wait()
                self._woken.clear()
                try:
                    async with self._lock:
                        await self.round()
                except DatabaseUnavailable:
                    log.warning("the database does not answer; who follows tasks hears of progress only")
                    await asyncio.sleep(self.interval)
                except Exception:
                    log.exception("who follows tasks was not told")
                    await asyncio.sleep(self.interval)

    async def round(self) -> None:
        """Tells what notes say, and when it is time what the database says beyond that."""
        notes = [self._notes.popleft() for _ in range(len(self._notes))]
        await self._tell_events({note.task_id for note in notes if self._is_behind(note)})
        for note in notes:
            self._tell_note(note)
        now = asyncio.get_running_loop().time()
        if self._followers and now - self._looked >= self.interval:
            self._looked = now
            await self._dismiss()
            await self._look()

    def _hear(self, note: Note) -> None:
        if note.key_id in self._followers:
            if note.preview is not None and len(self._notes) >= MOST_PREVIEWS:
                note = msgspec.structs.replace(note, preview=None)
            self._notes.append(note)
            self._woken.set()

    def _is_behind(self, note: Note) -> bool:
        """Whether the note speaks of events that were not told yet."""
        story = self._stories.get(note.task_id)
        if story is None:
            return note.key_id in self._followers
        return story.ended_at is None and (story.task is None or (note.sequence or 0) > story.sequence)

    async def _begin(self, key_id: str) -> None:
        """Learns how the key's tasks stand: what has happened by now is no news. Notes that come meanwhile wait."""
        alive = or_(T.due_at.is_not(None), IN_LINE, T.id > self._born_after())
        columns = (T.id, T.key_id, T.sequence, T.state, T.progress)
        self._followers[key_id] = set()
        try:
            async with self.rt.db.read() as connection:
                rows = (await connection.execute(select(*columns).where(T.key_id == key_id, alive))).all()
            now = self.rt.now()
            for row in rows:
                ended_at = now if row.state in FINAL else None
                started = row.state != State.QUEUED
                self._stories[row.id] = Story(key_id, row.sequence, row.progress, started, ended_at)
            await self._read([row.id for row in rows if row.state not in (*FINAL, State.QUEUED)])
        except BaseException:
            self._forget(key_id)
            raise

    def _forget(self, key_id: str) -> None:
        self._followers.pop(key_id, None)
        for task_id in [id for id, story in self._stories.items() if story.key_id == key_id]:
            del self._stories[task_id]

    async def _read(self, task_ids: Sequence[str]) -> None:
        """Reads tasks anew into their stories."""
        for start in range(0, len(task_ids), MOST_AT_ONCE):
            for task in await tasks.several(self.rt, task_ids[start : start + MOST_AT_ONCE]):
                story = self._stories[task.id]
                story.task, story.progress = task, tasks.estimated(self.rt, task).progress

    async def _look(self) -> None:
        """Looks for tasks that are new or have moved on, and tells how far those that run are."""
        floor = self._born_after()
        forget = self.rt.now() - 2 * OVERLAP
        over = [id for id, one in self._stories.items() if one.ended_at is not None and one.ended_at < forget]
        for task_id in over:
            del self._stories[task_id]
        behind = []
        for row in await self._standing(floor):
            story = self._stories.get(row.id)
            if story is None or (story.ended_at is None and row.sequence > story.sequence):
                behind.append(row.id)
            elif story.task is not None and story.ended_at is None:
                story.task = msgspec.structs.replace(story.task, state=State(row.state), progress=row.progress)
        await self._tell_events(behind)
        for story in list(self._stories.values()):
            if story.runs and story.task is not None:
                self._tell_progress(story, of_progress(self.rt, story.task, story.sequence))

    async def _standing(self, floor: str) -> list[Any]:
        """How all tasks stand that somebody may follow: those that were born lately, and those that had not ended."""
        columns = select(T.id, T.key_id, T.sequence, T.state, T.progress)
        alive = [id for id, story in self._stories.items() if story.ended_at is None]
        found: list[Any] = []
        async with self.rt.db.read() as connection:
            for part in _parts(list(self._followers)):
                born = columns.where(T.key_id.in_(part), T.id > floor)
                found += (await connection.execute(born)).all()
            for part in _parts(alive):
                found += (await connection.execute(columns.where(T.id.in_(part)))).all()
        return found

    async def _tell_events(self, task_ids: Collection[str]) -> None:
        """Reads the events of these tasks, and tells those that were not told."""
        for part in _parts(list(task_ids)):
            rows = select(EVENTS).where(EVENTS.c.task_id.in_(part)).order_by(EVENTS.c.task_id, EVENTS.c.sequence)
            async with self.rt.db.read() as connection:
                found = (await connection.execute(rows)).all()
            read = {task.id: task for task in await tasks.several(self.rt, part)}
            for row in found:
                task = read[row.task_id]
                if task.key_id not in self._followers or self._is_past(task):
                    continue
                story = self._stories.setdefault(task.id, Story(task.key_id))
                told = of_event(self.rt, task, row.type, row.sequence, row.at, row.data)
                story.task, story.started = task, story.started or told.word == STARTED
                if row.sequence > story.sequence:
                    story.sequence = row.sequence
                    self._tell(told)

    def _is_past(self, task: TaskRecord) -> bool:
        """Whether the task has ended so long ago that its story is forgotten: a late note of it tells nothing."""
        if task.id in self._stories or task.ended_at is None:
            return False
        return task.ended_at < self.rt.now() - 2 * OVERLAP

    def _tell_note(self, note: Note) -> None:
        story = self._stories.get(note.task_id)
        if story is None or story.task is None or not story.runs:
            return
        progress = max(note.progress, story.task.progress)
        story.task = msgspec.structs.replace(story.task, progress=progress)
        told = of_progress(self.rt, story.task, story.sequence, note.word)
        self._tell_progress(story, told)
        if note.preview is not None:
            preview = Told(
                PREVIEW, told.task, story.sequence, told.at, recorded=False, note=note.word, preview=note.preview
            )
            self._tell(preview)

    def _tell_progress(self, story: Story, told: Told) -> None:
        if told.task.progress > story.progress:
            self._tell(told)

    def _tell(self, told: Told) -> None:
        story = self._stories[told.task.id]
        story.progress = max(story.progress, told.task.progress)
        if told.last:
            story.ended_at, story.task = self.rt.now(), None
        for follower in tuple(self._followers.get(told.task.key_id, ())):
            follower.tell(told)

    async def _dismiss(self) -> None:
        """Dismisses those whose key or token is no longer good."""
        good = set()
        for part in _parts(list(self._followers)):
            good |= await keys.living(self.rt, part)
        now = self.rt.now().timestamp()
        for key_id, others in self._followers.items():
            for follower in others:
                if key_id not in good:
                    follower.end(End.REVOKED)
                elif follower.grant.until is not None and follower.grant.until <= now:
                    follower.end(End.EXPIRED)

    def _born_after(self) -> str:
        """What the ids of tasks begin with that may have become visible since the last look."""
        return ids.new("task", self.rt.now() - OVERLAP)[:15]


def _parts(all: Sequence[str]) -> list[Sequence[str]]:
    return [all[start : start + MOST_AT_ONCE] for start in range(0, len(all), MOST_AT_ONCE)]


async def past(rt: Runtime, task: TaskRecord, after: int) -> list[Told]:
    """The events of the task after that number, and how far it is by now."""
    rows = select(EVENTS).where(EVENTS.c.task_id == task.id).order_by(EVENTS.c.sequence)
    async with rt.db.read() as connection:
        found = (await connection.execute(rows)).all()
    # Read again: the events must not be younger than what they are told with.
    (task,) = await tasks.several(rt, [task.id])
    told = [of_event(rt, task, row.type, row.sequence, row.at, row.data) for row in found if row.sequence > after]
    begun = any(row.type.endswith(f".{STARTED}") for row in found)
    if begun and not task.final:
        told.append(of_progress(rt, task, found[-1].sequence))
    return told
