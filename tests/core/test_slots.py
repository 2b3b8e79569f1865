"""Slots: who may run, who comes next, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter

import pytest
from sqlalchemy import update

from gateway.core import accounts, slots, tasks
from gateway.core.accounts import Limits
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.lifecycle import State
from gateway.core.ports import START, Message
from gateway.core.preparing import Wanted
from gateway.core.sweep import sweep
from gateway.core.tables import ACCOUNTS
from providers.contract import Pending
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, done, generation
from tests.core.world import CALLER, OTHER, World


async def allow(world: World, concurrent: int, caller: Caller = CALLER) -> None:
    """Lets so many tasks of a key run at the same time."""
    async with world.db.write() as connection:
        await accounts.change(connection, caller.key_id, world.clock.now(), limits=Limits(concurrent=concurrent))


async def counted(world: World, caller: Caller = CALLER) -> tuple[int, int]:
    """How many of the key's tasks wait for a slot, and how many have one, by its account."""
    account = await accounts.get(world.rt, caller.key_id)
    return account.waiting, account.running


async def started(world: World, times: int) -> list[str | None]:
    """The owners of the tasks that get a slot next, in order; None for nobody."""
    found = []
    for _ in range(times):
        world.clock.forward(0.001)
        turn = await slots.start_next(world.rt)
        found.append(None if turn is None else turn.row["key_id"])
    return found


async def prompts(world: World, times: int) -> list[str]:
    """The prompts of the tasks that get a slot next, in order."""
    turns = [await slots.start_next(world.rt) for _ in range(times)]
    return [turn.row["generation"]["prompt"] for turn in turns if turn is not None]


async def test_keys_take_turns(make_world: MakeWorld) -> None:
    """A key with many tasks and one with few are served one by one, until the few are done."""
    world = make_world(ScriptedProvider())
    for _ in range(10):
        await world.create(CALLER)
    for _ in range(3):
        await world.create(OTHER)
    served = await started(world, 8)
    assert Counter(served[:6]) == {CALLER.key_id: 3, OTHER.key_id: 3}
    assert served[6:] == [CALLER.key_id] * 2


async def test_a_key_that_comes_late_is_served_at_once(make_world: MakeWorld) -> None:
    """The backlog of one key does not delay the first task of another."""
    world = make_world(ScriptedProvider())
    for _ in range(20):
        await world.create(CALLER)
    await started(world, 5)
    await world.create(OTHER)
    assert await started(world, 1) == [OTHER.key_id]


async def test_a_full_key_waits_and_keeps_nobody(make_world: MakeWorld) -> None:
    """Beyond its limit a key's tasks wait; those of others go on; and one that ends makes room for exactly one."""
    world = make_world(ScriptedProvider(submit=[Pending("job"), done(), done()], poll=[done()]))
    await allow(world, 1)
    first = await world.create()
    world.clock.forward(1)
    await world.create()
    assert (await world.step(first))["state"] == State.WAITING
    assert await started(world, 1) == [None]
    await world.finish(await world.create(OTHER))
    world.bells.messages.clear()
    await world.finish(first)
    await asyncio.sleep(0)
    assert world.bells.messages == [Message(START, CALLER.key_id, 0)]
    assert await started(world, 2) == [CALLER.key_id, None]
    assert await counted(world) == (0, 1)


async def test_a_request_that_waits_for_its_answer_has_no_more_slots(make_world: MakeWorld) -> None:
    """A synchronous request of a full key is accepted, and its task waits like any other."""
    world = make_world(ScriptedProvider(submit=[done()]))
    await allow(world, 1)
    await world.create()
    await started(world, 1)
    task = await tasks.create(world.rt, CALLER, Wanted(generation()), here=True)
    await asyncio.sleep(0)
    row = await world.row(task.id)
    assert (row["version"], row["due_at"]) == (0, None)
    assert await counted(world) == (1, 1)


async def test_a_full_key_is_refused_where_the_operator_wants_it(make_world: MakeWorld) -> None:
    """With the setting, what would have to wait is refused, and says when to come again."""
    world = make_world(ScriptedProvider(), concurrency_overflow="refuse", key_concurrency=2)
    for _ in range(2):
        await world.create()
    for here in (True, False):
        with pytest.raises(GatewayError, match=r"runs 2 tasks already, .* retry after 5 seconds") as caught:
            await tasks.create(world.rt, CALLER, Wanted(generation()), here=here)
        assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 5)
    assert await counted(world) == (2, 0)


