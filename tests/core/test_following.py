"""Following: a follower is told each fact once, in order, and nothing after the last; who is too slow is dismissed."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest

from gateway.core.following import MOST_PASSING, MOST_PREVIEWS, MOST_WAITING, PREVIEW, PROGRESS, End, Follower, Told
from gateway.core.grants import Grant
from gateway.core.lifecycle import State
from gateway.core.tasks import TaskRecord
from providers.contract import Preview
from tests.core.world import START

MINE = "key_mine"


def record(id: str = "task_1", *, key_id: str = MINE, kind: str = "image", **members: Any) -> TaskRecord:
    """A running task."""
    facts: dict[str, Any] = dict.fromkeys(field.name for field in msgspec.structs.fields(TaskRecord) if field.required)
    usual = {"id": id, "key_id": key_id, "kind": kind, "operation": "generation", "state": State.WAITING, "labels": {}}
    return TaskRecord(**{**facts, **usual, "progress": 0, **members})


def fact(word: str, sequence: int, task: TaskRecord | None = None) -> Told:
    """An event."""
    state = State(word) if word in ("completed", "failed", "cancelled") else State.WAITING
    task = msgspec.structs.replace(task or record(), state=state, progress=100 if word == "completed" else 0)
    return Told(word, task, sequence, START)


def progress(percent: int, sequence: int = 2, *, preview: bool = False) -> Told:
    """Progress, or a preview at that progress."""
    picture = Preview("image/png", b"x") if preview else None
    word = PREVIEW if preview else PROGRESS
    return Told(word, record(progress=percent), sequence, START, recorded=False, preview=picture)


async def taken(follower: Follower) -> list[tuple[str, int, int]]:
    """What a follower has been told by now: word, number and progress."""
    found = []
    async with asyncio.timeout(5):
        while follower._waiting:
            told = await anext(follower)
            found.append((told.word, told.sequence, told.task.progress))
    return found


async def test_each_fact_comes_once_and_in_order() -> None:
    """Whatever is told twice, late, or lower than before is left out; nothing comes after the end."""
    follower = Follower(Grant(MINE))
    end = fact("completed", 3)
    for told in (
        fact("queued", 1), fact("started", 2), fact("started", 2), fact("queued", 1), progress(10), progress(10),
        progress(5), progress(20), progress(90, 1), end, end, progress(99), progress(99, preview=True),
    ):  # fmt: skip
        follower.tell(told)
    assert await taken(follower) == [
        ("queued", 1, 0), ("started", 2, 0), ("progress", 2, 10), ("progress", 2, 20), ("completed", 3, 100),
    ]  # fmt: skip


async def test_what_was_before_comes_before_what_happens_meanwhile() -> None:
    """However many look into the past at once, and whatever the past says again."""
    follower = Follower(Grant(MINE))
    follower.hold()
    follower.tell(fact("completed", 3))
    follower.hold()
    follower.release([fact("started", 2), progress(10)])
    follower.tell(fact("queued", 1, record("task_2")))
    assert await taken(follower) == [("started", 2, 0), ("progress", 2, 10)]
    follower.release([fact("completed", 3)])
    follower.tell(progress(99))
    assert await taken(follower) == [("completed", 3, 100), ("queued", 1, 0)]


async def test_little_waits_of_what_passes_while_the_past_is_read() -> None:
    """Progress is dropped, and previews much sooner, for they are large; events are not."""
    follower = Follower(Grant(MINE))
    follower.hold()
    for number in range(10 * MOST_PASSING):
        follower.tell(progress(number % 90, preview=True))
    assert len(follower._held) == MOST_PREVIEWS
    for number in range(10 * MOST_PASSING):
        follower.tell(progress(number % 90))
    follower.tell(fact("completed", 3))
    assert len(follower._held) == MOST_PASSING + 1
    follower.release([])
    assert (await taken(follower))[-1] == ("completed", 3, 100)


async def test_who_comes_back_hears_what_is_new() -> None:
    """What is assumed to be known is not told again."""
    follower = Follower(Grant(MINE))
    follower.assume("task_1", 2, 37)
    for told in (fact("started", 2), progress(30), progress(37), progress(38), fact("failed", 3)):
        follower.tell(told)
    assert await taken(follower) == [("progress", 2, 38), ("failed", 3, 0)]


@pytest.mark.parametrize(
    ("grant", "kinds", "task", "heard"),
    [
        (Grant(MINE), None, record(), True),
        (Grant("key_other"), None, record(), False),
        (Grant(MINE, task_id="task_1"), None, record(), True),
        (Grant(MINE, task_id="task_1"), None, record("task_2"), False),
        (Grant(MINE, labels={"user": "7"}), None, record(labels={"user": "7", "app": "x"}), True),
        (Grant(MINE, labels={"user": "7"}), None, record(labels={"user": "8"}), False),
        (Grant(MINE), frozenset({"video"}), record(), False),
        (Grant(MINE), frozenset({"video"}), record(kind="video"), True),
    ],
)
async def test_a_follower_hears_of_what_it_may_follow(
    grant: Grant, kinds: frozenset[str] | None, task: TaskRecord, *, heard: bool
) -> None:
    """Of nobody else's tasks, of no others than its token's, and of its hub's kinds."""
    follower = Follower(grant, kinds)
    follower.tell(fact("started", 2, task))
    assert bool(await taken(follower)) is heard


