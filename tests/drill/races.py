"""Races: many at once for the same thing. `python -m tests.drill.races` runs them for the record, or those named.

budget     a thousand requests at once on a key whose budget is enough for k of them: k are accepted
duplicates 200 times the same request at once, with one Idempotency-Key: one task
fairness   how long nine small keys wait beside one that has queued ten thousand tasks, and alone
recovery   how soon a job is looked at again when a worker is killed
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp
import click
import httpx
from sqlalchemy import text

from tests.drill import books
from tests.drill.fleet import Fleet
from tests.drill.history import History, connected, snapshot
from tests.drill.stage import Stage

PRICE = 40_000
WAITED = """
SELECT extract(epoch FROM coalesce(started_at, now()) - created_at) AS seconds
FROM tasks WHERE key_id = :key AND created_at > to_timestamp(:since) ORDER BY created_at
"""


class Scale(NamedTuple):
    """How much of everything."""

    rounds: int = 50
    ways: int = 1000
    copies: int = 200
    backlog: int = 10_000
    seconds: int = 30
    jobs: int = 100
    kills: int = 5


class Answer(NamedTuple):
    """What one request of a crowd was told in the end, and how often it had to be sent again."""

    status: int
    code: str | None
    task: str | None
    replayed: bool
    resent: int


async def crowd(fleet: Fleet, key: str, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Answer]:
    """Posts all requests (Idempotency-Key and members) at once, spread over the web processes."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        posts = (_post(http, fleet.webs[n % len(fleet.webs)].url, key, *one) for n, one in enumerate(requests))
        return await asyncio.gather(*posts)


async def _post(http: aiohttp.ClientSession, url: str, key: str, idempotency: str, members: dict[str, Any]) -> Answer:
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": idempotency}
    body = {"model": "scripted-image", "prompt": idempotency, "async": True, **members}
    async with http.post(f"{url}/v1/images/generations", json=body, headers=headers) as reply:
        answer = await reply.json()
    if reply.status == 503:
        await asyncio.sleep(0.5)
        again = await _post(http, url, key, idempotency, members)
        return again._replace(resent=again.resent + 1)
    code = answer["error"]["code"] if reply.status >= 400 else None
    task = reply.headers.get("x-heliograph-task-id")
    return Answer(reply.status, code, task, "idempotent-replayed" in reply.headers, 0)


async def budget(stage: Stage, fleet: Fleet, scale: Scale) -> bool:
    """As many are accepted as the budget is enough for, in each round, and it is never exceeded."""
    random = Random(1)  # noqa: S311 - chances that can be repeated
    wrong, resent, took = [], 0, []
    for number in range(scale.rounds):
        most = random.randint(1, scale.ways // 2)
        key = await fleet.issue(f"race {number}", budget={"limit": f"{most * PRICE / 1e6:.2f}", "period": "total"})
        began = time.monotonic()
        answers = await crowd(fleet, key["key"], [(f"{number}-{one}", {}) for one in range(scale.ways)])
        took.append(time.monotonic() - began)
        told = Counter(answer.code or answer.status for answer in answers)
        resent += sum(answer.resent for answer in answers)
        if told != {202: most, "insufficient_quota": scale.ways - most}:
            wrong.append(f"round {number}: {most} were to be accepted: {dict(told)}")
    history = History([], [], await snapshot(stage.database_url), {})
    broken = [one for rule in (books.replayed, books.over_budget, books.holds, books.counts) for one in rule(history)]
    over = max(
        entry["reserved"] + entry["spent"] - history.accounts[entry["account_id"]]["budget"]
        for entry in history.tables["entries"]
    )
    click.echo(
        f"budget: {scale.rounds} rounds of {scale.ways} at once over {len(fleet.webs)} web processes: "
        f"{len(wrong)} rounds with another number than k accepted, {max(over, 0)} micro-USD over at the worst of "
        f"{len(history.tables['entries'])} prefixes, {len(broken)} faults in the ledger; "
        f"{resent} resent after 503; {statistics.median(took):.1f} s a round"
    )
    return _all_well(wrong, broken)


async def duplicates(stage: Stage, fleet: Fleet, scale: Scale) -> bool:
    """All copies of a request are told of the same task, and one of them has made it; the budget is for one."""
    wrong, resent = [], 0
    for number in range(scale.rounds):
        key = await fleet.issue(f"duplicates {number}", budget={"limit": "0.04", "period": "total"})
        answers = await crowd(fleet, key["key"], [(f"copy-{number}", {})] * scale.copies)
        resent += sum(answer.resent for answer in answers)
        told = Counter((answer.status, answer.task) for answer in answers)
        made = sum(not answer.replayed for answer in answers)
        if len(told) != 1 or answers[0].status != 202 or made != 1:
            wrong.append(f"round {number}: {dict(told)}, {made} not marked as replayed")
    history = History([], [], await snapshot(stage.database_url), {})
    many = [prompt for prompt, tasks in history.tasks_of_prompt.items() if len(tasks) > 1]
    click.echo(
        f"duplicates: {scale.rounds} rounds of {scale.copies} at once over {len(fleet.webs)} web processes: "
        f"{len(wrong)} rounds with more than one story, {len(many)} requests with more than one task; "
        f"{resent} resent after 503"
    )
    return _all_well(wrong, many)


async def fairness(stage: Stage, fleet: Fleet, scale: Scale) -> bool:
    """Prints how long small keys wait for their first turn beside a hog's backlog, and without it."""
    small = [await fleet.issue(f"small-{number}") for number in range(9)]
    hog = await fleet.issue("hog")
    await asyncio.to_thread(fleet.workers[0].start)
    alone = await _waits(stage, fleet, small, scale.seconds)
    await asyncio.to_thread(fleet.workers[0].stop)
    for first in range(0, scale.backlog, 500):
        await crowd(fleet, hog["key"], [(f"hog-{first + one}", {"script": "bytes:0.5"}) for one in range(500)])
    await asyncio.to_thread(fleet.workers[0].start)
    beside = await _waits(stage, fleet, small, scale.seconds)
    waits = await _seconds(stage, hog["id"], 0)
    click.echo(
        f"fairness: nine keys with a request a second, first turn after p50 {_at(alone, 50):.2f} p95 "
        f"{_at(alone, 95):.2f} s alone, p50 {_at(beside, 50):.2f} p95 {_at(beside, 95):.2f} s beside a hog with "
        f"{scale.backlog} tasks, who waits p50 {_at(waits, 50):.1f} p95 {_at(waits, 95):.1f} s and more"
    )
    return True


async def recovery(stage: Stage, fleet: Fleet, scale: Scale) -> bool:
    """Prints how soon after the kill of one of two workers each running job is looked at by the other."""
    key = await fleet.issue("recovery")
    await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in fleet.workers[:2]))
    await crowd(fleet, key["key"], [(f"job-{one}", {"script": "never"}) for one in range(scale.jobs)])
    lease = float(fleet.environ["HELIOGRAPH_LEASE_SECONDS"])
    gaps: list[float] = []
    for number in range(scale.kills):
        await asyncio.sleep(3)
        victim = fleet.workers[number % 2]
        killed = time.time()
        await asyncio.to_thread(victim.kill)
        gaps += await _looks(stage, killed, scale.jobs, lease)
        await asyncio.to_thread(victim.start)
    click.echo(
        f"recovery: {scale.kills} kills of one of two workers with {scale.jobs} running jobs, lease {lease:g} s: the "
        f"next look came after p50 {_at(gaps, 50):.2f} p95 {_at(gaps, 95):.2f} max {max(gaps):.2f} s"
    )
    return max(gaps) <= lease + 10


