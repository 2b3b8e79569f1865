"""Extents: how large a result will be, as far as its request says, so that none is bought that is not taken in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gateway.core.errors import GatewayError, invalid
from gateway.core.inputs import Upload
from gateway.core.wording import edges
from providers.card import ModelCard
from providers.contract import Generation, Operation, Role

SIDES = ("left", "right", "up", "down")


def check(generation: Generation, card: ModelCard, uploads: Sequence[Upload], most: int) -> None:
    """Raises the error of the member by which the result would have more than `most` pixels."""
    _check_size(generation, most)
    source = next((one for one in uploads if one.role in (Role.IMAGE, Role.VIDEO)), None)
    if source is not None and generation.operation is Operation.UPSCALE and "scale" in card.parameters:
        _check_scale(float(_value(generation, card, "scale") or 1), source, most)
    elif source is not None and generation.operation is Operation.OUTPAINT:
        _check_sides({side: int(_value(generation, card, side) or 0) for side in SIDES}, source, most)


def _check_size(generation: Generation, most: int) -> None:
    found = edges(generation.size) if generation.size is not None else None
    if found is not None and math.prod(found) > most:
        message = f"size {generation.size} has more pixels than are taken here: at most {most}."
        raise GatewayError("invalid_image_size", message, param="size")


def _check_scale(scale: float, source: Upload, most: int) -> None:
    if _fits(scale, source, most):
        return
    # Vendors may round an edge up: the square root alone could name one that is refused as well.
    hundredths = range(math.isqrt(most * 10_000 // (source.width * source.height)), 0, -1)
    largest = next((one / 100 for one in hundredths if _fits(one / 100, source, most)), 0.0)
    message = f"scale {scale:g} makes of {source.width}x{source.height} more than the {most} pixels that are taken."
    raise invalid("scale", f"{message} It may be at most {largest:g}.")


def _fits(scale: float, source: Upload, most: int) -> bool:
    return math.ceil(source.width * scale) * math.ceil(source.height * scale) <= most


def _check_sides(added: dict[str, int], source: Upload, most: int) -> None:
    width = source.width + added["left"] + added["right"]
    height = source.height + added["up"] + added["down"]
    if width * height <= most:
        return
    worst = max(added, key=lambda side: added[side])
    message = f"The picture would become {width}x{height}; at most {most} pixels are taken here."
    raise invalid(worst, message)


def _value(generation: Generation, card: ModelCard, name: str) -> Any:
    """What a parameter is: as asked for, else as the vendor has it."""
    parameter = card.parameters.get(name)
    value = generation.parameters.get(name)
    return parameter.default if parameter is not None and value in (None, "auto") else value
