"""Claims: a request that comes again gets the task of the first time, and nothing is bought twice."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from sqlalchemy import func, select

from gateway.core import accounts, claims, tasks
from gateway.core.accounts import Budget, Limits
from gateway.core.claims import KEPT, Idempotency
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.preparing import Wanted
from gateway.core.tables import CLAIMS, TASKS
from gateway.core.tasks import TaskRecord
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, done, generation
from tests.core.world import CALLER, OTHER, World

FIRST = Idempotency("order-1", "as it was")


async def create(
    world: World, idempotency: Idempotency = FIRST, caller: Caller = CALLER, *, here: bool = False, n: int = 1
) -> TaskRecord:
    """One request with an Idempotency-Key."""
    return await tasks.create(world.rt, caller, Wanted(generation(n=n), idempotency=idempotency), here=here)


async def count(world: World) -> tuple[int, int]:
    """How many tasks and claims there are."""
    async with world.db.read() as connection:
        born = (await connection.execute(select(func.count()).select_from(TASKS))).scalar_one()
        return born, (await connection.execute(select(func.count()).select_from(CLAIMS))).scalar_one()


async def test_a_repeated_request_gets_the_first_task(make_world: MakeWorld) -> None:
    """Also when the task has ended meanwhile; the second says that it is a replay."""
    world = make_world(ScriptedProvider(submit=[done()]))
    first = await create(world)
    second = await create(world)
    await world.finish(first.id)
    third = await create(world)
    assert [one.id for one in (second, third)] == [first.id] * 2
    assert [one.replayed for one in (first, second, third)] == [False, True, True]
    assert third.state == "completed"
    assert await count(world) == (1, 1)


@pytest.mark.parametrize("here", [True, False])
async def test_a_hundred_at_once_make_one_task(make_world: MakeWorld, here: bool) -> None:
    """One creates, the others get what it made, and the vendor gets one order."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    made = await asyncio.gather(*(create(world, here=here) for _ in range(100)))
    assert len({one.id for one in made}) == 1
    assert sum(not one.replayed for one in made) == 1
    if not here:
        await world.finish(made[0].id)
    assert await world.rt.waiter.final(made[0].id, 5)
    assert (len(provider.orders), await count(world)) == (1, (1, 1))


async def test_a_repetition_does_not_lack_what_the_first_has_used_up(make_world: MakeWorld) -> None:
    """A budget and a minute for one task: fifty equal requests at once all get the one that there is."""
    world = make_world(ScriptedProvider())
    async with world.db.write() as connection:
        limits = Limits(per_minute=1)
        await accounts.change(connection, CALLER.key_id, world.clock.now(), budget=Budget(40_000), limits=limits)
    made = await asyncio.gather(*(create(world) for _ in range(50)))
    assert len({one.id for one in made}) == 1
    with pytest.raises(GatewayError):
        await create(world, Idempotency("order-2", "as it was"))


async def test_another_request_with_the_same_key_is_refused(make_world: MakeWorld) -> None:
    """A slip is not answered with somebody else's picture."""
    world = make_world(ScriptedProvider())
    await create(world)
    with pytest.raises(GatewayError) as caught:
        await create(world, Idempotency("order-1", "something else"))
    assert (caught.value.code, caught.value.kind.status) == ("idempotency_key_reused", 422)
    assert await count(world) == (1, 1)


async def test_callers_do_not_share_their_texts(make_world: MakeWorld) -> None:
    """The same text of two callers stands for two tasks."""
    world = make_world(ScriptedProvider())
    one, other = await create(world), await create(world, caller=OTHER)
    assert (one.id != other.id, other.replayed) == (True, False)


async def test_a_refused_request_claims_nothing(make_world: MakeWorld) -> None:
    """What was refused before there was a task may be mended, and sent under the same text."""
    world = make_world(ScriptedProvider())
    with pytest.raises(GatewayError):
        await create(world, Idempotency("order-1", "n=99"), n=99)
    assert not (await create(world)).replayed


async def test_a_text_is_free_again_after_a_day(make_world: MakeWorld) -> None:
    """An old claim gives way, whether it was tidied up or not."""
    world = make_world(ScriptedProvider())
    first = await create(world)
    world.clock.time += KEPT - dt.timedelta(seconds=1)
    assert (await create(world)).id == first.id
    world.clock.forward(1)
    second = await create(world, Idempotency("order-1", "something else"))
    assert second.id != first.id
    world.clock.time += KEPT
    await claims.purge(world.rt)
    assert await count(world) == (2, 0)


@pytest.mark.parametrize("when", ["commit", "after"])
async def test_a_lost_answer_to_the_commit_makes_one_task(make_world: MakeWorld, when: str) -> None:
    """Whether the commit stood or not, it is this request's own task, and a repetition finds it."""
    world = make_world(ScriptedProvider())
    world.db.when = when
    world.db.away("write", 1)
    first = await create(world)
    assert not first.replayed
    assert (await create(world)).id == first.id
    assert await count(world) == (1, 1)
