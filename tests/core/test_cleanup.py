"""Cleanup: what is over goes, and what nothing refers to, and nothing else; one process does it, whoever dies."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import update

from gateway.core import assets, cleanup, erasing, inventory, orphans, retention, tasks, turns
from gateway.core.cleanup import Amount, Report
from gateway.core.errors import GatewayError
from gateway.core.executor import Executor
from gateway.core.ports import CLEANUP
from gateway.core.runtime import Runtime
from gateway.core.sweep import sweep_for_ever
from gateway.core.tables import CLEANUPS, VIRTUAL_KEYS
from gateway.core.tasks import TaskRecord
from providers.contract import Broken
from storage.database import DatabaseUnavailable
from storage.objects import ObjectStore
from storage.opening import open_store
from tests.core import stores
from tests.core.conftest import MakeWorld, empty, prepare
from tests.core.stores import Moody, objects_of
from tests.core.test_erasing import CANARY, editor, live, told, words
from tests.core.test_erasing import edit as edit_one
from tests.core.trouble import FlakyDatabase
from tests.core.vendors import ScriptedProvider, done, png
from tests.core.world import CALLER, OTHER, START, World
from tests.seaweed import Seaweed

DAY = 86_400.0
Place = Callable[..., Awaitable[World]]


@pytest.fixture(scope="module")
def databases() -> list[str]:
    """PostgreSQL databases that are free, as they are at first."""
    return []


@pytest.fixture(params=["sqlite, memory", "sqlite, folder", "postgresql, s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path, make_world: MakeWorld) -> AsyncIterator[Place]:
    """Makes a world over a database and a store, once for each pair."""
    made: list[tuple[str, World]] = []

    def store() -> ObjectStore:
        if "s3" not in request.param:
            return open_store("memory:" if "memory" in request.param else (tmp_path / uuid4().hex).as_uri())
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        url = f"s3://{seaweed.bucket}/{uuid4().hex}?endpoint={seaweed.endpoint}&addressing=path"
        return open_store(url, access_key=seaweed.access_key, secret_key=seaweed.secret_key)

    async def make(provider: ScriptedProvider, **settings: Any) -> World:
        objects = Moody(store())
        if "sqlite" in request.param:
            return make_world(provider, objects=objects, **settings)
        free: list[str] = request.getfixturevalue("databases")
        if not free:
            free.append(request.getfixturevalue("new_database")())
            await prepare(free[0])
        url = free.pop()
        made.append((url, World(FlakyDatabase(url), provider, objects=objects, **settings)))
        return made[-1][1]

    yield make
    for url, world in made:
        await empty(world.db)
        await world.rt.close(1)
        request.getfixturevalue("databases").append(url)


def store_of(world: World) -> Moody:
    """The store with its moods."""
    assert isinstance(world.rt.objects, Moody)
    return world.rt.objects


STRANGE = "task_01kdvdna00wnk5naxx862v60e3"
# What somebody else may keep where we do, under names that are nearly ours.
LIKE_OURS = [
    "media/task_holiday/1-0", f"media/{STRANGE}/readme", f"media/{STRANGE}/1-0/notes", f"media/{STRANGE}/1-0.tar.gz",
    f"inputs/{STRANGE}/0.csv", f"inputs/{STRANGE}x/0", f"media/{STRANGE.upper()}/1-0",
]  # fmt: skip


async def clean(world: World, *, dry_run: bool = False, seconds: float | None = None, give_up: bool = False) -> Report:
    """A run at once."""
    return await cleanup.run(world.rt, dry_run=dry_run, seconds=seconds, give_up=give_up)


async def begun(world: World) -> None:
    """The first run, which only leaves its mark; a day later all that was stored has lain long enough."""
    await clean(world)
    world.clock.forward(DAY)


async def due(rt: Runtime) -> int:
    """Does the run that is due, as the process would that looks for it; how many were."""
    rung = await turns.ring(rt.db, CLEANUPS, CLEANUP, rt.now(), rt.settings.lease_seconds, 1)
    for message in rung:
        await cleanup.handle(rt, message)
    return len(rung)


async def keeps(world: World, days: int | None) -> None:
    """Lets the caller's key say how long what it makes is kept."""
    async with world.db.write_one() as connection:
        await connection.execute(
            update(VIRTUAL_KEYS).where(VIRTUAL_KEYS.c.id == CALLER.key_id).values(retention_days=days)
        )


