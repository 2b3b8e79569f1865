"""`/v1/models`: what may be asked for, straight from the providers' cards."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.core.catalog import Model
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime


class Capabilities(msgspec.Struct):
    """What a model takes: every value that is not listed here is refused."""

    operations: list[str]
    sizes: list[str]
    size_rule: dict[str, Any] | None
    aspect_ratios: list[str]
    max_n: int
    formats: list[str]
    streaming: bool
    parameters: dict[str, Any]


class Pricing(msgspec.Struct):
    """The price of one unit in decimal USD: the first row whose `when` fits."""

    unit: str
    currency: str
    as_of: str
    rows: list[dict[str, Any]]


class ModelBody(msgspec.Struct):
    """A model, in OpenAI's shape with what OpenAI does not say."""

    id: str
    object: str
    created: int
    owned_by: str
    capabilities: Capabilities
    pricing: Pricing | None
    providers: list[str]
    retires: str | None


class ModelList(msgspec.Struct):
    """All models."""

    object: str
    data: list[ModelBody]


@get("/v1/models")
async def list_models(rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> ModelList:
    """Every model and alias that may be asked for."""
    return ModelList("list", [_body(name, rt.catalog.model(name)) for name in rt.catalog.names()])


@get("/v1/models/{name:path}")
async def get_model(rt: NamedDependency[Runtime], caller: NamedDependency[Caller], name: FromPath[str]) -> ModelBody:
    """One model or alias."""
    asked = name.removeprefix("/")
    return _body(asked, rt.catalog.model(asked))


def _body(name: str, model: Model) -> ModelBody:
    card, price = model.routes[0].card, model.routes[0].price
    released = card.released or dt.date(2026, 1, 1)
    return ModelBody(
        id=name,
        object="model",
        created=int(dt.datetime.combine(released, dt.time(), dt.UTC).timestamp()),
        owned_by=model.routes[0].provider,
        capabilities=Capabilities(
            operations=list(model.operations), sizes=list(card.sizes),
            size_rule=msgspec.to_builtins(card.size_rule), aspect_ratios=list(card.aspect_ratios),
            max_n=card.max_n, formats=list(card.formats), streaming=False,
            parameters=msgspec.to_builtins(card.parameters),
        ),
        pricing=None
        if price is None
        else Pricing(price.unit, "USD", price.as_of.isoformat(), msgspec.to_builtins(price.rows)),
        providers=list(dict.fromkeys(route.provider for route in model.routes)),
        retires=card.retires.isoformat() if card.retires else None,
    )  # fmt: skip


router = Router("/", route_handlers=[list_models, get_model], tags=["Models"])
