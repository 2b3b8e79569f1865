"""The web application: everything that is served, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp

from gateway.core.clock import Clock, keep_time
from gateway.core.executor import Executor
from gateway.core.handlers import handlers
from gateway.core.ports import Queue
from gateway.core.runtime import Runtime, open_runtime
from gateway.core.settings import Settings
from gateway.core.sweep import sweep_for_ever
from gateway.dialects import errors, media, models, openai_images, tasks
from gateway.edge import admin, docs, files, health
from gateway.edge.auth import provide_caller, provide_runtime, require_admin
from gateway.edge.guard import Guard
from gateway.web.body import schemas
from gateway.web.query import refuse_repeats
from storage.database import DatabaseUnavailable
from workers.celery_queue import CeleryQueue
from workers.embedded import EmbeddedQueue


def embedded_app(settings: Settings) -> ASGIApp:
    """One process that does everything: serves, works and sweeps."""
    return create_app(settings, EmbeddedQueue, sweeps=True)


def web_app(settings: Settings) -> ASGIApp:
    """A web process beside workers: accepts, and does itself only what a waiting client waits for."""
    return create_app(settings, lambda _: CeleryQueue(settings.broker_url or ""), sweeps=False)


def create_app(settings: Settings, make_queue: Callable[[Executor], Queue], *, sweeps: bool) -> ASGIApp:
    """The ASGI application. Opens its runtime when the server starts it, and closes it when the server stops."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with running(settings, make_queue, sweeps=sweeps) as rt:
            app.state.runtime = rt
            yield

    app = Litestar(
        route_handlers=[
            Router("/", route_handlers=[openai_images.router, tasks.router, media.router, models.router],
                   dependencies={"caller": Provide(provide_caller)}, before_request=refuse_repeats),
            Router("/admin/v1", route_handlers=[admin.router], guards=[require_admin]),
            files.router,
            health.router,
            docs.router,
        ],
        dependencies={"rt": Provide(provide_runtime)},
        exception_handlers=errors.HANDLERS,
        lifespan=[lifespan],
        openapi_config=_openapi(),
        # The guard bounds bodies before the framework sees them.
        request_max_body_size=None,
        logging_config=None,
    )  # fmt: skip

    def release() -> None:
        app.state.runtime.waiter.release(settings.drain_seconds / 2)

    return Guard(app, errors.parts, release, max_body_bytes=settings.max_body_bytes, body_seconds=settings.body_seconds)


@asynccontextmanager
async def running(
    settings: Settings, make_queue: Callable[[Executor], Queue], *, sweeps: bool
) -> AsyncIterator[Runtime]:
    """An open runtime that handles messages, and with `sweeps` looks for due rows; closed at the end of the block."""
    clock = Clock()
    rt = open_runtime(settings, make_queue, clock.now)
    rt.executor.handlers = handlers(rt)
    with suppress(DatabaseUnavailable):
        await clock.set(rt.db)
    beside = [asyncio.create_task(keep_time(clock, rt.db))]
    if sweeps:
        beside.append(asyncio.create_task(sweep_for_ever(rt)))
    try:
        yield rt
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await rt.close(settings.drain_seconds / 2)


def _openapi() -> OpenAPIConfig:
    components = Components(
        schemas=schemas(*openai_images.SHAPES, *admin.SHAPES, errors.ErrorBody),
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
        render_plugins=docs.RENDERERS,
        use_handler_docstrings=True,
        openapi_router=docs.pages(),
    )
