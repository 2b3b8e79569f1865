"""A task's whole story, told at random: whatever vendors answer and whatever breaks, the promises hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from sqlalchemy import RowMapping

from gateway.core import tasks
from gateway.core.advance import advance
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import EDGES, FINAL, State
from gateway.core.ports import TASK, Message
from providers.card import Card
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Order,
    Pending,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, png
from tests.core.world import CALLER, World

# What a vendor makes of an order or a look: the first row bought nothing, the second may have bought something.
NOT_BOUGHT = {"unavailable": Unavailable, "full": RateLimited, "credential": BadCredential, "refused": Refused,
              "blocked": Blocked}  # fmt: skip
BOUGHT = ("done", "garbage", "pending", "unsure", "broken", "defect", "crash")
# Those that leave a doubt come more often than others: they are where a second order could slip through.
DOUBTS = ("unsure", "crash", "unavailable", "full") * 3
ANSWERS = st.lists(st.sampled_from((*DOUBTS, *NOT_BOUGHT, *BOUGHT)), max_size=8)
EVENTS = st.lists(st.sampled_from(["step"] * 6 + ["cancel", "double", "database", "commit", "answer"]), max_size=25)
REPEATS, FINDS = {"idempotent_submit": True}, {"can_find": True}
CARDS = st.sampled_from([REPEATS, FINDS, REPEATS, FINDS, {}, {"can_cancel": True}])


@dataclass
class Vendor:
    """A vendor that follows a script, then always delivers, and keeps a ledger of the orders it may bill."""

    script: list[str]
    card: Card
    ledger: list[str] = field(default_factory=list)

    async def submit(self, order: Order) -> Pending | Done:
        if self.card.idempotent_submit and order.idempotency_key in self.ledger:
            return self.answer(self.next())
        word = self.next()
        if word in NOT_BOUGHT:
            raise NOT_BOUGHT[word](word)
        self.ledger.append(order.idempotency_key)
        return self.answer(word)

    async def look(self, _: str) -> Pending | Done:
        return self.answer(self.next())

    async def find(self, order: Order) -> Pending | Done | None:
        return self.answer(self.next()) if order.idempotency_key in self.ledger else None

    def next(self) -> str:
        return self.script.pop(0) if self.script else "done"

    def answer(self, word: str) -> Pending | Done:
        if word in NOT_BOUGHT:
            raise NOT_BOUGHT[word](word)
        if word == "crash":
            raise asyncio.CancelledError
        failures = {"unsure": Unsure(word), "broken": Broken(word), "defect": KeyError(word)}
        if word in failures:
            raise failures[word]
        if word == "pending":
            return Pending("job", progress=0.5)
        return done(b"oops") if word == "garbage" else done(png())


def provider_of(name: str, script: Iterable[str], facts: dict[str, Any]) -> tuple[ScriptedProvider, Vendor]:
    """A provider whose vendor follows the script."""
    card = card_of(name, **facts)
    vendor = Vendor(list(script), card)
    every = 1000
    return ScriptedProvider(
        card, submit=[vendor.submit] * every, poll=[vendor.look] * every, find=[vendor.find] * every
    ), vendor


async def step(world: World, task_id: str) -> None:
    """One turn, from which nothing may come but what an executor would log."""
    row = await world.row(task_id)
    if row["state"] not in FINAL:
        await asyncio.gather(asyncio.create_task(world.step(task_id)), return_exceptions=True)


async def happen(world: World, task_id: str, event: str) -> None:
    """One event of a story."""
    if event == "cancel":
        world.db.troubles["write"].clear()
        with suppress(GatewayError):
            await tasks.cancel(world.rt, CALLER.key_id, task_id)
    elif event == "double":
        for version in range((await world.row(task_id))["version"]):
            await advance(world.rt, Message(TASK, task_id, version))
    elif event == "step":
        await step(world, task_id)
    else:
        world.db.when = {"database": "before", "commit": "commit", "answer": "after"}[event]
        world.db.away("write", 2)


@budget(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([], [], {}, {}, [])
@example(["crash", "unavailable"], [], REPEATS, {}, [])
@example(["unsure", "full", "done"], [], REPEATS, REPEATS, [])
@example(["unsure", "unavailable"], [], FINDS, {}, [])
@given(ANSWERS, ANSWERS, CARDS, CARDS, EVENTS)
async def test_the_promises_hold_in_every_story(
    make_world: MakeWorld,
    one: list[str],
    two: list[str],
    facts: dict[str, Any],
    more: dict[str, Any],
    story: list[str],
) -> None:
    """Crashes, outages, doubled messages and cancels in any order: nothing is bought twice, and nothing ends twice.

    A task moves only on the published ways, its progress never falls, one vendor at most may bill one order, and the
    owner is charged exactly when something was delivered.
    """
    first, ledger = provider_of("one", one, facts)
    second, other = provider_of("two", two, more)
    world = make_world(first, second, task_seconds=600.0)
    task_id = await world.create()
    seen: list[RowMapping] = [await world.row(task_id)]
    for event in story:
        await happen(world, task_id, event)
        seen.append(await world.row(task_id))
    world.db.troubles["write"].clear()
    while seen[-1]["state"] not in FINAL:
        await step(world, task_id)
        seen.append(await world.row(task_id))
        assert len(seen) < 500
    _check_rows(seen)
    words = [word for _, word in await world.events(task_id)]
    assert words in (["queued", *middle, seen[-1]["state"]] for middle in ([], ["started"]))
    assert len(ledger.ledger + other.ledger) <= 1
    if not story and set(one) <= {"pending", "done"}:
        assert seen[-1]["state"] == State.COMPLETED
    delivered = bool(await world.assets(task_id))
    assert delivered == (seen[-1]["charged"] is not None) == (seen[-1]["state"] == State.COMPLETED)
    await world.rt.close(1)


def _check_rows(seen: list[RowMapping]) -> None:
    """What was seen of the row, one moment after the other, could have happened."""
    for before, after in pairwise(seen):
        assert after["progress"] >= before["progress"]
        assert after["version"] >= before["version"]
        assert after["sequence"] >= before["sequence"]
        assert after["state"] in _reachable(State(before["state"]))
        if before["state"] in FINAL:
            assert after == before


def _reachable(state: State) -> set[State]:
    """The states that a task can come to from this one, in any number of steps."""
    reached = {state}
    while True:
        further = reached | {target for source in reached for target in EDGES[source]}
        if further == reached:
            return reached
        reached = further
