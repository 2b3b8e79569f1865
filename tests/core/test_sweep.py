"""The sweep: what the queue lost is found, within the room that there is, and through trouble."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core import slots
from gateway.core.lifecycle import State
from gateway.core.ports import Message
from gateway.core.sweep import AT_ONCE, sweep, sweep_for_ever
from storage.database import DatabaseUnavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, done
from tests.core.world import World


async def states(world: World, born: list[str]) -> list[str]:
    """The states of these tasks."""
    return [(await world.row(task_id))["state"] for task_id in born]


async def sweeping(world: World, pauses: int) -> list[float]:
    """Sweeps until that many pauses were made, and returns their lengths."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)
        if len(made) == pauses:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await sweep_for_ever(replace(world.rt, sleep=pause))
    return made


async def test_it_takes_up_what_nobody_came_for(make_world: MakeWorld) -> None:
    """Tasks whose bells were lost are started here, without the queue; and so are those whose worker is gone."""
    world = make_world(ScriptedProvider(submit=[done()] * 3))
    born = [await world.create() for _ in range(3)]
    world.bells.broken = True
    dead = await slots.start_next(world.rt)
    assert dead is not None
    assert await sweep(world.rt) == 2
    assert all([await world.rt.waiter.final(task_id, 5) for task_id in born if task_id != dead.id])
    world.clock.forward(world.rt.settings.lease_seconds)
    assert await sweep(world.rt) == 1
    assert all([await world.rt.waiter.final(task_id, 5) for task_id in born])
    assert await states(world, born) == [State.COMPLETED] * 3


async def test_it_rings_no_more_than_there_is_room_for(make_world: MakeWorld) -> None:
    """With two slots free, two rows are rung; the others stay due for a process that has room."""
    world = make_world(ScriptedProvider(), concurrency=3)
    gate = asyncio.Event()
    begun: list[str] = []

    async def hold(message: Message) -> None:
        begun.append(message.id)
        await gate.wait()

    world.rt.executor.handlers = {"task": hold}
    born = [await world.rung() for _ in range(5)]
    await world.rt.executor.submit(Message("task", "another", 0))
    world.clock.forward(100)
    assert await sweep(world.rt) == 2
    assert await sweep(world.rt) == 0
    rings = [(await world.row(task_id))["rings"] for task_id in born]
    assert sorted(rings) == [1, 1, 1, 2, 2]
    gate.set()
    await world.rt.executor.drain(1)
    assert len(begun) == 3


async def test_a_full_process_asks_the_database_nothing(make_world: MakeWorld) -> None:
    """Without a free slot the sweep is over before it begins: it succeeds although the database is away."""
    world = make_world(ScriptedProvider(), concurrency=0)
    await world.create()
    world.clock.forward(100)
    world.db.away("write_one", 1)
    assert await sweep(world.rt) == 0


async def test_trouble_with_the_database_is_told(make_world: MakeWorld) -> None:
    """One sweep raises what keeps it from ringing."""
    world = make_world(ScriptedProvider())
    world.db.away("write_one", 1)
    with pytest.raises(DatabaseUnavailable):
        await sweep(world.rt)


async def test_sweeping_goes_on_through_trouble(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """The database is away, a defect strikes, it is away again; after that, what is due is taken up all the same."""
    world = make_world(ScriptedProvider(submit=[done()]))
    task_id = await world.create()
    world.clock.forward(100)
    world.db.troubles["write_one"] = [
        DatabaseUnavailable("away"),
        RuntimeError("a defect"),
        DatabaseUnavailable("away"),
    ]
    await sweeping(world, 4)
    assert await world.rt.waiter.final(task_id, 5)
    assert (await world.row(task_id))["state"] == State.COMPLETED
    assert caplog.text.count("the sweep could not ring") == 2
    assert caplog.text.count("the sweep failed") == 1


async def test_many_sweeps_are_not_in_step(make_world: MakeWorld) -> None:
    """The pauses between sweeps are those of the setting, give or take a quarter, and not all alike."""
    pauses = await sweeping(make_world(ScriptedProvider(), sweep_seconds=2.0), 20)
    assert len(pauses) == 20
    assert all(1.5 <= pause <= 2.5 for pause in pauses)
    assert len(set(pauses)) > 1


async def test_a_full_sweep_is_followed_by_another_at_once(make_world: MakeWorld) -> None:
    """A backlog larger than one sweep is worked off without a pause in between."""
    world = make_world(ScriptedProvider(), concurrency=AT_ONCE + 50)
    handled: list[str] = []

    async def handle(message: Message) -> None:
        handled.append(message.id)

    world.rt.executor.handlers = {"task": handle}
    for _ in range(AT_ONCE + 5):
        await world.rung()
    world.clock.forward(100)
    await sweeping(world, 1)
    await world.rt.executor.submit(Message("task", "the last", 0))
    await asyncio.sleep(0)
    assert len(handled) == AT_ONCE + 6


async def test_after_an_outage_holders_speak_first(make_world: MakeWorld) -> None:
    """Once the database answers again, rows are left alone for a lease: who has a turn could not renew it before."""
    world = make_world(ScriptedProvider())
    world.db.away("write_one", 1)
    world.db.away("read", 2)
    first, second, lease = await sweeping(world, 3)
    usual = world.rt.settings.sweep_seconds
    assert (first, second) == (usual, usual)
    assert lease >= world.rt.settings.lease_seconds * 0.75


async def test_a_process_that_stops_takes_nothing_up(make_world: MakeWorld) -> None:
    """What is due when a process was told to stop is left for others."""
    world = make_world(ScriptedProvider())
    await world.create()
    world.clock.forward(100)
    world.rt.executor.stop()
    assert await sweep(world.rt) == 0
