"""The clock: the database's time, so that all processes agree how long a turn lasts, whatever their own clocks say."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Awaitable, Callable

from storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)
# How often it is set anew, against drift; and how soon again while the database does not answer.
INTERVAL, SOON = 60.0, 1.0
# How often it asks each time. The quickest answer counts: what takes long has waited, nobody knows on which way.
LOOKS = 3


class Clock:
    """Tells the database's time from its last look at it, and the seconds that have passed in this process since."""

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._time = dt.datetime.now(dt.UTC)
        self._at = elapsed()

    def now(self) -> dt.datetime:
        """The time, with its zone. Until the clock was set it is this machine's own."""
        return self._time + dt.timedelta(seconds=self._elapsed() - self._at)

    async def set(self, db: Database) -> None:
        """Sets it by the database, as of the middle of the quickest question. Raises DatabaseUnavailable."""
        looks = [await self._look(db) for _ in range(LOOKS)]
        _, self._at, self._time = min(looks)

    async def _look(self, db: Database) -> tuple[float, float, dt.datetime]:
        """How long a question took, its middle, and the answer."""
        asked = self._elapsed()
        time = await db.time()
        answered = self._elapsed()
        return answered - asked, (asked + answered) / 2, time


async def keep_time(clock: Clock, db: Database, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Sets the clock for ever, once a minute."""
    while True:
        try:
            await clock.set(db)
            pause = INTERVAL
        except DatabaseUnavailable as error:
            log.warning("the clock could not be set by the database: %s", error)
            pause = SOON
        await sleep(pause)
