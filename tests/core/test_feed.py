"""The feed: followers are told what happens to tasks, whichever process moves them, with a broker or without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from gateway.core import tasks
from gateway.core.errors import GatewayError
from gateway.core.feed import Feed, past
from gateway.core.following import End, Follower
from gateway.core.grants import Grant
from gateway.core.hub import Hub
from gateway.core.ports import Note
from gateway.core.tables import VIRTUAL_KEYS
from providers.contract import Broken, Pending, Preview
from storage.database import DatabaseUnavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, done
from tests.core.world import CALLER, OTHER, World

Words = list[tuple[str, int, int]]
WHOLE: Words = [("queued", 1, 0), ("started", 2, 0), ("progress", 2, 40), ("completed", 3, 100)]
WORDS = [word for word, _, _ in WHOLE]


def provider(*answers: Any) -> ScriptedProvider:
    """One whose job is found at 40 percent, then done, unless `answers` say otherwise."""
    polls = answers or (Pending("job", poll_after=1, progress=0.4), done())
    return ScriptedProvider(submit=[Pending("job", poll_after=1) for _ in range(9)], poll=[*polls])


def away(world: World) -> Feed:
    """The feed of another process, which hears no notes: its broker is away. It looks in every round."""
    return Feed(replace(world.rt, hub=Hub()), interval=0)


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[Feed]:
    """The feed while it runs by itself."""
    run = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        run.cancel()
        await asyncio.wait([run])


async def words(follower: Follower, until: Callable[[Words], bool]) -> Words:
    """What the follower is told, until it is enough: word, number and progress."""
    found: Words = []
    async with asyncio.timeout(10):
        while not until(found):
            told = await anext(follower)
            found.append((told.word, told.sequence, told.task.progress))
    return found


def waiting(follower: Follower) -> Words:
    """What the follower was told and has not taken."""
    found = [(told.word, told.sequence, told.task.progress) for told in follower._waiting]
    follower._waiting.clear()
    return found


async def test_notes_are_told_at_once(make_world: MakeWorld) -> None:
    """A task from its beginning to its end, once and in order, without a look at the database in between."""
    world = make_world(provider())
    async with running(Feed(world.rt, interval=600)) as feed, feed.following(Follower(Grant(CALLER.key_id))) as one:
        task_id = await world.create()
        await world.finish(task_id)
        assert await words(one, lambda found: bool(found) and found[-1][0] == "completed") == WHOLE


async def test_a_broker_that_is_away_costs_a_look(make_world: MakeWorld) -> None:
    """Another process finds out by itself, in whatever steps it looks."""
    world = make_world(provider())
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))) as one:
        task_id = await world.create()
        await feed.round()
        for _ in range(3):
            await world.step(task_id)
            await feed.round()
            await feed.round()
        assert waiting(one) == WHOLE


async def test_what_was_missed_comes_in_order(make_world: MakeWorld) -> None:
    """Also when everything has happened before the first look."""
    world = make_world(provider())
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))) as one:
        await world.finish(await world.create())
        await feed.round()
        assert waiting(one) == [WHOLE[0], WHOLE[1], WHOLE[3]]


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_who_joins_later_hears_what_comes_later(make_world: MakeWorld, before: int) -> None:
    """Nothing of what had happened when he came; whether others of his key were there before or not."""
    for others in (False, True):
        world = make_world(provider())
        feed = away(world)
        early = Follower(Grant(CALLER.key_id))
        if others:
            await feed.add(early)
        task_id = await world.create()
        for _ in range(before):
            await world.step(task_id)
        await feed.round()
        async with feed.following(Follower(Grant(CALLER.key_id))) as late:
            await feed.round()
            assert waiting(late) == []
            await world.finish(task_id)
            await feed.round()
            assert waiting(late)[-1] == WHOLE[3]
        feed.remove(early)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("steps", [1, 3])
async def test_a_task_may_go_on_between_two_reads(make_world: MakeWorld, steps: int, number: int) -> None:
    """Whichever two: progress is told between beginning and end, which are told as events, and nothing is left out."""
    world = make_world(provider())
    world.rt.durations._medians["picture", "generation", ...] = 1
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))) as one:
        task_id = await world.create()
        real, feed.rt = feed.rt, replace(feed.rt, db=_Meanwhile(world, task_id, number, steps))  # type: ignore[arg-type]  # as much of one as is asked
        for _ in range(3):
            world.clock.forward(0.1)
            await feed.round()
        feed.rt = real
        if (await world.row(task_id))["state"] != "completed":
            await world.finish(task_id)
        await feed.round()
        told = [word for word, _, _ in waiting(one)]
    assert [word for word in told if word != "progress"] == ["queued", "started", "completed"]
    assert (told[:2], told[-1]) == (["queued", "started"], "completed")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("before", "steps"), [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)])
async def test_the_past_may_become_longer_while_it_is_read(
    make_world: MakeWorld, before: int, steps: int, number: int
) -> None:
    """No progress is told before the beginning, and none in place of the end."""
    world = make_world(provider())
    task_id = await world.create()
    for _ in range(before):
        await world.step(task_id)
    task = await world.get(task_id)
    rt = replace(world.rt, db=_Meanwhile(world, task_id, number, steps))  # type: ignore[arg-type]  # as above
    told = [one.word for one in await past(rt, task, 0)]
    assert told in (WORDS[:1], WORDS[:2], WORDS[:3], [*WORDS[:2], WORDS[3]])


class _Meanwhile:
    """A database on which a task goes on before one of its reads."""

    def __init__(self, world: World, task_id: str, number: int, steps: int) -> None:
        self._world = world
        self._task_id = task_id
        self._left = number
        self._steps = steps

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        self._left -= 1
        if not self._left:
            for _ in range(self._steps):
                await self._world.step(self._task_id)
            self._world.clock.forward(0.5)
        async with self._world.db.read() as connection:
            yield connection


async def test_a_task_that_ended_before_is_not_told(make_world: MakeWorld) -> None:
    """Not even when it was born a moment ago."""
    world = make_world(provider())
    await world.finish(await world.create())
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))) as one:
        await feed.round()
        assert waiting(one) == []


async def test_keys_do_not_hear_of_each_other(make_world: MakeWorld) -> None:
    """Each hears of its own tasks."""
    world = make_world(provider(done(), done()))
    feed = away(world)
    async with (
        feed.following(Follower(Grant(CALLER.key_id))) as mine,
        feed.following(Follower(Grant(OTHER.key_id))) as theirs,
    ):
        task_id = await world.create()
        await world.finish(task_id)
        other = await world.create(OTHER)
        await world.finish(other)
        await feed.round()
        assert {told.task.id for told in mine._waiting} == {task_id}
        assert {told.task.id for told in theirs._waiting} == {other}


async def test_time_makes_progress(make_world: MakeWorld) -> None:
    """Of a provider that says nothing, who follows hears how far such tasks usually are."""
    world = make_world(provider(Pending("job", 600), done()))
    world.rt.durations._medians["picture", "generation", ...] = 100
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))) as one:
        task_id = await world.create()
        await world.step(task_id)
        for _ in range(3):
            await feed.round()
            world.clock.forward(10)
        heard = [(told.task.progress, told.seconds_left) for told in one._waiting]
        assert heard == [(0, None), (0, 101), (9, 90), (18, 80)]


async def test_previews_come_between(make_world: MakeWorld) -> None:
    """With the progress that they belong to, and never after the end."""
    world = make_world(provider(Pending("job", 600), done()))
    async with running(Feed(world.rt, interval=600)) as feed, feed.following(Follower(Grant(CALLER.key_id))) as one:
        task_id = await world.create()
        await world.step(task_id)
        note = Note(task_id, CALLER.key_id, 30, "drawing", Preview("image/png", b"x"))
        world.rt.hub.tell(note)
        await world.finish(task_id)
        world.rt.hub.tell(note)
        found = await words(one, lambda found: bool(found) and found[-1][0] == "completed")
        assert found == [*WHOLE[:2], ("progress", 2, 30), ("preview", 2, 30), WHOLE[3]]
        await asyncio.sleep(0.05)
        assert waiting(one) == []


@pytest.mark.parametrize("change", ["revoked_at", "expires_at"])
async def test_who_loses_the_key_is_dismissed(make_world: MakeWorld, change: str) -> None:
    """In the next round; nobody else is."""
    world = make_world(provider())
    feed = away(world)
    async with (
        feed.following(Follower(Grant(CALLER.key_id))) as mine,
        feed.following(Follower(Grant(OTHER.key_id))) as theirs,
    ):
        async with world.db.write_one() as connection:
            mark = {change: world.clock.now()}
            await connection.execute(update(VIRTUAL_KEYS).where(VIRTUAL_KEYS.c.id == CALLER.key_id).values(mark))
        await feed.round()
        assert (mine.ended, theirs.ended) == (End.REVOKED, None)


async def test_who_comes_with_a_token_goes_with_it(make_world: MakeWorld) -> None:
    """When its time is over."""
    world = make_world(provider())
    feed = away(world)
    until = int(world.clock.now().timestamp()) + 60
    async with feed.following(Follower(Grant(CALLER.key_id, until=until))) as one:
        await feed.round()
        assert one.ended is None
        world.clock.forward(60)
        await feed.round()
        assert one.ended is End.EXPIRED


async def test_a_database_that_is_away_dismisses_nobody(make_world: MakeWorld) -> None:
    """When it is back, what happened meanwhile is told."""
    world = make_world(provider())
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))) as one:
        task_id = await world.create()
        await world.finish(task_id)
        real, feed.rt = feed.rt, replace(feed.rt, db=_Away())  # type: ignore[arg-type]  # as much of one as is asked
        with pytest.raises(DatabaseUnavailable):
            await feed.round()
        feed.rt = real
        await feed.round()
        assert waiting(one) == [WHOLE[0], WHOLE[1], WHOLE[3]]


class _Away:
    """A database that does not answer."""

    def read(self) -> Any:
        raise DatabaseUnavailable("away")


async def test_a_key_has_so_many_connections(make_world: MakeWorld) -> None:
    """One more is refused, until another has gone."""
    world = make_world(provider(), key_connections=2)
    feed = away(world)
    first, second = Follower(Grant(CALLER.key_id)), Follower(Grant(CALLER.key_id))
    await feed.add(first)
    await feed.add(second)
    with pytest.raises(GatewayError) as caught:
        await feed.add(Follower(Grant(CALLER.key_id)))
    assert caught.value.code == "rate_limit_exceeded"
    await feed.add(Follower(Grant(OTHER.key_id)))
    feed.remove(first)
    await feed.add(Follower(Grant(CALLER.key_id)))


async def test_nothing_is_kept_of_who_has_gone(make_world: MakeWorld) -> None:
    """Neither of the follower nor of the tasks that only he followed."""
    world = make_world(provider())
    feed = away(world)
    async with feed.following(Follower(Grant(CALLER.key_id))):
        await world.create()
        await feed.round()
        assert feed._stories
    assert (feed._stories, feed._followers) == ({}, {})


async def test_a_process_that_stops_dismisses_everybody(make_world: MakeWorld) -> None:
    """Who comes then is sent on at once."""
    world = make_world(provider())
    feed = away(world)
    one, late = Follower(Grant(CALLER.key_id)), Follower(Grant(CALLER.key_id))
    await feed.add(one)
    feed.stop()
    await feed.add(late)
    assert (one.ended, late.ended) == (End.STOPPING, End.STOPPING)


@pytest.mark.parametrize(("after", "told"), [(0, [*WHOLE[:2], WHOLE[3]]), (1, [WHOLE[1], WHOLE[3]]), (3, [])])
async def test_the_past_can_be_asked_for(make_world: MakeWorld, after: int, told: Words) -> None:
    """Each event as the task stood then, whatever has become of it: not even its errors and results show earlier."""
    world = make_world(provider())
    task_id = await world.create()
    await world.finish(task_id)
    found = await past(world.rt, await world.get(task_id), after)
    assert [(one.word, one.sequence, one.task.progress) for one in found] == told
    assert [bool(one.task.assets) for one in found] == [one.word == "completed" for one in found]


async def test_the_past_of_a_running_task_ends_with_how_far_it_is(make_world: MakeWorld) -> None:
    """So that who comes back late need not wait for the next step to know."""
    world = make_world(provider())
    task_id = await world.create()
    await world.step(task_id)
    await world.step(task_id)
    found = await past(world.rt, await world.get(task_id), 1)
    assert [(one.word, one.sequence, one.task.progress) for one in found] == [("started", 2, 0), ("progress", 2, 40)]


async def test_a_failure_is_told_with_its_reason(make_world: MakeWorld) -> None:
    """And the beginning is told without it."""
    world = make_world(provider(Broken("no")))
    task_id = await world.create()
    await world.finish(task_id)
    found = await past(world.rt, await tasks.get(world.rt, CALLER.key_id, task_id), 0)
    assert [(one.word, one.task.error_code) for one in found] == [
        ("queued", None), ("started", None), ("failed", "provider_error"),
    ]  # fmt: skip
