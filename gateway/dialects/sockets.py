"""Socket.IO: the hubs as namespaces. A connection hears of all tasks that its key or token may follow.

What happens comes from the feed of this process, which hears of all processes: Socket.IO itself need know of no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

import socketio
from litestar.types import Receive, Scope, Send
from socketio.exceptions import ConnectionRefusedError as Refused

from gateway.core import grants
from gateway.core.errors import GatewayError
from gateway.core.feed import Feed
from gateway.core.following import End, Follower
from gateway.core.runtime import Runtime
from gateway.dialects.errors import parts
from gateway.dialects.hubs import IMAGES, METHODS, VIDEOS, Calls, call, named, welcome
from gateway.dialects.packets import LARGEST, MOST, Packets, whole_body
from gateway.web.sockets import abort_of, answer, base_of, page_may
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
PATH = "/socket.io"
NAMESPACES = {"/hubs/image-generation": IMAGES, "/hubs/video-generation": VIDEOS, "/hubs/tasks": IMAGES | VIDEOS}
# How long a connection may belong to nobody, and how often that is looked at.
STRANGER_SECONDS, LOOK_SECONDS = 20.0, 5.0
# How long a client may take for one thing that it is sent.
SEND_SECONDS = 30.0
CLOSE_SECONDS = 1.0
# The library logs what clients do wrong as errors; what goes wrong here is logged here.
QUIET = logging.getLogger("gateway.socketio")
QUIET.setLevel(logging.CRITICAL)


class Connection:
    """One client in one namespace: its follower, the address that it called, and what brings it the news."""

    def __init__(self, eio_sid: str, follower: Follower, base: str) -> None:
        self.eio_sid = eio_sid
        self.follower = follower
        self.base = base
        self.calls = Calls(time.monotonic)
        self.pump: asyncio.Task[None] | None = None


class Sockets:
    """The Socket.IO server as an ASGI application. With `polling` clients may begin without a WebSocket.

    That is for a single process: the requests of one client would find different ones of several.
    """

    def __init__(self, *, polling: bool) -> None:
        self.server = socketio.AsyncServer(
            async_mode="asgi", transports=["polling", "websocket"] if polling else ["websocket"],
            cors_allowed_origins=[], max_http_buffer_size=LARGEST * MOST, logger=QUIET, engineio_logger=QUIET,
            http_compression=False, namespaces=list(NAMESPACES),
        )  # fmt: skip
        for path, kinds in NAMESPACES.items():
            self.server.register_namespace(Hub(path, kinds, self))
        self.aborts: dict[str, Callable[[], None]] = {}
        self._arrived: dict[str, float] = {}
        self._opened: tuple[Runtime, Feed] | None = None

    @property
    def rt(self) -> Runtime:
        """The process's runtime."""
        assert self._opened is not None  # noqa: S101 - nothing is served before
        return self._opened[0]

    @property
    def feed(self) -> Feed:
        """The process's feed."""
        assert self._opened is not None  # noqa: S101 - nothing is served before
        return self._opened[1]

    @asynccontextmanager
    async def open(self, rt: Runtime, feed: Feed) -> AsyncIterator[None]:
        """Serves for as long as the block lasts."""
        self._opened = rt, feed
        looking = asyncio.create_task(self._look_around())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
            await self.server.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a sound request to the library."""
        if not page_may(scope, self.rt.settings.allow_origins):
            error = GatewayError("operation_not_allowed", "Pages of this origin may not follow tasks here.")
            return await answer(scope, send, parts(error))
        if scope["type"] == "websocket":  # type: ignore[comparison-overlap]  # Litestar's enum is a str
            return await self._serve_socket(scope, receive, send)
        try:
            await self.server.handle_request(scope, await whole_body(receive, METHODS), send)
        except GatewayError as error:
            await answer(scope, send, parts(error))

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        eio_sid = parse_qs(scope["query_string"].decode("latin-1")).get("sid", [""])[0]
        abort = abort_of(scope)
        upgrades = abort is not None and eio_sid in self.server.eio.sockets
        if upgrades and abort is not None:
            self.aborts[eio_sid] = abort
        try:
            await self.server.handle_request(scope, Packets(receive, METHODS), send)
        finally:
            if upgrades:
                self.aborts.pop(eio_sid, None)

    async def _look_around(self) -> None:
        """Forgets, again and again, who is gone, and closes what has joined no hub for a while."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for hub in self.server.namespace_handlers.values():
                await hub.forget_gone()
            await self._dismiss_strangers()

    async def _dismiss_strangers(self) -> None:
        now = time.monotonic()
        known = {one.eio_sid for hub in self.server.namespace_handlers.values() for one in hub.connections.values()}
        strangers = {sid for sid in self.server.eio.sockets if sid not in known}
        self._arrived = {sid: self._arrived.get(sid, now) for sid in strangers}
        await asyncio.gather(
            *(self.close(sid) for sid, since in self._arrived.items() if now - since > STRANGER_SECONDS)
        )

    async def close(self, eio_sid: str) -> None:
        """Closes a connection. The library would wait for ever until a client that takes nothing takes the word."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.server.eio.disconnect(eio_sid)
        self.server.eio.sockets.pop(eio_sid, None)


class Hub(socketio.AsyncNamespace):  # type: ignore[misc]  # the library has no types
    """A namespace that tells of tasks of these kinds."""

    def __init__(self, path: str, kinds: frozenset[str], sockets: Sockets) -> None:
        super().__init__(path)
        self.kinds = kinds
        self.sockets = sockets
        self.connections: dict[str, Connection] = {}

    async def trigger_event(self, event: str, *arguments: Any) -> Any:
        """Lets a client in or go, or does what it calls for."""
        sid = arguments[0]
        if event == "connect":
            return await self._connect(sid, arguments[1], arguments[2] if len(arguments) > 2 else None)
        if event == "disconnect":
            return self._disconnect(sid)
        one = self.connections.get(sid)
        if one is None:
            return None
        return await call(self.sockets.rt, one.follower, one.calls, one.base, event, list(arguments[1:]))

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        scope, eio_sid = environ["asgi.scope"], self.server.manager.eio_sid_from_sid(sid, self.namespace)
        try:
            grant = await grants.admit(self.sockets.rt, _credential(environ, auth))
            if grant is None:
                raise GatewayError(
                    "invalid_api_key", "The key or token is missing or not valid. Send it as auth.token."
                )
            follower = Follower(grant, self.kinds)
            follower.hold()
            await self.sockets.feed.add(follower)
        except GatewayError as error:
            raise Refused(error.code, {"code": error.code, "message": error.message}) from error
        except DatabaseUnavailable as error:
            code = "database_unavailable"
            raise Refused(code, {"code": code, "message": "The database does not answer."}) from error
        one = self.connections[sid] = Connection(eio_sid, follower, base_of(scope))
        abort = abort_of(scope)
        if abort is not None:
            self.sockets.aborts[eio_sid] = abort
        one.pump = asyncio.create_task(self._bring(sid, one))
        welcome(follower)

    async def forget_gone(self) -> None:
        """Forgets who went while he was let in: the library does not tell of him."""
        for sid, one in list(self.connections.items()):
            if one.eio_sid not in self.server.eio.sockets:
                self._disconnect(sid)
                await self.server.manager.disconnect(sid, self.namespace, ignore_queue=True)

    def _disconnect(self, sid: str) -> None:
        one = self.connections.pop(sid, None)
        if one is not None:
            self.sockets.feed.remove(one.follower)
            if not any(one.eio_sid == other.eio_sid for other in self.connections.values()):
                self.sockets.aborts.pop(one.eio_sid, None)
            if one.pump is not None and one.pump is not asyncio.current_task():
                one.pump.cancel()

    async def _bring(self, sid: str, one: Connection) -> None:
        """Sends what the follower is told: the next thing when the connection has taken the one before."""
        try:
            async for told in one.follower:
                found = named(self.sockets.rt, told, one.base)
                if found is not None:
                    await self.emit(found[0], found[1], to=sid)
                    async with asyncio.timeout(SEND_SECONDS):
                        await self._taken(one)
        except TimeoutError:
            one.follower.end(End.SLOW)
        except Exception:
            log.exception("a connection was not told")
        await self._part(sid, one)

    async def _taken(self, one: Connection) -> None:
        """Waits until the client has taken what was sent: the library would keep all that comes meanwhile."""
        transport = self.server.eio.sockets.get(one.eio_sid)
        if transport is not None:
            await transport.queue.join()

    async def _part(self, sid: str, one: Connection) -> None:
        """Sends the client away: for good, or so that it comes back by itself."""
        if one.follower.ended is End.REVOKED:
            return await self.disconnect(sid)  # type: ignore[no-any-return]  # the library has no types
        abort = self.sockets.aborts.get(one.eio_sid)
        if one.follower.ended is End.SLOW and abort is not None:
            log.info("a connection that took nothing was cut")
            return abort()
        await self.sockets.close(one.eio_sid)


def _credential(environ: dict[str, Any], auth: Any) -> str:
    """The text of a key or a token. One in the address is not looked at: addresses are logged on the way."""
    if isinstance(auth, dict) and auth.get("token") is not None:
        return str(auth["token"])
    scheme, _, text = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return text if scheme.lower() == "bearer" else str(environ.get("HTTP_X_API_KEY", ""))
