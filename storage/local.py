"""An object store in a folder: what the embedded deployment uses.

An object is one plain file, written whole beside its place, synced, and then moved there. Its media type is a small
file next to it that names the very bytes it belongs to, and is written first: after a crash there is the old object
with its old type, or the new one with its new type. An object whose type was lost is still there, as octets.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, TypeVar
from uuid import uuid4

from storage.keys import KEY, checked
from storage.objects import Found, NoSuchObject, ObjectError, ObjectStore, Stored

T = TypeVar("T")
CHUNK = 1 << 18
UNKNOWN_TYPE = "application/octet-stream"
STALE_SECONDS = 3600
MARK = "@"  # in the name of a media type's file, and in no key


class LocalStore(ObjectStore):
    """Keeps objects below `root`: bytes and media types in `objects/`, what is being written in `new/`.

    Where there is an object `a`, none can be put under `a/b`: that is an ObjectError.
    """

    def __init__(self, root: Path, threads: int = 8) -> None:
        self._objects, self._new = root / "objects", root / "new"
        with _translated():
            for folder in (self._objects, self._new):
                folder.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="files")

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        """Writes beside, syncs, moves into place."""
        checked(key)
        if isinstance(data, bytes):
            return await self._run(partial(self._put_whole, key, data, media_type))
        draft = await self._run(partial(_Draft, self._new))
        try:
            async for chunk in data:
                await self._run(partial(draft.write, chunk))
            return await self._run(partial(self._keep, draft, key, media_type))
        finally:
            await self._run(draft.discard)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yields the file in chunks, read in threads."""
        checked(key)
        file = await self._run(partial(_opened, self._objects / key, start))
        try:
            left = sys.maxsize if end is None else end - start
            while left > 0 and (chunk := await self._run(partial(file.read, min(CHUNK, left)))):
                left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def find(self, key: str) -> Found | None:
        """Size and time of the file, and the media type beside it."""
        checked(key)
        return await self._run(partial(self._found, key))

    async def delete(self, key: str) -> None:
        """Removes the file, then its media type, then the folders that are empty now."""
        checked(key)
        await self._run(partial(_remove, self._objects / key, key.count("/")))

    async def list(self, prefix: str = "") -> AsyncIterator[Found]:
        """Every file whose key begins with the prefix."""
        for key in await self._run(partial(self._keys, prefix)):
            found = await self._run(partial(self._found, key))
            if found is not None:
                yield found

    async def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        """Does it in a thread, and waits for it even when cancelled: nothing goes on behind the caller's back."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            with _translated():
                return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _put_whole(self, key: str, data: bytes, media_type: str) -> Stored:
        draft = _Draft(self._new)
        try:
            draft.write(data)
            return self._keep(draft, key, media_type)
        finally:
            draft.discard()

    def _keep(self, draft: _Draft, key: str, media_type: str) -> Stored:
        place = self._objects / key
        draft.seal()
        kind, replaced = _type_file(place, draft.path.stat()), _type_file(place, _stat(place))
        _write_synced(kind, media_type.encode())
        draft.path.rename(place)
        _sync_folder(place.parent)
        if replaced != kind:
            replaced.unlink(missing_ok=True)
        return Stored(draft.size, draft.hashed.hexdigest())

    def _found(self, key: str) -> Found | None:
        place = self._objects / key
        stat = _stat(place)
        if stat is None:
            return None
        try:
            media_type = _type_file(place, stat).read_text(encoding="utf-8")
        except FileNotFoundError:
            now = _stat(place)
            if now is None or now.st_mtime_ns != stat.st_mtime_ns:
                return self._found(key)  # it was replaced or deleted between the two looks
            media_type = UNKNOWN_TYPE
        return Found(key, stat.st_size, media_type, dt.datetime.fromtimestamp(stat.st_mtime, dt.UTC))

    def _keys(self, prefix: str) -> Sequence[str]:
        folder = prefix.rpartition("/")[0]
        if folder and not KEY.fullmatch(folder):
            return []
        walk = os.walk(self._objects / folder)
        files = (Path(above) / name for above, _, names in walk for name in names if MARK not in name)
        keys = (file.relative_to(self._objects).as_posix() for file in files)
        return sorted(key for key in keys if key.startswith(prefix))

    def _remove_stale(self) -> None:
        """What a crash left half written. Younger files may be another process's work."""
        for draft in self._new.iterdir():
            stat = _stat(draft)
            if stat is not None and time.time() - stat.st_mtime > STALE_SECONDS:
                draft.unlink(missing_ok=True)


class _Draft:
    """An object that is being written: its file in a folder that nobody lists, the size and the digest so far."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / uuid4().hex
        self.size, self.hashed = 0, hashlib.sha256()
        self._file = self.path.open("xb")

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.hashed.update(chunk)
        self.size += len(chunk)

    def seal(self) -> None:
        """Puts it on the disk, under a time of its own: the clock that files get theirs from ticks too coarsely."""
        self._file.flush()
        now = time.time_ns()
        os.utime(self._file.fileno(), ns=(now, now))
        os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Lets it go; what has been kept by then has left this place."""
        self.path.unlink(missing_ok=True)
        self._file.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ObjectError(f"the folder of the object store failed: {error.strerror}") from error


def _opened(place: Path, start: int) -> BinaryIO:
    try:
        file = place.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NoSuchObject("there is no such object") from error
    file.seek(start)
    return file


def _stat(place: Path) -> os.stat_result | None:
    """Of the file in this place; None when there is none, a folder being none."""
    try:
        stat = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat if S_ISREG(stat.st_mode) else None


def _type_file(place: Path, stat: os.stat_result | None) -> Path:
    """Where the media type of the bytes with this time stands: no two writes of a key share one."""
    return place.with_name(f"{place.name}{MARK}{stat.st_mtime_ns if stat else ''}")


def _remove(place: Path, depth: int) -> None:
    stat = _stat(place)
    if stat is not None:
        place.unlink(missing_ok=True)
        _type_file(place, stat).unlink(missing_ok=True)
        _sync_folder(place.parent)
        with suppress(OSError):  # one that is not empty stays, and so do those above it
            for folder in list(place.parents)[:depth]:
                folder.rmdir()


def _write_synced(place: Path, data: bytes) -> None:
    with _made(place) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _made(place: Path) -> BinaryIO:
    """A new file, and the folder that it keeps from being taken away."""
    while True:
        with suppress(FileNotFoundError):  # a deletion took the folder away before there was anything in it: once more
            _make_folder(place.parent)
            return place.open("wb")


def _make_folder(folder: Path) -> None:
    """Makes the folder; a new one is an entry of the one above, which must outlast a power cut too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            # It was there, and was taken away while that was looked at: somebody deleted all that was in it.
            if folder.exists() and not folder.is_dir():
                raise
            raise FileNotFoundError(folder) from None
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # somebody deleted all that was in it
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
