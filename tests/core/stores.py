"""Object stores that fail or end a process when they are told to, and what lies in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from gateway.core.assets import AssetRecord
from storage.objects import Found, ObjectError, ObjectStore, Stored


class Moody(ObjectStore):
    """Another store, seen through trouble: `away` altogether, keys that it lets `stuck`, or a process that `dies`.

    `dies` is how many objects it deletes before it ends whoever asked for the last of them. `gate` holds lists up.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.away = False
        self.refused = 0
        self.stuck: set[str] = set()
        self.dies: int | None = None
        self.deletions = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        self._check()
        return await self.store.put(key, data, media_type)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        self._check()
        async for chunk in self.store.read(key, start, end):
            yield chunk

    async def find(self, key: str) -> Found | None:
        self._check()
        return await self.store.find(key)

    async def delete(self, key: str) -> None:
        self._check()
        if key in self.stuck:
            raise ObjectError("not this one")
        was_there = await self.store.find(key) is not None
        await self.store.delete(key)
        self.deletions += was_there
        if was_there and self.deletions == self.dies:
            raise asyncio.CancelledError

    async def list(self, prefix: str = "") -> AsyncIterator[Found]:
        self.reached.set()
        await self.gate.wait()
        self._check()
        async for found in self.store.list(prefix):
            yield found

    async def close(self) -> None:
        await self.store.close()

    def _check(self) -> None:
        if self.away:
            self.refused += 1
            raise ObjectError("away")


async def keys(store: ObjectStore, *prefixes: str) -> list[str]:
    """What lies under the prefixes, by default all that tasks have left."""
    return [one.key for prefix in prefixes or ("inputs/", "media/") async for one in store.list(prefix)]


def objects_of(*images: AssetRecord) -> list[str]:
    """What lies in the store of images, in its order: their bytes, and the thumbnail beside them."""
    return sorted(key for one in images for key in (one.object_key, f"{one.object_key}.thumbnail"))
