"""The transport under every provider call: bounded bodies, and errors that say whether anything was sent."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from providers.contract import Broken

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

KEEPALIVE = 4.0
"""Seconds that an idle connection is kept: less than the 5 s after which common servers drop theirs, because a call
sent into a connection that is just being dropped has to count as Unsure."""
MAX_CONNECTIONS = 1000
MAX_BODY = 256 * 2**20
"""Bytes of one answer, after decompression. Ten pictures of 8 megapixels, which one call can order, are about 200 MB as
PNG in base64; and what is broken off has been paid for."""
MAX_REASON = 2**20
"""Bytes that are read of an answer whose status is an error: its words come first, and its status says the most."""

PACKED = ("gzip", "deflate")
"""Codings that are undone, although we ask for plain bodies. No others, and never two of them: what one piece of those
unpacks to can be gigabytes, before any of it can be counted."""

_CHARSET = re.compile(rb"(?i);\s*charset=[^;]*")
_NO_CONNECTION = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


def connections() -> httpx.AsyncBaseTransport:
    """Real connections, by aiohttp. No proxy, certificate or password is taken from the environment."""
    return _Connections(verify=_trust())


@cache
def _trust() -> ssl.SSLContext:
    """Mozilla's authorities. It takes tens of milliseconds to read them, so it is done once."""
    return httpx.create_ssl_context(trust_env=False)


class Line(httpx.AsyncBaseTransport):
    """Any transport, with bodies of at most `max_body` bytes and with errors that tell a lost connection from none."""

    def __init__(self, inner: httpx.AsyncBaseTransport, max_body: int = MAX_BODY) -> None:
        self._inner = inner
        self._max_body = max_body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends once; what it raises is of httpx, or Broken for a body that is too large."""
        with _honest_errors():
            response = await self._inner.handle_async_request(request)
        packed = response.headers.get("content-encoding", "").strip().lower() in PACKED
        body = _Unpacked(response) if packed else cast(httpx.AsyncByteStream, response.stream)
        if response.is_error:
            stream: httpx.AsyncByteStream = _Cut(body)
        else:
            stream = _Bounded(body, self._max_body, response.headers.get("content-length", ""))
        return httpx.Response(
            response.status_code, headers=_plain(response, packed), stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Closes the transport below."""
        await self._inner.aclose()


class _Bounded(httpx.AsyncByteStream):
    """A body of at most `limit` bytes; `claim` is its length as the vendor says it."""

    def __init__(self, inner: httpx.AsyncByteStream, limit: int, claim: str) -> None:
        self._inner = inner
        self._limit = limit
        self._claim = int(claim) if claim.isdecimal() else 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        self._check(self._claim)
        with _honest_errors():
            async for chunk in self._inner:
                size += len(chunk)
                self._check(size)
                yield chunk

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise Broken(f"the vendor's answer is larger than {self._limit} bytes")

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Cut(httpx.AsyncByteStream):
    """The beginning of a body: what an error says."""

    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_REASON
        with _honest_errors():
            async for chunk in self._inner:
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Unpacked(httpx.AsyncByteStream):
    """The body of a packed answer, unpacked piece by piece."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_bytes()

    async def aclose(self) -> None:
        await self._response.aclose()


def _plain(response: httpx.Response, packed: bool) -> list[tuple[bytes, bytes]]:
    """The headers without the coding, which httpx would undo only above the bound, and without a charset.

    JSON is UTF-8 whatever they say, and some of the charsets that Python knows are none, at which SDKs break.
    """
    gone = (b"content-encoding", b"content-length") if packed else (b"content-encoding",)
    kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in gone]
    return [(name, _CHARSET.sub(b"", value) if name == b"content-type" else value) for name, value in kept]


class _Connections(AiohttpTransport):
    """The transport over our own pool. Cookies are not kept: orders of strangers go over the same connections."""

    def get_client(self) -> aiohttp.ClientSession:
        pool = _Pool(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE, ssl=self.ssl_context)
        return aiohttp.ClientSession(connector=pool, cookie_jar=aiohttp.DummyCookieJar())


class _Pool(aiohttp.TCPConnector):
    """Connections that are used again, except those on which the vendor has spoken unasked.

    aiohttp would take that for the answer to the next order, which is somebody else's. Servers do say something: that
    they close an idle connection, with status 408, or what is left of an answer that was too long.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A new connection, or a used one that keeps silent."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or protocol not in self._used or not protocol.should_close:
                break
            connection.close()
        if protocol is not None:
            self._used.add(protocol)
        return connection


async def stay(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware for aiohttp's sockets, which follow redirects unasked: raises ClientError when there is one."""
    response = await handler(request)
    if response.status in (301, 302, 303, 307, 308):
        response.close()
        raise aiohttp.ClientError("the vendor redirects")
    return response


@contextmanager
def _honest_errors() -> Iterator[None]:
    """Names the errors of the aiohttp transport rightly.

    It calls every lost connection a connect timeout, although the request may have arrived, and lets through what
    aiohttp says of an answer that is not HTTP.
    """
    try:
        yield
    except httpx.ConnectTimeout as error:
        if isinstance(error.__cause__, aiohttp.ClientError) and not isinstance(error.__cause__, _NO_CONNECTION):
            raise httpx.ReadError("the connection was lost") from error
        raise
    except aiohttp.ClientError as error:
        raise httpx.RemoteProtocolError("the answer is not HTTP") from error