async def made(world: World, *pictures: bytes) -> TaskRecord:
    """A task that has delivered these pictures."""
    world.providers["vendor"].script["submit"].append(done(*pictures))
    task_id = await world.create(n=len(pictures))
    await world.finish(task_id)
    return await world.get(task_id)


async def test_what_is_over_goes(place: Place, tmp_path: Path) -> None:
    """Not a second before its time; then bytes, pictures and words are gone, and a second run finds nothing."""
    world = await place(editor(told(png(48, 32), png(32, 48)), told(png())), retention_days=30)
    await begun(world)
    old = await edit_one(world, tmp_path, n=2)
    world.clock.forward(DAY)
    young = await edit_one(world, tmp_path)
    assert old.ended_at is not None
    over_at = old.ended_at + dt.timedelta(days=30)
    world.clock.time = over_at - dt.timedelta(microseconds=1)
    assert (await clean(world)).tasks == 0
    world.clock.time = over_at
    report = await clean(world)
    sizes = sum(one.size for one in old.assets)
    assert (report.complete, report.tasks, report.media) == (True, 1, Amount(2, sizes))
    assert (report.inputs.count, report.orphans.count, report.failed, report.missing) == (1, 0, 0, 0)
    left = [f"inputs/{young.id}/0", *objects_of(*young.assets)]
    assert await stores.keys(world.rt.objects) == left
    row = await world.row(old.id)
    assert (row["erased_at"], row["charged"], CANARY in str(row)) == (over_at, 80_000, False)
    assert CANARY in str(await world.row(young.id))
    assert await clean(world) == Report(dry_run=False)
    world.clock.forward(DAY)
    assert (await clean(world)).tasks == 1
    assert await words(world) == await stores.keys(world.rt.objects) == []


async def test_a_dry_run_says_what_the_next_run_does(place: Place, tmp_path: Path) -> None:
    """It changes nothing: the run that follows erases just what was said."""
    world = await place(editor(told(png())), retention_days=1)
    await begun(world)
    await edit_one(world, tmp_path)
    await world.rt.objects.put(f"media/{STRANGE}/1-0", b"parked", "image/png")
    world.clock.forward(2 * DAY)
    kept = await stores.keys(world.rt.objects)
    said = await clean(world, dry_run=True)
    assert (said.dry_run, said.tasks, said.orphans) == (True, 1, Amount(1, 6))
    assert (await stores.keys(world.rt.objects), await words(world) != []) == (kept, True)
    report = await clean(world)
    assert report == msgspec.structs.replace(said, dry_run=False)
    assert await stores.keys(world.rt.objects) == []


@pytest.mark.parametrize("deletions", [1, 2, 3, 4, 5])
async def test_a_process_that_dies_is_followed_by_another(place: Place, tmp_path: Path, deletions: int) -> None:
    """It dies between objects, or between them and the rows: once its lease is over, the next one does the rest."""
    world = await place(editor(told(png(48, 32), png(32, 48))), retention_days=1)
    await begun(world)
    task = await edit_one(world, tmp_path, n=2)
    world.clock.forward(DAY)
    store_of(world).dies = deletions
    with pytest.raises(asyncio.CancelledError):
        await clean(world)
    assert len(await stores.keys(world.rt.objects)) == 5 - deletions
    assert (await world.get(task.id)).assets == ()
    assert (await world.row(task.id))["erased_at"] is None
    with pytest.raises(GatewayError) as caught:
        await clean(world)
    assert caught.value.code == "cleanup_running"
    assert await due(world.rt) == 0
    world.clock.forward(world.rt.settings.lease_seconds)
    assert await due(world.rt) == 1
    assert await words(world) == await stores.keys(world.rt.objects) == []


