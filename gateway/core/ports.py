"""What the core asks of the world around it: a queue that carries messages."""

from __future__ import annotations

from typing import Protocol

import msgspec

# The kinds of messages.
TASK = "task"


class Message(msgspec.Struct, frozen=True):
    """A bell: this row may be due, if its version is still this one. Carries ids and never any content."""

    kind: str
    id: str
    version: int


class QueueError(Exception):
    """The queue did not take a message. Nothing is lost: the sweep rings again."""


class Queue(Protocol):
    """Brings messages to whoever runs handlers, at least once, at most hopefully, in no order."""

    async def send(self, message: Message) -> None:
        """Hands the message over within a bounded time, or raises QueueError."""

    async def check(self) -> None:
        """Raises QueueError when messages cannot be sent now."""

    async def close(self) -> None:
        """Lets connections go."""
