"""Erasing: what its owner deletes is gone, however the store feels; of a task with nothing left, its bill remains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.core import assets, endpoints, erasing, tasks, usage
from gateway.core.errors import GatewayError
from gateway.core.payloads import LEFT
from gateway.core.preparing import Wanted
from gateway.core.tables import ASSETS, METADATA, TASKS
from gateway.core.tasks import TaskRecord
from gateway.core.uploads import Given
from providers.card import InputRule
from providers.contract import Broken, Done, Operation, Output, Role
from storage.memory import MemoryStore
from tests.core.conftest import MakeWorld
from tests.core.receivers import Receiver
from tests.core.stores import Moody, keys, objects_of
from tests.core.test_deliveries import go, settle, states
from tests.core.vendors import ScriptedProvider, card_of, generation, png
from tests.core.world import CALLER, START, World

CANARY = "a-word-that-only-its-owner-knows"


def editor(*answers: Any) -> ScriptedProvider:
    """A vendor that edits pictures, and repeats the prompt in all that it says."""
    inputs = {Role.IMAGE: InputRule(max=2)}
    operations = (Operation.GENERATION, Operation.EDIT)
    return ScriptedProvider(card_of(model={"inputs": inputs, "operations": operations}), submit=answers)


def told(*pictures: bytes) -> Done:
    """A finished job whose outputs carry the prompt."""
    return Done(tuple(Output("image/png", data=one, revised_prompt=f"{CANARY}, revised") for one in pictures))


async def edit(world: World, folder: Any, n: int = 1) -> TaskRecord:
    """A task that came with a picture and a prompt, and has ended."""
    picture = folder / "picture.png"
    picture.write_bytes(png())
    wanted = Wanted(
        generation(operation=Operation.EDIT, prompt=f"{CANARY}, please", n=n),
        labels={"for": CANARY}, pictures=(Given(Role.IMAGE, "image", file=picture),),
    )  # fmt: skip
    task = await tasks.create(world.rt, CALLER, wanted, here=False)
    await world.finish(task.id)
    fallback = {"generation": {**task.generation, "model": "other"}, "adjusted": {}}
    await world.change(task.id, fallbacks=[fallback])
    return await world.get(task.id)


async def words(world: World, text: str = CANARY) -> list[str]:
    """The tables in which the text stands."""
    found = []
    async with world.db.read() as connection:
        for table in METADATA.sorted_tables:
            rows = (await connection.execute(select(table))).all()
            # Of a row itself SQLAlchemy shows only the beginning of what is long.
            found += [table.name] if any(text in str(tuple(row)) for row in rows) else []
    return found


async def bill(world: World, task_id: str) -> dict[str, Any]:
    """What a bill of the task says."""
    row = await world.row(task_id)
    names = ("model", "kind", "operation", "state", "quoted", "charged", "created_at", "started_at", "ended_at")
    return {name: row[name] for name in names}


def live(records: Iterable[assets.AssetRecord]) -> list[str]:
    """The ids of assets."""
    return [one.id for one in records]


async def test_with_the_last_media_goes_all_but_the_bill(make_world: MakeWorld, tmp_path: Any) -> None:
    """Bytes, pictures that came with the request, prompt, labels and the vendor's words go; model, cost, times stay."""
    world = make_world(editor(told(png())))
    task = await edit(world, tmp_path)
    before = await bill(world, task.id)
    assert await words(world) != []
    assert await keys(world.rt.objects) == [f"inputs/{task.id}/0", *objects_of(*task.assets)]
    await erasing.delete(world.rt, task.assets[0])
    assert await words(world) == []
    assert await keys(world.rt.objects) == []
    assert await bill(world, task.id) == before
    assert before["charged"] == 40_000
    row = await world.row(task.id)
    assert (row["inputs"], row["fallbacks"], row["labels"]) == ([], [], {})
    assert (await world.get(task.id)).assets == ()
    (model,) = await usage.by_model(world.rt, CALLER.key_id, START, world.clock.now().replace(year=2031))
    assert (model.count, model.cost) == (1, 40_000)


