"""A connection: the head of a request must arrive in its time and its size, as the guard sees to for the body.

uvicorn itself waits for a head for ever, keeps all that it gets of it, answers what is no HTTP in plain text, takes the
trailers of a chunked body for headers, and loses the body of a request that offers to upgrade to HTTP/2. Of a socket it
logs the whole address, and keeps for ever one that takes nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.core.errors import GatewayError
from gateway.edge.guard import LONGEST_TARGET, RELEASE, Refuse, new_request_id
from gateway.web.sockets import ABORT

log = logging.getLogger(__name__)
# More than the guard allows, so that it is the guard that answers a head which has come whole.
MOST_HEAD_BYTES = 65_536
LINGER_SECONDS = 1.0
# Bytes of a message that a client sends over a socket, and its headers: fewer than the library would trip over.
MOST_MESSAGE_BYTES, MOST_SOCKET_HEADERS, LONGEST_SOCKET_HEADER = 65_536, 100, 8_000
# uvicorn tells here of every socket, with the key or token that its address may hold.
QUIET = logging.getLogger("gateway.uvicorn.sockets")
QUIET.setLevel(logging.ERROR)


class Connection(HttpToolsProtocol):
    """uvicorn's connection with a deadline and a bound for heads. `refuse` renders an error, as for the guard."""

    def __init__(self, *args: Any, refuse: Refuse, head_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The guard has a line for each request, without the query, in which a token may be.
        self.access_log = False
        self.refuse = refuse
        self.head_seconds = head_seconds
        self.url = b""
        self.in_head = False
        self.head_bytes = 0
        self.refused = False
        self.handed_over = False
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A first head is awaited from now on."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server begins to stop: whoever only waits for a task is answered in time."""
        release = self.app_state.get(RELEASE)
        if release is not None:
            release()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, counts what came of an unfinished head, and times whatever begins after a reply."""
        if self.refused:
            return
        head = self.headers if self.in_head else None
        self._parse(data)
        if self.refused or self.handed_over:
            return
        if self.in_head and head is self.headers:
            self.head_bytes += len(data)
            if self.head_bytes > MOST_HEAD_BYTES:
                self._end(GatewayError("headers_too_large", "The request headers are too large."))
        if self.timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self.in_head, self.head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header. What comes after the head is a trailer, and means nothing here."""
        if self.in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is whole, and its request begins."""
        self.in_head = False
        self._stop_timer()
        if not self._offers_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        if not self._offers_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Ends what is no HTTP, unless a request before it waits for its own answer: that closes the connection."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False
        elif len(self.url) > LONGEST_TARGET:
            self._end(GatewayError("uri_too_long", "The address of the request is too long."))
        else:
            self._end(GatewayError("invalid_request", "This is not a valid HTTP/1.1 request."))

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._offers_upgrade():
                self._parse_without_upgrade(data[upgrade.args[0] :])
            elif self._should_upgrade():
                self._become_socket()
        except httptools.HttpParserError:
            self.send_400_response("")

    def _offers_upgrade(self) -> bool:
        if self._should_upgrade():
            return False
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _become_socket(self) -> None:
        """Hands the connection over, unless the head is one that the library would trip over."""
        if self.cycle is not None and not self.cycle.response_complete:
            return self._end(GatewayError("invalid_request", "A socket cannot be opened before the last reply."))
        longest = max((len(name) + len(value) for name, value in self.headers), default=0)
        sound = self.parser.get_method() == b"GET" and self.parser.get_http_version() == "1.1" and self.url.isascii()
        few = len(self.headers) <= MOST_SOCKET_HEADERS and longest <= LONGEST_SOCKET_HEADER
        if not sound or not few or len(self.url) > LONGEST_SOCKET_HEADER:
            return self._end(GatewayError("invalid_request", "A socket is opened by a short GET request."))
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            return self._end(GatewayError("invalid_request", "The request that opens a socket has no body."))
        self._stop_timer()
        self.handed_over = True
        self.handle_websocket_upgrade()

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Goes on as if nothing had been offered. Java's client offers HTTP/2 with every first request."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"\r\n".join((*lines, b"", rest)))

    def _too_late(self) -> None:
        self.timer = None
        if self.in_head:
            self._end(GatewayError("request_timeout", "The request headers did not arrive in time."))
        else:
            self.transport.close()

    def _end(self, error: GatewayError) -> None:
        """Says what is wrong, and closes a little later: closing with bytes unread would cut the answer off."""
        self.refused = True
        status, headers, body = self.refuse(error)
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        fields = {**dict(headers), b"x-request-id": new_request_id(), b"connection": b"close"}
        lines += [b"%s: %s" % field for field in fields.items()]
        self.transport.write(b"\r\n".join((*lines, b"", body)))
        log.info("a connection ended with %s", error.code)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_timer()
        self.timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _start_timer(self) -> None:
        self.timer = self.loop.call_later(self.head_seconds, self._too_late)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket that can be cut, and that is when its client does not answer any more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = QUIET
        self.conn.logger = QUIET

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From now on the application can cut it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: self.transport.abort}

    async def send(self, message: Any) -> None:
        """Sends; a refusal is an end of the handshake, too, which uvicorn would otherwise miss."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        """The client is silent: what was written and not taken would keep the connection open."""
        super().keepalive_timeout()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def send_receive_event_to_app(self) -> None:
        """Brings a message to the application; one that is not in UTF-8 ends the connection."""
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            self.frames = []
            self.conn.fail(1007)
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1007, "reason": ""})
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.transport.close()
            return
        super().send_receive_event_to_app()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
