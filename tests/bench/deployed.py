"""A distributed deployment to measure, and how: percentiles, and the memory of one of its processes."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.deployments import Distributed, Vendor
from tests.seaweed import Seaweed
from tests.services import database, vhost

SECRET = "benchmarks-use-this-secret-and-nobody-else-does"


@contextlib.contextmanager
def deployed() -> Iterator[Distributed]:
    """A deployment over PostgreSQL, RabbitMQ and S3 of its own; taken away at the end."""
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
        yield deployment


class Memory(NamedTuple):
    """What a process holds, in MB: its proportional and its resident set size, as Linux counts them."""

    proportional: float
    resident: float


def memory(pid: int) -> Memory:
    """What the process holds now."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = {name: int(size) / 1024 for name, size, *_ in map(str.split, rollup) if name in ("Pss:", "Rss:")}
    return Memory(sizes["Pss:"], sizes["Rss:"])


def percentiles(times: list[float]) -> tuple[float, float]:
    """The median and the 95th percentile."""
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]
