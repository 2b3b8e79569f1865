"""The hub: who follows a task hears of its progress as it comes, from whichever process moves it.

What nobody hears is gone: the row knows how far the task is, and its events what has happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from gateway.core.ports import Bus, Note

log = logging.getLogger(__name__)
MOST = 64
"""How much waits for a listener that is slow; what is older is dropped."""
LARGEST_PREVIEW = 1_048_576
"""Bytes of a preview that still goes to other processes."""


class Hub:
    """Notes of tasks, brought to whoever listens in this process, and by the bus to those in others."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._bus = bus
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
            large = note.preview is not None and len(note.preview.data) > LARGEST_PREVIEW
            self._bus.send(msgspec.structs.replace(note, preview=None) if large else note)

    def _bring(self, note: Note) -> None:
        for queue in self._listeners.get(note.task_id, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(note)
        for hear in tuple(self._everything):
            hear(note)
