"""The queue of the distributed deployment: Celery on a RabbitMQ quorum queue. This is the side that sends.

Messages are built by Celery and published by aio-pika, which confirms them on the event loop with a real deadline;
Celery's own publishing blocks, and on a stalled broker its time limits do not hold.
"""

from __future__ import annotations

import asyncio
import logging

import aio_pika
import msgspec
from aio_pika.abc import AbstractExchange, AbstractRobustConnection
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from celery import Celery
from kombu import Exchange, Queue
from kombu.utils.uuid import uuid

from gateway.core.ports import Message, QueueError

log = logging.getLogger(__name__)
NAME = "heliograph"
HANDLER = "heliograph.message"
SECONDS = 2.0
# Bells that nobody answers are dropped by the broker: the sweep rings again. More of them than this only cost memory.
ARGUMENTS = {"x-queue-type": "quorum", "x-delivery-limit": 5, "x-max-length": 100_000, "x-overflow": "reject-publish"}


def celery_app(broker_url: str) -> Celery:
    """The Celery app, alike for the side that sends and the side that works. JSON only, no results, late acks."""
    app = Celery(NAME, broker=broker_url, set_as_current=False)
    exchange = Exchange(NAME, type="topic", durable=True)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_queues=[Queue(NAME, exchange, routing_key=NAME, durable=True, queue_arguments=ARGUMENTS)],
        task_default_queue=NAME,
        task_default_exchange=NAME,
        task_default_exchange_type="topic",
        task_default_routing_key=NAME,
        task_default_queue_type="quorum",
        task_create_missing_queues=False,
        broker_native_delayed_delivery_queue_type="quorum",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_timeout=2,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )
    return app


class CeleryQueue:
    """Sends messages to Celery workers, confirmed by the broker within a deadline."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._app = celery_app(broker_url)
        self._connection: AbstractRobustConnection | None = None
        self._exchange: AbstractExchange | None = None
        self._lock = asyncio.Lock()
        self._down_until = 0.0

    async def send(self, message: Message) -> None:
        """Publishes the message and waits for the broker's word that a queue has it, at most two seconds."""
        try:
            async with asyncio.timeout(SECONDS):
                exchange = await self._open()
                await exchange.publish(self._encoded(message), routing_key=NAME, mandatory=True)
        except (AMQPError, ChannelInvalidStateError, DeliveryError, OSError, TimeoutError, RuntimeError) as error:
            raise QueueError(f"the broker did not take the message: {type(error).__name__}") from error

    async def check(self) -> None:
        """Raises QueueError when the broker does not answer."""
        try:
            async with asyncio.timeout(SECONDS):
                await self._open()
        except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError) as error:
            raise QueueError(f"the broker does not answer: {type(error).__name__}: {error}") from error
        if self._connection is None or not self._connection.connected.is_set():
            raise QueueError("the connection to the broker is lost")

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _open(self) -> AbstractExchange:
        """The exchange, over a connection that heals itself; after a failed attempt nobody tries for a second."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            if self._exchange is None:
                if loop.time() < self._down_until:
                    raise ConnectionError("the broker was not reachable a moment ago")
                try:
                    await self._connect()
                except BaseException:
                    self._down_until = loop.time() + 1
                    raise
            elif self._connection is None or not self._connection.connected.is_set():
                raise ConnectionError("the connection to the broker is lost")
            assert self._exchange is not None  # noqa: S101 - _connect has set it
            return self._exchange

    async def _connect(self) -> None:
        connection = await aio_pika.connect_robust(self._url, timeout=SECONDS)
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            exchange = await channel.declare_exchange(NAME, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(NAME, durable=True, arguments=dict(ARGUMENTS))
            await queue.bind(exchange, routing_key=NAME)
        except BaseException:
            await connection.close()
            raise
        self._connection, self._exchange = connection, exchange

    def _encoded(self, message: Message) -> aio_pika.Message:
        parts = self._app.amqp.as_task_v2(uuid(), HANDLER, (message.kind, message.id, message.version), {})
        return aio_pika.Message(
            msgspec.json.encode(parts.body),
            headers={name: value for name, value in parts.headers.items() if value is not None},
            content_type="application/json",
            content_encoding="utf-8",
            correlation_id=parts.properties["correlation_id"],
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
