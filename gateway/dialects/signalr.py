"""SignalR: the hubs over its JSON protocol and WebSockets, as `@microsoft/signalr` speaks it.

A record is JSON and ends with 0x1E. The protocol: a handshake, then invocations (1) in both directions, completions
(3), pings (6) and a close (7). A client may also ask for a stream (4): there are none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
from litestar import Request, Response, Router, post, websocket
from litestar.connection import WebSocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from gateway.core import grants, ids
from gateway.core.errors import GatewayError
from gateway.core.feed import Feed
from gateway.core.following import End, Follower
from gateway.core.grants import Grant
from gateway.core.runtime import Runtime
from gateway.dialects.errors import parts
from gateway.dialects.hubs import IMAGES, METHODS, VIDEOS, Calls, call, named, welcome
from gateway.web.sockets import abort_of, answer, base_of, page_may

log = logging.getLogger(__name__)
HUBS = {"image-generation": IMAGES, "video-generation": VIDEOS, "media-generation": IMAGES | VIDEOS}
PATHS = [f"/hubs/{name}" for name in HUBS]
END = "\x1e"
LARGEST = 16_384
INVOCATION, COMPLETION, STREAM_INVOCATION, PING, CLOSE = 1, 3, 4, 6, 7
HANDSHAKE_SECONDS, PING_SECONDS, SILENCE_SECONDS, SEND_SECONDS = 15.0, 15.0, 60.0, 30.0
Socket = WebSocket[Any, Any, Any]


class Record(msgspec.Struct):
    """What a client says."""

    type: int | None = None
    protocol: str | None = None
    version: int | None = None
    target: str | None = None
    arguments: list[Any] = []
    invocation_id: str | None = msgspec.field(default=None, name="invocationId")


class Gone(Exception):
    """The client has gone, or is to go: `reason` is said to it, and whether it may come back."""

    def __init__(self, reason: str | None = None, *, back: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.back = back


@post([f"{path}/negotiate" for path in PATHS], status_code=200)
async def negotiate(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], grant: NamedDependency[Grant]
) -> Response[Any]:
    """The connection's id, and that it goes over a WebSocket."""
    id = ids.new("conn", rt.now())
    transports = [{"transport": "WebSockets", "transferFormats": ["Text"]}]
    body = {"negotiateVersion": 1, "connectionId": id, "connectionToken": id, "availableTransports": transports}
    return Response(body, headers={"Cache-Control": "no-store"})


@websocket(PATHS)
async def connect(socket: Socket) -> None:
    """A connection, from its handshake to its end."""
    rt, feed = socket.app.state.runtime, socket.app.state.feed
    scope: Any = socket.scope
    if not page_may(scope, rt.settings.allow_origins):
        error = GatewayError("operation_not_allowed", "Pages of this origin may not follow tasks here.")
        return await answer(scope, socket.send, parts(error))
    grant = await grants.admit(rt, _credential(socket))
    if grant is None:
        error = GatewayError("invalid_api_key", "The key or token is missing or not valid.")
        return await answer(scope, socket.send, parts(error))
    await socket.accept()
    kinds = HUBS[socket.url.path.rpartition("/")[2]]
    await _Line(socket, rt, Follower(grant, kinds)).serve(feed)


class _Line:
    """The connection of one client."""

    def __init__(self, socket: Socket, rt: Runtime, follower: Follower) -> None:
        self.socket = socket
        self.rt = rt
        self.follower = follower
        self.base = base_of(socket.scope)
        self.calls = Calls(time.monotonic)

    async def serve(self, feed: Feed) -> None:
        """Serves until one of both sides has had enough."""
        self.follower.hold()
        try:
            async with feed.following(self.follower):
                await self._shake_hands()
                await self._until_gone()
        except GatewayError as error:
            await self._part(Gone(error.message))
        except Gone as gone:
            await self._part(gone)

    async def _shake_hands(self) -> None:
        records = await self._receive(HANDSHAKE_SECONDS)
        first = next(records, None)
        if first is None or first.protocol != "json" or first.version != 1:
            await self._send({"error": "This hub speaks version 1 of the protocol json."})
            raise Gone
        await self._send({})
        welcome(self.follower)
        for record in records:
            await self._hear(record)

    async def _until_gone(self) -> None:
        """Hears, tells and pings at the same time; the first to end ends the others."""
        parts = [asyncio.create_task(part) for part in (self._listen(), self._bring(), self._ping())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            for record in await self._receive(SILENCE_SECONDS):
                await self._hear(record)

    async def _hear(self, record: Record) -> None:
        if record.type == CLOSE:
            raise Gone
        if record.type == INVOCATION:
            found = await call(self.rt, self.follower, self.calls, self.base, record.target or "", record.arguments)
            error = found.get("error")
            told = {"error": f"{error['code']}: {error['message']}"} if isinstance(error, dict) else {"result": found}
        elif record.type == STREAM_INVOCATION:
            told = {"error": f"invalid_request: This hub has no streams. Methods to invoke: {', '.join(METHODS)}."}
        else:
            return
        if record.invocation_id is not None:
            await self._send({"type": COMPLETION, "invocationId": record.invocation_id, **told})

    async def _bring(self) -> None:
        async for told in self.follower:
            found = named(self.rt, told, self.base)
            if found is not None:
                await self._send({"type": INVOCATION, "target": found[0], "arguments": [found[1]]})
        why = self.follower.ended
        raise Gone("The key is no longer valid." if why is End.REVOKED else None, back=why is not End.REVOKED)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._send({"type": PING})

    async def _receive(self, seconds: float) -> Iterator[Record]:
        try:
            async with asyncio.timeout(seconds):
                text = await self.socket.receive_data(mode="text")
        except TimeoutError as error:
            raise Gone("Nothing was heard for too long.", back=True) from error
        except WebSocketDisconnect as error:
            raise Gone from error
        if not isinstance(text, str) or len(text) > LARGEST or not text.endswith(END):
            raise Gone("A record is too long, or not ended.")
        try:
            return iter([msgspec.json.decode(one, type=Record) for one in text[:-1].split(END)])
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise Gone("This is no record of the JSON protocol.") from error

    async def _send(self, record: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.socket.send_data(msgspec.json.encode(record).decode() + END, mode="text")
        except TimeoutError as error:
            self.follower.end(End.SLOW)
            raise Gone from error
        except (WebSocketDisconnect, OSError) as error:
            raise Gone from error

    async def _part(self, gone: Gone) -> None:
        """Says why, if the client still listens; one that takes nothing is cut."""
        abort = abort_of(self.socket.scope)
        if self.follower.ended is End.SLOW and abort is not None:
            log.info("a connection that took nothing was cut")
            return abort()
        record: dict[str, Any] = {"type": CLOSE, "allowReconnect": gone.back}
        with suppress(Exception):
            async with asyncio.timeout(1):
                await self.socket.send_data(
                    msgspec.json.encode(record | ({"error": gone.reason} if gone.reason else {})).decode() + END,
                    mode="text",
                )
                await self.socket.close()


def _credential(socket: Socket) -> str:
    """The text of a key or a token: browsers can give a WebSocket no header, so the client puts it into the address."""
    scheme, _, text = socket.headers.get("authorization", "").partition(" ")
    return text if scheme.lower() == "bearer" else str(socket.query_params.get("access_token", ""))


router = Router("/", route_handlers=[negotiate, connect], include_in_schema=False)
