"""The one door to URLs that we did not write ourselves: outputs of vendors, inputs of callers, receivers of webhooks.

A URL is read strictly, its host is resolved once, every answer is checked, and exactly the checked addresses are
dialled, with TLS verified for the name. So a name that changes its mind (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from urllib.parse import urljoin

import aiohttp
import certifi
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.core.addresses import FORBIDDEN, Address, Allowed, Target, as_address, is_public_name
from gateway.core.heads import Connector, HeadTooLarge

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host name up and returns its addresses as text, in order of preference. Raises OSError when it cannot."""

# For how long what a receiver says beside its status is listened to.
EXCERPT_SECONDS = 2.0
REDIRECTS = (301, 302, 303, 307, 308)
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.ASCII)


class OutboundError(Exception):
    """A URL could not be fetched. The message is safe for a caller: it holds neither the URL nor an address.

    `status` is the HTTP status where the server answered with anything but 2xx, else None.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Blocked(OutboundError):
    """The URL is none that we fetch. Trying again does not help."""


class TooLarge(OutboundError):
    """The body is larger than the caller of `fetch` accepts."""


class Policy(msgspec.Struct, frozen=True):
    """What an operator lets strangers make us dial.

    `allow` names hosts (`comfy.lan`, `comfy.lan:8188`, `10.1.2.3`, `[::1]:9000`) or networks (`10.0.0.0/8`) that may
    be dialled although they are not public. A host with a port opens that port, one without opens every port; a
    network opens none. `https_only` refuses plain http to all but allowed hosts.
    """

    allow: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    https_only: bool = False


class Reply(msgspec.Struct, frozen=True):
    """What a receiver answered: status, the beginning of what it said, and when to come again, if it says so."""

    status: int
    text: str
    retry_after: str | None


class Body:
    """An open answer: iterate over it, once, for its bytes. Iterating raises OutboundError.

    `status` is the HTTP status, `media_type` the server's claim in lower case without parameters, `length` its claim
    of the size in bytes; both may be missing, and wrong.
    """

    def __init__(self, response: aiohttp.ClientResponse, limit: int, deadline: float) -> None:
        claim = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.status = response.status
        self.media_type = claim if _MEDIA_TYPE.fullmatch(claim) else None
        self.length = response.content_length
        self._content = response.content
        self._limit = limit
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        while chunk := await self._read():
            seen += len(chunk)
            if seen > self._limit:
                raise _too_large(self._limit)
            yield chunk

    async def _read(self) -> bytes:
        with _translated():
            async with asyncio.timeout_at(self._deadline):
                # A read that finds bytes waiting never reaches the loop, and so never meets the timeout.
                if asyncio.get_running_loop().time() >= self._deadline:
                    raise TimeoutError
                return await self._content.readany()


class Outbound:
    """Fetches strangers' URLs under a policy. No cookies, credentials or proxies; nothing is kept between calls.

    `connect_timeout` (seconds) bounds the look-up, and again connecting with TLS. `tls` replaces the default trust:
    the system's authorities and Mozilla's.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_timeout: float = 5.0,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._allowed = Allowed().plus(policy.allow)
        self._connect_timeout = connect_timeout
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="resolver")
        self._resolver = resolver or self._look_up
        self._tls = tls or default_tls()

    def check(self, url: str) -> None:
        """Raises Blocked where the URL itself shows that it would not be fetched. Looks nothing up."""
        self._target(url, self._allowed)

    @asynccontextmanager
    async def fetch(
        self, url: str, *, limit: int, timeout: float, hosts: tuple[str, ...] = (), redirects: int = 0
    ) -> AsyncIterator[Body]:
        """GETs a URL; the body holds at most `limit` bytes, and all of it must be read within `timeout` seconds.

        `hosts` are allowed for this call as if they stood in the policy. Up to `redirects` hops are followed, each
        checked like the first; the answer after that must be 2xx. Raises OutboundError, Blocked or TooLarge.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        allowed = self._allowed.plus(hosts)
        async with AsyncExitStack() as stack:
            with _translated():
                async with asyncio.timeout_at(deadline):
                    response = await self._follow(stack, self._target(url, allowed), allowed, redirects)
            codings = response.headers.getall("Content-Encoding", ())
            if any(coding.strip().lower() not in ("", "identity") for coding in codings):
                raise OutboundError("the server sent a compressed body although asked not to")
            if (response.content_length or 0) > limit:
                raise _too_large(limit)
            yield Body(response, limit, deadline)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, limit: int, timeout: float) -> Reply:
        """POSTs to a URL. No redirect is followed: it is an answer like any other.

        Of what is said no more than `limit` bytes are read, and not for long: the status is what counts. It must come
        within `timeout` seconds. Raises OutboundError or Blocked.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        async with AsyncExitStack() as stack:
            with _translated():
                async with asyncio.timeout_at(deadline):
                    target = self._target(url, self._allowed)
                    response = await self._ask(stack, target, self._allowed, headers=headers, body=body)
            said = await _beginning(response, limit, min(deadline, loop.time() + EXCERPT_SECONDS))
            return Reply(response.status, said, response.headers.get("Retry-After"))

    async def close(self) -> None:
        """Lets the look-up threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _target(self, url: str, allowed: Allowed) -> Target:
        try:
            target = Target.of(url)
        except ValueError as error:
            raise Blocked(str(error)) from error
        if allowed.has_host(target.host, target.port):
            return target
        if self._policy.https_only and target.scheme != "https":
            raise Blocked("the URL must begin with https://")
        if target.port not in self._policy.ports:
            raise Blocked("the port of the URL is not allowed")
        address = as_address(target.host)
        if address is not None:
            _vet([address], allowed)
        elif not is_public_name(target.host):
            raise Blocked("the host of the URL is not a public one")
        return target

    async def _follow(
        self, stack: AsyncExitStack, target: Target, allowed: Allowed, redirects: int
    ) -> aiohttp.ClientResponse:
        left = redirects
        while True:
            response = await self._ask(stack, target, allowed)
            if response.status in REDIRECTS and left > 0:
                target = self._next(target, response.headers.get("Location", ""), allowed)
                left -= 1
                await stack.aclose()
            elif 200 <= response.status < 300:
                return response
            else:
                loops = redirects > 0 and response.status in REDIRECTS
                what = f"redirects more than {redirects} times" if loops else f"answered with status {response.status}"
                raise OutboundError(f"the server {what}", status=response.status)

    def _next(self, target: Target, location: str, allowed: Allowed) -> Target:
        # urljoin drops tabs and line breaks in silence, so they are looked for before.
        if not location or FORBIDDEN.search(location):
            raise Blocked("the server redirects to a URL that is malformed")
        try:
            url = urljoin(str(target), location)
        except ValueError as error:
            raise Blocked("the server redirects to a URL that is malformed") from error
        following = self._target(url, allowed)
        if target.scheme == "https" and following.scheme != "https":
            raise Blocked("the server redirects from https to http")
        return following

    async def _ask(
        self,
        stack: AsyncExitStack,
        target: Target,
        allowed: Allowed,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """GETs, or with a body POSTs, and follows nothing."""
        addresses = await self._addresses(target, allowed)
        # A pool of its own per hop: a connection made under one call's `hosts` must not serve a call without them.
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=Connector(resolver=_Pinned(addresses), ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
                headers={"User-Agent": "heliograph", "Accept": "*/*", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        )
        url = URL(str(target), encoded=True)
        method = "GET" if body is None else "POST"
        request = session.request(method, url, data=body, headers=headers, allow_redirects=False)
        return await stack.enter_async_context(request)

    async def _addresses(self, target: Target, allowed: Allowed) -> list[Address]:
        """The addresses to dial, in order: all that the name has, or the one that the URL spells out."""
        literal = as_address(target.host)
        if literal is not None:
            return [literal]
        async with asyncio.timeout(self._connect_timeout):
            addresses = [ip_address(text) for text in await self._resolver(target.host)]
        if not addresses:
            raise socket.gaierror(f"no address for {target.host}")
        if not allowed.has_host(target.host, target.port):
            _vet(addresses, allowed)
        return addresses

    async def _look_up(self, host: str) -> Sequence[str]:
        look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [str(answer[4][0]) for answer in answers]


class _Pinned(AbstractResolver):
    """Answers with the checked addresses, whatever is asked: there is no second look-up that could differ."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


