"""Wording: what a caller asks for, in the words of a model's card where these say the very same.

Of films some models list sizes in pixels, others a resolution such as `720p` and a shape; some have lengths as numbers,
others as text. Whoever writes for one of them is understood by all. Nothing here changes what is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import msgspec

from providers.card import ModelCard
from providers.contract import Generation

SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
RATIO = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")
# How far a size may be from a ratio that it is listed for.
NEARLY = 0.02
# Parameters that every dialect gives as numbers.
MEASURES = ("seconds", "fps")


def worded(generation: Generation, card: ModelCard) -> Generation:
    """The generation as the card has it; as it was where the card has no other words for it."""
    texts = {name for name in MEASURES if name in card.parameters and card.parameters[name].type == "string"}
    parameters = {
        name: f"{value:g}" if name in texts and isinstance(value, int | float) else value
        for name, value in generation.parameters.items()
    }
    generation = msgspec.structs.replace(generation, parameters=parameters)
    if has_shape(generation.size, generation.aspect_ratio):
        # The size says it already, and more exactly: no vendor takes both.
        generation = msgspec.structs.replace(generation, aspect_ratio=None)
    if generation.size is not None and not (card.sizes or card.size_rule):
        return _by_resolution(generation, card)
    if "resolution" in parameters and "resolution" not in card.parameters:
        return _by_size(generation, card)
    return generation


def shapes_of(card: ModelCard) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Each resolution with each shape of a model that lists no sizes, and the pixels that they come to."""
    resolution = card.parameters.get("resolution")
    for name in resolution.values if resolution else ():
        for ratio in card.aspect_ratios:
            pixels = _pixels(str(name), ratio)
            if pixels is not None:
                yield str(name), ratio, pixels


def edges(size: str) -> tuple[int, int] | None:
    """Width and height of a size such as `1024x768`, of at most five digits each; None for anything else."""
    match = SIZE.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else None


def has_shape(size: str | None, ratio: str | None) -> bool:
    """Whether a size has the shape of a ratio such as `16:9`, as nearly as vendors mean it: 1792x1024 has."""
    found, shape = edges(size or ""), RATIO.fullmatch(ratio or "")
    if found is None or shape is None:
        return False
    asked, given = int(shape[1]) * found[1], int(shape[2]) * found[0]
    return abs(asked - given) <= max(asked, given) * NEARLY


def _by_resolution(generation: Generation, card: ModelCard) -> Generation:
    """1280x720 is 720p in 16:9."""
    asked = edges(generation.size or "")
    if generation.aspect_ratio is None and "resolution" not in generation.parameters:
        for name, ratio, pixels in shapes_of(card):
            if pixels == asked:
                parameters = {**generation.parameters, "resolution": name}
                return msgspec.structs.replace(generation, size=None, aspect_ratio=ratio, parameters=parameters)
    return generation


def _by_size(generation: Generation, card: ModelCard) -> Generation:
    """720p is 1280x720, unless another shape is asked for."""
    if generation.size is not None:
        return generation
    ratio = generation.aspect_ratio or _ratio(card.default_size) or "16:9"
    pixels = _pixels(str(generation.parameters["resolution"]), ratio)
    size = pixels and f"{pixels[0]}x{pixels[1]}"
    if size not in card.sizes:
        return generation
    rest = {name: value for name, value in generation.parameters.items() if name != "resolution"}
    return msgspec.structs.replace(generation, size=size, aspect_ratio=None, parameters=rest)


def _pixels(resolution: str, ratio: str) -> tuple[int, int] | None:
    """Width and height of such as `720p` and `16:9`; None for other words, and where an edge would be odd."""
    short, across, down = resolution.removesuffix("p"), *ratio.partition(":")[::2]
    if not all(one.isascii() and one.isdigit() and 0 < len(one) < 6 and int(one) for one in (short, across, down)):
        return None
    wide, high = int(across), int(down)
    long = int(short) * max(wide, high) / min(wide, high)
    if resolution == short or long % 2:
        return None
    return (round(long), int(short)) if wide >= high else (int(short), round(long))


def _ratio(size: str | None) -> str | None:
    found = edges(size or "")
    if found is None:
        return None
    common = math.gcd(*found)
    return f"{found[0] // common}:{found[1] // common}"
