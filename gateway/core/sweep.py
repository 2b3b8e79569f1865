"""The sweep: takes up every row that is due. Whatever the queue lost, this finds; any number of sweeps is harmless."""

from __future__ import annotations

import datetime as dt
import logging
import random

from gateway.core import claims, cleanup, deliveries, erasing, ledger, slots, turns
from gateway.core.ports import DELIVERY, START, TASK, Message
from gateway.core.runtime import Runtime
from gateway.core.tables import TASKS
from gateway.core.webhook_tables import DELIVERIES
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
AT_ONCE = 200
TIDY, EXPIRY = dt.timedelta(hours=1), dt.timedelta(minutes=1)


async def sweep(rt: Runtime) -> int:
    """Rings for rows that are due, as many as this process has room for, and handles them here.

    The queue is not asked: what is due now needs no second way round, and goes on while the broker is away.
    Returns how many rows were rung. Raises DatabaseUnavailable.
    """
    limit = 0 if rt.executor.stopping else min(AT_ONCE, rt.executor.free)
    if limit == 0:
        return 0
    messages = await turns.ring(rt.db, TASKS, TASK, rt.now(), rt.settings.lease_seconds, limit)
    messages += [Message(START, "", 0)] * await slots.startable(rt, limit - len(messages))
    messages += await _timed_out(rt)
    messages += await _to_deliver(rt)
    for message in messages:
        await rt.executor.submit(message)
    return len(messages)


async def _to_deliver(rt: Runtime) -> list[Message]:
    """Rings for webhooks that are due, as many as may be on their way; tasks have the other part of the room."""
    room, lease = min(AT_ONCE, rt.destinations.room), rt.settings.lease_seconds
    if room <= 0:
        return []
    return await turns.ring(rt.db, DELIVERIES, DELIVERY, rt.now(), lease, room, deliveries.within_reach(rt))


async def _timed_out(rt: Runtime) -> list[Message]:
    """Takes out of the line whoever has waited there for the whole of his time."""
    versions = {task["id"]: await slots.leave_line(rt, task["id"], task["key_id"])
                for task in await slots.overdue(rt, AT_ONCE)}  # fmt: skip
    return [Message(TASK, id, version) for id, version in versions.items() if version is not None]


async def sweep_for_ever(rt: Runtime) -> None:
    """Sweeps at the set interval, give or take a quarter, so that many processes do not ask in step."""
    tidy_at = expire_at = rt.now()
    while True:
        pause = rt.settings.sweep_seconds
        try:
            while await sweep(rt) >= AT_ONCE:
                pass
            if rt.now() >= expire_at:
                await ledger.expire(rt)
                await cleanup.ring(rt)
                expire_at = rt.now() + EXPIRY
            if rt.now() >= tidy_at:
                await claims.purge(rt)
                await deliveries.purge(rt)
                await rt.health.purge()
                # Beside it, for the store may be slow.
                rt.executor.spawn(erasing.finish(rt), "erasing what was deleted")
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
