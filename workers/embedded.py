"""The queue of the embedded deployment: asyncio inside the one process, with nothing to install."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from gateway.core.executor import Executor
from gateway.core.ports import Message


class EmbeddedQueue:
    """Hands messages to the executor of the same process. What it holds dies with it; the sweep rings again."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        # Messages are bytes here as on a real broker, so that nothing passes which would not pass there.
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        """Puts the message behind the others; never fails."""
        if self._pump is None:
            self._pump = asyncio.create_task(self._hand_over())
        self._messages.put_nowait(msgspec.json.encode(message))

    async def check(self) -> None:
        """Nothing can be wrong with it."""

    async def close(self) -> None:
        """Forgets what it still holds."""
        if self._pump is not None:
            self._pump.cancel()
            with suppress(asyncio.CancelledError):
                await self._pump

    async def _hand_over(self) -> None:
        while True:
            message = msgspec.json.decode(await self._messages.get(), type=Message)
            await self._executor.submit(message)
