"""Admission: whether a generation can be done, checked against the cards before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.core import extents, formats, inputs
from gateway.core.aliases import adapt
from gateway.core.catalog import Catalog, Model, Route, build
from gateway.core.errors import GatewayError, allowed, invalid, shown
from gateway.core.inputs import Upload
from gateway.core.pricing import quote, unpriced
from gateway.core.settings import Settings, SettingsError
from gateway.core.wording import edges, has_shape, worded
from providers.card import ModelCard, Parameter, SizeRule
from providers.contract import Generation, Operation, Role
from providers.registry import Registry

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
}  # fmt: skip

LAX: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}

# What says of an upscale how large it becomes, one of them; and what of a picture, either or both.
MEASURES, SHAPE = frozenset({"scale", "resolution"}), frozenset({"size", "aspect_ratio"})
# Members of requests that say what is made. One that its route does not know is refused: it is no novelty to ignore.
MEANT = frozenset({
    "n", "size", "aspect_ratio", "resolution", "scale", "seconds", "duration", "fps", "framerate", "quality", "style",
    "style_preset", "background", "moderation", "output_format", "output_compression", "input_fidelity", "strength",
    "mode", "negative_prompt", "seed", "steps", "cfg_scale", "image", "images", "mask", "style_image", "control_image",
    "input_reference", "first_frame", "last_frame", "reference_images", "video", "stream", "partial_images",
})  # fmt: skip


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


def admit(catalog: Catalog, generation: Generation, uploads: Sequence[Upload] = ()) -> Admitted:
    """What a caller wishes, with the model's defaults and the alias's words, and the routes that can honour all of it.

    When none can, raises what the first one cannot do.
    """
    model = catalog.model(generation.model)
    generation = worded(_with_defaults(generation, model), model.routes[0].card)
    adjusted: dict[str, list[Any]] = {}
    alias = catalog.aliases.get(generation.model)
    if alias is not None:
        generation, adjusted = adapt(generation, alias, model.routes[0].card, takes_size)
    routes = _able(catalog, model, generation, uploads)
    return Admitted(_without_auto(generation), model, routes, adjusted)


def readmit(catalog: Catalog, generation: Generation, uploads: Sequence[Upload]) -> Admitted:
    """The routes that can honour, by now, what was admitted before. What was left to the model stays left to it."""
    model = catalog.model(generation.model)
    return Admitted(generation, model, _able(catalog, model, generation, uploads), {})


def _able(catalog: Catalog, model: Model, generation: Generation, uploads: Sequence[Upload]) -> tuple[Route, ...]:
    """The routes that can honour every member; raises what the first one cannot do, when none can."""
    failures: list[GatewayError] = []
    routes = []
    for route in model.routes:
        try:
            check(generation, route.card)
            _check_required(generation, route.card)
            inputs.check(generation, route.card, uploads)
            _check_prompt(generation, route.card, uploads)
            extents.check(generation, route.card, uploads, catalog.max_pixels)
            if not catalog.unpriced:
                _check_price(generation, route)
            routes.append(route)
        except GatewayError as error:
            failures.append(error)
    if not routes:
        raise failures[0]
    return tuple(routes)


def verify(catalog: Catalog) -> None:
    """Raises SettingsError when a model's defaults are none that each of its routes can honour."""
    for model in catalog.models.values():
        for route, operation in ((one, done) for one in model.routes for done in one.card.operations):
            plain = Generation(kind=route.card.kind, operation=operation, model=model.name)
            try:
                check(_with_defaults(plain, model), route.card)
            except GatewayError as error:
                raise SettingsError(f"models.{model.name}.defaults, route {route.provider}: {error.message}") from error