async def test_webhooks_lose_what_their_task_loses(make_world: MakeWorld, tmp_path: Any) -> None:
    """One was sent, and answered with what came, one was not: both keep how the task ended, and it still comes."""
    world = make_world(editor(told(png())), allow_hosts=("127.0.0.1",))

    async def echo(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Said\r\n\r\n" + receiver.heard[-1].body)

    async with Receiver(echo, 200, 200).listening() as receiver:
        for url in (receiver.url("first"), receiver.url("second")):
            types = ["image.edit.completed"]
            await endpoints.create(world.rt, CALLER, name="mine", url=url, event_types=types, base="http://gw.test")
        task = await edit(world, tmp_path)
        await go(world)
        assert {"deliveries", "delivery_attempts"} <= {*await words(world)}
        assert sorted(await states(world)) == ["delivered", "pending"]
        await erasing.delete(world.rt, task.assets[0])
        assert await words(world) == []
        await settle(world)
    assert await states(world) == ["delivered", "delivered"]
    first, second, third = (one.json for one in sorted(receiver.heard, key=lambda one: -len(one.body)))
    assert first == second
    assert CANARY in first["data"]["metadata"]["for"]
    left = {name: first["data"][name] for name in LEFT if name in first["data"]}
    assert third == {**first, "data": left}
    assert (left["status"], left["cost"], left["sequence"]) == ("completed", "0.040000", 3)


async def test_other_media_of_the_task_stay(make_world: MakeWorld, tmp_path: Any) -> None:
    """One of two is deleted: the other, and what both were made from, are still there until it goes too."""
    world = make_world(editor(told(png(48, 32), png(32, 48))))
    task = await edit(world, tmp_path, n=2)
    first, second = task.assets
    await erasing.delete(world.rt, first)
    assert live((await world.get(task.id)).assets) == [second.id]
    assert await keys(world.rt.objects) == [f"inputs/{task.id}/0", *objects_of(second)]
    assert (await world.row(task.id))["generation"]["prompt"] == f"{CANARY}, please"
    assert "attempts" not in await words(world)
    await erasing.delete(world.rt, second)
    assert await words(world) == await keys(world.rt.objects) == []


async def test_what_an_older_release_deleted_is_erased(make_world: MakeWorld, tmp_path: Any) -> None:
    """It only said in the row that the media is deleted: the vendor's words, its blur and its objects go now."""
    world = make_world(editor(told(png())))
    (asset,) = (task := await edit(world, tmp_path)).assets
    async with world.db.write_one() as connection:
        await connection.execute(update(ASSETS).where(ASSETS.c.id == asset.id).values(deleted_at=task.ended_at))
    await erasing.finish(world.rt)
    assert await words(world) == await words(world, str(asset.blurhash)) == await keys(world.rt.objects) == []
    assert (await world.assets(task.id))[0]["deleted_at"] == task.ended_at


async def test_both_at_once_leave_nothing(make_world: MakeWorld, tmp_path: Any) -> None:
    """Whichever of two deletions comes last, it sees that nothing is left."""
    world = make_world(editor(told(png(48, 32), png(32, 48))))
    task = await edit(world, tmp_path, n=2)
    await asyncio.gather(*(erasing.delete(world.rt, one) for one in task.assets))
    assert await words(world) == await keys(world.rt.objects) == []


async def test_a_store_that_is_away_keeps_nothing_for_ever(make_world: MakeWorld, tmp_path: Any) -> None:
    """The media is found nowhere from now on; its bytes go when the store is back, and nothing is left then."""
    store = Moody(MemoryStore())
    world = make_world(editor(told(png())), objects=store)
    task = await edit(world, tmp_path)
    store.away = True
    await erasing.delete(world.rt, task.assets[0])
    with pytest.raises(GatewayError, match="no such media"):
        await assets.get(world.rt, task.assets[0].id, CALLER.key_id)
    await erasing.finish(world.rt)
    assert len(await keys(store.store)) == 3
    store.away = False
    await erasing.finish(world.rt)
    assert await words(world) == await keys(store) == []
    assert [one async for one in erasing.deleted(world.rt)] == []


async def test_a_thumbnail_shows_what_was_deleted(make_world: MakeWorld, tmp_path: Any) -> None:
    """While the store keeps it the media is not erased, nor what it was made from; its blur is gone at once."""
    store = Moody(MemoryStore())
    world = make_world(editor(told(png())), objects=store)
    (asset,) = (task := await edit(world, tmp_path)).assets
    blur, thumbnail = str(asset.blurhash), objects_of(asset)[1]
    assert await words(world, blur) == ["assets", "attempts"]
    store.stuck = {thumbnail}
    await erasing.delete(world.rt, asset)
    assert await words(world, blur) == []
    assert thumbnail in await keys(store)
    (left,) = await world.assets(task.id)
    assert (left["deleted_at"], left["erased_at"]) == (world.clock.now(), None)
    store.stuck = set()
    await erasing.finish(world.rt)
    assert await words(world) == await keys(store) == []
    assert (await world.assets(task.id))[0]["erased_at"] == world.clock.now()


@pytest.mark.parametrize("deletions", [1, 2, 3])
async def test_a_process_that_dies_leaves_work_that_another_finds(
    make_world: MakeWorld, tmp_path: Any, deletions: int
) -> None:
    """Between two objects, or between the last of them and the rows: the next one to look erases the rest."""
    store = Moody(MemoryStore())
    world = make_world(editor(told(png())), objects=store)
    task = await edit(world, tmp_path)
    store.dies = deletions
    with pytest.raises(asyncio.CancelledError):
        await erasing.delete(world.rt, task.assets[0])
    assert len(await keys(store)) == 3 - deletions
    assert "tasks" in await words(world)
    await erasing.finish(world.rt)
    assert await words(world) == await keys(store) == []


async def test_a_deletion_in_trouble_with_the_database_says_so(make_world: MakeWorld, tmp_path: Any) -> None:
    """What could not even be written down was not deleted, and the caller is told."""
    world = make_world(editor(told(png())))
    task = await edit(world, tmp_path)
    world.db.away("write", 1)
    with pytest.raises(Exception, match="away"):
        await erasing.delete(world.rt, task.assets[0])
    assert await assets.get(world.rt, task.assets[0].id, CALLER.key_id) == task.assets[0]


async def test_a_failed_task_can_be_repeated_until_it_is_erased(make_world: MakeWorld, tmp_path: Any) -> None:
    """Its prompt and pictures are kept for that; after they are gone, so is what the vendor said of them."""
    world = make_world(editor(Broken(f"{CANARY}! No."), told(png())))
    task = await edit(world, tmp_path)
    assert CANARY in str(task.error_message)
    again = await tasks.retry(world.rt, CALLER, task.id)
    await world.finish(again.id)
    await erasing.forget(world.rt, await erasing.contents(world.rt, [task.id, again.id]))
    assert await words(world) == await keys(world.rt.objects) == []
    left = await world.get(task.id)
    assert (left.state, left.error_code, left.error_message) == ("failed", "provider_error", erasing.ERASED)
    with pytest.raises(GatewayError, match="erased") as caught:
        await tasks.retry(world.rt, CALLER, task.id)
    assert caught.value.code == "task_not_retryable"


async def test_a_bill_says_what_was_ordered(make_world: MakeWorld) -> None:
    """Number, size and shape stay, for the price followed from them."""
    world = make_world(ScriptedProvider(submit=[told(png(64, 64), png(64, 64))]))
    task_id = await world.create(n=2, size="64x64", parameters={}, prompt=CANARY)
    await world.finish(task_id)
    await erasing.forget(world.rt, await erasing.contents(world.rt, [task_id]))
    async with world.db.read() as connection:
        left = (await connection.execute(select(TASKS.c.generation).where(TASKS.c.id == task_id))).scalar_one()
    assert left == {"kind": "image", "operation": "generation", "model": "picture", "n": 2, "size": "64x64"}
