"""Server-sent events, as the WHATWG says how they are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that nothing between us and the client gives up."""


def event(name: str, id: str, data: Any) -> bytes:
    """One event; `data` is sent as JSON on one line."""
    return b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), id.encode(), msgspec.json.encode(data))


def stream(events: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None) -> Stream:
    """The reply that sends the events as they come, and closes them once nobody reads on."""
    kept = _KeptAlive(events)
    return Stream(
        kept, media_type="text/event-stream", headers=HEADERS | (headers or {}), background=BackgroundTask(kept.close)
    )


class _KeptAlive:
    """The events, with comments where they are silent for long."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events
        self._coming: asyncio.Task[bytes] | None = None

    def __aiter__(self) -> _KeptAlive:
        return self

    async def __anext__(self) -> bytes:
        # What waits for the next event must not be broken off by the comment that is sent meanwhile.
        coming = self._coming = self._coming or asyncio.ensure_future(anext(self._events))
        try:
            done, _ = await asyncio.wait({coming}, timeout=KEEP_ALIVE)
        except asyncio.CancelledError:
            coming.cancel()
            raise
        if not done:
            return b": still here\n\n"
        self._coming = None
        return coming.result()

    async def close(self) -> None:
        """Ends them wherever they are. Here, for whatever awaits in a request that was broken off is broken off too."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        await self._events.aclose()
