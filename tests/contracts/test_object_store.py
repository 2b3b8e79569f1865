"""The contract of an object store, run over a folder, memory and a real S3 server; then what only some promise."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from storage.local import LocalStore
from storage.objects import NoSuchObject, ObjectError, ObjectStore
from storage.opening import bucket_of, open_store
from storage.s3 import S3Store
from tests.processes import ROOT, free_port
from tests.proxy import Proxy
from tests.seaweed import Seaweed

MIB = 1 << 20
TEN = b"0123456789"
BAD_KEYS = [
    "", ".", "..", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a/..", "a b", "a\\b", "a\0", "a\n", "a?b",
    "a#b", "%2e%2e/a", "ä", "a@1", "~a", "a" * 129, "/".join("a" * 17), "/".join(["a" * 62] * 8),
]  # fmt: skip
RANGES = [
    (0, None), (0, 10), (0, 1), (9, None), (9, 10), (3, 7), (0, 99), (7, 99), (0, 0), (5, 5), (7, 3), (10, None),
    (10, 12), (50, None), (50, 60),
]  # fmt: skip


@pytest.fixture(params=["local", "memory", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ObjectStore]:
    """Opens the store under test, empty at first; what is not in memory is the same place each time."""
    if request.param == "memory":
        return lambda: open_store("memory:")
    if request.param == "local":
        return lambda: open_store(tmp_path.as_uri())
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    url = within(seaweed)
    return lambda: open_store(url, access_key=seaweed.access_key, secret_key=seaweed.secret_key)


@pytest.fixture
async def store(make: Callable[[], ObjectStore]) -> AsyncIterator[ObjectStore]:
    """The store under test, empty."""
    store = make()
    yield store
    await store.close()


@pytest.fixture
def remote(seaweed: Seaweed) -> Callable[..., S3Store]:
    """Opens S3 stores of this test's own, with what the test asks for."""
    prefix = uuid4().hex

    def make(endpoint: str = seaweed.endpoint, **options: float) -> S3Store:
        url = f"s3://{seaweed.bucket}/{prefix}?endpoint={endpoint}&addressing=path"
        return S3Store(bucket_of(url, seaweed.access_key, seaweed.secret_key), **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    """A line to the S3 server that can be cut."""
    address = urlsplit(seaweed.endpoint)
    proxy = Proxy(str(address.hostname), int(address.port or 0))
    yield proxy
    proxy.close()


def within(seaweed: Seaweed) -> str:
    """The URL of a new, empty place in the bucket."""
    return urlsplit(seaweed.url)._replace(path=f"/tests/{uuid4().hex}").geturl()


async def whole(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    """What a read yields, joined."""
    return b"".join([chunk async for chunk in store.read(key, start, end)])


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """The keys that a list yields."""
    return [found.key async for found in store.list(prefix)]


async def kind(store: ObjectStore, key: str) -> str:
    """The media type under a key that must be there."""
    found = await store.find(key)
    assert found is not None
    return found.media_type


async def stream(*chunks: bytes, failure: Exception | None = None) -> AsyncIterator[bytes]:
    """The chunks, and then the failure."""
    for chunk in chunks:
        yield chunk
    if failure is not None:
        raise failure


async def failures(store: ObjectStore) -> set[tuple[type[object], bool]]:
    """What each call of the interface comes to: its result's or exception's type, and whether a cause was kept."""
    calls: list[Awaitable[object]] = [
        store.put("a", TEN, "text/plain"), store.put("a", stream(TEN), "text/plain"), whole(store, "a"),
        whole(store, "a", 5, 5), store.find("a"), store.delete("a"), keys(store),
    ]  # fmt: skip
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return {(type(one), isinstance(one, BaseException) and one.__cause__ is not None) for one in outcomes}


def files(folder: Path) -> list[str]:
    """The names of all files below the folder."""
    return [path.name for path in folder.rglob("*") if path.is_file()]


def run(script: str, *arguments: str) -> tuple[int, str]:
    """Runs a script in a process of its own; its exit status, and what it printed."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("data", [b"", TEN, bytes(range(256)) * 4096], ids=["empty", "small", "large"])
async def test_bytes_come_back(store: ObjectStore, data: bytes) -> None:
    """What was put as bytes is read whole; its size, digest and media type are those of exactly these bytes."""
    stored = await store.put("media/1/a.bin", data, "image/png")
    assert (stored.size, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await whole(store, "media/1/a.bin") == data
    found = await store.find("media/1/a.bin")
    assert found is not None
    assert (found.key, found.size, found.media_type) == ("media/1/a.bin", len(data), "image/png")
    assert found.modified_at.utcoffset() is not None


@pytest.mark.parametrize(
    "chunks", [(), (b"",), (b"ab", b"", b"c"), (b"x" * MIB,) * 5], ids=["none", "empty", "3", "5M"]
)
async def test_a_stream_comes_back(store: ObjectStore, chunks: tuple[bytes, ...]) -> None:
    """What was put as a stream is read as its chunks joined, with their size and digest, however long it was."""
    data = b"".join(chunks)
    stored = await store.put("a", stream(*chunks), "video/mp4")
    assert (stored.size, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await whole(store, "a") == data
    assert await kind(store, "a") == "video/mp4"


async def test_putting_again_replaces(store: ObjectStore) -> None:
    """A second put of a key leaves its bytes and its media type alone, also when they are fewer."""
    await store.put("a", b"x" * MIB, "image/png")
    await store.put("a", stream(b"new"), "image/webp")
    assert await whole(store, "a") == b"new"
    found = await store.find("a")
    assert found is not None
    assert (found.size, found.media_type) == (3, "image/webp")
    assert await keys(store) == ["a"]


async def test_a_range_is_a_slice(store: ObjectStore) -> None:
    """A range yields the bytes from its start up to, not including, its end, and nothing where there are none."""
    await store.put("a", TEN, "text/plain")
    for start, end in RANGES:
        assert await whole(store, "a", start, end) == TEN[start:end], (start, end)


async def test_a_read_is_in_chunks(store: ObjectStore) -> None:
    """A large range comes in bounded chunks that join to it, and a read may be left halfway."""
    data = os.urandom(3 * MIB)
    await store.put("a", data, "video/mp4")
    chunks = [chunk async for chunk in store.read("a", 5, 2 * MIB)]
    assert b"".join(chunks) == data[5 : 2 * MIB]
    assert max(map(len, chunks)) <= MIB
    assert len(chunks) > 1
    half = store.read("a")
    assert data.startswith(await anext(half))
    await half.aclose()  # type: ignore[attr-defined]  # every store's iterator is a generator
    assert await whole(store, "a", 0, 5) == data[:5]


async def test_what_is_missing_is_said(store: ObjectStore) -> None:
    """A key without an object is found as None, is not listed, and fails to read before the first chunk."""
    await store.put("folder/a", TEN, "text/plain")
    for key in ("nothing", "folder", "folder/b", "folder/a/b"):
        assert await store.find(key) is None
        for end in (None, 0, 5):
            with pytest.raises(NoSuchObject):
                await anext(store.read(key, 0, end))
    assert await keys(store, "nothing") == []


async def test_deleting_is_done_once(store: ObjectStore) -> None:
    """A deleted object is gone, deleting it again or what never was is no error, and its neighbours stay."""
    await store.put("folder/a", TEN, "text/plain")
    await store.put("folder/b", TEN, "text/plain")
    await store.delete("folder/a")
    for key in ("folder/a", "folder", "folder/b/c", "nothing"):
        await store.delete(key)
    assert await store.find("folder/a") is None
    assert await keys(store) == ["folder/b"]
    assert await whole(store, "folder/b") == TEN
    await store.put("folder/a", b"again", "text/html")
    assert (await whole(store, "folder/a"), await kind(store, "folder/a")) == (b"again", "text/html")


async def test_a_list_is_in_order(store: ObjectStore) -> None:
    """A list yields what begins with the prefix and nothing else, with sizes, in key order."""
    names = ["a-b", "a.b", "a/b", "a/c/d", "a0", "b", "B", "c/a"]
    for size, name in enumerate(names):
        await store.put(name, b"x" * size, "text/plain")
    for prefix in ("", "a", "a/", "a/c", "a/c/", "b", "a/b", "d", "a/x/y", "../", "/", "a//"):
        listed = await keys(store, prefix)
        expected = [name for name in names if name.startswith(prefix)]
        assert listed in (sorted(expected), sorted(expected, key=lambda name: name.split("/")))
    assert {found.key: found.size async for found in store.list()} == {name: size for size, name in enumerate(names)}


async def test_a_bad_key_is_refused(store: ObjectStore) -> None:
    """A text that is no key is a ValueError in every call, and nothing is written under it."""
    for key in BAD_KEYS:
        calls: list[Awaitable[object]] = [
            store.put(key, TEN, "text/plain"), store.put(key, stream(TEN), "text/plain"), anext(store.read(key)),
            anext(store.read(key, 0, 0)), store.find(key), store.delete(key),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(ValueError, match="is not a key"):
                await call
    assert await keys(store) == []


async def test_the_longest_key_is_taken(store: ObjectStore) -> None:
    """A key of as many characters as a key may have is kept, listed and deleted as any other."""
    longest = "/".join(["a" * 62] * 7 + ["b" * 59])
    assert len(longest) == 500
    await store.put(longest, TEN, "text/plain")
    assert (await whole(store, longest), await keys(store, longest[:200])) == (TEN, [longest])
    await store.delete(longest)
    assert await keys(store) == []


async def test_deleting_disturbs_no_put_beside_it(store: ObjectStore) -> None:
    """While the only objects of a folder come and go, each put and each delete in it succeeds, and counts."""

    async def come_and_go(key: str) -> None:
        for _ in range(20):
            await store.put(key, TEN, "image/png")
            assert (await whole(store, key), await kind(store, key)) == (TEN, "image/png")
            await store.delete(key)
            assert await store.find(key) is None

    await asyncio.gather(*(come_and_go(f"folder/deeper/{n}") for n in range(6)))
    assert await keys(store) == []


@pytest.mark.parametrize("size", [10, 5 * MIB], ids=["small", "large"])
async def test_a_stream_that_fails_changes_nothing(store: ObjectStore, size: int) -> None:
    """A put whose stream raises raises just that, and leaves the old object, or none where there was none."""
    await store.put("old", TEN, "image/png")
    for key in ("old", "new"):
        failure = ConnectionResetError("the source broke")
        with pytest.raises(ConnectionResetError) as caught:
            await store.put(key, stream(b"x" * size, failure=failure), "image/webp")
        assert caught.value is failure
    assert (await whole(store, "old"), await kind(store, "old")) == (TEN, "image/png")
    assert await keys(store) == ["old"]


async def test_a_put_that_is_cancelled_changes_nothing(store: ObjectStore) -> None:
    """A put that is cancelled while it waits for its stream leaves the old object."""
    await store.put("a", TEN, "image/png")
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"new"
        begun.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(store.put("a", endless(), "image/webp"))
    await begun.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert (await whole(store, "a"), await kind(store, "a")) == (TEN, "image/png")
    assert await keys(store) == ["a"]


async def test_puts_at_once_leave_one_of_them(store: ObjectStore) -> None:
    """Of several puts of one key at once, one stays whole: all of its bytes, and its own media type."""
    versions = {f"text/{n}": bytes([n]) * (100_000 + n) for n in range(8)}
    for _ in range(3):
        puts = [
            store.put("a", data if n % 2 else stream(data[:50_000], data[50_000:]), media_type)
            for n, (media_type, data) in enumerate(versions.items())
        ]
        await asyncio.gather(*puts)
        assert await whole(store, "a") == versions[await kind(store, "a")]
    assert await keys(store) == ["a"]


async def test_a_reader_never_sees_a_mixture(store: ObjectStore) -> None:
    """While an object is replaced, each read yields all of the old bytes or all of the new ones."""
    versions = [bytes([n]) * MIB for n in range(2)]
    await store.put("a", versions[0], "text/plain")

    async def replace() -> None:
        for n in range(1, 9):
            await store.put("a", versions[n % 2], "text/plain")

    replacing = asyncio.create_task(replace())
    while not replacing.done():
        await asyncio.sleep(0)
        assert await whole(store, "a") in versions
        assert await kind(store, "a") == "text/plain"
    await replacing


@pytest.mark.parametrize("make", ["local", "s3"], indirect=True)
async def test_a_big_stream_is_not_held_in_memory(store: ObjectStore) -> None:
    """Writing and reading 24 MiB in chunks of one never takes half of that in memory."""
    digest, size = hashlib.sha256(), 24

    async def generate() -> AsyncIterator[bytes]:
        for n in range(size):
            chunk = bytes([n]) * MIB
            digest.update(chunk)
            yield chunk

    tracemalloc.start()
    try:
        stored = await store.put("a", generate(), "video/mp4")
        read = hashlib.sha256()
        async for chunk in store.read("a"):
            read.update(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (stored.size, stored.sha256) == (size * MIB, digest.hexdigest())
    assert read.hexdigest() == digest.hexdigest()
    assert peak < size * MIB / 2


@pytest.mark.parametrize("make", ["local", "s3"], indirect=True)
async def test_objects_outlast_their_store(make: Callable[[], ObjectStore]) -> None:
    """What one store has put, another one that is opened later finds, with its media type."""
    first = make()
    await first.put("a/b", TEN, "image/png")
    await first.close()
    second = make()
    assert (await whole(second, "a/b"), await kind(second, "a/b")) == (TEN, "image/png")
    await second.close()


@pytest.mark.parametrize("make", ["local", "memory"], indirect=True)
async def test_only_s3_has_links(store: ObjectStore) -> None:
    """A store that nobody can reach over HTTP has no link to give."""
    await store.put("a", TEN, "text/plain")
    assert store.link("a", "text/plain", 60) is None


CRASH = """
import asyncio, os, signal, sys
from pathlib import Path
from storage.local import LocalStore

moment, root = sys.argv[1], Path(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def watch(event, arguments):
    if event == "os.rename" and os.fspath(arguments[1]) == str(root / "objects/a/b"):
        die()

async def new():
    yield b"new" * 100_000
    if moment == "stream":
        die()

sys.addaudithook(watch)
asyncio.run(LocalStore(root).put("a/b", new(), "text/new"))
"""


@pytest.mark.parametrize("moment", ["stream", "rename"])
async def test_a_crash_mixes_nothing(tmp_path: Path, moment: str) -> None:
    """A process that is killed amid a put leaves the old bytes with the old media type, and no half object."""
    store = LocalStore(tmp_path)
    await store.put("a/b", b"old", "text/old")
    assert await asyncio.to_thread(run, CRASH, moment, str(tmp_path)) == (-signal.SIGKILL, "")
    assert (await whole(store, "a/b"), await kind(store, "a/b")) == (b"old", "text/old")
    assert await keys(store) == ["a/b"]
    await store.put("a/b", b"newer", "text/newer")
    assert (await whole(store, "a/b"), await kind(store, "a/b")) == (b"newer", "text/newer")
    await store.close()


RACE = """
import asyncio, sys
from pathlib import Path
from storage.local import LocalStore

root, racing = Path(sys.argv[1]), False

def watch(event, arguments):
    global racing
    if racing and event == "open" and "@" in str(arguments[0]):
        racing = False
        asyncio.run(LocalStore(root).put("a", b"newer", "text/new"))

async def main():
    global racing
    store = LocalStore(root)
    await store.put("a", b"old", "text/old")
    racing = True
    found = await store.find("a")
    print(found.size, found.media_type, racing)

sys.addaudithook(watch)
asyncio.run(main())
"""


def test_a_find_amid_a_replacement_mixes_nothing(tmp_path: Path) -> None:
    """An object that is replaced after its size was looked up, and before its media type, is found as the new one."""
    assert run(RACE, str(tmp_path)) == (0, "5 text/new False\n")


async def test_what_a_crash_left_is_removed_later(tmp_path: Path) -> None:
    """A draft that is older than an hour is removed when the store is opened; a younger one may be somebody's work."""
    await LocalStore(tmp_path).close()
    old, young = tmp_path / "new/old", tmp_path / "new/young"
    for draft in (old, young):
        draft.write_bytes(TEN)
    an_hour_ago = young.stat().st_mtime - 3601
    os.utime(old, (an_hour_ago, an_hour_ago))
    store = LocalStore(tmp_path)
    assert await keys(store) == []
    assert (old.exists(), young.exists()) == (False, True)
    await store.close()


async def test_nothing_is_left_of_a_put(tmp_path: Path) -> None:
    """Whether puts succeed, fail or are replaced and deleted, no draft and no media type stays behind."""
    store = LocalStore(tmp_path)
    for data in (TEN, stream(TEN), stream(TEN)):
        await store.put("a/b", data, "image/png")
    with pytest.raises(ZeroDivisionError):
        await store.put("a/b", stream(TEN, failure=ZeroDivisionError()), "image/webp")
    assert len(files(tmp_path)) == 2
    await store.put("a/c/d", TEN, "image/png")
    await store.delete("a/c/d")
    assert await kind(store, "a/b") == "image/png"
    await store.delete("a/b")
    assert list((tmp_path / "objects").iterdir()) == []
    await store.close()


async def test_a_full_disk_is_an_error_of_the_store(tmp_path: Path) -> None:
    """A disk that takes no more is an ObjectError: the old object stays, and of the new one nothing does."""
    store = LocalStore(tmp_path)
    await store.put("a/b", b"old", "text/old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        for data in (bytes(2 * MIB), stream(*[bytes(100_000)] * 20)):
            with pytest.raises(ObjectError) as caught:
                await store.put("a/b", data, "text/new")
            assert isinstance(caught.value.__cause__, OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (await whole(store, "a/b"), await kind(store, "a/b")) == (b"old", "text/old")
    assert len(files(tmp_path)) == 2
    await store.close()


async def test_an_object_without_its_media_type_is_readable(tmp_path: Path) -> None:
    """Where the media type was lost, the bytes are still there, as octets."""
    store = LocalStore(tmp_path)
    await store.put("a/b", TEN, "image/png")
    for name in files(tmp_path):
        if name != "b":
            (tmp_path / "objects/a" / name).unlink()
    assert (await whole(store, "a/b"), await kind(store, "a/b")) == (TEN, "application/octet-stream")
    assert await keys(store) == ["a/b"]
    await store.put("a/b", TEN, "image/png")
    assert await kind(store, "a/b") == "image/png"
    await store.close()


async def test_a_broken_folder_is_an_error_of_the_store(tmp_path: Path) -> None:
    """A folder that fails is an ObjectError with its cause, and never looks as if an object were missing."""
    store = LocalStore(tmp_path)
    await store.put("a", TEN, "image/png")
    shutil.rmtree(tmp_path / "new")
    for data in (TEN, stream(TEN)):
        with pytest.raises(ObjectError) as caught:
            await store.put("b", data, "image/png")
        assert type(caught.value) is ObjectError
        assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ObjectError):
        await store.put("a/b", TEN, "image/png")
    await store.close()
    (tmp_path / "file").write_bytes(TEN)
    with pytest.raises(ObjectError):
        LocalStore(tmp_path / "file")


async def test_a_list_goes_on_over_pages(remote: Callable[..., S3Store]) -> None:
    """A listing that takes several pages yields every object once."""
    store = remote(page=2)
    names = [f"{n // 2}/{n}" for n in range(5)]
    await asyncio.gather(*(store.put(name, TEN, "text/plain") for name in names))
    assert await keys(store) == names
    await store.close()


async def test_a_link_is_for_anybody(remote: Callable[..., S3Store]) -> None:
    """A presigned link gives the bytes without a credential, under the media type that it was made with."""
    store = remote()
    await store.put("a", TEN, "application/octet-stream")
    async with httpx.AsyncClient() as client:
        answer = await client.get(store.link("a", "image/png", 60) or "")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, TEN, "image/png")
    await store.close()


async def test_a_link_is_for_one_object_and_a_time(remote: Callable[..., S3Store]) -> None:
    """A link that was changed in any part is refused, and so is its address without the signature."""
    store = remote()
    await store.put("a", TEN, "text/plain")
    await store.put("b", TEN, "text/plain")
    link = store.link("a", "image/png", 60) or ""
    changed = [
        link.replace("/a?", "/b?"), link.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        link.replace("image%2Fpng", "text%2Fhtml"), link[:-1] + ("0" if link[-1] != "0" else "1"),
        link.partition("?")[0],
    ]  # fmt: skip
    assert len({link, *changed}) == 6
    async with httpx.AsyncClient() as client:
        assert [(await client.get(one)).status_code for one in changed] == [403] * 5
    await store.close()


async def test_a_link_ends(remote: Callable[..., S3Store]) -> None:
    """A link works at first, and is refused once its time is over."""
    store = remote()
    await store.put("a", TEN, "text/plain")
    link = store.link("a", "text/plain", 2) or ""
    async with httpx.AsyncClient() as client, asyncio.timeout(20):
        assert (await client.get(link)).status_code == 200
        while (status := (await client.get(link)).status_code) == 200:  # noqa: ASYNC110 - the server's clock is its own
            await asyncio.sleep(0.2)
    assert status == 403
    await store.close()


async def test_a_wrong_credential_is_an_error_of_the_store(seaweed: Seaweed) -> None:
    """A store that may not enter fails with ObjectError in every call: nothing looks as if it were missing."""
    store = open_store(within(seaweed), access_key=seaweed.access_key, secret_key="wrong")
    assert await failures(store) == {(ObjectError, True)}
    await store.close()


async def test_a_wrong_bucket_is_an_error_of_the_store(seaweed: Seaweed) -> None:
    """Where the bucket itself is missing, nothing is found missing: looking for an object is an ObjectError."""
    url = seaweed.url.replace(f"//{seaweed.bucket}", "//another")
    store = open_store(url, access_key=seaweed.access_key, secret_key=seaweed.secret_key)
    calls: list[Awaitable[object]] = [store.find("a"), whole(store, "a"), whole(store, "a", 5, 5), keys(store)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in outcomes} == {ObjectError}
    await store.close()


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "refusing"])
async def test_a_server_that_is_down_is_an_error_of_the_store(remote: Callable[..., S3Store], silent: bool) -> None:
    """A server that refuses, or takes the connection and never answers, is an ObjectError within the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if silent else free_port()
        store = remote(f"http://127.0.0.1:{port}", seconds=0.3)
        async with asyncio.timeout(15):
            assert await failures(store) == {(ObjectError, True)}
    await store.close()


async def test_a_line_that_breaks_is_an_error_of_the_store(remote: Callable[..., S3Store], proxy: Proxy) -> None:
    """A line that is cut amid a read is an ObjectError, not a short object; once mended, the store works again."""
    store = remote(f"http://127.0.0.1:{proxy.port}", seconds=2.0)
    data = os.urandom(24 * MIB)
    await store.put("a", data, "video/mp4")
    chunks = store.read("a")
    await anext(chunks)
    proxy.cut()
    with pytest.raises(ObjectError) as caught:
        _ = [chunk async for chunk in chunks]
    assert caught.value.__cause__ is not None
    with pytest.raises(ObjectError):
        await store.put("a", stream(b"new"), "image/png")
    proxy.mend()
    assert await whole(store, "a", 0, 100) == data[:100]
    await store.close()


async def test_the_store_outlasts_a_crash_of_the_server() -> None:
    """After the S3 server was killed and started again, the same store finds what it had put."""
    with Seaweed() as seaweed:
        store = open_store(seaweed.url, access_key=seaweed.access_key, secret_key=seaweed.secret_key)
        await store.put("a/b", TEN, "image/png")
        seaweed.kill()
        with pytest.raises(ObjectError):
            await store.find("a/b")
        seaweed.start()
        assert (await whole(store, "a/b"), await kind(store, "a/b")) == (TEN, "image/png")
        await store.close()
