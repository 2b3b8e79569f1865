"""Aliases: code written for a retired model goes on working. What the mapping changes is always said.

A value that the target takes as it is stays. Else the alias's own `values` decide, then the built-in table here; a
size goes to the offered one of the nearest shape. What neither maps is left for admission to refuse.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.core.settings import AliasConfig
from providers.card import ModelCard
from providers.contract import Generation

LEFT_OUT = ""
# What the retired OpenAI models took (dall-e-3: quality, style) in the words of those that came after.
LEGACY: dict[str, dict[str, str]] = {
    "quality": {"hd": "high", "standard": "medium"},
    "style": {"vivid": LEFT_OUT, "natural": LEFT_OUT},
    "moderation": {"low": LEFT_OUT},
    "background": {"opaque": LEFT_OUT},
}


def adapt(generation: Generation, alias: AliasConfig, card: ModelCard) -> tuple[Generation, dict[str, list[Any]]]:
    """The generation in the target's own values, and what changed: member → [asked, used or null]."""
    adjusted: dict[str, list[Any]] = {}
    parameters: dict[str, Any] = {}
    for name, value in generation.parameters.items():
        used = _adapted(name, value, alias, card)
        if used != value:
            adjusted[name] = [value, used]
        if used is not None:
            parameters[name] = used
    size = _size(generation.size, alias, card)
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


def _size(size: str | None, alias: AliasConfig, card: ModelCard) -> str | None:
    if size is None or size in card.sizes or size == "auto" or card.size_rule is not None:
        return size
    mapped = alias.values.get("size", {}).get(size)
    if mapped is not None:
        return mapped or None
    asked = _edges(size)
    offered = [(one, edges) for one in card.sizes if (edges := _edges(one))]
    if asked is None or not offered:
        return size
    return min(offered, key=lambda one: _distance(asked, one[1]))[0]


def _edges(size: str) -> tuple[int, int] | None:
    width, cross, height = size.partition("x")
    return (
        (int(width), int(height))
        if cross and width.isdecimal() and height.isdecimal() and int(width) * int(height)
        else None
    )


def _distance(asked: tuple[int, int], offered: tuple[int, int]) -> tuple[float, float]:
    """Shape counts first, then area, both as ratios."""
    shape = abs(math.log(asked[0] / asked[1]) - math.log(offered[0] / offered[1]))
    area = abs(math.log(asked[0] * asked[1]) - math.log(offered[0] * offered[1]))
    return round(shape, 3), area
