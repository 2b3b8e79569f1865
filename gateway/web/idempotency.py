"""Idempotency-Key: a client's own name for a request, so that a repetition is known as one."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from litestar import Request

from gateway.core.claims import Idempotency
from gateway.core.errors import GatewayError

KEY = re.compile(r"[\x21-\x7e]{1,255}")


def idempotency_of(request: Request[Any, Any, Any], body: bytes) -> Idempotency | None:
    """What the header says, with a digest of route and body in which order and spaces do not count.

    `body` is JSON, or the fingerprint of a form, or empty where the route takes none. Raises `invalid_header`.
    """
    given = request.headers.getall("idempotency-key", [])
    if not given:
        return None
    text = _bare(given[0])
    if len(given) > 1 or not KEY.fullmatch(text):
        message = "There must be one Idempotency-Key, of 1 to 255 printable ASCII characters without spaces."
        raise GatewayError("invalid_header", message)
    plain = msgspec.json.encode(msgspec.json.decode(body), order="sorted") if body else b""
    digest = hashlib.sha256(request.scope["path"].encode() + b"\n" + plain).hexdigest()
    return Idempotency(text, digest)


def _bare(text: str) -> str:
    """The key without the quotes that RFC 8941 wants around it: with and without them it is the same."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
