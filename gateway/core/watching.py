"""Watching: progress that a provider pushes while a task waits for it. A hint: how the job stands, a look tells."""

from __future__ import annotations

import asyncio

from sqlalchemy import update

from gateway.core.lifecycle import State
from gateway.core.ports import Note
from gateway.core.runtime import Runtime
from gateway.core.standings import shown
from gateway.core.tables import TASKS
from providers.contract import Progress, Provider, ProviderError

T = TASKS.c


def watch(rt: Runtime, provider: Provider, task_id: str, key_id: str, job: str) -> None:
    """Follows the job from here on, where the provider's card says that it can be; nobody waits for that."""
    if provider.card.watches:
        rt.executor.accompany(_follow(rt, provider, task_id, key_id, job), f"watching {task_id}")


async def _follow(rt: Runtime, provider: Provider, task_id: str, key_id: str, job: str) -> None:
    waiting = (T.id == task_id, T.state == State.WAITING)

    floor = 0

    async def report(progress: Progress) -> None:
        nonlocal floor
        floor = floor or await shown(rt, task_id)
        percent = max(floor, min(int(progress.fraction * 100), 99))
        rt.hub.tell(Note(task_id, key_id, percent, progress.note, progress.preview))
        risen = update(TASKS).where(*waiting, T.progress < percent).values(progress=percent)
        async with rt.db.write_one() as connection:
            await connection.execute(risen)

    try:
        async with asyncio.timeout(rt.settings.task_seconds):
            await provider.watch(job, report)
    except (ProviderError, TimeoutError):
        # The next look will come when it is due.
        return
    async with rt.db.write_one() as connection:
        await connection.execute(update(TASKS).where(*waiting, T.due_at > rt.now()).values(due_at=rt.now()))
