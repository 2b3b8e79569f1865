"""The sink: where the webhooks of a drill arrive. It misbehaves now and then until it is healed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from random import Random

from aiohttp import web

from tests.drill.record import Record

SINK = "sink.jsonl"
# What it does with a webhook, how often, and the status that it answers with; None: the line is cut instead.
ANSWERS: dict[str, tuple[int, int | None]] = {
    "takes": (74, 200), "takes late": (6, 204), "breaks": (6, 500), "is busy": (4, 429), "hangs up": (6, None),
    "is deaf": (4, None),
}  # fmt: skip
LATE = ("takes late", "is deaf")
LONGEST = 4.0


class Sink:
    """A receiver in a thread of its own. What arrives is on the disk before it is answered."""

    def __init__(self, folder: Path) -> None:
        self.record = Record(folder / SINK)
        self._random: Random | None = None
        self._loop = asyncio.new_event_loop()
        self._healed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.url = f"http://127.0.0.1:{self.port}"

    def misbehave(self, seed: int) -> None:
        """From now on it does as it likes, by chances that follow from the seed."""
        self._random = Random(f"sink {seed}")  # noqa: S311 - chances that can be repeated

    def heal(self) -> None:
        """From now on it takes everything at once."""
        self._random = None
        self._loop.call_soon_threadsafe(self._healed.set)

    def close(self) -> None:
        """Ends it."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self.record.close()

    async def _listen(self) -> int:
        application = web.Application()
        application.router.add_post("/{place:.*}", self._hear)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _hear(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        does, seconds = self._choose()
        status = ANSWERS[does][1]
        names = ("id", "timestamp", "signature")
        headers = {name: request.headers.get(f"webhook-{name}") for name in names}
        self.record.write(path=request.path, **headers, body=body, does=does, status=status)
        await asyncio.to_thread(self.record.sync)
        if does in LATE:
            await self._wait(seconds)
        if status is None and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status or 500)

    def _choose(self) -> tuple[str, float]:
        if self._random is None:
            return "takes", 0.0
        weights = [weight for weight, _ in ANSWERS.values()]
        return self._random.choices(list(ANSWERS), weights)[0], self._random.uniform(0.5, LONGEST)

    async def _wait(self, seconds: float) -> None:
        """So long, or until it is healed."""
        try:
            async with asyncio.timeout(seconds):
                await self._healed.wait()
        except TimeoutError:
            pass
