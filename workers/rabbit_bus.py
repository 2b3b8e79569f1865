"""The bus of the distributed deployment: a fanout exchange that every process publishes to and web processes hear.

Nothing is confirmed, kept or sent again. What is lost is progress; what has happened stands in the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import aio_pika
import msgspec
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from gateway.core.ids import new
from gateway.core.ports import Note
from gateway.core.runtime import utc_now

log = logging.getLogger(__name__)
EXCHANGE = "heliograph.notes"
SECONDS = 2.0
PAUSE = 1.0
# Progress that a slow broker does not take in time is old by then.
MOST_WAITING = 256
# Previews are large.
MOST_PREVIEWS = 16
FAILURES = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)


class RabbitBus:
    """Sends notes to all processes, and brings those of the others to `hear` once somebody listens."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._origin = new("proc", utc_now())
        self._waiting: asyncio.Queue[Note] = asyncio.Queue(MOST_WAITING)
        self._sender: asyncio.Task[None] | None = None
        self._listener: AbstractRobustConnection | None = None

    def send(self, note: Note) -> None:
        """Sends the note when the broker has time for it; what waits too long makes room for what is newer."""
        if self._waiting.full():
            self._waiting.get_nowait()
        if note.preview is not None and self._waiting.qsize() >= MOST_PREVIEWS:
            note = msgspec.structs.replace(note, preview=None)
        self._waiting.put_nowait(note)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_for_ever())

    async def listen(self, hear: Callable[[Note], None]) -> None:
        """From now on brings the notes of other processes, over a connection that heals itself."""
        # Made before it connects, so that it can be closed while it does: a cancellation alone it takes for bad luck.
        connection = aio_pika.RobustConnection(make_url(self._url))
        try:
            await connection.connect(timeout=SECONDS)
            channel = await connection.channel()
            exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.FANOUT, durable=False)
            queue = await channel.declare_queue(exclusive=True, auto_delete=True, arguments={"x-max-length": 1000})
            await queue.bind(exchange)

            async def take(message: AbstractIncomingMessage) -> None:
                if message.app_id != self._origin:
                    with suppress(msgspec.DecodeError):
                        hear(msgspec.json.decode(message.body, type=Note))

            await queue.consume(take, no_ack=True)
        except BaseException:
            await connection.close()
            raise
        self._listener = connection

    async def close(self) -> None:
        """Lets connections go."""
        if self._sender is not None:
            self._sender.cancel()
            with suppress(asyncio.CancelledError):
                await self._sender
        if self._listener is not None:
            await self._listener.close()

    async def _send_for_ever(self) -> None:
        while True:
            try:
                await self._send()
            except FAILURES as error:
                log.warning("progress is not told to other processes: %s", type(error).__name__)
                await asyncio.sleep(PAUSE)

    async def _send(self) -> None:
        """Sends until the connection fails."""
        connection = await aio_pika.connect(self._url, timeout=SECONDS)
        async with connection:
            channel = await connection.channel(publisher_confirms=False)
            exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.FANOUT, durable=False)
            while True:
                note = await self._waiting.get()
                message = aio_pika.Message(msgspec.json.encode(note), app_id=self._origin)
                await asyncio.wait_for(exchange.publish(message, routing_key=""), SECONDS)
