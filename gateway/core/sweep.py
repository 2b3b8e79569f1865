"""The sweep: takes up every row that is due. Whatever the queue lost, this finds; any number of sweeps is harmless."""

from __future__ import annotations

import datetime as dt
import logging
import random

from gateway.core import claims, turns
from gateway.core.ports import TASK
from gateway.core.runtime import Runtime
from gateway.core.tables import TASKS
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
AT_ONCE = 200
TIDY = dt.timedelta(hours=1)


async def sweep(rt: Runtime) -> int:
    """Rings for rows that are due, as many as this process has room for, and handles them here.

    The queue is not asked: what is due now needs no second way round, and goes on while the broker is away.
    Returns how many rows were rung. Raises DatabaseUnavailable.
    """
    limit = 0 if rt.executor.stopping else min(AT_ONCE, rt.executor.free)
    if limit == 0:
        return 0
    messages = await turns.ring(rt.db, TASKS, TASK, rt.now(), rt.settings.lease_seconds, limit)
    for message in messages:
        await rt.executor.submit(message)
    return len(messages)


async def sweep_for_ever(rt: Runtime) -> None:
    """Sweeps at the set interval, give or take a quarter, so that many processes do not ask in step."""
    tidy_at = rt.now()
    while True:
        pause = rt.settings.sweep_seconds
        try:
            while await sweep(rt) == AT_ONCE:
                pass
            if rt.now() >= tidy_at:
                await claims.purge(rt)
                tidy_at = rt.now() + TIDY
        except DatabaseUnavailable as error:
            log.warning("the sweep could not ring: %s", error)
            pause = await _answers_again(rt)
        except Exception:
            log.exception("the sweep failed")
        await rt.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, no secret


async def _answers_again(rt: Runtime) -> float:
    """Waits until the database answers; how long to leave rows alone then.

    Nobody could renew a turn meanwhile: whoever still has one, and perhaps a paid result in hand, says so within a
    lease. What is taken from him sooner would be a result thrown away.
    """
    while True:
        try:
            await rt.db.check()
            return rt.settings.lease_seconds
        except DatabaseUnavailable:
            await rt.sleep(rt.settings.sweep_seconds)
