"""Bells: a message to whoever has room for work. One that is lost costs time only, for the sweep rings again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from gateway.core.ports import DELIVERY, START, Message, QueueError
from gateway.core.runtime import Runtime

log = logging.getLogger(__name__)


def ring_to_start(rt: Runtime, key_id: str) -> None:
    """Says that a task of that key may start; not waited for."""
    rt.executor.spawn(_ring(rt, Message(START, key_id, 0)), f"ringing for {key_id}")


def ring_to_deliver(rt: Runtime, ids: Iterable[str]) -> None:
    """Says that these deliveries, which are new, are due; not waited for."""
    for id in ids:
        rt.executor.spawn(_ring(rt, Message(DELIVERY, id, 0)), f"ringing for {id}")


def ring(rt: Runtime, message: Message) -> None:
    """Rings; not waited for."""
    rt.executor.spawn(_ring(rt, message), f"ringing for {message.id}")


async def _ring(rt: Runtime, message: Message) -> None:
    try:
        await rt.queue.send(message)
    except QueueError as error:
        log.warning("the bell for %s was not rung, the sweep will: %s", message.id, error)
