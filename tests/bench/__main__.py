"""Measures a distributed deployment against the vendor alone: `python -m tests.bench`.

Figures of one run are compared with each other, never with another machine's. Needs PostgreSQL, RabbitMQ and the
`weed` binary, as the acceptance tests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import httpx

from tests.acceptance.deployments import Distributed, Vendor
from tests.seaweed import Seaweed
from tests.services import database, vhost

SECRET = "benchmarks-use-this-secret-and-nobody-else-does"
MANY, LONG_SECONDS, SAMPLES = 200, 5, 50


def main() -> None:
    """Starts everything, measures, prints, and takes everything away."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seaweed = stack.enter_context(Seaweed())
        vendor = Vendor(folder)
        stack.callback(vendor.process.kill)
        environ = {
            "HELIOGRAPH_DATABASE_URL": stack.enter_context(database()),
            "HELIOGRAPH_BROKER_URL": stack.enter_context(vhost()),
            "HELIOGRAPH_STORAGE_URL": seaweed.url,
            "HELIOGRAPH_S3_ACCESS_KEY": seaweed.access_key,
            "HELIOGRAPH_S3_SECRET_KEY": seaweed.secret_key,
            "HELIOGRAPH_SECRET": SECRET,
            "HELIOGRAPH_LEASE_SECONDS": "15",
        }
        deployment = Distributed(folder, vendor, environ)
        stack.callback(deployment.stop)
        deployment.start()
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
            memory = _memory(deployment.worker.popen.pid)
            click.echo(f"{MANY} x {script:12}  accepted in {accepting:.1f} s, all completed after {took:.1f} s;"
                  f" worker {memory:.0f} MB")  # fmt: skip


async def latency(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Median and 95th percentile of a call, one at a time, in milliseconds, after a few for warming up."""
    times = []
    for number in range(SAMPLES + 5):
        began = time.perf_counter()
        await call()
        if number >= 5:
            times.append((time.perf_counter() - began) * 1000)
    return _percentiles(times)


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
    return _percentiles(accepted), _percentiles(done)


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


def _percentiles(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def _memory(pid: int) -> float:
    """The proportional set size of a process in MB, as Linux counts it."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