async def test_one_may_stop_hearing_of_a_task() -> None:
    """And hear of it again; what came meanwhile is made up for by asking for it."""
    follower = Follower(Grant(MINE))
    follower.mute("task_1")
    follower.tell(fact("started", 2))
    follower.tell(fact("started", 2, record("task_2")))
    follower.unmute("task_1")
    follower.tell(progress(50))
    assert await taken(follower) == [("started", 2, 0), ("progress", 2, 50)]


async def test_who_is_slow_loses_progress_first() -> None:
    """Facts still come, until there are too many; then he is dismissed and what waits is let go."""
    follower = Follower(Grant(MINE))
    for percent in range(1, 99):
        follower.tell(progress(percent))
        follower.tell(progress(percent, preview=True))
    assert len(follower._waiting) == MOST_PASSING
    assert sum(told.word == PREVIEW for told in follower._waiting) == MOST_PREVIEWS
    for number in range(MOST_WAITING - MOST_PASSING):
        follower.tell(fact("completed", 3, record(f"task_{number}")))
    assert follower.ended is None
    follower.tell(fact("completed", 3, record("task_last")))
    assert follower.ended is End.SLOW
    assert [told async for told in follower] == []


async def test_what_was_dropped_was_not_told() -> None:
    """When there is room again, the next progress comes even if it is no higher than what was dropped."""
    follower = Follower(Grant(MINE))
    for percent in range(1, MOST_PASSING + 1):
        follower.tell(progress(percent))
    follower.tell(progress(90))
    await taken(follower)
    follower.tell(progress(90))
    assert await taken(follower) == [("progress", 2, 90)]


async def test_who_is_dismissed_while_he_waits_goes() -> None:
    """The iteration ends; what is told afterwards is not heard."""
    follower = Follower(Grant(MINE))
    waiting = asyncio.create_task(anext(follower, None))
    await asyncio.sleep(0)
    follower.end(End.REVOKED)
    follower.end(End.STOPPING)
    assert await asyncio.wait_for(waiting, 5) is None
    assert follower.ended is End.REVOKED
    follower.tell(fact("started", 2))
    assert await taken(follower) == []


def test_the_type_of_what_is_told_is_that_of_webhooks() -> None:
    """Kind, operation and word."""
    told = Told("completed", record(kind="video"), 3, dt.datetime.now(dt.UTC))
    assert told.type == "video.generation.completed"
