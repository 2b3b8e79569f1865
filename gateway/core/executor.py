"""The executor: runs the handlers of messages in this process, bounded, and waits for them when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from gateway.core.ports import Message

log = logging.getLogger(__name__)
Handler = Callable[[Message], Awaitable[None]]


class Executor:
    """Runs at most `limit` handlers at once. What it runs is safe to lose: rows, not it, remember the work."""

    def __init__(self, limit: int) -> None:
        self.handlers: Mapping[str, Handler] = {}
        self.free = limit
        self._slots = asyncio.Semaphore(limit)
        self._running: set[asyncio.Task[None]] = set()
        self._companions: set[asyncio.Task[None]] = set()
        self.stopping = False

    async def submit(self, message: Message) -> bool:
        """Starts the handler as soon as there is a slot, and returns when it has; False: nothing starts."""
        await self._slots.acquire()
        if self.stopping:
            self._slots.release()
            return False
        self.free -= 1
        self.start(message).add_done_callback(self._release)
        return True

    def stop(self) -> None:
        """Starts nothing more. Whoever waits for a slot is sent away, each by the one before."""
        if not self.stopping:
            self.stopping = True
            self._slots.release()

    def start(self, message: Message) -> asyncio.Task[None]:
        """Starts the handler at once: for a caller who is bounded in another way, such as a waiting request."""
        return self.spawn(self._handle(message), f"{message.kind} {message.id}")

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs `work` beside whatever goes on; what it raises is logged under `name`."""
        task = asyncio.create_task(self._logged(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def accompany(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs what nobody waits for, also when the process stops: such as looking on while a provider works."""
        task = asyncio.create_task(self._logged(work, name), name=name)
        self._companions.add(task)
        task.add_done_callback(self._companions.discard)

    async def drain(self, seconds: float) -> None:
        """Starts nothing more, waits so long for what runs, then abandons the rest to the sweep of another process."""
        self.stop()
        companions = list(self._companions)
        for task in companions:
            task.cancel()
        await asyncio.gather(*companions, return_exceptions=True)
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=seconds)
            for task in late:
                log.warning("%s was abandoned at shutdown", task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _release(self, _: asyncio.Task[None]) -> None:
        self.free += 1
        self._slots.release()

    async def _handle(self, message: Message) -> None:
        handler = self.handlers.get(message.kind)
        if handler is None:
            log.error("there is no handler for messages of kind %r", message.kind)
        elif not self.stopping:
            await handler(message)

    async def _logged(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception:
            log.exception("%s failed", name)
