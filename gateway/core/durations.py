"""Durations: how long tasks take, learned from those that were completed last; and how far one is, going by that."""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select

from gateway.core.lifecycle import State
from gateway.core.tables import TASKS
from providers.contract import Generation
from storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)
T = TASKS.c
# From how many of the last tasks is learned, and how often.
RECENT, INTERVAL = 2000, 30.0
# What a task shows when the expected time is over, and how far it may get after that.
WHEN_DUE, MOST = 90, 99

Shape = tuple[str, str, Any]
SIZE, SECONDS = T.generation["size"].as_string(), T.generation["parameters", "seconds"].as_string()


class Durations:
    """How long the last tasks of each model, operation and size took: the median, in seconds.

    To the size of a film belongs its length.
    """

    def __init__(self) -> None:
        self._medians: dict[Shape, float] = {}

    def expected(self, generation: Generation) -> float | None:
        """How long such a task takes; None while none was seen. One of another size is better than nothing."""
        model, operation, seconds = generation.model, generation.operation, generation.parameters.get("seconds")
        exact = self._medians.get((model, operation, _extent(generation.size, seconds)))
        return exact if exact is not None else self._medians.get((model, operation, ...))

    async def learn(self, db: Database) -> None:
        """Looks at what was completed last. What is known of a model that is not among it stays."""
        columns = T.model, T.operation, SIZE.label("size"), SECONDS.label("seconds"), T.started_at, T.ended_at
        last = select(*columns).where(T.state == State.COMPLETED)
        taken: dict[Shape, list[float]] = defaultdict(list)
        async with db.read() as connection:
            for row in await connection.execute(last.order_by(T.id.desc()).limit(RECENT)):
                duration = (row.ended_at - row.started_at).total_seconds()
                for extent in (_extent(row.size, row.seconds), ...):
                    taken[row.model, row.operation, extent].append(duration)
        self._medians |= {shape: statistics.median(seconds) for shape, seconds in taken.items()}


def _extent(size: str | None, seconds: Any) -> tuple[str | None, str | None]:
    return size, None if seconds is None else str(seconds)


async def keep_durations(
    durations: Durations, db: Database, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Learns for ever."""
    while True:
        try:
            await durations.learn(db)
        except DatabaseUnavailable as error:
            log.warning("how long tasks take could not be learned: %s", error)
        await sleep(INTERVAL)


def learned(passed: float, expected: float | None) -> int:
    """How far a task is after so many seconds, in percent: slower and slower when it is late, and never at its end."""
    if not expected:
        return 0
    share = passed / expected
    if share <= 1:
        return int(WHEN_DUE * share)
    return int(WHEN_DUE + (MOST - WHEN_DUE) * -math.expm1(1 - share))