RACES: dict[str, Callable[[Stage, Fleet, Scale], Awaitable[bool]]] = {
    "budget": budget, "duplicates": duplicates, "fairness": fairness, "recovery": recovery,
}  # fmt: skip
# A server of PostgreSQL takes a hundred connections unless it is told otherwise, and others use it too.
FEW = {"HELIOGRAPH_DATABASE_CONNECTIONS": "8"}
# What each race needs: web processes that are started, workers that it starts itself, and settings.
NEEDS: dict[str, tuple[int, int, dict[str, str]]] = {
    "budget": (4, 0, FEW),
    "duplicates": (4, 0, FEW),
    "fairness": (2, 1, {"HELIOGRAPH_CONCURRENCY": "50", "HELIOGRAPH_DRAIN_SECONDS": "5"}),
    "recovery": (1, 2, {"HELIOGRAPH_LEASE_SECONDS": "15"}),
}


def race(name: str, scale: Scale, stage: Stage) -> bool:
    """Runs one race on a deployment of its own; whether it went as it should."""
    webs, workers, settings = NEEDS[name]
    fleet = Fleet(stage.folder, stage.vendor, stage.environ | settings, webs, workers)
    try:
        fleet.start_webs()
        return asyncio.run(_awaited(RACES[name](stage, fleet, scale)))
    finally:
        fleet.stop()


async def _awaited(result: Awaitable[bool]) -> bool:
    return await result


async def _waits(stage: Stage, fleet: Fleet, keys: list[dict[str, Any]], seconds: int) -> list[float]:
    """Lets each key send a request a second for so long; how long each task waited for its first turn."""
    since = time.time()
    for number in range(seconds):
        began = time.monotonic()
        await asyncio.gather(*(crowd(fleet, key["key"], [(f"{since}-{number}", {})]) for key in keys))
        await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
    await asyncio.sleep(1)
    return [wait for key in keys for wait in await _seconds(stage, key["id"], since)]


async def _seconds(stage: Stage, key_id: str, since: float) -> list[float]:
    async with connected(stage.database_url) as connection:
        found = await connection.execute(text(WAITED), {"key": key_id, "since": since})
        return [float(seconds) for seconds in found.scalars()]


async def _looks(stage: Stage, killed: float, jobs: int, lease: float) -> list[float]:
    """Seconds from the kill to the next look at each job."""
    async with httpx.AsyncClient(timeout=30) as http:
        first: dict[str, float] = {}
        deadline = time.time() + lease + 30
        while len(first) < jobs and time.time() < deadline:
            looked = (await http.get(f"{stage.vendor.url}/ledger")).json()["looked"]
            first = {job: at for job, at in looked.items() if at > killed} | first
            await asyncio.sleep(0.05)
    return [at - killed for at in first.values()] + [float("inf")] * (jobs - len(first))


def _at(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _all_well(*found: Sequence[object]) -> bool:
    for one in (one for some in found for one in some[:10]):
        click.echo(f"    {one}")
    return not any(found)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", default=Scale().rounds, show_default=True, help="Of the first two races.")
def main(names: tuple[str, ...], rounds: int) -> None:
    """Runs the races, each on a stage of its own."""
    well = True
    for name in names or RACES:
        with tempfile.TemporaryDirectory(prefix="race-") as folder, Stage(Path(folder)) as stage:
            well &= race(name, Scale(rounds=rounds), stage)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
