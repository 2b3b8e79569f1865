"""The transport under every provider call: bounded bodies, and errors that say whether anything was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from providers.contract import Broken

KEEPALIVE = 4.0
"""Seconds that an idle connection is kept: less than the 5 s after which common servers drop theirs, because a call
sent into a connection that is just being dropped has to count as Unsure."""
MAX_CONNECTIONS = 1000
MAX_BODY = 64 * 2**20
"""Bytes of one answer, after decompression."""

_NO_CONNECTION = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


def connections() -> httpx.AsyncBaseTransport:
    """Real connections, by aiohttp. No proxy, certificate or password is taken from the environment."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE)
    return AiohttpTransport(trust_env=False, limits=limits)


class Line(httpx.AsyncBaseTransport):
    """Any transport, with bounded bodies and with errors that tell a lost connection from one never made."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends once; what it raises is of httpx, or Broken for a body that is too large."""
        with _honest_errors():
            response = await self._inner.handle_async_request(request)
        if "content-encoding" in response.headers:
            response = _unpacked(response)
        response.stream = _Bounded(cast(httpx.AsyncByteStream, response.stream))
        return response

    async def aclose(self) -> None:
        """Closes the transport below."""
        await self._inner.aclose()


class _Bounded(httpx.AsyncByteStream):
    """A body of at most MAX_BODY."""

    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        with _honest_errors():
            async for chunk in self._inner:
                size += len(chunk)
                if size > MAX_BODY:
                    raise Broken(f"the vendor's answer is larger than {MAX_BODY} bytes")
                yield chunk

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


def _unpacked(response: httpx.Response) -> httpx.Response:
    """The same answer without its content encoding: httpx would unpack it only above the bound."""
    changed = (b"content-encoding", b"content-length")
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in changed]
    return httpx.Response(
        response.status_code, headers=headers, stream=_Unpacked(response), extensions=response.extensions
    )


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
