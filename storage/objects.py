"""The object store: what keeps bytes under keys. One small interface over a folder, S3 and memory.

A key is a relative path of `[A-Za-z0-9._-]` segments joined by `/`. Writing a key again replaces it whole: a reader
sees the old bytes or the new ones, never a mixture and never a part. What is no key is a ValueError in every call.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator

import msgspec


class ObjectError(Exception):
    """The store failed or could not be reached. The same call may succeed later."""


class NoSuchObject(ObjectError):
    """There is no object under this key."""


class Stored(msgspec.Struct, frozen=True):
    """What was written: its size in bytes and the SHA-256 of exactly those bytes, in hex."""

    size: int
    sha256: str


class Found(msgspec.Struct, frozen=True):
    """What lies under a key: size in bytes, media type as given when it was put, and when that was."""

    key: str
    size: int
    media_type: str
    modified_at: dt.datetime


class ObjectStore(ABC):
    """Keeps bytes under keys. Every call has a deadline and raises ObjectError when the store fails."""

    @abstractmethod
    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        """Writes `data` under `key`, durably before it returns; a stream is never held in memory as a whole."""

    @abstractmethod
    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Streams the bytes from `start` up to, not including, `end`; none where the object has none there.

        Both are counted from its first byte. Raises NoSuchObject before the first chunk.
        """

    @abstractmethod
    async def find(self, key: str) -> Found | None:
        """What lies under `key`, or None."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Removes `key`; one that is not there is no error."""

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[Found]:
        """Every object whose key begins with `prefix`, in key order; its media type may be left empty.

        Servers differ in what key order is: that of the whole texts, or folder by folder.
        """

    def link(self, key: str, media_type: str, seconds: int) -> str | None:
        """A URL that lets anybody GET the object for that many seconds, or None where the store has none."""
        return None

    async def close(self) -> None:
        """Lets connections and threads go."""