async def test_objects_that_nothing_refers_to_go_after_a_day(place: Place, tmp_path: Path) -> None:
    """Bytes of tasks that are not there, that failed, or that delivered something else; nothing that is in use."""
    world = await place(editor(told(png())))
    task = await edit_one(world, tmp_path)
    world.providers["vendor"].script["submit"].append(Broken("no"))
    failed = await world.create()
    await world.finish(failed)
    open_one = await world.create()
    used = await stores.keys(world.rt.objects)
    at_work = [f"inputs/{open_one}/0", f"media/{open_one}/1-0"]
    foreign = ["media/readme", "media/holiday/1-0", "inputs/x", "elsewhere/task_x/1", *LIKE_OURS]
    lost = [f"media/{task.id}/2-0", f"inputs/{task.id}/1", f"media/{failed}/1-0", f"inputs/{STRANGE}/0"]
    signed = f"media/{STRANGE}/1-0-{'0a' * 32}"
    lost += [signed, f"{signed}.thumbnail"]
    for key in (*at_work, *foreign, *lost):
        await world.rt.objects.put(key, b"bytes", "image/png")
    # Objects get their time from the store, whose clock is the real one.
    world.clock.time = dt.datetime.now(dt.UTC)
    await clean(world)
    assert (await clean(world)).orphans == Amount(0, 0)
    world.clock.forward(DAY + 60)
    assert (await clean(world)).orphans == Amount(len(lost), 5 * len(lost))
    assert set(await stores.keys(world.rt.objects, "")) >= {*at_work, *foreign, *used}
    assert not set(await stores.keys(world.rt.objects, "")) & {*lost}
    assert (await clean(world)).orphans == Amount(0, 0)


async def test_what_came_back_goes_again(place: Place, tmp_path: Path) -> None:
    """A worker that was frozen stores bytes of media that were deleted meanwhile: nobody ever sees them."""
    world = await place(editor(told(png())))
    await begun(world)
    task = await edit_one(world, tmp_path)
    await erasing.delete(world.rt, task.assets[0])
    for key in objects_of(*task.assets):
        await world.rt.objects.put(key, b"again", "image/png")
    world.clock.forward(2 * DAY)
    assert (await clean(world)).orphans == Amount(2, 10)
    assert await stores.keys(world.rt.objects) == []


async def test_who_shares_a_store_deletes_nothing_of_others(place: Place) -> None:
    """The first run only leaves its mark, so that others can leave theirs: then each leaves that alone."""
    world, neighbour = await place(ScriptedProvider()), await place(ScriptedProvider())
    runtimes = [world.rt, replace(neighbour.rt, objects=world.rt.objects)]
    await world.rt.objects.put(f"media/{STRANGE}/1-0", b"bytes", "image/png")
    assert (await clean(world, dry_run=True)).orphans.count == 1
    for rt in runtimes:
        await cleanup.run(rt, dry_run=False)
    for rt in runtimes:
        report = await cleanup.run(rt, dry_run=False)
        assert (report.complete, report.orphans.count) == (True, 0)
        assert "other installations use this store" in report.notes[0]
    assert await stores.keys(world.rt.objects) == [f"media/{STRANGE}/1-0"]


async def test_another_store_is_new_ground(make_world: MakeWorld) -> None:
    """Pointed at a bucket that does not bear its mark, an installation begins as with the first: it deletes nothing."""
    world = make_world(ScriptedProvider())
    await begun(world)
    rt = replace(world.rt, objects=open_store("memory:"))
    await rt.objects.put(f"media/{STRANGE}/1-0", b"bytes", "image/png")
    report = await cleanup.run(rt, dry_run=False)
    assert (report.orphans.count, report.notes[0][:22]) == (0, "This was the first run")
    assert (await cleanup.run(rt, dry_run=False)).orphans.count == 1


@pytest.mark.parametrize("listed", [1, 2, 3, 500])
async def test_media_without_bytes_are_told(place: Place, monkeypatch: pytest.MonkeyPatch, listed: int) -> None:
    """They are named and left as they are; asked to, the run deletes them, with all that is left of them."""
    monkeypatch.setattr(orphans, "LISTED", listed)
    world = await place(ScriptedProvider(submit=[]))
    await begun(world)
    found = [one for _ in range(3) for one in (await made(world, png(48, 32), png(32, 48))).assets]
    gone = [found[0], found[3], found[4], found[5]]
    for one in gone:
        await world.rt.objects.delete(one.object_key)
    assert (await clean(world)).missing == 0
    world.clock.forward(DAY)
    report = await clean(world)
    assert (report.missing, sorted(report.missing_ids), report.given_up) == (4, sorted(live(gone)), 0)
    said = await clean(world, dry_run=True, give_up=True)
    assert (said.missing, said.given_up) == (4, 0)
    assert set(objects_of(*found)) - set(await stores.keys(world.rt.objects)) == {one.object_key for one in gone}
    done = await clean(world, give_up=True)
    assert (done.given_up, done.media.count, done.tasks, done.failed, done.complete) == (4, 4, 1, 0, True)
    left, _ = await assets.listing(world.rt, CALLER.key_id, kind=None, after=None, limit=100, descending=False)
    assert sorted(live(left)) == sorted(set(live(found)) - set(live(gone)))
    assert await stores.keys(world.rt.objects) == objects_of(found[1], found[2])
    assert [(await world.row(one.task_id))["erased_at"] is not None for one in (found[0], found[3], found[5])] == [
        False, False, True,
    ]  # fmt: skip
    world.clock.forward(DAY)
    assert await clean(world) == Report(dry_run=False)


