"""What the core asks of the world around it: a queue that carries messages, and a bus that carries notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from providers.contract import Preview

# The kinds of messages: a task is due; some task may start (the id is that of a key which has one); a webhook is due;
# it is time to clean up.
TASK = "task"
START = "start"
DELIVERY = "delivery"
CLEANUP = "cleanup"


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


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a task goes on, for who follows it now: how far it is, how it looks, or that an event was recorded."""

    task_id: str
    key_id: str
    progress: int = 0
    word: str | None = None
    preview: Preview | None = None
    sequence: int | None = None


Hear = Callable[[Note], None]


class Bus(Protocol):
    """Brings notes to other processes, at most once, in the order of each sender, if at all."""

    def send(self, note: Note) -> None:
        """Sends the note soon, or drops it; never waits, never fails."""

    async def listen(self, hear: Hear) -> None:
        """From now on calls `hear` with the notes of other processes. Raises what the library raises."""

    async def close(self) -> None:
        """Lets connections go."""
