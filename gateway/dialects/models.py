"""`/v1/models`: what may be asked for, straight from the providers' cards."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.core import formats
from gateway.core.catalog import Model, Route
from gateway.core.errors import GatewayError, shown
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime
from providers.card import ModelCard


class Capabilities(msgspec.Struct):
    """What a model takes: every value that is not listed here is refused.

    `shaped` are the operations with which a size or an aspect ratio can be chosen, of those that the model has;
    `formats` are those that the provider makes, then those that are made here of what it delivers.
    """

    operations: list[str]
    sizes: list[str]
    size_rule: dict[str, Any] | None
    aspect_ratios: list[str]
    shaped: list[str]
    max_n: int
    seconds: list[Any]
    resolutions: list[Any]
    formats: list[str]
    streaming: bool
    inputs: dict[str, Any]
    parameters: dict[str, Any]


class Pricing(msgspec.Struct):
    """The price of one unit in decimal USD: the first row whose `when` fits.

    With `usage` the provider bills by its own count: the rows are what a unit has of it, and `usage.beside` is what may
    be counted for prompt, inputs and previews.
    """

    unit: str
    currency: str
    as_of: str
    rows: list[dict[str, Any]]
    usage: dict[str, Any] | None = None


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
    """Every model and alias that may be asked for. A model without a price is left out where it is refused."""
    return ModelList("list", [_body(name, rt.catalog.model(name)) for name in rt.catalog.names()])


@get("/v1/models/{name:path}")
async def get_model(rt: NamedDependency[Runtime], caller: NamedDependency[Caller], name: FromPath[str]) -> ModelBody:
    """One model or alias."""
    asked = name.removeprefix("/")
    if asked not in rt.catalog.names():
        raise GatewayError("model_not_found", f"The model {shown(asked)} is not offered here.", param="model")
    return _body(asked, rt.catalog.model(asked))


class Style(msgspec.Struct):
    """A style preset, and the models that have it."""

    id: str
    object: str
    models: list[str]


class StyleList(msgspec.Struct):
    """All style presets."""

    object: str
    data: list[Style]


@get("/v1/styles")
async def list_styles(rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> StyleList:
    """What `style_preset` may be, and of which models."""
    found: dict[str, list[str]] = {}
    for model in rt.catalog.offered():
        preset = model.routes[0].card.parameters.get("style_preset")
        for value in preset.values if preset else ():
            found.setdefault(str(value), []).append(model.name)
    return StyleList("list", [Style(name, "style", models) for name, models in sorted(found.items())])


def _body(name: str, model: Model) -> ModelBody:
    card = model.routes[0].card
    released = card.released or dt.date(2026, 1, 1)
    has_shapes = bool(card.sizes or card.size_rule or card.aspect_ratios)
    return ModelBody(
        id=name,
        object="model",
        created=int(dt.datetime.combine(released, dt.time(), dt.UTC).timestamp()),
        owned_by=model.routes[0].provider,
        capabilities=Capabilities(
            operations=list(model.operations), sizes=list(card.sizes),
            size_rule=msgspec.to_builtins(card.size_rule), aspect_ratios=list(card.aspect_ratios),
            shaped=[one for one in model.operations if has_shapes and card.is_shaped(one)],
            max_n=card.max_n, seconds=_values(card, "seconds"), resolutions=_values(card, "resolution"),
            formats=list(formats.offered(card)), streaming=bool(card.partial_images),
            inputs=msgspec.to_builtins(card.inputs),
            parameters=msgspec.to_builtins(card.parameters),
        ),
        pricing=_pricing(model.routes[0]),
        providers=list(dict.fromkeys(route.provider for route in model.routes)),
        retires=card.retires.isoformat() if card.retires else None,
    )  # fmt: skip


def _pricing(route: Route) -> Pricing | None:
    price, usage = route.price, None if route.fixed else route.card.usage_price
    if price is None:
        return None
    return Pricing(
        price.unit, "USD", price.as_of.isoformat(), msgspec.to_builtins(price.rows), msgspec.to_builtins(usage)
    )


def _values(card: ModelCard, name: str) -> list[Any]:
    """What a parameter may be; empty where there is none, or it is bounded in place of listed."""
    parameter = card.parameters.get(name)
    return list(parameter.values) if parameter else []


router = Router("/", route_handlers=[list_models, get_model, list_styles], tags=["Models"])
