"""The runtime: everything that the functions of the core are given, made once per process."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.core.admission import open_catalog
from gateway.core.catalog import Catalog
from gateway.core.crashing import CrashPoints
from gateway.core.executor import Executor
from gateway.core.inspection import Inspector
from gateway.core.outbound import Outbound, Policy
from gateway.core.ports import Queue
from gateway.core.settings import Settings, SettingsError, variable
from gateway.core.signing import derive
from gateway.core.waiting import Waiter
from storage.database import Database
from storage.objects import ObjectStore
from storage.opening import open_store


def utc_now() -> dt.datetime:
    """The time, with its zone."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Secrets:
    """The keys derived from the installation's secret: one for digests of virtual keys, one for links."""

    digests: bytes = field(repr=False)
    links: bytes = field(repr=False)


@dataclass(frozen=True)
class Runtime:
    """What the core works with. Functions take it first; nothing else is reached for."""

    settings: Settings
    secrets: Secrets
    db: Database
    objects: ObjectStore
    catalog: Catalog
    queue: Queue
    executor: Executor
    waiter: Waiter
    outbound: Outbound
    inspector: Inspector
    crash: CrashPoints
    now: Callable[[], dt.datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def close(self, drain_seconds: float) -> None:
        """Waits so long for what runs, then lets everything go in the opposite order of need."""
        await self.executor.drain(drain_seconds)
        await self.waiter.close()
        await self.queue.close()
        await self.outbound.close()
        await self.catalog.close()
        self.inspector.close()
        await self.objects.close()
        await self.db.close()


def open_runtime(
    settings: Settings, make_queue: Callable[[Executor], Queue], now: Callable[[], dt.datetime] = utc_now
) -> Runtime:
    """Builds the runtime. `settings.secret` must be there. Connects to nothing yet; raises SettingsError."""
    executor = Executor(settings.concurrency)
    db = open_database(settings)
    with _named("allow_hosts"):
        outbound = Outbound(Policy(allow=settings.allow_hosts))
    return Runtime(
        settings=settings,
        secrets=derive_secrets(settings),
        db=db,
        objects=open_objects(settings),
        catalog=open_catalog(settings),
        queue=make_queue(executor),
        executor=executor,
        waiter=Waiter(db),
        outbound=outbound,
        inspector=Inspector(settings.max_pixels),
        crash=CrashPoints(settings.crash_point),
        now=now,
    )


def open_database(settings: Settings) -> Database:
    """The database of these settings, not connected yet; raises SettingsError."""
    with _named("database_url"):
        return Database(settings.database, connections=settings.database_connections)


def open_objects(settings: Settings) -> ObjectStore:
    """The object store of these settings; raises SettingsError, or ObjectError when it cannot be opened."""
    with _named("storage_url"):
        return open_store(settings.storage, access_key=settings.s3_access_key, secret_key=settings.s3_secret_key)


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """Says which setting it was that made no sense."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{variable(setting)}: {error}") from error


def derive_secrets(settings: Settings) -> Secrets:
    """The derived keys of an installation."""
    secret = settings.secret or ""
    return Secrets(digests=derive(secret, "virtual key digests"), links=derive(secret, "media links"))
