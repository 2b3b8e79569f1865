"""Waiting: many requests, one question to the database, and no news lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.core.lifecycle import FINAL, State
from gateway.core.waiting import Waiter
from storage.database import DatabaseUnavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider

LONG = 30.0


async def test_news_of_this_process_arrive_at_once(make_world: MakeWorld) -> None:
    """Who is told need not be found by asking: all who wait for the task go on, and nobody else."""
    world = make_world(ScriptedProvider())
    one, other = await world.create(), await world.create()
    waiter = Waiter(world.db, interval=LONG)
    waiting = [asyncio.create_task(waiter.final(task_id, LONG)) for task_id in (one, one, other)]
    await asyncio.sleep(0)
    waiter.tell(one)
    assert await asyncio.gather(*waiting[:2]) == [True, True]
    assert not waiting[2].done()
    waiter.tell(other)
    assert await waiting[2]
    await waiter.close()


@pytest.mark.parametrize("state", sorted(FINAL))
async def test_news_of_other_processes_are_found(make_world: MakeWorld, state: State) -> None:
    """A task that another process has brought to its end is found by asking."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    waiting = asyncio.create_task(world.rt.waiter.final(task_id, LONG))
    await asyncio.sleep(0)
    await world.change(task_id, state=state)
    assert await waiting


async def test_a_task_that_has_ended_already_is_not_waited_for(make_world: MakeWorld) -> None:
    """The first look is made at once, so a task that ended before the wait costs no interval."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    await world.change(task_id, state=State.COMPLETED)
    waiter = Waiter(world.db, interval=LONG)
    assert await waiter.final(task_id, LONG)
    await waiter.close()


async def test_a_wait_ends_when_its_time_is_over(make_world: MakeWorld) -> None:
    """A task that does not end in time is said not to have, and is not asked for any more."""
    world = make_world(ScriptedProvider())
    waiter = Waiter(world.db, interval=0.001)
    assert not await waiter.final(await world.create(), 0.01)
    assert await _settled(lambda: world.db.used["read"])
    await waiter.close()


async def test_one_question_for_all_who_wait(make_world: MakeWorld) -> None:
    """However many wait for however many tasks, one look is one query."""
    world = make_world(ScriptedProvider())
    waiter = Waiter(world.db, interval=LONG)
    born = [await world.create() for _ in range(10)]
    for task_id in born:
        await world.change(task_id, state=State.FAILED)
    assert all(await asyncio.gather(*(waiter.final(task_id, LONG) for task_id in born for _ in range(20))))
    assert world.db.used["read"] == 1
    await waiter.close()


async def test_a_database_that_is_away_ends_no_wait(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Looks that fail, for whatever reason, are logged and repeated; the request waits on and gets its news."""
    world = make_world(ScriptedProvider())
    waiter = Waiter(world.db, interval=0.001)
    task_id = await world.create()
    await world.change(task_id, state=State.COMPLETED)
    away = DatabaseUnavailable("away")
    world.db.troubles["read"] = [away, away, RuntimeError("a defect"), away]
    assert await waiter.final(task_id, LONG)
    assert caplog.text.count("the database does not answer") == 3
    assert caplog.text.count("looking for ended tasks failed") == 1
    await waiter.close()


async def test_one_who_gives_up_takes_nobody_along(make_world: MakeWorld) -> None:
    """A client that goes away ends its own wait only."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    waiting = [asyncio.create_task(world.rt.waiter.final(task_id, LONG)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert waiting[0].cancelled()
    world.rt.waiter.tell(task_id)
    assert await waiting[1]


async def test_closing_breaks_no_query_off(make_world: MakeWorld) -> None:
    """A look that is under way when the waiter closes comes to its end, and no other one follows."""
    world = make_world(ScriptedProvider())
    waiter = Waiter(world.db, interval=LONG)
    waiting = asyncio.create_task(waiter.final(await world.create(), LONG))
    await world.db.begun["read"].wait()
    await waiter.close()
    assert (world.db.used["read"], world.db.broken_off) == (1, 0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_telling_where_nobody_waits_is_harmless(make_world: MakeWorld) -> None:
    """News that nobody waits for are dropped, and a later wait is not fooled by them."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    world.rt.waiter.tell(task_id)
    assert not await world.rt.waiter.final(task_id, 0.01)


async def _settled(count: Callable[[], int]) -> bool:
    """Whether a number above zero comes to rest."""
    seen: list[int] = []
    while seen[-20:] != [count()] * 20:
        seen.append(count())
        await asyncio.sleep(0.001)
    return seen[-1] > 0


async def test_a_process_that_stops_lets_everybody_go(make_world: MakeWorld) -> None:
    """After a release nobody waits any more, neither those who did nor those who come later."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    waiting = [asyncio.create_task(world.rt.waiter.final(task_id, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    world.rt.waiter.release(0)
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await world.rt.waiter.final(task_id, 60)
