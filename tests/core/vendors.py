"""Vendors that do what a test tells them to: scripted answers, cards made by hand, pictures, and files to fetch."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import av
from PIL import Image

from gateway.core.catalog import Catalog, Model, Route, build
from gateway.core.settings import load
from providers.card import Card, ModelCard, Parameter, Price, PriceRow
from providers.contract import Broken, Callback, Done, Generation, Kind, Operation, Order, Output, Pending, Provider
from providers.http import Http
from providers.registry import Registry

TODAY = dt.date(2030, 1, 1)
MODEL = "picture"

Answer = Pending | Done | None | Exception | Callable[[Any], Awaitable[Pending | Done | None]]


class ScriptedProvider(Provider):
    """Answers each call with the next entry of its script: a value, an exception, or a function of the call's input."""

    def __init__(self, card: Card | None = None, **script: Iterable[Answer]) -> None:
        card = card or card_of()
        super().__init__(card, Http(card))
        self.script = {verb: deque(answers) for verb, answers in script.items()}
        self.orders: list[Order] = []
        self.found: list[Order] = []
        self.polled: list[str] = []
        self.cancelled: list[str] = []
        self.heard: list[Callback] = []

    async def submit(self, order: Order) -> Pending | Done:
        self.orders.append(order)
        answer = await self._next("submit", order)
        assert answer is not None
        return answer

    async def poll(self, job: str) -> Pending | Done:
        self.polled.append(job)
        if job in self.cancelled and not self.script.get("poll"):
            raise Broken("The job was stopped.")
        answer = await self._next("poll", job)
        assert answer is not None
        return answer

    async def cancel(self, job: str) -> None:
        self.cancelled.append(job)
        if "cancel" in self.script:
            await self._next("cancel", job)

    async def hear(self, callback: Callback) -> Mapping[str, Any] | None:
        self.heard.append(callback)
        answer = self.script["hear"].popleft() if self.script.get("hear") else None
        if isinstance(answer, Exception):
            raise answer
        return {"challenge": callback.body.decode()} if callback.body else None

    async def find(self, order: Order) -> Pending | Done | None:
        self.found.append(order)
        return await self._next("find", order)

    async def read(self, output: Output) -> AsyncIterator[bytes]:
        answer = await self._next("read", output)
        assert isinstance(answer, Done)
        for one in answer.outputs:
            yield one.data or b""

    async def _next(self, verb: str, given: Any) -> Pending | Done | None:
        answer = self.script[verb].popleft()
        if isinstance(answer, Exception):
            raise answer
        return await answer(given) if callable(answer) else answer


class FileServer:
    """A loopback server of a vendor's files: each path answers with its entries in turn, then with its last."""

    def __init__(self, port: int, files: dict[str, list[tuple[int, bytes]]]) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.files = files
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        return f"{self.base}/{path}"


@asynccontextmanager
async def serving(**files: list[tuple[int, bytes]]) -> AsyncIterator[FileServer]:
    """Serves the files, each given as a list of (status, body)."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode().lstrip("/")
        found.asked.append(path)
        answers = found.files[path]
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    found = FileServer(server.sockets[0].getsockname()[1], files)
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()


def card_of(name: str = "vendor", **members: Any) -> Card:
    """A card with one model; members of the model go under `model`."""
    model: dict[str, Any] = {
        "kind": Kind.IMAGE,
        "operations": (Operation.GENERATION,),
        "max_n": 4,
        "sizes": ("64x64", "128x64"),
        "price": price("0.04"),
        "public": MODEL,
        **members.pop("model", {}),
    }
    made = ModelCard(name=f"{name}-model", **model)
    facts = {"timeout": 5.0, "output_hosts": ("127.0.0.1",), **members}
    return Card(name=name, title=name.title(), checked_on=TODAY, models=(made,), **facts)


def vendor(name: str, *, keys: dict[str, str] | None = None, public: str | None = None, **facts: Any) -> Card:
    """The card of a vendor with one model, which is called after it unless `public` says otherwise."""
    return card_of(name, credentials=keys or {}, model={"public": public or f"{name}-picture"}, **facts)


def configured(folder: Path, *cards: Card, text: str = "", **environ: str) -> Catalog:
    """The catalog of these vendors with a configuration and an environment. Their adapter is never asked."""
    file = folder / "heliograph.toml"
    file.write_text(text, encoding="utf-8")
    registry = Registry({card.name: card for card in cards}, {card.name: "tests.scripted.scripted" for card in cards})
    return build(load(environ, file), registry)


def price(usd: str, *rows: tuple[str, dict[str, str]]) -> Price:
    """A price with rows for certain members first, and one for the rest."""
    return Price(TODAY, (*(PriceRow(one, when) for one, when in rows), PriceRow(usd)))


def words(*values: str, default: str | None = None) -> Parameter:
    """A parameter that is one of these words."""
    return Parameter("string", values=values, default=default)


def models_of(providers: Iterable[Provider]) -> dict[str, Model]:
    """The public models of these providers, with one route for each card's model."""
    routes: dict[str, tuple[Route, ...]] = {}
    for provider in providers:
        for model in provider.card.models:
            known = routes.get(model.public_name, ())
            routes[model.public_name] = (*known, Route(provider.card.name, model, model.price, order=len(known)))
    return {name: Model(name, ways) for name, ways in routes.items()}


def generation(**members: Any) -> Generation:
    """A generation of one picture, unless `members` say otherwise."""
    usual = {"kind": Kind.IMAGE, "operation": Operation.GENERATION, "model": MODEL, "prompt": "a mirror in the sun"}
    return Generation(**usual | members)


@cache
def png(width: int = 64, height: int = 64, shade: int = 90) -> bytes:
    """A picture of that size."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 120, 200)).save(file, "PNG")
    return file.getvalue()


@cache
def film(
    frames: int = 24, size: tuple[int, int] = (64, 48), *, kind: str = "mp4", codec: str = "libx264", fps: int = 24
) -> bytes:
    """A film of that many frames, each a little brighter than the one before."""
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
        with av.open(file.name, "w", format=kind) as container:
            frame_of: Any = av.VideoFrame.from_image
            stream: Any = container.add_stream(codec, rate=fps)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv422p10le" if codec.startswith("prores") else "yuv420p"
            for number in range(frames):
                shade = 40 + number * 160 // frames
                container.mux(stream.encode(frame_of(Image.new("RGB", size, (shade, 80, 120)))))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


def done(*pictures: bytes, **members: Any) -> Done:
    """A finished job whose outputs came with the answer; one picture when none is given."""
    return Done(tuple(Output(data=data) for data in pictures or (png(),)), **members)


def linked(*urls: str) -> Done:
    """A finished job whose outputs are fetched from these URLs."""
    return Done(tuple(Output(url=url) for url in urls))
