"""An object store in a folder: what the embedded deployment uses.

An object is one file, written whole beside its place, synced, and then moved there. Its media type is kept in a small
file of its own that is written first: a crash in between leaves the old object, or none, and never half of one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from storage.keys import checked
from storage.objects import Found, NoSuchObject, ObjectError, ObjectStore, Stored

T = TypeVar("T")
CHUNK = 1 << 18
UNKNOWN_TYPE = "application/octet-stream"
STALE_SECONDS = 3600


class LocalStore(ObjectStore):
    """Keeps objects below `root`: the bytes in `objects/`, media types in `types/`, what is being written in `new/`."""

    def __init__(self, root: Path, threads: int = 8) -> None:
        self._objects, self._types, self._new = root / "objects", root / "types", root / "new"
        for folder in (self._objects, self._types, self._new):
            folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="files")

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        """Writes beside, syncs, moves into place."""
        place = self._objects / checked(key)
        if isinstance(data, bytes):
            return await self._run(lambda: self._put_whole(place, key, data, media_type))
        draft, file = await self._run(self._draft)
        try:
            hashed, size = hashlib.sha256(), 0
            async for chunk in data:
                await self._run(partial(file.write, chunk))
                hashed.update(chunk)
                size += len(chunk)
            await self._run(lambda: self._finish(file, draft, place, key, media_type))
        finally:
            await self._run(lambda: _discard(file, draft))
        return Stored(size, hashed.hexdigest())

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yields the file in chunks, read in threads."""
        file = await self._run(lambda: (self._objects / checked(key)).open("rb"))
        try:
            position = start
            await self._run(lambda: file.seek(start))
            while chunk := await self._run(partial(file.read, CHUNK if end is None else min(CHUNK, end - position))):
                position += len(chunk)
                yield chunk
        finally:
            file.close()

    async def find(self, key: str) -> Found | None:
        """Size and time of the file, and the media type beside it."""
        checked(key)
        return await self._run(lambda: self._found(key))

    async def delete(self, key: str) -> None:
        """Removes the file, then its media type."""
        checked(key)
        await self._run(lambda: (self._objects / key).unlink(missing_ok=True))
        await self._run(lambda: (self._types / key).unlink(missing_ok=True))

    async def list(self, prefix: str = "") -> AsyncIterator[Found]:
        """Every file whose key begins with the prefix."""
        for key in await self._run(lambda: self._keys(prefix)):
            found = await self._run(partial(self._found, key))
            if found is not None:
                yield found

    async def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except FileNotFoundError as error:
            raise NoSuchObject("there is no such object") from error
        except OSError as error:
            raise ObjectError(f"the folder of the object store failed: {error.strerror}") from error

    def _put_whole(self, place: Path, key: str, data: bytes, media_type: str) -> Stored:
        draft, file = self._draft()
        try:
            file.write(data)
            self._finish(file, draft, place, key, media_type)
        finally:
            _discard(file, draft)
        return Stored(len(data), hashlib.sha256(data).hexdigest())

    def _draft(self) -> tuple[Path, BinaryIO]:
        handle, name = tempfile.mkstemp(dir=self._new)
        return Path(name), os.fdopen(handle, "wb")

    def _finish(self, file: BinaryIO, draft: Path, place: Path, key: str, media_type: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._write_type(self._types / key, media_type)
        _make_folder(place.parent)
        draft.rename(place)
        _sync_folder(place.parent)

    def _write_type(self, place: Path, media_type: str) -> None:
        if place.is_file() and place.read_text(encoding="utf-8") == media_type:
            return
        draft, file = self._draft()
        with file:
            file.write(media_type.encode())
            file.flush()
            os.fsync(file.fileno())
        _make_folder(place.parent)
        draft.rename(place)

    def _found(self, key: str) -> Found | None:
        try:
            stat = (self._objects / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = self._types / key
        media_type = kind.read_text(encoding="utf-8") if kind.is_file() else UNKNOWN_TYPE
        return Found(key, stat.st_size, media_type, dt.datetime.fromtimestamp(stat.st_mtime, dt.UTC))

    def _keys(self, prefix: str) -> Sequence[str]:
        files = (Path(folder) / name for folder, _, names in os.walk(self._objects) for name in names)
        keys = (file.relative_to(self._objects).as_posix() for file in files)
        return sorted(key for key in keys if key.startswith(prefix))

    def _remove_stale(self) -> None:
        """What a crash left half written. Younger files may be another process's work."""
        for draft in self._new.iterdir():
            if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                draft.unlink(missing_ok=True)


def _discard(file: BinaryIO, draft: Path) -> None:
    file.close()
    draft.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Makes the folder; a new one is an entry of the one above, which must outlast a power cut too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