def with_extras(
    catalog: Catalog,
    generation: Generation,
    unknown: dict[str, Any],
    hints: dict[str, Any],
    *,
    strict: bool,
    texts: bool = False,
) -> Generation:
    """The generation with those further members that a card of its model lists.

    Of the rest, `strict` refuses what is unknown; without it, unknown members are ignored, as clients send novelties,
    but for those that say elsewhere what is made.
    With `texts` they come from a form, where a number is a text.
    """
    cards = [route.card for route in catalog.model(generation.model).routes]
    listed = {name: card.parameters[name] for card in reversed(cards) for name in card.parameters}
    extras = {name for card in cards for name in card.extras}
    unknown = {name: value for name, value in unknown.items() if value is not None}
    options = dict(generation.extras)
    if texts:
        unknown, options = _of_texts(unknown, listed), _of_texts(options, listed)
    meant = (name for name, value in unknown.items() if name in MEANT and not _is_empty(value))
    for name in (*options, *(unknown if strict else meant)):
        if name not in extras and name not in listed:
            offered = {*extras, *(one for card in cards for one in card.parameters_for(generation.operation))}
            listing = ", ".join(sorted(offered)) or "none"
            message = f"{shown(name)} is not taken here. Further members of this model: {listing}."
            raise invalid(name[:64], message, code="unsupported_parameter")
    given = {**hints, **unknown, **options}
    for name, value in options.items():
        if {**generation.parameters, **hints, **unknown}.get(name, value) != value:
            raise invalid(name, f"{name} is given twice, with different values: once in provider_options.")
    return msgspec.structs.replace(
        generation,
        parameters={**generation.parameters, **{name: value for name, value in given.items() if name in listed}},
        extras={name: value for name, value in given.items() if name in extras and name not in listed},
    )


def _is_empty(value: Any) -> bool:
    """Whether nobody can have wished for anything by it."""
    return value is False or value in ("", [], {})


def _of_texts(members: Mapping[str, Any], listed: Mapping[str, Parameter]) -> dict[str, Any]:
    """The members of a form, with those that are listed in their types."""
    return {name: _of_text(value, listed[name]) if name in listed else value for name, value in members.items()}


def _of_text(value: Any, parameter: Parameter) -> Any:
    """What a text of a form means for a parameter; what means nothing is left as it is, to be refused."""
    try:
        return msgspec.convert(value, LAX[parameter.type], strict=False)
    except msgspec.ValidationError:
        return value


def check(generation: Generation, card: ModelCard) -> None:
    """Raises the error of the first member that the model cannot honour, naming it and what is allowed."""
    name = shown(generation.model)
    if generation.kind != card.kind:
        raise invalid("model", f"The model {name} makes {card.kind}, not {generation.kind}.")
    if generation.operation not in card.operations:
        offered = ", ".join(card.operations)
        raise invalid("model", f"The model {name} does not do {generation.operation}. It offers: {offered}.")
    longest = 0 if generation.operation in card.wordless else card.prompt_max
    if len(generation.prompt) > longest:
        most = f"at most {longest}" if longest else f"no prompt for {generation.operation}"
        raise invalid("prompt", f"prompt has {len(generation.prompt)} characters; {name} takes {most}.")
    if not 1 <= generation.n <= card.max_n:
        raise invalid("n", f"n must be between 1 and {card.max_n} for {name}.")
    if generation.partial_images > card.partial_images:
        message = f"{name} shows at most {card.partial_images} previews."
        raise invalid("partial_images", message)
    if generation.partial_images and generation.n > (card.partial_images_max_n or card.max_n):
        message = f"n must be at most {card.partial_images_max_n} for {name} to show previews."
        raise invalid("n", message)
    _check_size(generation, card)
    _check_shape(generation, card)
    formats.check(generation, card)
    parameters = formats.ordered(generation, card).parameters
    for member, value in parameters.items():
        _check_parameter(member, value, card, generation)
    if generation.operation is Operation.UPSCALE and parameters.keys() >= MEASURES:
        raise invalid("scale", "scale and resolution both say how large it becomes. Give one of them.")


def _check_required(generation: Generation, card: ModelCard) -> None:
    for name, parameter in card.parameters_for(generation.operation).items():
        if parameter.required and name not in generation.parameters:
            raise GatewayError("missing_parameter", f"{shown(generation.model)} needs {name}.", param=name)


def _check_prompt(generation: Generation, card: ModelCard, uploads: Sequence[Upload]) -> None:
    """An edit says by a prompt what is to change, or by a style, unless the model takes no words for it."""
    styled = "style_preset" in generation.parameters or any(one.role is Role.STYLE for one in uploads)
    if generation.operation is Operation.EDIT and card.prompt_max and not styled and not generation.prompt.strip():
        message = f"{shown(generation.model)} needs a prompt: what the picture should become."
        raise GatewayError("missing_parameter", message, param="prompt")


def _check_price(generation: Generation, route: Route) -> None:
    if quote(generation, route.card, route.price) is not None:
        return
    name = shown(generation.model)
    strange = unpriced(generation, route.card, route.price) if route.price else None
    if strange is None:
        message = f"No price is known for this on the model {name}, so that it is not offered."
        raise GatewayError("unpriced_model", message, param="model")
    member, values = strange
    message = f"The model {name} has a price for these values of {member} alone: {', '.join(values)}."
    raise GatewayError("unpriced_model", message, param=member)


