"""Throws bad pictures at `heliograph up`, many at once: `python -m tests.bench.uploads`.

Prints its answers and its memory. There are files as large as may be sent, and small ones that decode to hundreds of
megapixels.
"""

from __future__ import annotations

import asyncio
import io
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import httpx
from PIL import Image

from tests.bench.measured import Measured, running

TOGETHER = 20
LARGEST = 52_428_800  # `max_picture_bytes`
NOISE = 1 << 20


def noise(size: int) -> bytes:
    """So many bytes that cannot be made smaller."""
    piece = random.Random(1).randbytes(NOISE)  # noqa: S311 - no secret
    return (piece * (size // NOISE + 1))[:size]


def picture(kind: str, width: int, height: int, data: bytes | None = None) -> bytes:
    """A picture of those pixels, or one that is white."""
    image = (
        Image.new("RGB", (width, height), "white") if data is None else Image.frombytes("RGB", (width, height), data)
    )
    file = io.BytesIO()
    image.save(file, kind, **({"compress_level": 1} if data and kind == "PNG" else {}))
    return file.getvalue()


# What is thrown, each TOGETHER times at once.
BAD: dict[str, Callable[[], bytes]] = {
    "50 MB that are no picture": lambda: noise(LARGEST),
    "60 MB, more than is taken": lambda: noise(LARGEST * 6 // 5),
    "50 MB, a PNG of 17 megapixels": lambda: picture("PNG", 4160, 4160, noise(3 * 4160 * 4160)),
    "50 MB, a PNG that breaks off": lambda: picture("PNG", 4800, 4800, noise(3 * 4800 * 4800))[:LARGEST],
    "200 megapixels as PNG": lambda: picture("PNG", 20_000, 10_000),
    "200 megapixels as JPEG": lambda: picture("JPEG", 20_000, 10_000),
    "200 megapixels as WebP": lambda: picture("WEBP", 16_000, 12_500),
    "200 megapixels as GIF": lambda: picture("GIF", 20_000, 10_000),
    "67 megapixels as PNG, all that may be": lambda: picture("PNG", 8192, 8192),
    "67 megapixels as JPEG, all that may be": lambda: picture("JPEG", 8192, 8192),
}


@click.command()
@click.argument("word", default="")
def main(word: str) -> None:
    """Starts a gateway, throws all whose names have the WORD, prints, and takes everything away."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), {}) as gateway:
        asyncio.run(measure(gateway, Path(folder), {name: make for name, make in BAD.items() if word in name}))


async def measure(gateway: Measured, folder: Path, bad: dict[str, Callable[[], bytes]]) -> None:
    """Prints a line for each kind of file."""
    click.echo(f"at rest it holds {gateway.resident:.0f} MB; {TOGETHER} requests at once:")
    async with gateway.client() as client:
        for name, make in bad.items():
            file = folder / "bad"
            file.write_bytes(await asyncio.to_thread(make))
            gateway.forget()
            began = time.perf_counter()
            throwing = asyncio.gather(*(_throw(client, file) for _ in range(TOGETHER)))
            slowest = await _slowest(client, throwing)
            took = time.perf_counter() - began
            said = ", ".join(f"{count} x {answer}" for answer, count in Counter(throwing.result()).items())
            click.echo(
                f"{name:40} {file.stat().st_size / 1e6:5.1f} MB: {said:32} in {took:5.1f} s, GET /health within "
                f"{slowest:5.0f} ms; at most {gateway.peak:4.0f} MB, then {gateway.resident:4.0f} MB"
            )


async def _throw(client: httpx.AsyncClient, file: Path) -> str:
    """Sends the file to be edited; status and code of the answer."""
    with file.open("rb") as data:
        body = {"model": "demo-image", "prompt": "x"}
        reply = await client.post("/v1/images/edits", data=body, files={"image": data})
    return f"{reply.status_code} {reply.json().get('error', {}).get('code', '')}".strip()


async def _slowest(client: httpx.AsyncClient, meanwhile: asyncio.Future[list[str]]) -> float:
    """The longest that others waited for an answer until then, in milliseconds."""
    slowest = 0.0
    while not meanwhile.done():
        began = time.perf_counter()
        (await client.get("/health")).raise_for_status()
        slowest = max(slowest, (time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.02)
    return slowest


if __name__ == "__main__":
    main()
