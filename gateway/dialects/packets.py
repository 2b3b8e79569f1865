"""Packets: what a Socket.IO client may send, looked at before the library sees it.

The library takes binary events whose attachments never come, dispatches `connect` and `disconnect` that a client made
up, and is upset by what is no packet at all. Clients here call two methods; of other calls those get through that wait
for an answer, to be told that there is no such method.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from enum import Enum
from typing import Any

import msgspec
from litestar.types import Receive

from gateway.core.errors import GatewayError

LARGEST, MOST = 16_384, 16
"""Characters of a packet, and packets of one request."""
SILENCE_SECONDS = 60.0
"""How long a client may say nothing that counts. Each has to answer a ping before that; one that never ends its upgrade
is not asked to by the library."""
SEPARATOR = "\x1e"
# What the library itself calls so.
RESERVED = frozenset({"connect", "disconnect", "connect_error", "__disconnect_final"})
# Of Engine.IO: close, the probe of an upgrade, pong, upgrade, noop.
PLAIN = re.compile(r"1|2probe|3|5|6")
# Of Socket.IO: connect, disconnect, event, answer to one of ours; its namespace, its number, what it says.
MESSAGE = re.compile(r"4(?P<type>[0-3])(?P<namespace>/[!-+\--~]{0,99}(?:,|$))?(?P<id>\d{0,9})(?P<data>.*)", re.DOTALL)


class Verdict(Enum):
    """What becomes of a packet: it is passed on, ignored, or ends the connection."""

    PASS = "pass"  # noqa: S105 - no password
    IGNORE = "ignore"
    END = "end"


class Packets:
    """What a client sends, as the library may have it. `methods` are the events that it may emit."""

    def __init__(self, receive: Receive, methods: Collection[str]) -> None:
        self.receive = receive
        self.methods = methods

    async def __call__(self) -> Any:
        """The next message: a sound frame, or the end of the connection in place of one that is not, or of silence."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await self._next()
        except TimeoutError:
            return {"type": "websocket.disconnect", "code": 1001}

    async def _next(self) -> Any:
        while True:
            message: Any = await self.receive()
            if message["type"] != "websocket.receive":
                return message
            verdict = judge(message.get("text"), self.methods)
            if verdict is Verdict.PASS:
                return message
            if verdict is Verdict.END:
                return {"type": "websocket.disconnect", "code": 1003}


async def whole_body(receive: Receive, methods: Collection[str]) -> Receive:
    """The packets of a request, checked, as the library receives them; raises `invalid_request` for unsound ones."""
    body = b""
    while True:
        message: Any = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
        if len(body) > LARGEST * MOST:
            message = f"The request body is too large: at most {LARGEST * MOST} bytes are taken here."
            raise GatewayError("payload_too_large", message)
    try:
        packets = body.decode().split(SEPARATOR) if body else []
    except UnicodeDecodeError as error:
        raise GatewayError("invalid_request", "The body is not in UTF-8.") from error
    verdicts = [judge(packet, methods) for packet in packets]
    if Verdict.END in verdicts or len(packets) > MOST:
        raise GatewayError("invalid_request", "The body holds something that is no packet of a client.")
    passed = [packet for packet, verdict in zip(packets, verdicts, strict=True) if verdict is Verdict.PASS]
    sound: Any = {"type": "http.request", "body": SEPARATOR.join(passed).encode(), "more_body": False}
    coming = iter([sound])

    async def again() -> Any:
        return next(coming, None) or await receive()

    return again


def judge(packet: str | None, methods: Collection[str]) -> Verdict:
    """What becomes of a packet; None stands for one that is binary."""
    if packet is None or len(packet) > LARGEST:
        return Verdict.END
    if PLAIN.fullmatch(packet):
        return Verdict.PASS
    found = MESSAGE.fullmatch(packet)
    if found is None:
        return Verdict.END
    try:
        data = msgspec.json.decode(found["data"]) if found["data"] else None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return Verdict.END
    if found["type"] == "0":
        return Verdict.PASS if isinstance(data, dict | None) else Verdict.END
    if found["type"] == "1":
        return Verdict.PASS if data is None else Verdict.END
    if found["type"] == "2" and isinstance(data, list) and data and isinstance(data[0], str):
        waits = bool(found["id"]) and data[0] not in RESERVED
        return Verdict.PASS if data[0] in methods or waits else Verdict.IGNORE
    return Verdict.IGNORE
