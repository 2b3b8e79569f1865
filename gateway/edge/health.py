"""Health: whether the process lives, and whether what it needs answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any

from litestar import Response, Router, get
from litestar.di import NamedDependency

from gateway.core.ports import QueueError
from gateway.core.runtime import Runtime
from gateway.edge.auth import NO_KEY
from storage.database import DatabaseUnavailable
from storage.objects import ObjectError

SECONDS = 3


@get(["/health", "/health/live", "/health/startup"], security=NO_KEY)
async def live() -> dict[str, str]:
    """The process answers. Asks nothing else."""
    return {"status": "ok"}


@get(["/health/ready", "/readyz"], security=NO_KEY)
async def ready(rt: NamedDependency[Runtime]) -> Response[dict[str, Any]]:
    """Whether requests can be served. The queue is told of, but does not count: tasks are accepted without it."""
    database, storage, queue = await asyncio.gather(
        _answer(rt.db.check()), _answer(rt.objects.find("health")), _answer(rt.queue.check())
    )
    serving = database == storage == "ok"
    body = {"status": "ok" if serving else "unavailable", "database": database, "storage": storage, "queue": queue}
    return Response(body, status_code=200 if serving else 503)


@get("/v1/metadata", security=NO_KEY)
async def metadata() -> dict[str, str]:
    """What this is."""
    return {"name": "heliograph", "version": version("heliograph")}


async def _answer(check: Awaitable[Any]) -> str:
    try:
        async with asyncio.timeout(SECONDS):
            await check
    except (DatabaseUnavailable, ObjectError, QueueError, TimeoutError):
        return "unavailable"
    return "ok"


router = Router("/", route_handlers=[live, ready, metadata], tags=["Health"])
