"""Receivers of webhooks over real sockets: each answers with what it is told to, and keeps what came."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook

PATIENCE = 20
Talk = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Heard(NamedTuple):
    """One webhook as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def word(self) -> str:
        """The last word of its type."""
        return str(self.json["type"].rpartition(".")[2])


class Receiver:
    """Answers each webhook with the next entry of `answers`, then with 200: a status, a whole answer, or a talk."""

    def __init__(self, *answers: int | bytes | Talk) -> None:
        self.answers = list(answers)
        self.heard: list[Heard] = []
        self.port = 0
        self.came = asyncio.Condition()
        self._talks: set[asyncio.Task[None]] = set()

    def url(self, path: str = "hook") -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    @property
    def words(self) -> list[str]:
        """Of what it heard, in order."""
        return [one.word for one in self.heard]

    async def count(self, count: int) -> None:
        """Waits until so many have come."""
        async with asyncio.timeout(10), self.came:
            await self.came.wait_for(lambda: len(self.heard) >= count)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._talks:
                task.cancel()
            await asyncio.gather(*self._talks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._hear(reader)
            answer = self.answers.pop(0) if self.answers else 200
            if isinstance(answer, int):
                answer = f"HTTP/1.1 {answer} Said\r\nContent-Length: 5\r\n\r\nheard".encode()
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        writer.close()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, _, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        async with self.came:
            self.heard.append(Heard(headers, body))
            self.came.notify_all()


class Hook:
    """A receiver in a thread of its own, and what came to each of its paths."""

    def __init__(self) -> None:
        self.receiver = Receiver()
        self.loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._serve()), name="receiver")

    def __enter__(self) -> Hook:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        self.loop.close()

    async def _serve(self) -> None:
        async with self.receiver.listening():
            self._ready.set()
            await self._end.wait()

    def url(self, path: str = "hook") -> str:
        return self.receiver.url(path)

    def wait(self, count: int) -> list[Heard]:
        """What came, as soon as it is so much; it is forgotten with that."""
        asyncio.run_coroutine_threadsafe(self.receiver.count(count), self.loop).result(PATIENCE)
        heard, self.receiver.heard = self.receiver.heard, []
        return heard


async def never(_: asyncio.StreamWriter) -> None:
    """Says nothing at all."""
    await asyncio.Event().wait()


async def endless(writer: asyncio.StreamWriter) -> None:
    """Takes it, and then never stops talking."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


def verified(heard: Heard, secret: str) -> bool:
    """Whether the libraries that receivers use take it for ours, by whatever clock it was sent: both, or neither."""
    sent_at = dt.datetime.fromtimestamp(int(heard.headers["webhook-timestamp"]), dt.UTC)
    ours = Webhook(secret).sign(heard.id, sent_at, heard.body.decode()) in heard.headers["webhook-signature"].split(" ")
    with OpenAI(api_key="none", webhook_secret=secret) as client:
        try:
            client.webhooks.verify_signature(heard.body, heard.headers, tolerance=10**10)
        except InvalidWebhookSignatureError:
            assert not ours
            return False
    assert ours
    return True
