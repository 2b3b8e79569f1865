"""The web application: everything that is served, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from litestar import Litestar, Router, asgi
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp

from gateway.core.clock import Clock, keep_time
from gateway.core.durations import keep_durations
from gateway.core.executor import Executor
from gateway.core.feed import Feed
from gateway.core.handlers import handlers
from gateway.core.listing import keep_models
from gateway.core.outbound import Outbound
from gateway.core.ports import Bus, Queue
from gateway.core.runtime import Runtime, open_outbound, open_runtime
from gateway.core.settings import Settings
from gateway.core.sweep import sweep_for_ever
from gateway.dialects import (
    errors,
    events,
    media,
    models,
    openai_images,
    openai_videos,
    realtime,
    signalr,
    sockets,
    tasks,
    usage,
    webhooks,
)
from gateway.dialects.sockets import Sockets
from gateway.edge import accounts, admin, callbacks, docs, files, health, routes
from gateway.edge import media as holdings
from gateway.edge.auth import add_rates, provide_caller, provide_feed, provide_grant, provide_runtime, require_admin
from gateway.edge.guard import Guard
from gateway.web.body import schemas
from gateway.web.query import refuse_repeats
from storage.database import DatabaseUnavailable
from workers.embedded import EmbeddedQueue


def embedded_app(settings: Settings, make_outbound: Callable[[Settings], Outbound] = open_outbound) -> ASGIApp:
    """One process that does everything: serves, works and sweeps."""
    return create_app(settings, EmbeddedQueue, make_outbound, alone=True)


def web_app(settings: Settings) -> ASGIApp:
    """A web process beside workers: accepts, and does itself only what a waiting client waits for."""
    from workers.celery_queue import CeleryQueue  # a process that is alone starts sooner without

    return create_app(settings, lambda _: CeleryQueue(settings.broker_url or ""), alone=False)


def create_app(
    settings: Settings,
    make_queue: Callable[[Executor], Queue],
    make_outbound: Callable[[Settings], Outbound] = open_outbound,
    *,
    alone: bool,
) -> ASGIApp:
    """The ASGI application. Opens its runtime when the server starts it, and closes it when the server stops.

    `alone`: there is no other process, so that it sweeps, and a client need not find the same one again.
    """
    hubs = Sockets(polling=alone)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        runtime = running(settings, make_queue, make_outbound, sweeps=alone)
        async with runtime as rt, feeding(rt) as feed, hubs.open(rt, feed):
            app.state.runtime, app.state.feed = rt, feed
            yield

    app = Litestar(
        route_handlers=[
            Router("/", route_handlers=[openai_images.router, openai_videos.router, tasks.router, media.router,
                                        models.router, usage.router, webhooks.router, realtime.router],
                   dependencies={"caller": Provide(provide_caller)}, before_request=refuse_repeats),
            Router("/", route_handlers=[events.router, signalr.router],
                   dependencies={"grant": Provide(provide_grant), "feed": Provide(provide_feed)}),
            asgi(sockets.PATH, is_mount=True, copy_scope=True)(hubs),
            Router("/admin/v1", guards=[require_admin],
                   route_handlers=[admin.router, accounts.router, routes.router, holdings.router]),
            files.router,
            callbacks.router,
            health.router,
            docs.router,
        ],
        dependencies={"rt": Provide(provide_runtime)},
        before_send=[add_rates],
        exception_handlers=errors.HANDLERS,
        lifespan=[lifespan],
        cors_config=CORSConfig(allow_origins=list(settings.allow_origins)) if settings.allow_origins else None,
        openapi_config=_openapi(),
        # The guard bounds bodies before the framework sees them.
        request_max_body_size=None,
        logging_config=None,
    )  # fmt: skip

    def release() -> None:
        app.state.runtime.waiter.release(settings.drain_seconds / 2)
        app.state.feed.stop()

    forms = settings.max_upload_bytes, settings.upload_seconds
    bodies = settings.max_body_bytes, settings.body_seconds
    return Guard(app, errors.parts, release, bodies=bodies, forms=forms)


def _bus(settings: Settings) -> Bus | None:
    if settings.broker_url is None:
        return None
    from workers.rabbit_bus import RabbitBus  # a process that is alone starts sooner without

    return RabbitBus(settings.broker_url)


@asynccontextmanager
async def running(
    settings: Settings,
    make_queue: Callable[[Executor], Queue],
    make_outbound: Callable[[Settings], Outbound] = open_outbound,
    *,
    sweeps: bool,
) -> AsyncIterator[Runtime]:
    """An open runtime that handles messages, and with `sweeps` looks for due rows; closed at the end of the block."""
    clock = Clock()
    rt = open_runtime(settings, make_queue, clock.now, _bus(settings), make_outbound)
    rt.executor.handlers = handlers(rt)
    with suppress(DatabaseUnavailable):
        await clock.set(rt.db)
    beside = [
        asyncio.create_task(keeping)
        for keeping in (keep_time(clock, rt.db), keep_models(rt.catalog), keep_durations(rt.durations, rt.db))
    ]
    if sweeps:
        beside.append(asyncio.create_task(sweep_for_ever(rt)))
    try:
        yield rt
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await rt.close(settings.drain_seconds / 2)


@asynccontextmanager
async def feeding(rt: Runtime) -> AsyncIterator[Feed]:
    """A feed that brings news, also of other processes, for as long as the block lasts."""
    feed = Feed(rt)
    beside = [asyncio.create_task(feed.run()), asyncio.create_task(rt.hub.open())]
    try:
        yield feed
    finally:
        feed.stop()
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)


def _openapi() -> OpenAPIConfig:
    bodies = schemas(
        *openai_images.SHAPES,
        *openai_videos.SHAPES,
        *webhooks.SHAPES,
        *realtime.SHAPES,
        *admin.SHAPES,
        *accounts.SHAPES,
        *routes.SHAPES,
        *holdings.SHAPES,
        errors.ErrorBody,
    )
    components = Components(
        security_schemes={
            "BearerToken": SecurityScheme(type="http", scheme="bearer", description="A virtual key (`hg_…`)."),
        },
    )
    return OpenAPIConfig(
        title="Heliograph",
        version="1",
        description="One OpenAI-compatible gateway for every image and video model.",
        components=components,
        security=[{"BearerToken": []}],
        render_plugins=docs.renderers(bodies),
        use_handler_docstrings=True,
        openapi_router=docs.pages(),
    )
