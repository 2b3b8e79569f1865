"""The worker process: Celery brings the bells, one event loop does the work."""

from __future__ import annotations

import asyncio
import logging

from celery import Celery

from gateway.core.executor import Executor
from gateway.core.handlers import handlers
from gateway.core.ports import Message
from gateway.core.runtime import Runtime, open_runtime
from gateway.core.settings import Settings
from gateway.core.sweep import sweep_for_ever
from workers.celery_queue import HANDLER, CeleryQueue, celery_app
from workers.loop import LoopThread

log = logging.getLogger(__name__)
# Handlers only hand messages over, so a few threads are enough for any number of tasks in flight.
THREADS = 4


def run(settings: Settings) -> None:
    """Works until told to stop (SIGTERM, SIGINT); then finishes what it has begun, as far as the settings let it."""
    thread = LoopThread()
    rt, sweeping = thread.run(_open(settings))
    try:
        app = worker_app(settings.broker_url or "", thread, rt.executor)
        app.Worker(pool="threads", concurrency=THREADS, loglevel=settings.log_level.upper(), without_gossip=True,
                   without_mingle=True, quiet=True).start()  # fmt: skip
    finally:
        thread.run(_close(rt, sweeping))
        thread.stop()


def worker_app(broker_url: str, thread: LoopThread, executor: Executor) -> Celery:
    """The Celery app with its one handler.

    A message is acknowledged once its work has started: from then on the lease of the row, not the broker, knows who
    is at it. A bell that is lost in between is rung again by the sweep.
    """
    app = celery_app(broker_url)

    @app.task(name=HANDLER)
    def handle(kind: str, id: str, version: int) -> None:
        thread.run(executor.submit(Message(kind, id, version)))

    return app


async def _open(settings: Settings) -> tuple[Runtime, asyncio.Task[None]]:
    rt = open_runtime(settings, lambda _: CeleryQueue(settings.broker_url or ""))
    rt.executor.handlers = handlers(rt)
    await rt.db.check()
    return rt, asyncio.create_task(sweep_for_ever(rt))


async def _close(rt: Runtime, sweeping: asyncio.Task[None]) -> None:
    sweeping.cancel()
    await rt.close()
