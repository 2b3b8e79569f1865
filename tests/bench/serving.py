"""Has `heliograph up` keep and serve a film of 200 MB, and prints its memory: `python -m tests.bench.serving`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import tempfile
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path

import click
import httpx

from tests.bench import heavy
from tests.bench.measured import Measured, running
from tests.seaweed import Seaweed

SIZE, PART = 200 << 20, 1 << 20
CLIENTS, PARTS, STALLED = 8, 100, 50


@click.command()
@click.option("--s3", is_flag=True, help="Keep bytes in an S3 server, in place of a folder.")
def main(s3: bool) -> None:
    """Starts everything, measures, prints, and takes everything away."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environ = {}
        if s3:
            seaweed = stack.enter_context(Seaweed())
            environ = {
                "HELIOGRAPH_STORAGE_URL": seaweed.url,
                "HELIOGRAPH_S3_ACCESS_KEY": seaweed.access_key,
                "HELIOGRAPH_S3_SECRET_KEY": seaweed.secret_key,
            }
        asyncio.run(_measured(folder, environ))


async def _measured(folder: Path, environ: dict[str, str]) -> None:
    film = heavy.film(SIZE)
    async with heavy.serving(film) as vendor:
        # Started in a thread: this loop has to answer the gateway meanwhile.
        environ |= {"HEAVY_URL": vendor, "HELIOGRAPH_PROVIDER_MODULES": "tests.bench.heavy"}
        with contextlib.ExitStack() as stack:
            gateway = await asyncio.to_thread(stack.enter_context, running(folder, environ))
            async with gateway.client() as client:
                await measure(gateway, client, film)


async def measure(gateway: Measured, client: httpx.AsyncClient, film: bytes) -> None:
    """Prints the figures one after the other."""
    click.echo(f"at rest it holds {gateway.resident:.0f} MB")
    whole = hashlib.sha256(film).hexdigest()
    began = time.perf_counter()
    gateway.forget()
    task = (await client.post("/v1/video/generations", json={"model": "heavy-video", "prompt": "x"})).json()
    task = (await client.get(f"/v1/tasks/{task['id']}", params={"wait": 300})).json()
    _say(gateway, f"fetched and kept {len(film) / 1e6:.0f} MB", began)
    link = task["result"]["video_url"]

    await _timed(gateway, f"{CLIENTS} clients, the whole", (_whole(client, link, whole) for _ in range(CLIENTS)))
    chances = [random.Random(number) for number in range(CLIENTS)]  # noqa: S311 - no secrets
    parts = (_parts(client, link, film, chance) for chance in chances)
    await _timed(gateway, f"{CLIENTS} clients, {PARTS} parts of {PART >> 20} MB each", parts)
    async with contextlib.AsyncExitStack() as stack:
        opened = (stack.enter_async_context(client.stream("GET", link)) for _ in range(STALLED))
        await _timed(gateway, f"{STALLED} clients that take nothing", (_stall(one) for one in opened))


async def _timed(gateway: Measured, what: str, work: Iterable[Awaitable[None]]) -> None:
    gateway.forget()
    began = time.perf_counter()
    await asyncio.gather(*work)
    _say(gateway, what, began)


def _say(gateway: Measured, what: str, began: float) -> None:
    took = time.perf_counter() - began
    click.echo(f"{what:36} in {took:5.1f} s; at most {gateway.peak:4.0f} MB, then {gateway.resident:4.0f} MB")


async def _whole(client: httpx.AsyncClient, link: str, sha256: str) -> None:
    found = hashlib.sha256()
    async with client.stream("GET", link) as reply:
        async for chunk in reply.aiter_bytes():
            found.update(chunk)
    if found.hexdigest() != sha256:
        raise SystemExit("what came is not what was kept")


async def _parts(client: httpx.AsyncClient, link: str, film: bytes, chance: random.Random) -> None:
    for _ in range(PARTS):
        start = chance.randrange(len(film) - PART)
        reply = await client.get(link, headers={"Range": f"bytes={start}-{start + PART - 1}"})
        if reply.status_code != 206 or reply.content != film[start : start + PART]:
            raise SystemExit(f"bytes from {start} are not what was kept: {reply.status_code}")


async def _stall(opened: Awaitable[httpx.Response]) -> None:
    """Has the head of the answer and takes no more of it, for as long as a gateway would need to read it all."""
    if (await opened).status_code != 200:
        raise SystemExit("it was not served")
    await asyncio.sleep(3)


if __name__ == "__main__":
    main()
