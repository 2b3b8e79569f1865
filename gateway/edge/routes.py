"""`/admin/v1/routes`: every route of every model, how it stands, and a way to try one again at once."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Router, get, post
from litestar.di import NamedDependency
from msgspec import Meta

from gateway.core.catalog import Route
from gateway.core.errors import GatewayError
from gateway.core.health import Trouble
from gateway.core.runtime import Runtime
from gateway.web.body import read_all, taking

Text = Annotated[str, Meta(min_length=1, max_length=128)]


class HealthBody(msgspec.Struct):
    """How a route stands: `ok`, `failing`, `cooling`, `half_open` (the next order tries it) or `parked`."""

    standing: str
    failures: int = 0
    reason: str | None = None
    since: int | None = None
    until: int | None = None


class RouteBody(msgspec.Struct):
    """One way to serve a model."""

    model: str
    provider: str
    credential: str
    vendor_model: str
    order: int
    weight: float
    price_as_of: str | None
    health: HealthBody
    object: str = "route"


class RouteList(msgspec.Struct):
    """All routes, by model and in order."""

    data: list[RouteBody]
    object: str = "list"


class ResetRequest(msgspec.Struct):
    """Which provider's credential is to be tried again."""

    provider: Text
    credential: Text = "default"


class ResetBody(msgspec.Struct):
    """How many troubles were forgotten."""

    provider: str
    credential: str
    forgotten: int


@get("/routes")
async def list_routes(rt: NamedDependency[Runtime]) -> RouteList:
    """Every route of every model, and how it stands."""
    await rt.health.read()
    routes = [(name, route) for name, model in rt.catalog.models.items() for route in model.routes]
    return RouteList([_route(rt, name, route) for name, route in routes])


@post("/routes/reset", operation_class=taking(ResetRequest), status_code=200)
async def reset_route(request: Request[Any, Any, Any], rt: NamedDependency[Runtime]) -> ResetBody:
    """Forgets what was wrong with a provider's credential, so that it is tried at once."""
    body = await read_all(request, ResetRequest)
    if rt.catalog.provider(body.provider, body.credential) is None:
        raise GatewayError("not_found", "There is no such provider, or no such credential of it.")
    return ResetBody(body.provider, body.credential, await rt.health.reset(body.provider, body.credential))


def _route(rt: Runtime, name: str, route: Route) -> RouteBody:
    trouble = rt.health.trouble(route) or rt.health.troubles.get(route.way)
    return RouteBody(
        model=name, provider=route.provider, credential=route.credential, vendor_model=route.card.name,
        order=route.order, weight=route.weight, price_as_of=route.price.as_of.isoformat() if route.price else None,
        health=HealthBody("ok") if trouble is None else _health(rt, trouble),
    )  # fmt: skip


def _health(rt: Runtime, trouble: Trouble) -> HealthBody:
    until = None if trouble.until is None else int(trouble.until.timestamp())
    since = int(trouble.since.timestamp())
    return HealthBody(trouble.standing(rt.now()), trouble.failures, trouble.reason, since, until)


router = Router("/", route_handlers=[list_routes, reset_route], tags=["Administration"])
SHAPES = (ResetRequest,)
