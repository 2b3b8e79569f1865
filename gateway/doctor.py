"""The doctor: tries everything that an installation depends on, and says what to do where it does not work.

Nothing that it does can bill: providers are asked only what their adapters know to be free.
"""

from __future__ import annotations

import asyncio

import msgspec

import migrations
from gateway.core.admission import open_catalog
from gateway.core.catalog import Catalog
from gateway.core.health import ALL_MODELS, Health
from gateway.core.ports import QueueError
from gateway.core.provenance import open_notary
from gateway.core.runtime import open_database, open_objects, utc_now
from gateway.core.settings import Settings, SettingsError, variable
from providers.contract import BadCredential, Provider, ProviderError
from storage.database import DatabaseUnavailable
from storage.objects import ObjectError

PROBE_KEY = "probe/heliograph-doctor"
PROBE = b"written, read and deleted by heliograph doctor"
SECONDS = 20


class Finding(msgspec.Struct, frozen=True):
    """One part of the installation: whether it is well, and what was seen or what to do."""

    part: str
    well: bool
    words: str


async def examine(settings: Settings) -> list[Finding]:
    """Examines database, broker, storage, every configured provider, and with what results are signed."""
    catalog = open_catalog(settings)
    checks = [_database(settings), _broker(settings), _storage(settings)]
    checks += [_provider(name, provider) for name, provider in catalog.providers.items()]
    try:
        found = await asyncio.gather(*checks)
        parked = await _parked(settings) if found[0].well else []
        return [*found, *parked, *await asyncio.to_thread(_provenance, settings), _models(catalog)]
    finally:
        await catalog.close()


async def _database(settings: Settings) -> Finding:
    db = open_database(settings)
    kind = "SQLite" if db.sqlite else "PostgreSQL"
    try:
        await db.check()
        behind = await migrations.behind(settings.database)
    except DatabaseUnavailable as error:
        return Finding("database", False, f"{kind} does not answer ({error}): check {variable('database_url')}.")
    finally:
        await db.close()
    if behind:
        return Finding("database", False, f"{kind} answers, but its schema is old: run `heliograph migrate`.")
    return Finding("database", True, f"{kind} answers and has the newest schema.")


async def _parked(settings: Settings) -> list[Finding]:
    """What the running processes know of credentials that providers have rejected."""
    db = open_database(settings)
    try:
        troubles = await Health(db, settings, utc_now).read()
    finally:
        await db.close()
    words = "Parked since {:%Y-%m-%d %H:%M} UTC: {}. Mend it, then POST /admin/v1/routes/reset."
    return [
        Finding(f"credential {one.credential} of {one.provider}", False, words.format(one.since, one.reason))
        for one in troubles
        if one.model == ALL_MODELS
    ]


async def _broker(settings: Settings) -> Finding:
    if settings.broker_url is None:
        return Finding("broker", True, "None is set: everything runs in one process (`heliograph up`).")
    from workers.celery_queue import CeleryQueue  # a process that is alone starts sooner without

    queue = CeleryQueue(settings.broker_url)
    try:
        await queue.check()
    except QueueError as error:
        return Finding(
            "broker",
            False,
            f"{str(error).rstrip('.')}. Check {variable('broker_url')}; tasks wait for the sweep meanwhile.",
        )
    finally:
        await queue.close()
    return Finding("broker", True, "RabbitMQ answers and has our queue.")


async def _storage(settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(SECONDS):
            read = await _write_read_delete(settings)
    except (ObjectError, TimeoutError) as error:
        detail = str(error) or type(error).__name__
        return Finding("storage", False, f"{detail}: check {variable('storage_url')} and its credentials.")
    if read != PROBE:
        return Finding("storage", False, "What was written is not what was read. Do not use this store.")
    return Finding("storage", True, "A probe object was written, read and deleted.")


async def _write_read_delete(settings: Settings) -> bytes:
    store = open_objects(settings)
    try:
        await store.put(PROBE_KEY, PROBE, "text/plain")
        read = b"".join([chunk async for chunk in store.read(PROBE_KEY)])
        await store.delete(PROBE_KEY)
    finally:
        await store.close()
    return read


async def _provider(name: str, provider: Provider) -> Finding:
    part = f"provider {name}"
    try:
        async with asyncio.timeout(SECONDS):
            await provider.probe()
    except BadCredential:
        variables = ", ".join(provider.card.credentials.values()) or "its credential"
        return Finding(part, False, f"It does not accept the credential: check {variables}.")
    except (ProviderError, TimeoutError) as error:
        detail = getattr(error, "message", None) or "no answer in time"
        return Finding(part, False, f"{detail.rstrip('.')}. Check its base_url, and the network.")
    return Finding(part, True, f"{provider.card.title} answers.")


def _provenance(settings: Settings) -> list[Finding]:
    """Whether results can be signed, where that is set."""
    try:
        notary = open_notary(settings)
    except SettingsError as error:
        return [Finding("provenance", False, f"{error}.")]
    if notary is None:
        return []
    notary.close()
    return [Finding("provenance", True, f"A probe was signed; the certificate ends on {notary.until:%Y-%m-%d}.")]


def _models(catalog: Catalog) -> Finding:
    count = len(list(catalog.names()))
    if not catalog.models:
        return Finding("models", False, "None: set a provider's credential, or add one to heliograph.toml.")
    said = f"{count} served, aliases among them: `heliograph models` lists them."
    if unpriced := catalog.refused():
        said += f" Refused, for their price is not known: {', '.join(unpriced)}; give them one in heliograph.toml."
    return Finding("models", True, said)
