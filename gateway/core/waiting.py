"""Waiting for tasks to end: one loop per process asks for all awaited ids in one query, however many wait."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress

from sqlalchemy import select

from gateway.core.lifecycle import FINAL
from gateway.core.tables import TASKS
from storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)
# News of steps taken in this process arrive at once; the interval is for those taken in another.
INTERVAL = 0.1


class Waiter:
    """Lets many requests wait for the final state of tasks, whichever process brings it about."""

    def __init__(self, db: Database, interval: float = INTERVAL) -> None:
        self.db = db
        self.interval = interval
        self._awaited: dict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._loop: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._released = False

    async def final(self, task_id: str, seconds: float) -> bool:
        """Waits until the task is final, at most so long; False when the time was over first."""
        if self._released:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[task_id].add(future)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._look())
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        finally:
            self._forget(task_id, future)
        return not self._released

    def release(self, seconds: float) -> None:
        """Lets everybody who waits then go on in so many seconds, so that a process which stops owes no answers."""
        asyncio.get_running_loop().call_later(seconds, self._release)

    def _release(self) -> None:
        self._released = True
        for task_id in list(self._awaited):
            self.tell(task_id)

    def tell(self, task_id: str) -> None:
        """Says that the task has come to its end: whoever waits for it goes on at once."""
        for future in self._awaited.get(task_id, ()):
            if not future.done():
                future.set_result(None)

    async def close(self) -> None:
        """Stops looking. A look under way comes to its end: a query that is broken off costs its connection."""
        self._closing.set()
        if self._loop is not None:
            await self._loop

    def _forget(self, task_id: str, future: asyncio.Future[None]) -> None:
        self._awaited[task_id].discard(future)
        if not self._awaited[task_id]:
            del self._awaited[task_id]

    async def _look(self) -> None:
        while self._awaited and not self._closing.is_set():
            try:
                statement = select(TASKS.c.id).where(TASKS.c.id.in_(list(self._awaited)), TASKS.c.state.in_(FINAL))
                async with self.db.read() as connection:
                    for task_id in (await connection.execute(statement)).scalars():
                        self.tell(task_id)
            except DatabaseUnavailable:
                log.warning("the database does not answer; waiting requests wait on")
            except Exception:
                log.exception("looking for ended tasks failed; waiting requests wait on")
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await self._closing.wait()
