"""One drill: load and faults at the same time, then healing, then the checker."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
from sqlalchemy import text

from tests.drill.checker import Findings, check
from tests.drill.client import Clients
from tests.drill.echo import Echo
from tests.drill.fleet import Fleet
from tests.drill.history import CLIENT, History, connected, snapshot, survey
from tests.drill.load import ENDPOINTS, OWNERS, accounts, operations
from tests.drill.nemesis import Nemesis, schedule
from tests.drill.record import Record
from tests.drill.stage import Stage

# Leases are short, so that faults outlast them; nothing may end by its own deadline; unknown holds end soon.
SETTINGS = {
    "HELIOGRAPH_LEASE_SECONDS": "3", "HELIOGRAPH_SYNC_SECONDS": "15", "HELIOGRAPH_DRAIN_SECONDS": "5",
    "HELIOGRAPH_UNKNOWN_SECONDS": "60", "HELIOGRAPH_DATABASE_CONNECTIONS": "8", "HELIOGRAPH_BREAKER_SECONDS": "1",
}  # fmt: skip
PATIENCE = 60
# What the store is tried with when it starts, and may be left when it is killed just then.
PROBE = "ready"
# Installations leave objects there that belong to no task.
MARKS = "installations/"
SETTLED_SECONDS = 120
OPEN = "SELECT count(*) FROM tasks WHERE state NOT IN ('completed', 'failed', 'cancelled')"
LAST = "SELECT max(ended_at) FROM tasks"
UNTOLD = "SELECT count(*) FROM deliveries WHERE ended_at IS NULL"
# What waits for its next attempt has it now, as if the hours had passed; `takes` is 0 where nobody is at it.
HURRY = """
UPDATE deliveries SET due_at = now() WHERE id IN
(SELECT id FROM deliveries WHERE due_at > now() AND takes = 0 FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True)
class Size:
    """How long, how hard, and against how many processes."""

    seconds: float = 60
    rate: float = 6
    webs: int = 2
    workers: int = 2


def drill(stage: Stage, seed: int, size: Size) -> tuple[History, Findings]:
    """Runs one drill; what happened, and what the checker says. All records are in the stage's folder."""
    fleet = Fleet(stage.folder, stage.vendor, stage.environ | SETTINGS, size.webs, size.workers)
    try:
        fleet.start()
        click.echo(asyncio.run(_play(stage, fleet, seed, size)))
    finally:
        fleet.stop()
    _collect(stage)
    history = History.load(stage.folder)
    return history, check(history)


async def _play(stage: Stage, fleet: Fleet, seed: int, size: Size) -> str:
    with _record(stage.folder / CLIENT) as client, _record(stage.folder / "nemesis.jsonl") as faults:
        keys = await issue_keys(fleet, client)
        await open_hooks(fleet, keys, stage.hooks_url, client)
        stage.sink.misbehave(seed)
        async with Echo(stage.broker_url, seed) as echo:
            until = time.monotonic() + size.seconds + PATIENCE
            clients = Clients([web.url for web in fleet.webs], keys, stage.hooks_url, client, until)
            nemesis = Nemesis(stage, fleet, echo, faults)
            load = asyncio.create_task(clients.run(operations(seed, size.seconds, size.rate)))
            await nemesis.run(schedule(seed, size.seconds))
            await asyncio.to_thread(stage.mend)
            await asyncio.to_thread(fleet.mend)
            healed = time.time()
            faults.write(fault="healed")
            await load
        last = await settle(stage.database_url, SETTLED_SECONDS)
    settled = f"all settled {max(last - healed, 0):.1f} s after healing" if last else "NOT all settled"
    return f"{settled}; {echo.sent} messages were sent again"


async def issue_keys(fleet: Fleet, record: Record) -> dict[str, str]:
    """Makes the keys of the load through the administration; their texts by their names."""
    for owner, body in OWNERS.items():
        await fleet.own(owner, body)
    texts = {}
    for account in accounts():
        key = await fleet.issue(account.name, **account.body)
        texts[account.name] = key["key"]
        record.write(does="key", name=account.name, id=key["id"])
    return texts


async def open_hooks(fleet: Fleet, keys: dict[str, str], hooks: str, record: Record) -> None:
    """Gives some keys an endpoint at the sink, and all of them a secret for their single tasks."""
    async with httpx.AsyncClient(base_url=f"{fleet.url}/v1/webhook_endpoints", timeout=30) as http:
        for name, key in keys.items():
            http.headers["Authorization"] = f"Bearer {key}"
            reply = await http.post("/default/rotate_secret", json={})
            record.write(does="hook", name=name, words=None, secret=reply.raise_for_status().json()["signing_secret"])
            if words := ENDPOINTS.get(name):
                body = {"url": f"{hooks}/keys/{name}", "event_types": [f"image.generation.{word}" for word in words]}
                reply = await http.post("", json=body)
                secret = reply.raise_for_status().json()["signing_secret"]
                record.write(does="hook", name=name, words=words, secret=secret)


async def settle(database_url: str, seconds: float) -> float | None:
    """Waits until every task has ended, and every webhook of it, so long at most.

    Returns when the last task did, or None when some have not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        async with connected(database_url) as connection:
            await connection.execute(text(HURRY))
            if not any([(await connection.execute(text(count))).scalar() for count in (OPEN, UNTOLD)]):
                last: dt.datetime = (await connection.execute(text(LAST))).scalar_one()
                return last.timestamp()
        await asyncio.sleep(0.5)
    return None


def _collect(stage: Stage) -> None:
    """Adds what database and store hold to the records."""
    store = stage.seaweed
    objects = survey(store.url, store.access_key, store.secret_key)
    objects.pop(PROBE, None)
    objects = {key: found for key, found in objects.items() if not key.startswith(MARKS)}
    records: dict[str, object] = {
        "tables": asyncio.run(snapshot(stage.database_url)),
        "objects": objects,
    }
    for name, record in records.items():
        (stage.folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


@contextlib.contextmanager
def _record(path: Path) -> Iterator[Record]:
    with ExitStack() as stack:
        record = Record(path)
        stack.callback(record.close)
        yield record