async def test_priority_goes_before_age_within_a_key(make_world: MakeWorld) -> None:
    """Of tasks of the same moment the one of higher priority is started first."""
    world = make_world(ScriptedProvider())
    for priority in (1, 10, 5):
        wanted = Wanted(generation(prompt=f"of {priority}"), priority=priority)
        await tasks.create(world.rt, CALLER, wanted, here=False)
    assert await prompts(world, 3) == ["of 10", "of 5", "of 1"]


@pytest.mark.parametrize(("minutes", "first"), [(8, "late"), (10, "early")])
async def test_who_has_waited_long_enough_goes_first(make_world: MakeWorld, minutes: int, first: str) -> None:
    """Nine steps of priority are worth nine minutes: an older task of low priority is not overtaken for ever."""
    world = make_world(ScriptedProvider())
    await tasks.create(world.rt, CALLER, Wanted(generation(prompt="early"), priority=1), here=False)
    world.clock.forward(minutes * 60)
    await tasks.create(world.rt, CALLER, Wanted(generation(prompt="late"), priority=10), here=False)
    assert (await prompts(world, 1)) == [first]


async def test_many_workers_start_each_task_once(make_world: MakeWorld) -> None:
    """Twenty askers at the same moment start seven tasks, each once, and never more than the limit."""
    world = make_world(ScriptedProvider())
    await allow(world, 5)
    for _ in range(7):
        await world.create()
    turns = await asyncio.gather(*(slots.start_next(world.rt) for _ in range(20)))
    assert len({turn.id for turn in turns if turn is not None}) == sum(turn is not None for turn in turns) == 5
    assert await counted(world) == (2, 5)


async def test_a_task_whose_time_is_over_in_the_line_fails(make_world: MakeWorld) -> None:
    """The sweep takes it out of the line: it ends on time although no slot ever became free."""
    provider = ScriptedProvider(submit=[Pending("job")])
    world = make_world(provider)
    await allow(world, 1)
    await world.step(await world.create())
    late = await tasks.create(world.rt, CALLER, Wanted(generation(), timeout=30.0), here=False)
    world.clock.time = late.created_at + dt.timedelta(seconds=30)
    assert await sweep(world.rt) >= 1
    assert await world.rt.waiter.final(late.id, 5)
    row = await world.row(late.id)
    assert (row["state"], row["error_code"], len(provider.orders)) == (State.FAILED, "timeout", 1)
    assert await counted(world) == (0, 1)


async def test_a_timeout_is_never_longer_than_the_operators(make_world: MakeWorld) -> None:
    """A task has the time that its request asks for; more than the settings allow is refused."""
    world = make_world(ScriptedProvider(), task_seconds=100.0)
    with pytest.raises(GatewayError, match="at most 100 seconds"):
        await tasks.create(world.rt, CALLER, Wanted(generation(), timeout=101.0), here=False)
    for asked, given in ((40.0, 40), (100.0, 100), (None, 100)):
        task = await tasks.create(world.rt, CALLER, Wanted(generation(), timeout=asked), here=False)
        assert (await world.row(task.id))["deadline_at"] - task.created_at == dt.timedelta(seconds=given)


async def test_a_crash_after_the_start_frees_nothing_twice(make_world: MakeWorld) -> None:
    """A task whose worker dies keeps its slot until another has finished it."""
    world = make_world(ScriptedProvider(submit=[done()]))
    task_id = await world.create()
    await slots.start_next(world.rt)
    assert await counted(world) == (0, 1)
    await world.finish(task_id)
    assert await counted(world) == (0, 0)


async def test_a_wrong_count_mends_itself(make_world: MakeWorld) -> None:
    """An account that counts a task which is not there, as after a restored backup, is counted anew, and goes on."""
    world = make_world(ScriptedProvider(submit=[done()]))
    async with world.db.write() as connection:
        values = {"waiting": 5, "running": 3}
        await connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == CALLER.key_id).values(values))
    assert await slots.start_next(world.rt) is None
    assert await counted(world) == (0, 0)
    await world.finish(await world.create())
    assert await counted(world) == (0, 0)
