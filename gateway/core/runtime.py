"""The runtime: everything that the functions of the core are given, made once per process."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.core.admission import open_catalog
from gateway.core.advisers import open_adviser
from gateway.core.catalog import Catalog
from gateway.core.crashing import CrashPoints
from gateway.core.destinations import Destinations
from gateway.core.durations import Durations
from gateway.core.enhancing import Enhancer
from gateway.core.executor import Executor
from gateway.core.health import Health
from gateway.core.hooks import Hooks, load_hooks
from gateway.core.hub import Hub
from gateway.core.inspection import Inspector
from gateway.core.outbound import Outbound, Policy
from gateway.core.ports import Bus, Queue
from gateway.core.provenance import Notary, open_notary
from gateway.core.safety import Safety, open_safety
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
    """The keys derived from the installation's secret, one for each purpose; `headers` encrypts those of webhooks."""

    digests: bytes = field(repr=False)
    links: bytes = field(repr=False)
    callbacks: bytes = field(repr=False)
    webhooks: bytes = field(repr=False)
    headers: bytes = field(repr=False)
    realtime: bytes = field(repr=False)


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
    hub: Hub
    outbound: Outbound
    inspector: Inspector
    crash: CrashPoints
    health: Health
    destinations: Destinations
    hooks: Hooks = field(default_factory=Hooks)
    safety: Safety = field(default_factory=Safety)
    enhancer: Enhancer = field(default_factory=Enhancer)
    notary: Notary | None = None
    now: Callable[[], dt.datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    durations: Durations = field(default_factory=Durations)

    async def close(self, drain_seconds: float) -> None:
        """Waits so long for what runs, then lets everything go in the opposite order of need."""
        await self.executor.drain(drain_seconds)
        await self.waiter.close()
        await self.hub.close()
        await self.queue.close()
        await self.outbound.close()
        await self.safety.close()
        await self.enhancer.close()
        await self.catalog.close()
        self.inspector.close()
        if self.notary is not None:
            self.notary.close()
        await self.objects.close()
        await self.db.close()


def policy(settings: Settings) -> Policy:
    """What these settings let strangers make us dial."""
    return Policy(allow=settings.allow_hosts, https_only=settings.https_only)


def open_outbound(settings: Settings) -> Outbound:
    """The door to strangers' URLs, under that policy; raises SettingsError."""
    with _named("allow_hosts"):
        return Outbound(policy(settings))


def open_runtime(
    settings: Settings,
    make_queue: Callable[[Executor], Queue],
    now: Callable[[], dt.datetime] = utc_now,
    bus: Bus | None = None,
    make_outbound: Callable[[Settings], Outbound] = open_outbound,
) -> Runtime:
    """Builds the runtime. `settings.secret` must be there. Connects to nothing yet; raises SettingsError."""
    executor = Executor(settings.concurrency)
    inspector = Inspector(settings.max_pixels)
    db = open_database(settings)
    return Runtime(
        settings=settings,
        secrets=derive_secrets(settings),
        db=db,
        objects=open_objects(settings),
        catalog=open_catalog(settings),
        queue=make_queue(executor),
        executor=executor,
        waiter=Waiter(db),
        hub=Hub(bus, inspector.smaller),
        outbound=make_outbound(settings),
        inspector=inspector,
        crash=CrashPoints(settings.crash_point),
        health=Health(db, settings, now),
        destinations=Destinations(settings.concurrency),
        hooks=load_hooks(settings.hook_seconds),
        safety=open_safety(settings),
        enhancer=Enhancer(open_adviser(settings, "enhance")),
        notary=open_notary(settings),
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
    purposes = {
        "digests": "virtual key digests", "links": "media links", "callbacks": "vendor callbacks",
        "webhooks": "webhook secrets", "headers": "webhook headers",
        "realtime": "realtime tokens",
    }  # fmt: skip
    return Secrets(**{name: derive(secret, purpose) for name, purpose in purposes.items()})
