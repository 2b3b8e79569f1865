"""Measures a distributed deployment against the vendor alone: `python -m tests.bench`.

Figures of one run are compared with each other, never with another machine's. Needs PostgreSQL, RabbitMQ and the
`weed` binary, as the acceptance tests do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import click
import httpx

from tests.acceptance.deployments import Distributed
from tests.bench.deployed import deployed, memory, percentiles

MANY, LONG_SECONDS, SAMPLES = 200, 5, 50


def main() -> None:
    """Starts everything, measures, prints, and takes everything away."""
    with deployed() as deployment:
        asyncio.run(measure(deployment))


async def measure(deployment: Distributed) -> None:
    """Prints the figures one after the other."""
    headers = {"Authorization": f"Bearer {deployment.new_key()}"}
    async with (
        httpx.AsyncClient(base_url=deployment.url, headers=headers, timeout=120) as gateway,
        httpx.AsyncClient(base_url=deployment.vendor.url, timeout=120) as vendor,
    ):
        direct = await latency(lambda: _direct(vendor))
        synchronous = await latency(lambda: _request(gateway, {}))
        click.echo(f"vendor alone          p50 {direct[0]:6.1f} ms  p95 {direct[1]:6.1f} ms")
        click.echo(f"synchronous           p50 {synchronous[0]:6.1f} ms  p95 {synchronous[1]:6.1f} ms"
              f"  ({synchronous[0] / direct[0]:.1f} times the vendor alone)")  # fmt: skip
        accepted, done = await idle(gateway)
        click.echo(f"asynchronous, idle    p50 {accepted[0]:6.1f} ms to 202, {done[0]:6.1f} ms to completed"
              f" (p95 {accepted[1]:.1f}, {done[1]:.1f})")  # fmt: skip
        for script in (f"bytes:{LONG_SECONDS}", f"job:{LONG_SECONDS}"):
            took, accepting = await many(gateway, script)
            held = memory(deployment.worker.popen.pid).proportional
            click.echo(f"{MANY} x {script:12}  accepted in {accepting:.1f} s, all completed after {took:.1f} s;"
                  f" worker {held:.0f} MB")  # fmt: skip


async def latency(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Median and 95th percentile of a call, one at a time, in milliseconds, after a few for warming up."""
    times = []
    for number in range(SAMPLES + 5):
        began = time.perf_counter()
        await call()
        if number >= 5:
            times.append((time.perf_counter() - began) * 1000)
    return percentiles(times)


async def idle(gateway: httpx.AsyncClient) -> tuple[tuple[float, float], tuple[float, float]]:
    """How long it takes to accept a task, and from sending it to its completion, with nothing else going on."""
    accepted, done = [], []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        task = await _request(gateway, {"async": True})
        accepted.append((time.perf_counter() - began) * 1000)
        while task["status"] != "completed":
            await asyncio.sleep(0.002)
            task = (await gateway.get(f"/v1/tasks/{task['id']}")).json()
        done.append((time.perf_counter() - began) * 1000)
    return percentiles(accepted), percentiles(done)


async def many(gateway: httpx.AsyncClient, script: str) -> tuple[float, float]:
    """Seconds until all of many tasks are completed, and until all were accepted."""
    began = time.perf_counter()
    tasks = await asyncio.gather(*(_request(gateway, {"async": True, "script": script}) for _ in range(MANY)))
    accepting = time.perf_counter() - began
    await asyncio.gather(*(gateway.get(f"/v1/tasks/{task['id']}", params={"wait": 100}) for task in tasks))
    took = time.perf_counter() - began
    ended = [(await gateway.get(f"/v1/tasks/{task['id']}")).json()["status"] for task in tasks]
    if ended != ["completed"] * MANY:
        raise SystemExit(f"not all were completed: {ended}")
    return took, accepting


async def _request(gateway: httpx.AsyncClient, members: dict[str, object]) -> dict[str, str]:
    body = {"model": "scripted-image", "prompt": "benchmark", **members}
    reply = (await gateway.post("/v1/images/generations", json=body)).raise_for_status()
    task: dict[str, str] = reply.json()
    return task


async def _direct(vendor: httpx.AsyncClient) -> None:
    body = {"key": "direct", "prompt": "benchmark", "n": 1, "size": "64x64", "script": ""}
    (await vendor.post("/submit", json=body)).raise_for_status()


if __name__ == "__main__":
    main()
