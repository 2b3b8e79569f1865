"""Sockets before they are any, and those that take nothing: over raw connections, as no client would."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.core.hub import LARGEST_PREVIEW
from gateway.core.ports import Note
from gateway.core.tables import TASKS
from gateway.dialects import signalr, sockets
from providers.contract import Preview
from storage.database import Database
from tests.http.replies import exchange, refused, replies, until_end
from tests.http.server import Heliograph

UPGRADE = (
    b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
# With what a close frame begins, and no text before it has.
CLOSE = b"\x88"
PATH = b"/socket.io/?EIO=4&transport=websocket"


def opening(*fields: bytes, line: bytes = b"GET " + PATH + b" HTTP/1.1", without: int | None = None) -> bytes:
    """A request that opens a socket, but for a change."""
    usual = [field for number, field in enumerate(UPGRADE) if number != without]
    return b"\r\n".join((line, *usual, *fields, b"", b""))


def test_a_socket_is_opened(heliograph: Heliograph) -> None:
    """So that what is refused below is refused for its own reason."""
    with socket.create_connection(heliograph.address, timeout=8) as line:
        line.sendall(opening())
        assert line.recv(65_536).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (opening(line=b"POST " + PATH + b" HTTP/1.1"), 400),
        (opening(line=b"GET " + PATH + b" HTTP/1.0"), 400),
        (opening(line=b"GET " + PATH + b"&x=\xe9 HTTP/1.1"), 400),
        (opening(line=b"GET " + PATH + b"&x=" + b"a" * 8_100 + b" HTTP/1.1"), 400),
        (opening(b"Content-Length: 1"), 400),
        (opening(b"Transfer-Encoding: chunked"), 400),
        (opening(b"X: " + b"a" * 8_100), 400),
        (opening(*[b"X-%d: a" % number for number in range(101)]), 400),
        (opening(without=0), 400),
        (opening(b"Host: b"), 400),
        (opening(without=3), 400),
        (opening(without=4), 400),
    ],
)
def test_an_opening_that_is_none_is_refused(heliograph: Heliograph, request_bytes: bytes, status: int) -> None:
    """With a reply, no fault of ours, and the connection ends."""
    (reply,) = exchange(heliograph.address, request_bytes)
    assert reply.status_code in (status, 426)


def test_a_protocol_that_is_no_text_is_refused(heliograph: Heliograph) -> None:
    """And the server goes on."""
    (reply,) = exchange(heliograph.address, opening(b"Sec-WebSocket-Protocol: caf\xc3\xa9"))
    assert reply.status_code == 400
    assert httpx.get(f"{heliograph.url}/health").status_code == 200


def test_a_socket_is_not_opened_before_the_last_reply(heliograph: Heliograph, client: httpx.Client, task: str) -> None:
    """Whose bytes would mix with the frames."""
    first = f"GET /v1/tasks/{task}?wait=20 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {heliograph.key}\r\n\r\n"
    with socket.create_connection(heliograph.address, timeout=8) as line:
        line.sendall(first.encode())
        time.sleep(0.2)
        line.sendall(opening())
        (reply, *_) = replies(line.recv(65_536))
    refused(reply, 400, "invalid_request")


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\xff" + (100 << 20).to_bytes(8, "big") + bytes(4),
        b"\x81\x82" + bytes(4) + b"4\xff",
        b"\x81\x01" + b"3",
    ],
    ids=["100 MB", "no UTF-8", "no mask"],
)
def test_a_frame_that_is_none_ends_the_connection(heliograph: Heliograph, frame: bytes) -> None:
    """At its head: nothing is waited for, and the server goes on."""
    with socket.create_connection(heliograph.address, timeout=20) as line, line.makefile("rb") as file:
        line.sendall(opening())
        head = list(iter(file.readline, b"\r\n"))
        line.sendall(frame)
        assert CLOSE in file.read()
    assert b" 101 " in head[0]
    assert httpx.get(f"{heliograph.url}/health").status_code == 200


BLINDLY = {
    "/socket.io/?EIO=4&transport=websocket": '40/hubs/tasks,{"token":"%s"}',
    "/hubs/media-generation?access_token=%s": '{"protocol":"json","version":1}\x1e',
}


@pytest.mark.parametrize("path", BLINDLY)
def test_who_takes_nothing_is_cut(
    heliograph: Heliograph, client: httpx.Client, task: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads nothing is closed while much is told, and what waits for it stays little."""
    for module in (sockets, signalr):
        monkeypatch.setattr(module, "SEND_SECONDS", 0.5)
    text = client.post("/v1/realtime/tokens", json={"task_id": task}).json()["token"]
    note = Note(task, asyncio.run(_key_of(heliograph, task)), 50, None, Preview("image/png", bytes(LARGEST_PREVIEW)))
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20)
        line.connect(heliograph.address)
        line.sendall(opening(line=f"GET {path.replace('%s', text)} HTTP/1.1".encode()))
        line.recv(500)
        line.sendall(_frame(BLINDLY[path].replace("%s", text).encode()))
        followers = heliograph.application.app.state.feed._followers
        _wait(lambda: followers.get(note.key_id))
        _wait(lambda: not followers.get(note.key_id), lambda: heliograph.tell(note))
        assert len(until_end(line)) < 20 * LARGEST_PREVIEW


def _wait(come: Callable[[], Any], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Waits until it has come to that, and does something meanwhile."""
    deadline = time.monotonic() + 20
    while not come():
        assert time.monotonic() < deadline, "it did not come to that"
        meanwhile()
        time.sleep(0.02)


def _frame(payload: bytes) -> bytes:
    """A text frame as a client sends it, with a mask that changes nothing."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + payload


async def _key_of(heliograph: Heliograph, task: str) -> str:
    db = Database(heliograph.settings.database)
    async with db.read() as connection:
        found = str((await connection.execute(select(TASKS.c.key_id).where(TASKS.c.id == task))).scalar_one())
    await db.close()
    return found
