"""The ways in which a vendor misbehaves: what it does once it has read a request, in bytes that were written by hand.

Each is a `Behaviour` of tests/providers/sockets.py, with the errors that a call may then raise. A paid call whose order
was read is never Unavailable unless the vendor said itself that it took nothing, for it would be bought again.
"""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import msgspec

from providers.contract import BadCredential, Broken, ProviderError, RateLimited, Refused, Unavailable, Unsure
from tests.providers.sockets import Behaviour, hangs_up, resets, says_nothing

Change = Callable[[Any], Any]
"""What stands in the place of a text or a number."""

MEMORY = 64 * 2**20
"""Bytes that one answer may take: 16 kB of a packed one, the least that is unpacked at once, can be 16 MiB."""
TICK = 0.01
"""Seconds between two pieces of an answer that never comes to its end."""
HTML = b"<!doctype html><html><title>Just a moment</title></html>"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
DEEP = b'{"error":' * 100_000 + b"{}" + b"}" * 100_000


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails when the block has ever held more than MEMORY."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak / 2**20:.0f} MiB were held"


class Misbehaviour(NamedTuple):
    """What is done, and what it becomes for a call that may cost money and for one that does not."""

    name: str
    behave: Behaviour
    paid: tuple[type[ProviderError], ...]
    unpaid: tuple[type[ProviderError], ...]


class Elsewhere:
    """Counts who connects to it, and hangs up on everybody without reading a byte."""

    def __init__(self) -> None:
        self.connections = 0
        self.base_url = ""


@asynccontextmanager
async def elsewhere() -> AsyncIterator[Elsewhere]:
    """A listener to which nobody should come."""
    found = Elsewhere()

    async def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        writer.close()

    server = await asyncio.start_server(turn_away, "127.0.0.1", 0)
    found.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()


def head(status: int = 200, *headers: str, media_type: str = "application/json") -> bytes:
    """The head of an answer after which the connection is closed."""
    lines = (f"HTTP/1.1 {status} Whatever", "Connection: close", f"Content-Type: {media_type}", *headers)
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def whole(body: bytes, status: int = 200, *headers: str, media_type: str = "application/json") -> bytes:
    """A sound answer."""
    return head(status, f"Content-Length: {len(body)}", *headers, media_type=media_type) + body


def says(*pieces: bytes) -> Behaviour:
    """Answers with these bytes and closes."""

    async def behave(writer: asyncio.StreamWriter) -> bool:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return False

    return behave


def floods(begin: bytes, piece: bytes) -> Behaviour:
    """Answers as fast as it is read, and never comes to an end."""

    async def behave(writer: asyncio.StreamWriter) -> bool:
        writer.write(begin)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            # A drain that need not wait does not let others run, not even the one who would stop this.
            await asyncio.sleep(0)
        return False

    return behave


def drips(begin: bytes, piece: bytes) -> Behaviour:
    """Answers a little with each tick, so that no wait for the next piece ever gets long."""

    async def behave(writer: asyncio.StreamWriter) -> bool:
        writer.write(begin)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(TICK)
        return False

    return behave


def points(location: str, status: int) -> Behaviour:
    """Redirects."""
    return says(whole(b"", status, f"Location: {location}"))


