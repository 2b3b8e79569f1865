"""The worker process: Celery brings the bells, one event loop does the work."""

from __future__ import annotations

import asyncio
import logging

from celery import Celery
from celery.exceptions import Reject
from celery.signals import worker_shutting_down

from gateway.core.clock import Clock, keep_time
from gateway.core.executor import Executor
from gateway.core.handlers import handlers
from gateway.core.listing import keep_models
from gateway.core.ports import Message
from gateway.core.runtime import Runtime, open_runtime
from gateway.core.settings import Settings
from gateway.core.sweep import sweep_for_ever
from workers.celery_queue import HANDLER, CeleryQueue, celery_app
from workers.loop import LoopThread
from workers.rabbit_bus import RabbitBus

log = logging.getLogger(__name__)
# Handlers only hand messages over, so a few threads are enough for any number of tasks in flight.
THREADS = 4


def run(settings: Settings) -> None:
    """Works until told to stop (SIGTERM, SIGINT); then finishes what it has begun, as far as the settings let it."""
    thread = LoopThread()
    rt, beside = thread.run(_open(settings))

    def stop(**_: object) -> None:
        thread.loop.call_soon_threadsafe(rt.executor.stop)

    # Celery waits for what it has begun, and while it waits the sweep would begin more.
    worker_shutting_down.connect(stop)
    try:
        app = worker_app(settings.broker_url or "", thread, rt.executor)
        app.Worker(pool="threads", concurrency=THREADS, loglevel=settings.log_level.upper(), without_gossip=True,
                   without_mingle=True, quiet=True).start()  # fmt: skip
    finally:
        thread.run(_close(rt, beside))
        thread.stop()


def worker_app(broker_url: str, thread: LoopThread, executor: Executor) -> Celery:
    """The Celery app with its one handler.

    A message is acknowledged once its work has started: from then on the lease of the row, not the broker, knows who
    is at it. A bell that is lost in between is rung again by the sweep.
    """
    app = celery_app(broker_url)

    @app.task(name=HANDLER)
    def handle(kind: str, id: str, version: int) -> None:
        if not thread.run(executor.submit(Message(kind, id, version))):
            raise Reject("this worker is stopping", requeue=True)

    return app


async def _open(settings: Settings) -> tuple[Runtime, list[asyncio.Task[None]]]:
    clock = Clock()
    broker_url = settings.broker_url or ""
    rt = open_runtime(settings, lambda _: CeleryQueue(broker_url), clock.now, RabbitBus(broker_url))
    rt.executor.handlers = handlers(rt)
    await clock.set(rt.db)
    beside = (keep_time(clock, rt.db), keep_models(rt.catalog), sweep_for_ever(rt))
    return rt, [asyncio.create_task(one) for one in beside]


async def _close(rt: Runtime, beside: list[asyncio.Task[None]]) -> None:
    for task in beside:
        task.cancel()
    await asyncio.wait(beside)
    await rt.close(rt.settings.drain_seconds)
