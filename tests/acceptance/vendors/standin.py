"""What all stand-ins for vendors share: an HTTP server that keeps a record of what it was asked, and what is billed.

The API of each answers in plain HTTP; its files lie on a host of their own with TLS, as those of vendors do. Who has
not the vendor's credential is answered as the vendor answers strangers. The first word of a prompt says what becomes of
an order: `blocked` violates the content policy, of `fewer` one picture less is delivered, anything else is made.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import ssl
import threading
import time
from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import multipart
import trustme
from aiohttp import web

from tests.acceptance.vendors.pictures import picture

BLOCKED, FEWER = "blocked", "fewer"
SECONDS = 20
LIMIT = 2**26
"""Bytes of a body, all of them in memory."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Call(NamedTuple):
    """One request, whoever sent it, to the API or for a file, and when it came."""

    to_api: bool
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


@dataclass
class Order:
    """What was ordered and is billed: its members in the vendor's words, and the pictures with it by their names.

    `made` is what the vendor has delivered of it, `usage` what it counts of that.
    """

    prompt: str
    members: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    made: list[bytes] = field(default_factory=list)
    usage: Mapping[str, Any] | None = None
    at: float = field(default_factory=time.monotonic)

    @property
    def verb(self) -> str:
        """The first word of the prompt."""
        return self.prompt.partition(" ")[0]

    def make(self, n: int, size: str = "64x64") -> list[bytes]:
        """As many pictures of that size as are delivered of `n`."""
        number = n - 1 if self.verb == FEWER else n
        self.made = [picture(size) for _ in range(number)]
        return self.made


class StandIn(ABC):
    """A vendor that is none. What it records is read from other threads, and changed by none of them."""

    name = ""
    scheme = "Bearer"
    root = ""
    """What the address of the API ends with."""

    def __init__(self) -> None:
        self.secret = f"canary-{self.name}-{secrets.token_hex(12)}"
        self.url = self.files_url = ""
        self.calls: list[Call] = []
        self.orders: list[Order] = []
        self.strays: list[str] = []
        self._trust = ssl.create_default_context()
        self._files: dict[str, tuple[bytes, str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    def routes(self) -> Iterable[web.RouteDef]:
        """The vendor's API."""

    @abstractmethod
    def stranger(self) -> web.Response:
        """The answer to who has no credential, or a wrong one."""

    def of(self, prompt: str) -> list[Order]:
        """The orders with that prompt."""
        return [order for order in self.orders if order.prompt == prompt]

    def called(self, start: str) -> list[Call]:
        """The calls of paths that begin so."""
        return [call for call in self.calls if call.path.startswith(start)]

    def take(self, prompt: str, members: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None) -> Order:
        """Writes an order down."""
        order = Order(prompt, members, pictures or {})
        self.orders.append(order)
        return order

    def keep(self, data: bytes, media_type: str = "image/png") -> str:
        """Keeps a file, and returns its address."""
        name = f"{secrets.token_hex(8)}.{media_type.partition('/')[2]}"
        self._files[name] = data, media_type
        return f"{self.files_url}/{name}"

    def ring(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Posts a callback, from another thread; the status and the body that answer it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.call(url, body, headers), self._loop).result(SECONDS)

    async def call(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Posts a callback; the status and the body that answer it."""
        sent = {"content-type": "application/json", **(headers or {})}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._trust)) as session,
            session.post(url, data=body, headers=sent) as answer,
        ):
            return answer.status, await answer.text()

    async def start(self, authority: trustme.CA) -> Sequence[web.AppRunner]:
        """Listens for the API, and with TLS for those who fetch files."""
        self._loop = asyncio.get_running_loop()
        authority.configure_trust(self._trust)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        api = web.Application(middlewares=[self._record, self._check], client_max_size=LIMIT)
        api.add_routes(self.routes())
        files = web.Application(middlewares=[self._record])
        files.add_routes([web.get("/{name}", self._serve)])
        runners = (
            web.AppRunner(api, access_log=None, shutdown_timeout=1),
            web.AppRunner(files, access_log=None, shutdown_timeout=1),
        )
        for runner, context in zip(runners, (None, tls), strict=True):
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url, self.files_url = (
            f"{scheme}://127.0.0.1:{one.addresses[0][1]}"
            for scheme, one in zip(("http", "https"), runners, strict=True)
        )
        return runners

    @web.middleware
    async def _record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        to_api = request.scheme == "http"
        self.calls.append(Call(to_api, request.method, request.path_qs, headers, body, time.monotonic()))
        try:
            return await handler(request)
        except web.HTTPError:
            self.strays.append(f"{request.method} {request.path_qs}")
            raise

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("authorization") != f"{self.scheme} {self.secret}":
            return self.stranger()
        return await handler(request)

    async def _serve(self, request: web.Request) -> web.Response:
        data, media_type = self._files[request.match_info["name"]]
        return web.Response(body=data, content_type=media_type)


async def form(request: web.Request) -> tuple[dict[str, str], dict[str, bytes]]:
    """Texts and files of a form by their names."""
    body = await request.read()
    _, options = multipart.parse_options_header(request.headers["content-type"])
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in multipart.MultipartParser(io.BytesIO(body), options["boundary"], spool_limit=LIMIT, memory_limit=LIMIT):
        if part.filename is None:
            texts[part.name] = part.value
        else:
            files[part.name] = part.raw
    return texts, files


@contextmanager
def serving(vendors: Iterable[StandIn], authority: trustme.CA) -> Iterator[None]:
    """Lets the vendors serve, in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="vendors", daemon=True)
    thread.start()

    async def start() -> list[web.AppRunner]:
        return [runner for vendor in vendors for runner in await vendor.start(authority)]

    async def stop(runners: list[web.AppRunner]) -> None:
        for runner in runners:
            await runner.cleanup()

    runners = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(runners), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()


def pictures_in(members: Mapping[str, Any]) -> dict[str, bytes]:
    """What the data addresses among the members hold, by their names."""
    return {
        name: b64decode(value.partition(",")[2])
        for name, value in members.items()
        if isinstance(value, str) and value.startswith("data:image/")
    }
