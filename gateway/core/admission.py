"""Admission: whether a generation can be done, checked against the cards before anything is spent."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.core.aliases import adapt, edges
from gateway.core.catalog import Catalog, Model, Route, build
from gateway.core.errors import GatewayError, allowed, invalid, shown
from gateway.core.settings import Settings, SettingsError
from providers.card import ModelCard, Parameter, SizeRule
from providers.contract import Generation
from providers.registry import Registry

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
}  # fmt: skip


def open_catalog(settings: Settings) -> Catalog:
    """The catalog of these settings, every route of it verified; raises SettingsError, CardError or RegistryError."""
    catalog = build(settings, Registry.load(settings.provider_modules))
    verify(catalog)
    return catalog


class Admitted(msgspec.Struct, frozen=True):
    """A generation as it will be done, the routes that can do it, and what an alias changed: member → [from, to]."""

    generation: Generation
    model: Model
    routes: tuple[Route, ...]
    adjusted: dict[str, list[Any]]


def admit(catalog: Catalog, generation: Generation) -> Admitted:
    """Finds the routes that can honour every member. When none can, raises what the first one cannot do."""
    model = catalog.model(generation.model)
    generation = _with_defaults(generation, model)
    adjusted: dict[str, list[Any]] = {}
    alias = catalog.aliases.get(generation.model)
    if alias is not None:
        generation, adjusted = adapt(generation, alias, model.routes[0].card, takes_size)
    failures: list[GatewayError] = []
    routes = []
    for route in model.routes:
        try:
            check(generation, route.card)
            routes.append(route)
        except GatewayError as error:
            failures.append(error)
    if not routes:
        raise failures[0]
    return Admitted(_without_auto(generation), model, tuple(routes), adjusted)


def verify(catalog: Catalog) -> None:
    """Raises SettingsError when a model's defaults are none that each of its routes can honour."""
    for model in catalog.models.values():
        for route in model.routes:
            plain = Generation(kind=route.card.kind, operation=route.card.operations[0], model=model.name, prompt="-")
            try:
                check(_with_defaults(plain, model), route.card)
            except GatewayError as error:
                raise SettingsError(f"models.{model.name}.defaults, route {route.provider}: {error.message}") from error


def with_extras(
    catalog: Catalog, generation: Generation, unknown: dict[str, Any], hints: dict[str, Any], *, strict: bool
) -> Generation:
    """The generation with those further members that a card of its model lists.

    Of the rest, `strict` refuses what is unknown; without it, unknown members are ignored, as clients send novelties.
    """
    cards = [route.card for route in catalog.model(generation.model).routes]
    listed = {name for card in cards for name in card.parameters}
    extras = {name for card in cards for name in card.extras}
    for name in (*generation.extras, *(unknown if strict else ())):
        if name not in listed | extras:
            offered = ", ".join(sorted(listed | extras)) or "none"
            message = f"{shown(name)} is not known here. Further members of this model: {offered}."
            raise invalid(name[:64], message, code="unsupported_parameter")
    given = {**hints, **unknown, **generation.extras}
    return msgspec.structs.replace(
        generation,
        parameters={**generation.parameters, **{name: value for name, value in given.items() if name in listed}},
        extras={name: value for name, value in given.items() if name in extras - listed},
    )


def check(generation: Generation, card: ModelCard) -> None:
    """Raises the error of the first member that the model cannot honour, naming it and what is allowed."""
    name = shown(generation.model)
    if generation.kind != card.kind:
        raise invalid("model", f"The model {name} makes {card.kind}, not {generation.kind}.")
    if generation.operation not in card.operations:
        offered = ", ".join(card.operations)
        raise invalid("model", f"The model {name} does not do {generation.operation}. It offers: {offered}.")
    if len(generation.prompt) > card.prompt_max:
        raise invalid("prompt", f"prompt has {len(generation.prompt)} characters; {name} takes {card.prompt_max}.")
    if not 1 <= generation.n <= card.max_n:
        raise invalid("n", f"n must be between 1 and {card.max_n} for {name}.")
    _check_size(generation.size, card)
    if generation.aspect_ratio is not None and generation.aspect_ratio not in card.aspect_ratios:
        if not card.aspect_ratios:
            raise invalid("aspect_ratio", f"{name} takes no aspect_ratio.", code="unsupported_parameter")
        raise allowed("aspect_ratio", generation.aspect_ratio, card.aspect_ratios)
    for member, value in generation.parameters.items():
        _check_parameter(member, value, card, name)