async def _beginning(response: aiohttp.ClientResponse, limit: int, until: float) -> str:
    """What a server says first, as text. That it breaks off, or never ends, is no matter."""
    said = bytearray()
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout_at(until):
            while len(said) < limit and (chunk := await response.content.read(limit - len(said))):
                said += chunk
    return said.decode("utf-8", "replace").replace("\0", "")


def _vet(addresses: Sequence[Address], allowed: Allowed) -> None:
    """Raises Blocked unless every address may be dialled: one bad answer among good ones is how an attack looks."""
    for address in addresses:
        if not allowed.has_address(address):
            raise Blocked("the host of the URL does not have a public address") from ValueError(f"denied: {address}")


def default_tls() -> ssl.SSLContext:
    """Trusts the authorities of the system and those of Mozilla: a slim system may have none of its own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the file is larger than {limit} bytes")


_MESSAGES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "the server took too long"),
    (socket.gaierror, "the host name could not be resolved"),
    (aiohttp.ClientSSLError, "the server's TLS certificate or version is not acceptable"),
    (aiohttp.ClientConnectorError, "the server could not be reached"),
    (HeadTooLarge, "the server sent too much before its answer"),
    (aiohttp.ClientPayloadError, "the server broke the file off"),
    (aiohttp.ClientResponseError, "the server's answer is not valid HTTP"),
    (Exception, "the connection to the server broke"),
)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        message = next(message for kind, message in _MESSAGES if isinstance(error, kind))
        # aiohttp prints the whole URL in this one, and the query of a signed URL is a secret: its cause says enough.
        cause = error.__cause__ if isinstance(error, aiohttp.ClientResponseError) else error
        raise OutboundError(message) from cause
