"""A stand-in for a vendor on a real socket: it reads whole requests, keeps them, and then behaves as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request; true keeps the connection open for the next."""


class Upstream:
    """What was received so far, and the address to send to."""

    def __init__(self, scheme: str) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.base_url = ""
        self._scheme = scheme

    def at(self, port: int) -> None:
        """Tells where it listens."""
        self.base_url = f"{self._scheme}://127.0.0.1:{port}"


@asynccontextmanager
async def upstream(
    *behaviours: Behaviour, tls: ssl.SSLContext | None = None, scheme: str = "http"
) -> AsyncIterator[Upstream]:
    """A server whose n-th request is met with the n-th behaviour, and every further one with the last."""
    found = Upstream(scheme)
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        found.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                found.requests.append(await _request(reader))
                behave = behaviours[min(len(found.requests), len(behaviours)) - 1]
                if not await behave(writer):
                    break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    found.at(server.sockets[0].getsockname()[1])
    try:
        yield found
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    return head + await reader.readexactly(length)


async def answers(writer: asyncio.StreamWriter) -> bool:
    """Answers as it should."""
    writer.write(OK)
    await writer.drain()
    return True


async def sets_a_cookie(writer: asyncio.StreamWriter) -> bool:
    """Answers with a cookie."""
    writer.write(OK.replace(b"\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n", 1))
    await writer.drain()
    return True


async def resets(writer: asyncio.StreamWriter) -> bool:
    """Resets the connection without a word."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def hangs_up(writer: asyncio.StreamWriter) -> bool:
    """Closes the connection without a word."""
    return False


async def says_nothing(writer: asyncio.StreamWriter) -> bool:
    """Never answers."""
    await asyncio.Event().wait()
    return False


async def answers_half(writer: asyncio.StreamWriter) -> bool:
    """Promises eleven bytes, sends four and closes."""
    writer.write(OK[:-7])
    await writer.drain()
    return False


async def drips(writer: asyncio.StreamWriter) -> bool:
    """Sends its answer a byte at a time, so slowly that no wait for the next byte ever gets long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def speaks_no_http(writer: asyncio.StreamWriter) -> bool:
    """Answers with something that is not HTTP."""
    writer.write(b"220 mail.example ESMTP\r\n\r\n")
    await writer.drain()
    return False
