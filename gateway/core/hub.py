"""The hub: who follows a task hears of its progress as it comes, from whichever process moves it.

What nobody hears is gone: the row knows how far the task is, and its events what has happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec

from gateway.core.ports import Bus, Note
from providers.contract import Preview

log = logging.getLogger(__name__)
MOST = 64
"""How much waits for a listener that is slow; what is older is dropped."""
LARGEST_PREVIEW = 1_048_576
"""Bytes of a preview that goes to other processes as it is; a larger one is made smaller for them."""
MOST_SHRINKING = 8
"""Of how many tasks previews may be made smaller at a time; those of others stay in this process."""
Shrink = Callable[[Preview], Awaitable[Preview]]


class Hub:
    """Notes of tasks, brought to whoever listens in this process, and by the bus to those in others."""

    def __init__(self, bus: Bus | None = None, shrink: Shrink | None = None) -> None:
        self._bus = bus
        self._shrink = shrink
        self.shrinking: set[asyncio.Task[None]] = set()
        # Of each task one of whose previews is made smaller: the newest that waits for that.
        self._large: dict[str, Note | None] = {}
        self._listeners: dict[str, set[asyncio.Queue[Note]]] = {}
        self._everything: set[Callable[[Note], None]] = set()

    async def open(self) -> None:
        """Begins to hear of other processes, where there is a bus; one that cannot be reached is tried again."""
        while self._bus is not None:
            try:
                return await self._bus.listen(self._bring)
            except Exception as error:  # noqa: BLE001 - whatever the broker's library raises, it is tried again
                log.warning("progress of other processes is not heard: %s", type(error).__name__)
                await asyncio.sleep(1)

    async def close(self) -> None:
        """Lets the bus go."""
        for task in self.shrinking:
            task.cancel()
        if self._bus is not None:
            await self._bus.close()

    @contextmanager
    def listening(self, task_id: str) -> Iterator[asyncio.Queue[Note]]:
        """A queue into which the notes of the task come, for as long as the block lasts."""
        queue: asyncio.Queue[Note] = asyncio.Queue(MOST)
        self._listeners.setdefault(task_id, set()).add(queue)
        try:
            yield queue
        finally:
            listeners = self._listeners[task_id]
            listeners.discard(queue)
            if not listeners:
                del self._listeners[task_id]

    @contextmanager
    def overhearing(self, hear: Callable[[Note], None]) -> Iterator[None]:
        """Calls `hear`, which must not block, with every note of every task, for as long as the block lasts."""
        self._everything.add(hear)
        try:
            yield
        finally:
            self._everything.discard(hear)

    def tell(self, note: Note) -> None:
        """Brings the note to those who listen, here and in other processes; nobody is waited for."""
        self._bring(note)
        if self._bus is not None:
            size = len(note.preview.data) if note.preview else 0
            # A small one, too, is not to overtake the large one before it.
            large = size > LARGEST_PREVIEW or (size > 0 and note.task_id in self._large)
            self._bus.send(msgspec.structs.replace(note, preview=None) if large else note)
            if large and self._shrink is not None:
                self._send_smaller_later(self._bus, self._shrink, note)

    def _send_smaller_later(self, bus: Bus, shrink: Shrink, note: Note) -> None:
        """Once the one before it, of the same task, has gone; of those that wait only the newest goes."""
        if note.task_id in self._large:
            self._large[note.task_id] = note
        elif len(self._large) < MOST_SHRINKING:
            self._large[note.task_id] = note
            task = asyncio.create_task(self._send_smaller(bus, shrink, note.task_id))
            self.shrinking.add(task)
            task.add_done_callback(self.shrinking.discard)

    async def _send_smaller(self, bus: Bus, shrink: Shrink, task_id: str) -> None:
        """Sends notes of the task again with their previews made small: nothing else in them is news by then."""
        while (note := self._large[task_id]) and note.preview:
            self._large[task_id] = None
            try:
                bus.send(msgspec.structs.replace(note, preview=await shrink(note.preview)))
            except Exception as error:  # noqa: BLE001 - whatever a provider sent as a preview, nothing depends on it
                log.info("%s: a preview was not made smaller: %s", task_id, type(error).__name__)
        del self._large[task_id]

    def _bring(self, note: Note) -> None:
        for queue in self._listeners.get(note.task_id, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(note)
        for hear in tuple(self._everything):
            hear(note)
