"""The object store that all processes share, and one process's way to it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

from storage.objects import Found, ObjectError, ObjectStore, Stored

if TYPE_CHECKING:
    from tests.simulation.process import Process


class SimulatedStore(ObjectStore):
    """Writes and reads with trouble: before it was done, or after, so that only the answer is missing."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        self.shared: ObjectStore = process.world.objects

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        await self._reach("store.put")
        whole = data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])
        await self.process.wait("store.putting")
        stored = await self.shared.put(key, whole, media_type)
        await self.process.wait("store.stored")
        if self.world.weather.strikes("store.after"):
            raise ObjectError("the answer is lost")
        return stored

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        await self._reach("store.read")
        async for chunk in self.shared.read(key, start, end):
            yield chunk

    async def find(self, key: str) -> Found | None:
        await self._reach("store.find")
        return await self.shared.find(key)

    async def delete(self, key: str) -> None:
        await self._reach("store.delete")
        await self.shared.delete(key)

    async def list(self, prefix: str = "") -> AsyncIterator[Found]:
        await self._reach("store.list")
        async for found in self.shared.list(prefix):
            yield found

    async def _reach(self, point: str) -> None:
        await self.process.wait(point)
        weather = self.world.weather
        if weather.is_away("store", self.world.loop.time()) or weather.strikes("store.before"):
            raise ObjectError("away")
