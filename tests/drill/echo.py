"""The echo: hears every message that goes to the workers, and sends some of them again, at once or late."""

from __future__ import annotations

import asyncio
from random import Random

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

NAME = "heliograph"
GARBAGE = (b"", b"no json", b"[[1, 2, 3], {}, {}]", b'[["task", "task_none", 0], {}, {}]')


class Echo:
    """Doubles and delays messages by chance, and can empty the queue or fill it with rubbish."""

    def __init__(self, broker_url: str, seed: int, share: float = 0.3, longest: float = 12.0) -> None:
        self.sent = 0
        self._url = broker_url
        self._random = Random(f"echo {seed}")  # noqa: S311 - chances that can be repeated
        self._share = share
        self._longest = longest
        self._late: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Echo:
        self._connection = await aio_pika.connect(self._url)
        self._channel: AbstractChannel = await self._connection.channel()
        tap = await self._channel.declare_queue(exclusive=True)
        await tap.bind(NAME, routing_key=NAME)
        await tap.consume(self._hear, no_ack=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._late:
            task.cancel()
        await self._connection.close()

    async def purge(self) -> None:
        """Empties the queue."""
        queue = await self._channel.get_queue(NAME)
        await queue.purge()

    async def garbage(self) -> None:
        """Sends what no worker can understand."""
        for body in GARBAGE:
            await self._send(aio_pika.Message(body, content_type="application/json", content_encoding="utf-8"))

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        if self._random.random() < self._share:
            copy = aio_pika.Message(
                message.body, headers=message.headers, content_type=message.content_type,
                content_encoding=message.content_encoding, correlation_id=message.correlation_id,
            )  # fmt: skip
            for _ in range(self._random.randint(1, 3)):
                delay = self._random.choice((0.0, self._random.uniform(0, self._longest)))
                task = asyncio.create_task(self._send_late(copy, delay))
                self._late.add(task)
                task.add_done_callback(self._late.discard)

    async def _send_late(self, message: aio_pika.Message, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._send(message)
        self.sent += 1

    async def _send(self, message: aio_pika.Message) -> None:
        # Straight to the queue: what went through the exchange would be heard again.
        await self._channel.default_exchange.publish(message, routing_key=NAME)