def check_members(asked: Generation, other: Generation, hints: dict[str, Any]) -> None:
    """Raises the error of a member that the model of `asked` knows, and the other would ignore as a novelty."""
    known = {*other.parameters, *other.extras, *hints}
    lost = next((name for name in (*asked.parameters, *asked.extras) if name not in known), None)
    if lost is not None:
        raise invalid(lost, f"{shown(other.model)} takes no {lost}.", code="unsupported_parameter")


def takes_size(size: str, card: ModelCard) -> bool:
    """Whether the model takes that size: it is listed, or fits the rule, or is left to the model."""
    if size == "auto" or size in card.sizes:
        return True
    found = edges(size)
    return found is not None and card.size_rule is not None and _fits(*found, card.size_rule)


def _check_shape(generation: Generation, card: ModelCard) -> None:
    """One that comes with a size differs from it: what says the same is said once by now, see `worded`."""
    size, ratio, offered = generation.size, generation.aspect_ratio, card.aspect_ratios
    if ratio in (None, "auto"):
        return
    if not offered or not card.is_shaped(generation.operation):
        raise _not_taken("aspect_ratio", generation, card)
    if ratio not in offered:
        raise allowed("aspect_ratio", ratio, offered)
    if size not in (None, "auto"):
        fitting = ", ".join(one for one in offered if has_shape(size, one)) or "none"
        message = f"aspect_ratio {shown(ratio)} is not the shape of size {shown(size)}. Allowed with it: {fitting}."
        raise invalid("aspect_ratio", message)


def _check_size(generation: Generation, card: ModelCard) -> None:
    size = generation.size
    if size in (None, "auto"):
        return
    if not card.is_shaped(generation.operation):
        raise _not_taken("size", generation, card)
    if takes_size(size, card):
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


def _check_parameter(name: str, value: Any, card: ModelCard, generation: Generation) -> None:
    if value == "auto":
        return
    parameter = card.parameters_for(generation.operation).get(name)
    if parameter is None:
        raise _not_taken(name, generation, card)
    if not _is_of(parameter.type, value):
        raise invalid(name, f"{name} must be of type {parameter.type}.")
    if parameter.values and value not in parameter.values:
        raise allowed(name, value, parameter.values)
    _check_bounds(name, value, parameter)


def _not_taken(name: str, generation: Generation, card: ModelCard) -> GatewayError:
    """The error of a member that means nothing to the model, or nothing for what it is to do."""
    model, operation = shown(generation.model), generation.operation
    offered = ", ".join(card.parameters_for(operation)) or "none"
    meant = f" for {operation}" if len(card.operations) > 1 else ""
    message = f"{model} takes no {name}{meant}. It takes: {offered}."
    return invalid(name, message, code="unsupported_parameter")


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
        raise invalid(name, f"{name} must be at least {_number(parameter.min)}{unit}.")
    if parameter.max is not None and measure > parameter.max:
        raise invalid(name, f"{name} must be at most {_number(parameter.max)}{unit}.")


def _number(bound: float) -> str:
    return f"{bound:.15g}" if isinstance(bound, float) else str(bound)


def _with_defaults(generation: Generation, model: Model) -> Generation:
    """The generation with those defaults of its model that it leaves open, and that mean something for what it does."""
    operation = generation.operation
    cards = [route.card for route in model.routes if operation in route.card.operations]
    settled = {name for card in cards for name in card.parameters.keys() - card.parameters_for(operation).keys()}
    settled |= generation.parameters.keys()
    if generation.parameters.keys() & MEASURES:
        settled |= MEASURES
    if not (generation.size is generation.aspect_ratio is None) or not all(card.is_shaped(operation) for card in cards):
        settled |= SHAPE
    open_ones = {name: value for name, value in model.defaults.items() if name not in settled}
    shape = {name: open_ones.pop(name) for name in SHAPE & open_ones.keys()}
    return msgspec.structs.replace(generation, parameters={**generation.parameters, **open_ones}, **shape)


def _without_auto(generation: Generation) -> Generation:
    """`auto` leaves the choice to the model, which is what leaving a member out means to every provider."""
    return msgspec.structs.replace(
        generation,
        size=None if generation.size == "auto" else generation.size,
        aspect_ratio=None if generation.aspect_ratio == "auto" else generation.aspect_ratio,
        parameters={name: value for name, value in generation.parameters.items() if value != "auto"},
    )
