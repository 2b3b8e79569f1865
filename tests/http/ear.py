"""A Socket.IO client that remembers what it hears: the official Python one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import socketio

SECONDS = 24
"""Longer than anything takes, and shorter than a ping is waited for."""
IMAGES, VIDEOS, ALL = "/hubs/image-generation", "/hubs/video-generation", "/hubs/tasks"
Heard = tuple[str, dict[str, Any]]


class Ear:
    """A connected client: what each namespace has heard, and whether it was sent away."""

    def __init__(self, client: Any, namespaces: Sequence[str]) -> None:
        self.client = client
        self.heard: dict[str, list[Heard]] = {namespace: [] for namespace in namespaces}
        self.gone = asyncio.Event()
        self._changed = asyncio.Event()
        for namespace in namespaces:
            client.on("*", self._hearing(namespace), namespace=namespace)
            client.on("disconnect", self._go, namespace=namespace)

    def _hearing(self, namespace: str) -> Any:
        async def hear(event: str, data: dict[str, Any]) -> None:
            self.heard[namespace].append((event, data))
            self._changed.set()

        return hear

    async def _go(self, *_: Any) -> None:
        self.gone.set()

    async def until(self, word: str, namespace: str = IMAGES, count: int = 1) -> list[Heard]:
        """All that the namespace has heard once so many events end with that word."""
        async with asyncio.timeout(SECONDS):
            while sum(name.endswith(word) for name, _ in self.heard[namespace]) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.heard[namespace]

    async def call(self, method: str, *arguments: Any, namespace: str = IMAGES) -> Any:
        """What the server answers to a call."""
        return await self.client.call(method, arguments, namespace=namespace, timeout=SECONDS)


@asynccontextmanager
async def listening(
    url: str,
    auth: Any,
    *namespaces: str,
    transports: Sequence[str] = ("websocket",),
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Ear]:
    """A client that is connected to the namespaces, for as long as the block lasts."""
    client = socketio.AsyncClient(reconnection=False)
    wanted = namespaces or (IMAGES,)
    ear = Ear(client, wanted)
    try:
        await client.connect(
            url, auth=auth, namespaces=list(wanted), transports=list(transports), headers=headers or {},
            wait_timeout=SECONDS,
        )  # fmt: skip
        yield ear
    finally:
        # Taking leave, a client that polls would first wait for the answer to its last poll.
        await (client.eio.disconnect(abort=True) if client.transport() == "polling" else client.disconnect())