def takes_size(size: str, card: ModelCard) -> bool:
    """Whether the model takes that size: it is listed, or fits the rule, or is left to the model."""
    if size == "auto" or size in card.sizes:
        return True
    found = edges(size)
    return found is not None and card.size_rule is not None and _fits(*found, card.size_rule)


def _check_size(size: str | None, card: ModelCard) -> None:
    if size is None or takes_size(size, card):
        return
    rule = f" Or WIDTHxHEIGHT: {_described(card.size_rule)}." if card.size_rule else ""
    offered = ", ".join(card.sizes) or "none"
    raise GatewayError(
        "invalid_image_size", f"size {shown(size)} is not offered here. Allowed: {offered}.{rule}", param="size"
    )


def _fits(width: int, height: int, rule: SizeRule) -> bool:
    long, short = max(width, height), min(width, height)
    return (
        width % rule.multiple_of == 0
        and height % rule.multiple_of == 0
        and rule.min_edge <= short
        and long <= rule.max_edge
        and rule.min_pixels <= width * height <= rule.max_pixels
        and long <= short * rule.max_ratio
    )


def _described(rule: SizeRule) -> str:
    return (
        f"edges multiples of {rule.multiple_of} from {rule.min_edge} to {rule.max_edge}, "
        f"{rule.min_pixels} to {rule.max_pixels} pixels, long edge at most {rule.max_ratio:g} times the short one"
    )


def _check_parameter(name: str, value: Any, card: ModelCard, model: str) -> None:
    parameter = card.parameters.get(name)
    if parameter is None:
        if value == "auto":
            return
        offered = ", ".join(card.parameters) or "none"
        raise invalid(name, f"{model} takes no {name}. It takes: {offered}.", code="unsupported_parameter")
    if not _is_of(parameter.type, value):
        raise invalid(name, f"{name} must be of type {parameter.type}.")
    if value != "auto" and parameter.values and value not in parameter.values:
        raise allowed(name, value, parameter.values)
    _check_bounds(name, value, parameter)


def _is_of(type: str, value: Any) -> bool:
    """Whether the value has a parameter's type; a truth value is no number, and neither is NaN or infinity."""
    if isinstance(value, bool):
        return type == "boolean"
    return isinstance(value, TYPES[type]) and not (isinstance(value, float) and not math.isfinite(value))


def _check_bounds(name: str, value: Any, parameter: Parameter) -> None:
    if isinstance(value, bool) or parameter.values:
        return
    measure, unit = (len(value), " characters") if isinstance(value, str) else (value, "")
    if parameter.min is not None and measure < parameter.min:
        raise invalid(name, f"{name} must be at least {parameter.min:.15g}{unit}.")
    if parameter.max is not None and measure > parameter.max:
        raise invalid(name, f"{name} must be at most {parameter.max:.15g}{unit}.")


def _with_defaults(generation: Generation, model: Model) -> Generation:
    changes: dict[str, Any] = {}
    parameters = dict(generation.parameters)
    for name, value in model.defaults.items():
        if name in ("size", "aspect_ratio"):
            if generation.size is None and generation.aspect_ratio is None:
                changes[name] = value
        else:
            parameters.setdefault(name, value)
    return msgspec.structs.replace(generation, parameters=parameters, **changes)


def _without_auto(generation: Generation) -> Generation:
    """`auto` leaves the choice to the model, which is what leaving a member out means to every provider."""
    return msgspec.structs.replace(
        generation,
        size=None if generation.size == "auto" else generation.size,
        parameters={name: value for name, value in generation.parameters.items() if value != "auto"},
    )
