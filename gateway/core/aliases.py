"""Aliases: code written for a retired model goes on working. What the mapping changes is always said.

A value that the target takes as it is stays. Else the alias's own `values` decide, then the built-in table here; a
size goes to the offered one of the nearest shape, and the length of a film to the next longer one. What neither maps is
left for admission to refuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import msgspec

from gateway.core.config import AliasConfig
from gateway.core.wording import edges, shapes_of
from providers.card import ModelCard, Parameter
from providers.contract import Generation

T = TypeVar("T")
LEFT_OUT = ""
# What the retired OpenAI models took (dall-e-3: quality, style) in the words of those that came after.
LEGACY: dict[str, dict[str, str]] = {
    "quality": {"hd": "high", "standard": "medium"},
    "style": {"vivid": LEFT_OUT, "natural": LEFT_OUT},
    "moderation": {"low": LEFT_OUT},
    "background": {"opaque": LEFT_OUT},
}


def adapt(
    generation: Generation, alias: AliasConfig, card: ModelCard, takes_size: Callable[[str, ModelCard], bool]
) -> tuple[Generation, dict[str, list[Any]]]:
    """The generation in the target's own values, and what changed: member → [asked, used or null]."""
    adjusted: dict[str, list[Any]] = {}
    parameters: dict[str, Any] = {}
    taken = card.parameters_for(generation.operation)
    for name, value in generation.parameters.items():
        used = _adapted(name, value, alias, taken.get(name))
        if used != value:
            adjusted[name] = [value, used]
        if used is not None:
            parameters[name] = used
    generation = msgspec.structs.replace(generation, parameters=parameters)
    size = generation.size
    if size not in (None, "auto") and not card.is_shaped(generation.operation):
        # The picture that is given has one, and whatever that is, the code goes on working.
        adjusted["size"] = [size, None]
        return msgspec.structs.replace(generation, size=None), adjusted
    if size is None or takes_size(size, card):
        return generation, adjusted
    used = _size(size, alias, card)
    if used != size:
        adjusted["size"] = [size, used]
        return msgspec.structs.replace(generation, size=used), adjusted
    shape = _shape(size, card)
    if shape is None or generation.aspect_ratio is not None:
        return generation, adjusted
    resolution, ratio = shape
    adjusted["size"] = [size, f"{resolution} {ratio}"]
    parameters = {**parameters, "resolution": resolution}
    return msgspec.structs.replace(generation, size=None, aspect_ratio=ratio, parameters=parameters), adjusted


def _adapted(name: str, value: Any, alias: AliasConfig, parameter: Parameter | None) -> Any:
    if parameter is not None and (not parameter.values or value in parameter.values):
        return value
    mapped = alias.values.get(name, {}).get(str(value), LEGACY.get(name, {}).get(str(value)))
    if mapped is None:
        return _length(value, parameter) if name == "seconds" else value
    if mapped == LEFT_OUT or (parameter is None and mapped != value):
        return None
    return mapped


def _size(size: str, alias: AliasConfig, card: ModelCard) -> str | None:
    mapped = alias.values.get("size", {}).get(size)
    if mapped is not None:
        return mapped or None
    offered = [(one, found) for one in card.sizes if (found := edges(one))]
    return _nearest(size, offered) or size


def _shape(size: str, card: ModelCard) -> tuple[str, str] | None:
    """The nearest resolution and shape of a model that lists no sizes."""
    return _nearest(size, [((name, ratio), pixels) for name, ratio, pixels in shapes_of(card)])


def _nearest(size: str, offered: Sequence[tuple[T, tuple[int, int]]]) -> T | None:
    asked = edges(size)
    if asked is None or not offered:
        return None
    return min(offered, key=lambda one: _distance(asked, one[1]))[0]


def _length(seconds: Any, parameter: Parameter | None) -> Any:
    """The shortest length that is offered and not shorter, else the longest; None where the model has but one."""
    if parameter is None:
        return None
    try:
        asked, offered = Decimal(str(seconds)), {one: Decimal(str(one)) for one in parameter.values}
    except InvalidOperation:
        return seconds
    if asked.is_nan():
        return seconds
    longer = [one for one, length in offered.items() if length >= asked]
    return min(longer, key=offered.__getitem__) if longer else max(offered, key=offered.__getitem__, default=seconds)


def _distance(asked: tuple[int, int], offered: tuple[int, int]) -> tuple[float, float]:
    """Shape counts first, then area, both as ratios."""
    shape = abs(math.log(asked[0] / asked[1]) - math.log(offered[0] / offered[1]))
    area = abs(math.log(asked[0] * asked[1]) - math.log(offered[0] * offered[1]))
    return round(shape, 3), area
