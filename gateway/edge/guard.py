"""The guard: what every request must be before a handler sees it, and the id that every reply carries.

The servers behind us accept requests without a Host, with two of them, with endless headers, and bodies that never
arrive. Those end here, in the error shape of the API.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send, WebSocketScope

from gateway.core.errors import GatewayError
from gateway.web.sockets import answer

log = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(:(?P<port>\d{1,5})?)?")
LAST_PORT = 65_535
MOST_HEADERS, MOST_HEADER_BYTES, LONGEST_TARGET = 100, 32_768, 8_192

# The member of the server's state that lets waiting requests go.
RELEASE = "release"

Refuse = Callable[[GatewayError], tuple[int, list[tuple[bytes, bytes]], bytes]]


class Guard:
    """An ASGI layer around the application. `refuse` renders an error as status, headers and body.

    `bodies` are the most bytes that a body may have and the most seconds that it may take, `forms` those of a form
    with files.
    `release` is left where a connection finds it, to be called when the server begins to stop.
    """

    def __init__(
        self,
        app: ASGIApp,
        refuse: Refuse,
        release: Callable[[], None],
        *,
        bodies: tuple[int, float],
        forms: tuple[int, float],
    ) -> None:
        self.app = app
        self.refuse = refuse
        self.release = release
        self.bodies = bodies
        self.forms = forms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is sound, and answers the rest itself: also what the application failed to answer."""
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._open(scope, receive, send)
            return
        if scope["type"] != ScopeType.HTTP:
            scope.setdefault("state", {})[RELEASE] = self.release
            await self.app(scope, receive, send)
            return
        reply = _Reply(send, _request_id(scope))
        most, seconds = self.forms if _is_form(scope) else self.bodies
        body = _Body(receive, reply, most, seconds)
        scope.setdefault("state", {})["request_id"] = reply.request_id.decode()
        # A mounted application is given another path, in the same scope.
        started, place = time.monotonic(), _printable(scope["path"])
        try:
            _check(scope, most)
            await self.app(_as_get(scope), body, reply)
        except asyncio.CancelledError:
            # The server does not wait for this request any more. Whether it has made a task is not known here.
            if reply.status is None:
                await self._answer(reply, GatewayError("internal_error", "The gateway was stopped."))
            raise
        except Exception as error:
            if reply.status is not None:
                raise
            await self._answer(reply, error)
        finally:
            milliseconds = (time.monotonic() - started) * 1000
            id = reply.request_id.decode()
            log.info("%s %s %s %.0f ms %s", scope["method"], place, reply.status, milliseconds, id)

    async def _open(self, scope: WebSocketScope, receive: Receive, send: Send) -> None:
        """Lets a socket be opened. Its query is not logged: keys and tokens are in there."""
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        started, place = time.monotonic(), _printable(scope["path"])
        try:
            _check(scope, 0)
            await self.app(scope, receive, send)
        except GatewayError as error:
            await answer(scope, send, self.refuse(error))
        finally:
            seconds = time.monotonic() - started
            log.info("socket %s closed after %.1f s %s", place, seconds, request_id.decode())

    async def _answer(self, reply: _Reply, error: Exception) -> None:
        if not isinstance(error, GatewayError):
            log.error("the application failed, request %s", reply.request_id.decode(), exc_info=error)
            error = GatewayError("internal_error", "Something went wrong on our side.")
        status, headers, body = self.refuse(error)
        await reply({"type": "http.response.start", "status": status, "headers": headers})
        await reply({"type": "http.response.body", "body": body, "more_body": False})


class _Reply:
    """The way back to the client: adds the request id."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.send = send
        self.request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.request_id)]
        await self.send(message)


class _Body:
    """The way in: a body must be complete within its time and its size, as long as nothing was answered."""

    def __init__(self, receive: Receive, reply: _Reply, most: int, seconds: float) -> None:
        self.receive = receive
        self.reply = reply
        self.most = self.left = most
        self.deadline = asyncio.get_running_loop().time() + seconds
        self.complete = False

    async def __call__(self) -> Any:
        if self.complete:
            return await self.receive()
        try:
            async with asyncio.timeout_at(self.deadline):
                message: Any = await self.receive()
        except TimeoutError as error:
            if self.reply.status is not None:
                return await self.receive()
            raise GatewayError("request_timeout", "The request body did not arrive in time.") from error
        self.complete = not message.get("more_body", False)
        self.left -= len(message.get("body", b""))
        if self.left < 0 and self.reply.status is None:
            raise _too_large(self.most)
        return message


def new_request_id() -> bytes:
    """An id for a request that brings none."""
    return b"req_" + secrets.token_hex(12).encode()


def _request_id(scope: HTTPScope | WebSocketScope) -> bytes:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return new_request_id()


def _as_get(scope: HTTPScope) -> HTTPScope:
    """HEAD is GET without the body, which the server leaves out; `state.head` spares the trouble of making one."""
    if scope["method"] != "HEAD":
        return scope
    changes: Any = {"method": "GET", "state": {**scope.get("state", {}), "head": True}}
    return {**scope, **changes}


def _check(scope: HTTPScope | WebSocketScope, max_body_bytes: int) -> None:
    headers = list(scope["headers"])
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES:
        raise GatewayError("headers_too_large", "The request headers are too large.")
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > LONGEST_TARGET:
        raise GatewayError("uri_too_long", "The address of the request is too long.")
    hosts = [value for name, value in headers if name == b"host"]
    # HTTP/1.0 knows no Host, and the health checks of some balancers still speak it.
    if (hosts or scope["http_version"] != "1.0") and not (len(hosts) == 1 and _is_host(hosts[0])):
        raise GatewayError("invalid_header", "The request must have one valid Host header.")
    if any(byte < 32 and byte != 9 for _, value in headers for byte in value):
        raise GatewayError("invalid_header", "A request header holds a control character.")
    # Said before a byte is read, this spares the client sending the body.
    lengths = [value for name, value in headers if name == b"content-length"]
    if any(value.isdigit() and int(value) > max_body_bytes for value in lengths):
        raise _too_large(max_body_bytes)


def _too_large(most: int) -> GatewayError:
    return GatewayError("payload_too_large", f"The request body is too large: at most {most} bytes are taken here.")


def _is_form(scope: HTTPScope) -> bool:
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return any(value.strip().lower().startswith(b"multipart/form-data") for value in kinds)


def _is_host(value: bytes) -> bool:
    found = HOST.fullmatch(value)
    return found is not None and int(found["port"] or 0) <= LAST_PORT


def _printable(path: str) -> str:
    return path[:200].encode("ascii", "backslashreplace").decode() if path.isprintable() else repr(path[:200])