def bomb(wbits: int) -> bytes:
    """A gigabyte of zeros, packed: a megabyte that can be repeated, for it refers to nothing before it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    begin = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return begin + piece * 1024


GZIP, DEFLATE = bomb(zlib.MAX_WBITS | 16), bomb(zlib.MAX_WBITS)
TWICE = gzip.compress(GZIP)
CHUNKED = "Transfer-Encoding: chunked"
CHUNK = b"10000\r\n" + bytes(2**16) + b"\r\n"
UNSURE = (Unsure,), (Unavailable,)
BROKEN = (Broken,), (Broken,)
# What a card makes of a status without any word of the vendor's own may differ: that nothing was taken, it may not.
REFUSED = (Refused, Unavailable), (Refused, Unavailable, Broken)
LIMITED = (RateLimited,), (RateLimited,)
BARRED = (BadCredential,), (BadCredential,)

PROMPT = (
    Misbehaviour("hangs up", hangs_up, *UNSURE),
    Misbehaviour("resets", resets, *UNSURE),
    Misbehaviour("half a head", says(head()[:-4]), *UNSURE),
    Misbehaviour("half a body", says(whole(b'{"id":"job-1"}')[:-4]), *UNSURE),
    Misbehaviour("half a chunked body", says(head(200, CHUNKED) + b"5\r\n{"), *UNSURE),
    Misbehaviour("chunks without an end", says(head(200, CHUNKED) + b"2\r\n{}\r\n"), *UNSURE),
    Misbehaviour("chunks that are none", says(head(200, CHUNKED) + b"zz\r\n{}\r\n0\r\n\r\n"), *UNSURE),
    Misbehaviour("a negative length", says(head(200, "Content-Length: -5") + b"{}"), *UNSURE),
    Misbehaviour("two lengths", says(head(200, "Content-Length: 2", "Content-Length: 3") + b"{}"), *UNSURE),
    Misbehaviour("another protocol", says(b"220 mail.example ESMTP\r\n\r\n"), *UNSURE),
    Misbehaviour("a status that is none", says(b"HTTP/1.1 two OK\r\nContent-Length: 2\r\n\r\n{}"), *UNSURE),
    Misbehaviour("a status of six digits", says(b"HTTP/1.1 200200 OK\r\nContent-Length: 2\r\n\r\n{}"), *UNSURE),
    Misbehaviour("a version that is none", says(b"HTTP/one 200 OK\r\nContent-Length: 2\r\n\r\n{}"), *UNSURE),
    Misbehaviour("a NUL in a header", says(whole(b"{}", 200, "X-Id: a\0b")), *UNSURE),
    Misbehaviour("an early hint and no more", says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3), *UNSURE),
    Misbehaviour("HTML", says(whole(HTML, media_type="text/html")), *BROKEN),
    Misbehaviour("nothing", says(whole(b"")), *BROKEN),
    Misbehaviour("no content", says(b"HTTP/1.1 204 No Content\r\n\r\n"), *BROKEN),
    Misbehaviour("another protocol from here on", says(SWITCH), *BROKEN),
    Misbehaviour("HTML after early hints", says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000, whole(HTML)), *BROKEN),
    Misbehaviour("deep JSON", says(whole(DEEP)), *BROKEN),
    Misbehaviour("deep lists", says(whole(b"[" * 100_000 + b"]" * 100_000)), *BROKEN),
    Misbehaviour("UTF-16", says(whole('{"id":"job-1"}'.encode("utf-16"))), *BROKEN),
    Misbehaviour("gzip that is none", says(whole(b"{}", 200, "Content-Encoding: gzip")), *BROKEN),
    Misbehaviour("a coding of its own", says(whole(b"{}"[::-1], 200, "Content-Encoding: own")), *BROKEN),
    Misbehaviour("400 in deep JSON", says(whole(DEEP, 400)), *REFUSED),
    Misbehaviour("400 in no charset", says(whole(b"{}", 400, media_type="text/plain; charset=hex")), *REFUSED),
    Misbehaviour("429 in deep JSON", says(whole(DEEP, 429)), *LIMITED),
    Misbehaviour("502 in deep JSON", says(whole(DEEP, 502)), *UNSURE),
)
"""All that is over at once."""

IMMENSE = (
    Misbehaviour("an endless body", floods(head(), bytes(2**16)), *BROKEN),
    Misbehaviour("endless chunks", floods(head(200, CHUNKED), CHUNK), *BROKEN),
    Misbehaviour("10 GB", floods(head(200, "Content-Length: 10737418240"), bytes(2**16)), *BROKEN),
    Misbehaviour("a claim of 10 GB", drips(head(200, "Content-Length: 10737418240"), b""), *BROKEN),
    Misbehaviour("a gzip bomb", says(head(200, "Content-Encoding: gzip"), GZIP), *BROKEN),
    Misbehaviour("a deflate bomb", says(head(200, "Content-Encoding: deflate"), DEFLATE), *BROKEN),
    Misbehaviour("a gzip bomb in gzip", says(whole(TWICE, 200, "Content-Encoding: gzip, gzip")), *BROKEN),
    Misbehaviour("six codings", says(whole(TWICE, 200, "Content-Encoding: gzip" + ", gzip" * 5)), *BROKEN),
    Misbehaviour("429 and no end", floods(head(429), bytes(2**16)), *LIMITED),
    Misbehaviour("401 and a bomb", says(head(401, "Content-Encoding: gzip"), GZIP), *BARRED),
    Misbehaviour("502 and no end", floods(head(502), b"[" * 2**16), *UNSURE),
    Misbehaviour("endless headers", floods(b"HTTP/1.1 200 OK\r\n", b"X-Id: y\r\n" * 2**12), *UNSURE),
    Misbehaviour("an endless header", floods(b"HTTP/1.1 200 OK\r\nX-Id: ", b"y" * 2**16), *UNSURE),
    Misbehaviour("an endless status line", floods(b"HTTP/1.1 200 ", b"y" * 2**16), *UNSURE),
    Misbehaviour("endless trailers", floods(head(200, CHUNKED) + b"0\r\n", b"X-Id: y\r\n" * 2**12), *UNSURE),
)
"""All that would be too much to keep."""

SLOW = (
    Misbehaviour("silence", says_nothing, *UNSURE),
    Misbehaviour("a head by drips", drips(b"HTTP/1.1 200 OK\r\nX-Id: ", b"y"), *UNSURE),
    Misbehaviour("headers by drips", drips(b"HTTP/1.1 200 OK\r\n", b"X-Id: y\r\n"), *UNSURE),
    Misbehaviour("a body by drips", drips(head(200, "Content-Length: 1000000"), b" "), *UNSURE),
    Misbehaviour("chunks by drips", drips(head(200, CHUNKED), b"1\r\n \r\n"), *UNSURE),
    Misbehaviour("a chunk's name by drips", drips(head(200, CHUNKED) + b"1;", b"x"), *UNSURE),
    Misbehaviour("400 by drips", drips(head(400), b" "), (Unsure,), (Unavailable,)),
    Misbehaviour("a storm of early hints", floods(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), *UNSURE),
    Misbehaviour("an endless name of a chunk", floods(head(200, CHUNKED) + b"1;", b"x" * 2**12), *UNSURE),
)
"""All that never comes to an end."""


def texts(change: Callable[[str], Any]) -> Change:
    """Changes texts and leaves numbers."""
    return lambda value: change(value) if isinstance(value, str) else value


def numbers(literal: bytes) -> Change:
    """Puts this in the place of each number."""
    return lambda value: value if isinstance(value, str) else msgspec.Raw(literal)


ODDITIES: Mapping[str, Change] = {
    "halves of characters": texts(lambda text: msgspec.Raw(b'"\\ud800' + text[:1].encode("ascii", "ignore") + b'"')),
    "NUL": texts(lambda text: f"{text}\0"),
    "what no terminal should print": texts(lambda text: f"{text}\x1b[2J\u202e\u2028"),
    "long texts": texts(lambda text: text + "x" * 100_000),
    "empty texts": texts(lambda text: ""),
    "numbers for texts": texts(lambda text: 7),
    "numbers that overflow": numbers(b"1e999999"),
    "numbers of 5000 digits": numbers(b"9" * 5000),
    "numbers of 100 digits": numbers(b"9" * 100),
    "negative numbers": numbers(b"-1"),
    "texts for numbers": numbers(b'"7"'),
    "nulls": lambda value: None,
    "lists": lambda value: [value],
    "objects": lambda value: {"value": value},
    "true": lambda value: True,
}
"""What a vendor's own answers are changed to."""


def replaced(value: Any, change: Change) -> Any:
    """The JSON value with each text and each number in it changed."""
    if isinstance(value, dict):
        return {name: replaced(one, change) for name, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, change) for one in value]
    return value if value is None or isinstance(value, bool) else change(value)
