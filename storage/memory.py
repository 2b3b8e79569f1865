"""An object store in memory: a working stand-in for tests and trials. Everything is gone with the process."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from storage.keys import checked
from storage.objects import Found, NoSuchObject, ObjectStore, Stored

CHUNK = 1 << 18


class MemoryStore(ObjectStore):
    """Keeps objects in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Found, bytes]] = {}

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        """Replaces the object once all of its bytes have come."""
        checked(key)
        whole = data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])
        self._objects[key] = Found(key, len(whole), media_type, dt.datetime.now(dt.UTC)), whole
        return Stored(len(whole), hashlib.sha256(whole).hexdigest())

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yields the bytes in chunks."""
        if checked(key) not in self._objects:
            raise NoSuchObject("there is no such object")
        whole = self._objects[key][1][start:end]
        for position in range(0, len(whole), CHUNK):
            yield whole[position : position + CHUNK]

    async def find(self, key: str) -> Found | None:
        """What is kept under the key."""
        found = self._objects.get(checked(key))
        return found[0] if found else None

    async def delete(self, key: str) -> None:
        """Forgets the object."""
        self._objects.pop(checked(key), None)

    async def list(self, prefix: str = "") -> AsyncIterator[Found]:
        """Every object below the prefix, as it is when the list begins."""
        for _, (found, _) in sorted(self._objects.items()):
            if found.key.startswith(prefix):
                yield found
