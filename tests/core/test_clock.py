"""The clock: all processes go by the database's time, whatever their own clocks say."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from gateway.core.clock import INTERVAL, LOOKS, SOON, Clock, keep_time
from storage.database import Database, DatabaseUnavailable

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


class Times:
    """A database that tells these times, one for each question, or fails."""

    def __init__(self, *times: dt.datetime | Exception) -> None:
        self.times = list(times)

    async def time(self) -> dt.datetime:
        told = self.times.pop(0)
        if isinstance(told, Exception):
            raise told
        return told


async def test_it_tells_the_databases_time() -> None:
    """Set once, it goes on by the seconds that pass here; of the quickest question's own time half counts."""
    seconds = iter([0.0, 1.0, 9.0, 10.0, 12.0, 13.0, 20.0, 26.0])
    clock = Clock(lambda: next(seconds))
    db: Any = Times(NOON - dt.timedelta(seconds=7), NOON, NOON + dt.timedelta(seconds=9))
    await clock.set(db)
    assert clock.now() == NOON + dt.timedelta(seconds=15)


async def test_it_is_set_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """Once a minute, and soon after a time at which the database did not answer."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError

    db: Any = Times(*[NOON] * LOOKS, DatabaseUnavailable("away"), *[NOON] * LOOKS)
    with pytest.raises(asyncio.CancelledError):
        await keep_time(Clock(), db, sleep)
    assert slept == [INTERVAL, SOON, INTERVAL]
    assert "could not be set" in caplog.text


async def test_each_database_tells_its_time(tmp_path: Any, postgres_url: str) -> None:
    """SQLite's is this machine's, PostgreSQL's its own; here they are the same machine."""
    for url in (f"sqlite:///{tmp_path}/x.db", postgres_url):
        db = Database(url)
        told = await db.time()
        await db.close()
        assert told.tzinfo is not None
        assert abs((told - dt.datetime.now(dt.UTC)).total_seconds()) < 5
