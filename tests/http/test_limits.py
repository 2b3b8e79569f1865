"""Limits: what is too much, comes too slowly, or stops in the middle. Over raw sockets, against the real server."""

from __future__ import annotations

import json
import logging
import select
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from tests.http.replies import SECONDS, Reply, refused, replies, until_end
from tests.http.sending import HEALTH, PICTURE, get, only, post
from tests.http.server import Heliograph

BIG = [
    (b"X: " + b"a" * 100_000, 431, "headers_too_large"),
    (b"\r\n".join([b"X: a"] * 5000), 431, "headers_too_large"),
    (b"\r\n".join([b"X: a"] * 101), 431, "headers_too_large"),
    (b"X: " + b"a" * 1_000_000, 431, "headers_too_large"),
]


@pytest.mark.parametrize(("field", "status", "code"), BIG, ids=["long", "many", "hundred", "endless"])
def test_a_head_has_its_size(heliograph: Heliograph, field: bytes, status: int, code: str) -> None:
    """Neither one long header nor many short ones are taken, whether or not the head ever ends."""
    refused(only(heliograph, get("/health", field)), status, code)


@pytest.mark.parametrize("length", [9_000, 70_000, 1_000_000])
def test_an_address_has_its_length(heliograph: Heliograph, length: int) -> None:
    """An address beyond the limit is 414, or what the head as a whole is, never taken."""
    reply = only(heliograph, get("/health?" + "a" * length))
    assert (reply.status_code, json.loads(reply.content)["error"]["code"]) in (
        (414, "uri_too_long"),
        (431, "headers_too_large"),
    )
    assert reply.status_code == 414 or length > 100_000


def test_a_head_is_counted_for_every_request_of_a_connection(heliograph: Heliograph) -> None:
    """The second head of a connection is bounded like the first."""
    first = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection(heliograph.address, timeout=SECONDS) as line:
        line.sendall(first)
        assert line.recv(65_536).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionError):
            line.sendall(first[:-2] + b"X: ")
            for _ in range(100):
                line.sendall(b"a" * 16_384)
        assert b" 431 " in until_end(line)


def test_what_is_slow_has_its_time(heliograph: Heliograph) -> None:
    """A head or body that comes byte by byte, or not at all, ends the connection: with 408 once a request had begun.

    All at once, for each takes the second that a head or a body has.
    """
    kept = HEALTH.replace(b"Connection: close\r\n", b"")
    head = kept[:-2] + b"X: a\r\n" * 100
    slow = {
        "nothing": (b"", b"", []),
        "line breaks": (b"", b"\r\n" * 100, []),
        "a head": (b"", head, [408]),
        "a second head": (kept, head, [200, 408]),
        "a head that stops": (head, b"", [408]),
        "a body": (post(heliograph, b"Content-Length: 500"), b" " * 400, [408]),
        "a body that stops": (post(heliograph, b"Content-Length: 500", body=PICTURE), b"", [408]),
        "a chunk that stops": (post(heliograph, b"Transfer-Encoding: chunked", body=b"5\r\nab"), b"", [408]),
    }
    with ThreadPoolExecutor(len(slow)) as threads:
        told = threads.map(lambda case: _trickle(heliograph.address, case[0], case[1]), slow.values())
        found = dict(zip(slow, told, strict=True))
    assert {name: [one.status_code for one in got] for name, got in found.items()} == {
        name: statuses for name, (_, _, statuses) in slow.items()
    }
    for got in found.values():
        for reply in got:
            assert reply.status_code == 200 or refused(reply, 408, "request_timeout")


def test_a_body_that_never_ends_is_cut_at_the_limit(heliograph: Heliograph) -> None:
    """An endless body in chunks is refused when it is more than is read, long before its time is over."""
    chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
    with socket.create_connection(heliograph.address, timeout=SECONDS) as line:
        line.sendall(post(heliograph, b"Transfer-Encoding: chunked"))
        sent = 0
        while not select.select([line], [], [], 0)[0] and sent < 1000:
            line.sendall(chunk)
            sent += 1
        assert line.recv(12) == b"HTTP/1.1 413"
    assert sent <= heliograph.settings.max_body_bytes // 65_536 + 200


def test_a_body_too_large_is_refused_before_it_is_sent(heliograph: Heliograph) -> None:
    """A length beyond the limit is refused at once; who waits for 100 Continue is spared the upload."""
    with socket.create_connection(heliograph.address, timeout=SECONDS) as line:
        line.sendall(post(heliograph, b"Content-Length: 999999999", b"Expect: 100-continue"))
        assert line.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunks"])
def test_a_client_that_sends_all_the_same_gets_to_read_the_refusal(client: httpx.Client, declared: bool) -> None:
    """A body of 11 MB is 413 in the usual shape for a client that sends it whole before it listens."""
    body = b'{"prompt":"' + b"a" * 11_000_000 + b'"}'
    content = body if declared else iter([body[at : at + 65_536] for at in range(0, len(body), 65_536)])
    reply = client.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"})
    refused(reply, 413, "payload_too_large")


def test_a_client_that_goes_away_is_no_fault(heliograph: Heliograph, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is cut in the middle of a body ends the request with a refusal that nobody reads."""
    with caplog.at_level(logging.INFO, "gateway.edge.guard"):
        with socket.create_connection(heliograph.address, timeout=SECONDS) as line:
            line.sendall(post(heliograph, b"Content-Length: 500", body=PICTURE))
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        deadline = time.monotonic() + SECONDS
        while not any(" POST " in f" {text}" and " 4" in text for text in caplog.messages):
            assert time.monotonic() < deadline, caplog.messages
            select.select([], [], [], 0.01)


def _trickle(address: tuple[str, int], first: bytes, then: bytes) -> list[Reply]:
    """Sends the one at once and the other byte by byte, five in a second; the replies until the connection ends."""
    with socket.create_connection(address, timeout=SECONDS) as line:
        line.sendall(first)
        received = b""
        for at in range(len(then)):
            if select.select([line], [], [], 0.2)[0]:
                chunk = _heard(line)
                received += chunk
                if not chunk:
                    break
            with suppress(ConnectionError):
                line.sendall(then[at : at + 1])
        return list(replies(received + until_end(line)))


def _heard(line: socket.socket) -> bytes:
    """What there is to hear; nothing at the end of the connection, however it ended."""
    try:
        return line.recv(65_536)
    except ConnectionResetError:
        return b""
