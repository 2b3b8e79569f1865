"""Tasks: made in one piece, found by their owner alone, listed without gaps, cancelled without harm."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import func, select

from gateway.core import accounts, erasing, ids, tasks
from gateway.core.accounts import Budget
from gateway.core.claims import Idempotency
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.lifecycle import State
from gateway.core.ports import START, Message
from gateway.core.preparing import Wanted
from gateway.core.sweep import sweep
from gateway.core.tables import EVENTS, TASKS
from gateway.core.tasks import TaskRecord
from providers.contract import Order, Pending, Refused, Unavailable
from storage.database import DatabaseUnavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, png
from tests.core.world import CALLER, OTHER, World


async def count(world: World, table: object = TASKS) -> int:
    """How many rows a table has."""
    async with world.db.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())  # type: ignore[arg-type]  # a table


async def pages(world: World, limit: int, **members: object) -> list[list[TaskRecord]]:
    """All pages of the caller's tasks, each asked for by the last id of the one before."""
    found: list[list[TaskRecord]] = []
    more, after = True, None
    while more:
        page, more = await tasks.listing(world.rt, CALLER.key_id, after=after, limit=limit, **members)  # type: ignore[arg-type]  # as given
        found.append(page)
        after = page[-1].id if page else None
    return found


async def test_a_new_task_is_durable_and_says_so(make_world: MakeWorld) -> None:
    """The row, its first event and the price are there when `create` returns, and one bell is rung for its key."""
    world = make_world(ScriptedProvider())
    record = await world.accept(size="64x64", n=2)
    assert (record.state, record.progress, record.final) == (State.QUEUED, 0, False)
    row = await world.row(record.id)
    assert (row["state"], row["version"], row["rings"], row["takes"]) == (State.QUEUED, 0, 0, 0)
    assert (row["quoted"], row["charged"], row["key_id"]) == (80_000, None, CALLER.key_id)
    assert row["due_at"] is None
    assert await world.events(record.id) == [(1, "queued")]
    assert world.bells.messages == [Message(START, CALLER.key_id, 0)]
    assert await world.get(record.id) == msgspec.structs.replace(record, queue_position=1)


async def test_what_is_refused_leaves_nothing(make_world: MakeWorld) -> None:
    """A generation that no route can honour makes neither task nor event nor bell."""
    world = make_world(ScriptedProvider())
    with pytest.raises(GatewayError) as caught:
        await world.create(n=99)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "n")
    assert (await count(world), await count(world, EVENTS), world.bells.messages) == (0, 0, [])


async def test_without_a_database_nothing_is_accepted(make_world: MakeWorld) -> None:
    """A database that does not answer leaves no half of a task, and nobody is rung for."""
    provider = ScriptedProvider()
    world = make_world(provider)
    for here in (True, False):
        world.db.away("write", 1)
        with pytest.raises(DatabaseUnavailable):
            await tasks.create(world.rt, CALLER, Wanted(generation()), here=here)
        await asyncio.sleep(0)
    assert (await count(world), await count(world, EVENTS), world.bells.messages) == (0, 0, [])
    assert provider.orders == []


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("when", ["commit", "after"])
async def test_a_commit_whose_answer_is_lost_makes_one_task(make_world: MakeWorld, when: str, here: bool) -> None:
    """Whether the commit stands or not, there is one task in the end, and the client need not send anything again."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    world.db.when = when
    world.db.away("write", 1)
    task = await tasks.create(world.rt, CALLER, Wanted(generation()), here=here)
    assert await count(world) == 1
    if not here:
        await world.finish(task.id)
    assert await world.rt.waiter.final(task.id, 5)
    assert [number for number, _ in await world.events(task.id)] == [1, 2, 3]
    assert len(provider.orders) == 1


@pytest.mark.parametrize("when", ["commit", "after"])
async def test_a_lost_commit_is_not_refused_for_what_it_used_up(make_world: MakeWorld, when: str) -> None:
    """The budget covers one task: that its own first try has reserved it, unheard of, does not keep the second back."""
    world = make_world(ScriptedProvider())
    async with world.db.write() as connection:
        await accounts.change(connection, CALLER.key_id, world.clock.now(), budget=Budget(40_000))
    world.db.when = when
    world.db.away("write", 1)
    task = await tasks.create(world.rt, CALLER, Wanted(generation()), here=False)
    assert (await world.row(task.id))["held"] == 40_000
    assert (await accounts.get(world.rt, CALLER.key_id)).reserved == 40_000


async def test_a_task_that_may_stand_is_not_asked_for_again(make_world: MakeWorld) -> None:
    """While nobody can tell whether it was accepted, the error names the task and forbids sending it again."""
    world = make_world(ScriptedProvider())
    world.db.when = "commit"
    world.db.away("write", 2)
    with pytest.raises(GatewayError) as caught:
        await tasks.create(world.rt, CALLER, Wanted(generation()), here=False)
    assert (caught.value.code, caught.value.retryable) == ("database_unavailable", False)
    assert caught.value.task_id is not None


async def test_what_cannot_be_recorded_is_not_accepted(make_world: MakeWorld) -> None:
    """A key without an account, which cannot be, has no tasks: it is a defect, and not the caller's."""
    world = make_world(ScriptedProvider())
    with pytest.raises(LookupError):
        await world.accept(Caller("key_gone"))
    assert (await count(world), world.bells.messages) == (0, [])