async def test_given_up_media_go_whole_later_when_not_now(make_world: MakeWorld) -> None:
    """The store keeps a thumbnail, or is away by then: nobody finds the media, and the next run erases the rest."""
    store = Moody(open_store("memory:"))
    world = make_world(ScriptedProvider(submit=[]), objects=store)
    await begun(world)
    task = await made(world, png())
    bytes_, thumbnail = objects_of(*task.assets)
    await store.delete(bytes_)
    store.stuck = {thumbnail}
    world.clock.forward(2 * DAY)
    report = await clean(world, give_up=True)
    assert (report.given_up, report.failed, report.media.count, report.tasks) == (1, 1, 0, 0)
    assert (await world.get(task.id)).assets == ()
    assert await stores.keys(store) == [thumbnail]
    store.stuck = set()
    report = await clean(world)
    assert (report.media.count, report.tasks, report.orphans.count, report.missing) == (1, 1, 0, 0)
    assert await stores.keys(store) == []


async def test_nothing_is_given_up_for_a_wrong_store(make_world: MakeWorld) -> None:
    """Pointed at a store without its mark, where all bytes are gone, an installation keeps what it knows."""
    world = make_world(ScriptedProvider(submit=[]))
    await begun(world)
    task = await made(world, png())
    world.clock.forward(2 * DAY)
    rt = replace(world.rt, objects=open_store("memory:"))
    for _ in range(2):
        with pytest.raises(GatewayError, match="does not bear the mark") as caught:
            await cleanup.run(rt, dry_run=False, give_up=True)
        assert caught.value.code == "store_unmarked"
    assert await stores.keys(rt.objects) == []
    assert (await world.get(task.id)).assets == task.assets


async def test_media_that_were_there_all_along_are_not_given_up(make_world: MakeWorld) -> None:
    """A list that leaves something out is no proof: each object is looked for by itself before anything is marked."""

    class Forgetful(Moody):
        async def list(self, prefix: str = "") -> AsyncIterator[object]:  # type: ignore[override]  # as the base does
            async for found in super().list(prefix):
                if not prefix.startswith("media/"):
                    yield found

    world = make_world(ScriptedProvider(submit=[]), objects=Forgetful(open_store("memory:")))
    await begun(world)
    task = await made(world, png())
    world.clock.forward(2 * DAY)
    report = await clean(world, give_up=True)
    assert (report.missing, report.given_up) == (1, 0)
    assert (await world.get(task.id)).assets == task.assets


async def test_a_key_may_keep_for_longer_or_shorter(place: Place) -> None:
    """What a key says goes before the setting, in both directions; 0 is for ever, and null what the setting says."""
    world = await place(ScriptedProvider(submit=[]), retention_days=10)
    mine = (await made(world, png())).id
    world.providers["vendor"].script["submit"].append(done(png()))
    others = await world.create(OTHER)
    await world.finish(others)

    async def over(day: int, own: int | None, setting: int = 10) -> set[str]:
        await keeps(world, own)
        world.clock.time = START + dt.timedelta(days=day)
        settings = msgspec.structs.replace(world.rt.settings, retention_days=setting)
        return {one.id for one in await retention.over(replace(world.rt, settings=settings), None, 10)}

    assert await over(4, None) == await over(4, 0) == set()
    assert await over(4, 3) == await over(1000, 3, setting=0) == {mine}
    assert await over(11, 30) == await over(1000, 0) == {others}
    assert await over(11, None) == {mine, others}
    assert await over(1000, None, setting=0) == set()


async def test_nothing_is_over_unless_somebody_says_so(make_world: MakeWorld) -> None:
    """Without a setting everything is kept for ever, and no end is told."""
    world = make_world(ScriptedProvider(submit=[]))
    task = await made(world, png())
    await begun(world)
    world.clock.forward(365 * 100 * DAY)
    assert await clean(world) == Report(dry_run=False)
    assert (await world.get(task.id)).assets == task.assets
    assert retention.end_of(world.rt.settings, task.ended_at, task.retention_days) is None


