"""A vendor of heavy films: its adapter, which answers each order with a link, and the server behind that."""

from __future__ import annotations

import io
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import av
from aiohttp import web
from aiohttp.test_utils import TestServer

from providers.contract import Done, Order, Output, Provider


class Heavy(Provider):
    """Has one film, for whoever orders."""

    async def submit(self, order: Order) -> Done:
        """Answers at once with the link to it."""
        return Done((Output(url=f"{self.http.base_url}/film.mp4"),))


def film(size: int) -> bytes:
    """A film of about so many bytes that is in order: a second of black, and then what players pass over."""
    made = io.BytesIO()
    with av.open(made, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    return made.getvalue() + struct.pack(">I4s", size, b"free") + bytes(size - 8)


@asynccontextmanager
async def serving(data: bytes) -> AsyncIterator[str]:
    """The vendor's server, which has that film; its URL."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=data, content_type="video/mp4")

    application = web.Application()
    application.router.add_get("/film.mp4", answer)
    async with TestServer(application) as server:
        yield str(server.make_url("")).rstrip("/")