async def test_a_queue_that_takes_nothing_loses_no_task(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker is away when the task is made: the caller is not bothered, and the sweep takes the task up."""
    world = make_world(ScriptedProvider(submit=[done()]))
    world.bells.broken = True
    task_id = await world.create()
    assert "the sweep will" in caplog.text
    assert await sweep(world.rt) == 1
    assert await world.rt.waiter.final(task_id, 5)
    assert (await world.row(task_id))["state"] == State.COMPLETED


async def test_labels_and_adjustments_are_kept(make_world: MakeWorld) -> None:
    """What the caller said of the task comes back as it was."""
    world = make_world(ScriptedProvider())
    labels = {"order": "17", "größe": "\u00fc\U0001f31e"}
    record = await tasks.create(world.rt, CALLER, Wanted(generation(), labels=labels), here=False)
    assert (await world.get(record.id)).labels == labels


@pytest.mark.parametrize("task_id", ["", "task_", "nonsense", "img_01pd3k6c00x8m2h5vq7jt4wyzn", "task_'; --"])
async def test_what_is_no_task_id_costs_no_query(make_world: MakeWorld, task_id: str) -> None:
    """An id of the wrong form is not looked up."""
    world = make_world(ScriptedProvider())
    for use in (tasks.get, tasks.cancel):
        with pytest.raises(GatewayError, match="There is no such task"):
            await use(world.rt, CALLER.key_id, task_id)
    assert not world.db.used


async def test_a_foreign_task_is_as_if_it_were_not(make_world: MakeWorld) -> None:
    """Another key gets the same answer for a task that exists as for one that does not, and changes nothing."""
    world = make_world(ScriptedProvider())
    foreign = await world.create(OTHER)
    unknown = ids.new("task", world.clock.now())
    before = await world.row(foreign)
    for use in (tasks.get, tasks.cancel):
        answers = []
        for task_id in (foreign, unknown):
            with pytest.raises(GatewayError) as caught:
                await use(world.rt, CALLER.key_id, task_id)
            answers.append((caught.value.code, caught.value.message, caught.value.param))
        assert answers[0] == answers[1] == ("task_not_found", "There is no such task.", None)
    assert await world.row(foreign) == before
    assert await tasks.listing(world.rt, CALLER.key_id) == ([], False)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 7, 8])
async def test_pages_have_no_gaps(make_world: MakeWorld, limit: int, descending: bool) -> None:
    """Page by page each task comes once, in order, also when some are of the same moment; the last says it is."""
    world = make_world(ScriptedProvider())
    born = []
    for number in range(7):
        born.append(await world.create())
        await world.create(OTHER)
        world.clock.forward(number % 2)
    found = await pages(world, limit, descending=descending)
    assert [one.id for page in found for one in page] == sorted(born, reverse=descending)
    assert all(len(page) == limit for page in found[:-1])


async def test_new_tasks_do_not_shift_the_pages(make_world: MakeWorld) -> None:
    """A task that is made between two pages neither repeats nor hides one of the older."""
    world = make_world(ScriptedProvider())
    born = []
    for _ in range(4):
        born.append(await world.create())
        world.clock.forward(1)
    first, _ = await tasks.listing(world.rt, CALLER.key_id, limit=2)
    await world.create()
    second, more = await tasks.listing(world.rt, CALLER.key_id, limit=2, after=first[-1].id)
    assert [one.id for one in first + second] == born[::-1]
    assert not more


async def test_lists_are_filtered(make_world: MakeWorld) -> None:
    """By state, type and model, each alone and all together."""
    world = make_world(ScriptedProvider(submit=[done(), Refused("no")]))
    completed, failed, queued = [await world.create() for _ in range(3)]
    await world.step(completed)
    await world.step(failed)

    async def listed(**members: object) -> list[str]:
        page, _ = await tasks.listing(world.rt, CALLER.key_id, descending=False, **members)  # type: ignore[arg-type]  # as given
        return sorted(one.id for one in page)

    assert await listed(states=[State.COMPLETED]) == [completed]
    assert await listed(states=[State.FAILED, State.QUEUED]) == sorted([failed, queued])
    assert await listed(type="image.generation") == sorted([completed, failed, queued])
    assert await listed(type="image.edit") == await listed(type="video") == await listed(type="nonsense") == []
    assert await listed(model="picture", type="image.generation", states=[State.QUEUED]) == [queued]
    assert await listed(model="another") == []


async def test_a_task_shows_its_attempts_and_assets(make_world: MakeWorld) -> None:
    """The owner sees each try with its outcome and each picture in order; the vendor's job id stays inside."""
    one = ScriptedProvider(submit=[Unavailable("closed today")])
    two = ScriptedProvider(
        card_of("two"), submit=[Pending("job-secret")], poll=[done(b"oops", png(32, 32), png(16, 16))]
    )
    world = make_world(one, two)
    task_id = await world.create(n=3)
    await world.finish(task_id)
    record = await world.get(task_id)
    assert [(tried.number, tried.provider, tried.outcome) for tried in record.attempts] == [
        (1, "vendor", "Unavailable"),
        (2, "two", "done"),
    ]
    assert [(kept.position, kept.width) for kept in record.assets] == [(0, 32), (1, 16)]
    assert record.final
    assert "job-secret" not in repr(record)
    (listed,), _ = await tasks.listing(world.rt, CALLER.key_id)
    assert listed == record


async def test_deleted_media_are_not_shown(make_world: MakeWorld) -> None:
    """A picture that its owner has deleted is none of the task's any more."""
    world = make_world(ScriptedProvider(submit=[done()]))
    task_id = await world.create()
    await world.step(task_id)
    record = await world.get(task_id)
    await erasing.delete(world.rt, record.assets[0])
    assert (await world.get(task_id)).assets == ()


async def test_a_task_that_has_ended_is_not_cancelled(make_world: MakeWorld) -> None:
    """Completed, failed or cancelled: another cancel is refused and changes nothing."""
    world = make_world(ScriptedProvider(submit=[done(), Refused("no")]))
    born = [await world.create() for _ in range(3)]
    await world.step(born[0])
    await world.step(born[1])
    await tasks.cancel(world.rt, CALLER.key_id, born[2])
    for task_id, state in zip(born, ("completed", "failed", "cancelled"), strict=True):
        before = await world.row(task_id)
        with pytest.raises(GatewayError, match=f"The task is {state} already") as caught:
            await tasks.cancel(world.rt, CALLER.key_id, task_id)
        assert caught.value.code == "task_not_cancellable"
        assert await world.row(task_id) == before


async def test_many_cancels_are_one(make_world: MakeWorld) -> None:
    """Ten cancels at once make one transition and ask the vendor once; none of them fails otherwise than as refused."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    answers = await asyncio.gather(
        *(tasks.cancel(world.rt, CALLER.key_id, task_id) for _ in range(10)), return_exceptions=True
    )
    assert all(
        isinstance(one, TaskRecord) or (isinstance(one, GatewayError) and one.code == "task_not_cancellable")
        for one in answers
    )
    assert (await world.row(task_id))["state"] == State.CANCELLED
    assert provider.cancelled == ["job"]
    assert [word for _, word in await world.events(task_id)] == ["queued", "started", "cancelled"]


async def test_a_second_cancel_does_not_disturb_the_first(make_world: MakeWorld) -> None:
    """While the vendor is being asked to stop, a repeated cancel neither asks it again nor takes the turn away."""
    gate = asyncio.Event()

    async def stops(_: str) -> None:
        asked.set()
        await gate.wait()

    asked = asyncio.Event()
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], cancel=[stops, stops])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    first = asyncio.create_task(tasks.cancel(world.rt, CALLER.key_id, task_id))
    await asked.wait()
    second = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert second.state == State.WAITING
    gate.set()
    assert (await first).state == State.CANCELLED
    assert provider.cancelled == ["job"]


async def test_a_wish_that_its_process_did_not_live_to_grant_is_found(make_world: MakeWorld) -> None:
    """The process that noted the wish dies at once: whoever is rung next grants it."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    await world.change(task_id, cancel_asked_at=world.clock.now())
    assert (await world.step(task_id))["state"] == State.CANCELLED
    assert (provider.cancelled, provider.polled) == (["job"], ["job"])


async def test_a_cancel_that_comes_as_the_order_goes_out_is_only_noted(make_world: MakeWorld) -> None:
    """While the order is under way the answer says processing, the wish stands, and the turn is not taken away."""

    async def answers(_: Order) -> Pending:
        record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
        assert record.state == State.SUBMITTING
        assert (record.cancel_asked_at, record.stopped) == (world.clock.now(), None)
        return Pending("job")

    world = make_world(ScriptedProvider(submit=[answers]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["cancel_asked_at"]) == (State.WAITING, world.clock.now())


async def failed_task(world: World) -> str:
    """A task that has failed for good."""
    task_id = await world.create(n=2)
    assert (await world.finish(task_id))["state"] == State.FAILED
    return task_id


async def test_a_failed_task_is_tried_again_as_a_new_one(make_world: MakeWorld) -> None:
    """The same generation in a task of its own, which names the first; the first stays as it is."""
    provider = ScriptedProvider(submit=[Refused("no"), done(png(), png())])
    world = make_world(provider)
    first = await failed_task(world)
    second = await tasks.retry(world.rt, CALLER, first)
    await asyncio.sleep(0)
    assert (second.retry_of, second.state, second.quoted) == (first, State.QUEUED, 80_000)
    assert world.bells.messages[-1] == Message(START, CALLER.key_id, 0)
    assert (await world.finish(second.id))["state"] == State.COMPLETED
    assert provider.orders[0].generation == provider.orders[1].generation
    assert provider.orders[0].idempotency_key != provider.orders[1].idempotency_key
    assert ((await world.get(first)).state, (await world.get(first)).retry_of) == (State.FAILED, None)


async def test_only_a_failed_task_is_tried_again(make_world: MakeWorld) -> None:
    """One that runs, completed or was cancelled is refused; a foreign one is not there."""
    world = make_world(ScriptedProvider(submit=[done()]))
    task_id = await world.create()
    for _ in range(2):
        with pytest.raises(GatewayError) as caught:
            await tasks.retry(world.rt, CALLER, task_id)
        assert (caught.value.code, caught.value.kind.status) == ("task_not_retryable", 409)
        if (await world.row(task_id))["state"] == State.QUEUED:
            await world.finish(task_id)
    with pytest.raises(GatewayError) as caught:
        await tasks.retry(world.rt, OTHER, task_id)
    assert caught.value.code == "task_not_found"


async def test_what_is_not_served_any_more_is_not_tried_again(make_world: MakeWorld) -> None:
    """Nor what another version of the gateway wrote: nothing is made then."""
    world = make_world(ScriptedProvider(submit=[Refused("no")]))
    first = await failed_task(world)
    with pytest.raises(GatewayError) as caught:
        await tasks.retry(world.without("vendor"), CALLER, first)
    assert caught.value.code == "model_not_found"
    await world.change(first, generation={"kind": "smell"})
    with pytest.raises(GatewayError) as caught:
        await tasks.retry(world.rt, CALLER, first)
    assert caught.value.code == "task_not_retryable"
    assert await count(world) == 1


async def test_a_retry_under_one_claim_is_one_task(make_world: MakeWorld) -> None:
    """Asked for twice with the same Idempotency-Key, a failed task is tried again once."""
    world = make_world(ScriptedProvider(submit=[Refused("no")]))
    first = await failed_task(world)
    again = [await tasks.retry(world.rt, CALLER, first, Idempotency("again", "retry")) for _ in range(2)]
    assert len({one.id for one in again}) == 1
    assert [one.replayed for one in again] == [False, True]
