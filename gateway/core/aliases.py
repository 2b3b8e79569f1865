"""Aliases: code written for a retired model goes on working. What the mapping changes is always said.

A value that the target takes as it is stays. Else the alias's own `values` decide, then the built-in table here; a
size goes to the offered one of the nearest shape. What neither maps is left for admission to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core.settings import AliasConfig
from providers.card import ModelCard
from providers.contract import Generation

LEFT_OUT = ""
SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
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
    for name, value in generation.parameters.items():
        used = _adapted(name, value, alias, card)
        if used != value:
            adjusted[name] = [value, used]
        if used is not None:
            parameters[name] = used
    size = generation.size
    if size is not None and not takes_size(size, card):
        size = _size(size, alias, card)
    if size != generation.size:
        adjusted["size"] = [generation.size, size]
    return msgspec.structs.replace(generation, parameters=parameters, size=size), adjusted


def _adapted(name: str, value: Any, alias: AliasConfig, card: ModelCard) -> Any:
    parameter = card.parameters.get(name)
    if parameter is not None and (not parameter.values or value in parameter.values):
        return value
    mapped = alias.values.get(name, {}).get(str(value), LEGACY.get(name, {}).get(str(value)))
    if mapped is None:
        return value
    if mapped == LEFT_OUT or (parameter is None and mapped != value):
        return None
    return mapped


def _size(size: str, alias: AliasConfig, card: ModelCard) -> str | None:
    mapped = alias.values.get("size", {}).get(size)
    if mapped is not None:
        return mapped or None
    asked = edges(size)
    offered = [(one, found) for one in card.sizes if (found := edges(one))]
    if asked is None or not offered:
        return size
    return min(offered, key=lambda one: _distance(asked, one[1]))[0]


def edges(size: str) -> tuple[int, int] | None:
    """Width and height of a size such as `1024x768`, of at most five digits each; None for anything else."""
    match = SIZE.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else None


def _distance(asked: tuple[int, int], offered: tuple[int, int]) -> tuple[float, float]:
    """Shape counts first, then area, both as ratios."""
    shape = abs(math.log(asked[0] / asked[1]) - math.log(offered[0] / offered[1]))
    area = abs(math.log(asked[0] * asked[1]) - math.log(offered[0] * offered[1]))
    return round(shape, 3), area