async def test_the_end_that_is_told_is_the_end_that_comes(make_world: MakeWorld) -> None:
    """Task and media say when they go, by the rule of their key, and are there until then."""
    world = make_world(ScriptedProvider(submit=[]), retention_days=10)
    await keeps(world, 2)
    task = await made(world, png())
    listed, _ = await tasks.listing(world.rt, CALLER.key_id)
    (asset,) = task.assets
    ends = {retention.end_of(world.rt.settings, one.ended_at, one.retention_days) for one in (task, *listed)} | {
        retention.end_of(world.rt.settings, asset.created_at, asset.retention_days)
    }
    (end,) = ends
    assert end is not None
    world.clock.time = end - dt.timedelta(seconds=1)
    assert await retention.over(world.rt, None, 10) == []
    world.clock.time = end
    assert [one.id for one in await retention.over(world.rt, None, 10)] == [task.id]


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
async def test_batches_leave_nothing_out(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Tasks that ended in the same moment, more than fit into a batch, and one that cannot go: all others do."""
    monkeypatch.setattr(erasing, "AT_ONCE", batch)
    monkeypatch.setattr(orphans, "LISTED", batch)
    store = Moody(open_store("memory:"))
    world = make_world(ScriptedProvider(submit=[]), objects=store, retention_days=1)
    await begun(world)
    found = [await made(world, png()) for _ in range(5)]
    store.stuck = {f"media/{STRANGE}/1-2", found[2].assets[0].object_key}
    for number in range(5):
        await store.put(f"media/{STRANGE}/1-{number}", b"lost", "image/png")
    world.clock.forward(2 * DAY)
    report = await clean(world)
    assert (report.complete, report.tasks, report.orphans.count, report.failed) == (True, 4, 4, 3)
    assert set(await stores.keys(store)) == {*store.stuck, *objects_of(*found[2].assets)}
    store.stuck = set()
    assert (await clean(world)).tasks == 1
    assert await stores.keys(store) == []


async def test_a_store_that_is_away_ends_the_run(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked for everything in vain; the run is taken up a quarter of an hour later, and does it all."""
    monkeypatch.setattr(erasing, "AT_ONCE", 3)
    store = Moody(open_store("memory:"))
    world = make_world(ScriptedProvider(submit=[]), objects=store, retention_days=1)
    await begun(world)
    for _ in range(4):
        await made(world, png())
    world.clock.forward(2 * DAY)
    store.away = True
    store.refused = 0
    assert await due(world.rt) == 1
    assert store.refused == 4
    standing = await cleanup.standing(world.rt)
    assert standing.due_at == world.clock.now() + cleanup.SOON
    assert standing.report is not None
    assert (standing.report.complete, standing.report.notes) == (False, ["The object store failed: away."])
    store.away = False
    world.clock.time += cleanup.SOON
    assert await due(world.rt) == 1
    assert await stores.keys(store) == []
    assert (await cleanup.standing(world.rt)).report == Report(dry_run=False, tasks=4, media=Amount(4, 4 * len(png())))


async def test_one_run_at_a_time(place: Place) -> None:
    """While one process is at it, and says so by renewing, neither a bell nor a person begins another."""
    world = await place(ScriptedProvider())
    store = store_of(world)
    await begun(world)
    store.gate.clear()
    store.reached.clear()
    running = asyncio.create_task(clean(world))
    await store.reached.wait()
    assert await due(world.rt) == 0
    with pytest.raises(GatewayError) as caught:
        await clean(world)
    assert (caught.value.code, caught.value.kind.status) == ("cleanup_running", 409)
    assert (await cleanup.standing(world.rt)).started_at == world.clock.now()
    store.gate.set()
    assert (await running).complete
    assert (await clean(world)).complete


async def test_many_bells_are_one_run(place: Place) -> None:
    """Processes that all find it due do it once, and the row is made once."""
    world = await place(ScriptedProvider())
    done: list[int] = []

    class Counting(Moody):
        async def put(self, key: str, data: object, media_type: str) -> object:  # type: ignore[override]  # as the base
            done.append(1)
            return await super().put(key, data, media_type)  # type: ignore[arg-type]  # as above

    rt = replace(world.rt, objects=Counting(open_store("memory:")))
    await asyncio.gather(*(cleanup.standing(rt) for _ in range(10)))
    counts = await asyncio.gather(*(due(rt) for _ in range(10)))
    assert (sum(counts), len(done)) == (1, 1)


async def test_it_is_due_when_the_schedule_says(make_world: MakeWorld) -> None:
    """At once when there is none yet, then by the schedule, in UTC; a new schedule counts at once; `off`: never."""
    world = make_world(ScriptedProvider(), cleaning_schedule="30 4 * * *")

    async def rings(schedule: str) -> dt.datetime | None:
        settings = msgspec.structs.replace(world.rt.settings, cleaning_schedule=schedule)
        await cleanup.ring(replace(world.rt, settings=settings))
        return (await cleanup.standing(world.rt)).due_at

    assert await due(world.rt) == 0
    assert (await cleanup.standing(world.rt)).due_at == START
    assert await due(world.rt) == 1
    assert (await cleanup.standing(world.rt)).due_at == START.replace(hour=4, minute=30)
    assert await due(world.rt) == 0
    assert await rings("0 2 * * *") == START.replace(hour=2)
    assert await rings("off") is None
    world.clock.forward(365 * DAY)
    assert await rings("off") is None
    assert await rings("0 2 * * *") == (START + dt.timedelta(days=365)).replace(hour=2)


async def test_the_sweep_does_what_is_due(make_world: MakeWorld) -> None:
    """Nobody has to ask: the process that sweeps finds that it is time."""
    store = Moody(open_store("memory:"))
    world = make_world(ScriptedProvider(submit=[]), objects=store, retention_days=1)
    task = await made(world, png())
    world.clock.forward(2 * DAY)
    sweeping = asyncio.create_task(sweep_for_ever(world.rt))
    # It looks there once what is over is erased.
    await asyncio.wait_for(store.reached.wait(), 20)
    sweeping.cancel()
    await asyncio.wait({sweeping})
    assert (await world.row(task.id))["erased_at"] is not None


async def test_time_that_is_up_leaves_the_rest_to_the_next(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run could not do in its time is due at once, and done by whoever finds it; so when one stops."""
    monkeypatch.setattr(erasing, "AT_ONCE", 1)
    world = make_world(ScriptedProvider(submit=[]), retention_days=1)
    for _ in range(4):
        await made(world, png())
    world.clock.forward(2 * DAY)
    report = await clean(world, seconds=0)
    assert (report.complete, report.tasks) == (False, 1)
    assert (await cleanup.standing(world.rt)).due_at == world.clock.now()
    world.rt.executor.stop()
    assert await due(world.rt) == 1
    report = (await cleanup.standing(world.rt)).report or report
    assert (report.complete, report.tasks) == (False, 1)
    assert await due(replace(world.rt, executor=Executor(1))) == 1
    assert await stores.keys(world.rt.objects) == []


async def test_a_defect_is_told_and_tried_again_by_the_schedule(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw neither repeats itself at once nor keeps the turn."""
    world = make_world(ScriptedProvider())

    async def broken(*_: object) -> list[object]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(retention, "over", broken)
    assert (await clean(world)).notes == ["It failed: RuntimeError."]
    assert "the cleanup failed" in caplog.text
    standing = await cleanup.standing(world.rt)
    assert (standing.started_at, standing.due_at) == (None, START.replace(hour=2))


async def test_a_database_that_is_away_leaves_the_turn_to_another(make_world: MakeWorld) -> None:
    """Nothing can be written down then; after the lease the run is taken up again."""
    world = make_world(ScriptedProvider(submit=[]), retention_days=1)
    await begun(world)
    await made(world, png())
    world.clock.forward(2 * DAY)
    world.db.away("write", 1)
    with pytest.raises(DatabaseUnavailable):
        await clean(world)
    world.clock.forward(world.rt.settings.lease_seconds)
    assert await due(world.rt) == 1
    assert await stores.keys(world.rt.objects) == []


async def test_the_inventory_adds_up(place: Place) -> None:
    """By key and kind, in media and the bytes that owners are told; what is deleted does not count."""
    world = await place(ScriptedProvider(submit=[]))
    first = await made(world, png(48, 32), png(32, 48))
    await made(world, png())
    world.providers["vendor"].script["submit"].append(done(png()))
    await world.finish(await world.create(OTHER))
    await erasing.delete(world.rt, first.assets[0])
    mine, others = await inventory.held(world.rt)
    size = first.assets[1].size + len(png())
    assert mine == inventory.Held(CALLER.key_id, CALLER.key_id, "image", 2, size)
    assert (others.key_id, others.count, others.bytes) == (OTHER.key_id, 1, len(png()))
