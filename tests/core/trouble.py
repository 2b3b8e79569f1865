"""Our own parts in trouble: a database and an object store that fail when they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import Database, DatabaseUnavailable
from storage.memory import MemoryStore
from storage.objects import ObjectError, Stored


class FlakyDatabase(Database):
    """A database that first raises the `troubles` of a verb, one for each use, and counts uses and those broken off.

    `when` says what a transaction in trouble comes to: it fails `before` it begins, or when it should be committed
    (`commit`), or it stands, and only the answer is lost (`after`).
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.forget()

    def forget(self) -> None:
        """Begins anew: nothing was used, and nothing is in trouble."""
        self.when = "before"
        self.used: Counter[str] = Counter()
        self.broken_off = 0
        self.begun = {verb: asyncio.Event() for verb in ("read", "write", "write_one")}
        self.troubles: dict[str, list[Exception]] = {"read": [], "write": [], "write_one": []}

    def away(self, verb: str, times: int) -> None:
        """Fails the next uses of a verb, as a database that cannot be reached."""
        self.troubles[verb] = [DatabaseUnavailable("away")] * times

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._troubled("read", super().read()) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with self._troubled("write", super().write()) as connection:
            yield connection

    @asynccontextmanager
    async def write_one(self) -> AsyncIterator[AsyncConnection]:
        async with self._troubled("write_one", super().write_one()) as connection:
            yield connection

    @asynccontextmanager
    async def _troubled(
        self, verb: str, use: AbstractAsyncContextManager[AsyncConnection]
    ) -> AsyncIterator[AsyncConnection]:
        self.used[verb] += 1
        self.begun[verb].set()
        trouble = self.troubles[verb].pop(0) if self.troubles[verb] else None
        if trouble is not None and self.when == "before":
            raise trouble
        try:
            async with use as connection:
                yield connection
                if trouble is not None and self.when == "commit":
                    raise trouble
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        if trouble is not None:
            raise trouble


class FlakyStore(MemoryStore):
    """An object store whose next `failures` writes fail."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def put(self, key: str, data: bytes | Any, media_type: str) -> Stored:
        if self.failures:
            self.failures -= 1
            raise ObjectError("the store is away")
        return await super().put(key, data, media_type)
