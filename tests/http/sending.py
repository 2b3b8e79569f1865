"""Requests written out byte by byte, for what no client would send."""

from __future__ import annotations

from tests.http.replies import Reply, exchange
from tests.http.server import Heliograph

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PICTURE = b'{"model":"demo-image","prompt":"x","size":"256x256"}'


def get(target: str = "/health", *fields: bytes, host: bytes = b"a", method: str = "GET") -> bytes:
    """A request of those header fields that asks for an end of the connection."""
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"Host: " + host, *fields, b"Connection: close"]
    return b"\r\n".join((*lines, b"", b""))


def post(heliograph: Heliograph, *fields: bytes, body: bytes = b"") -> bytes:
    """A request for a picture of those header fields, and a body just as it is."""
    lines = [b"POST /v1/images/generations HTTP/1.1", b"Host: a", b"Authorization: Bearer " + heliograph.key.encode()]
    return b"\r\n".join((*lines, b"Content-Type: application/json", *fields, b"", body))


def whole(heliograph: Heliograph, *fields: bytes) -> bytes:
    """A request for a picture that is in order."""
    return post(heliograph, b"Content-Length: %d" % len(PICTURE), *fields, body=PICTURE)


def only(heliograph: Heliograph, data: bytes) -> Reply:
    """The one reply that those bytes get before the connection ends."""
    (reply,) = exchange(heliograph.address, data)
    return reply
