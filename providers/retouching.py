"""Retouching: what can be done to a picture by plain means, without a model. Blocking."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageFilter, ImageOps

from providers.contract import Input, Order, Role

STYLE_COLOURS = 12
NEAR = 24
"""How far from the colour of the corners a pixel may be, and still be background."""


def opened(one: Input) -> Image.Image:
    """The picture of an input."""
    return Image.open(io.BytesIO(one.data)).convert("RGBA")


def edit(order: Order, pictures: Sequence[Image.Image], painting: Image.Image) -> Image.Image:
    """The first picture under the painting: where the mask is transparent, else everywhere by `strength`.

    Further pictures lie in its corner as small ones.
    """
    first, masks = pictures[0].convert("RGB"), order.of(Role.MASK)
    if masks:
        keep = opened(masks[0]).getchannel("A")
        made = Image.composite(first, painting, keep)
    else:
        made = Image.blend(first, painting, order.generation.parameters.get("strength", 0.5))
    side = max(1, min(made.size) // 5)
    for place, one in enumerate(pictures[1:]):
        made.paste(ImageOps.fit(one.convert("RGB"), (side, side)), (place * side % made.width, made.height - side))
    return styled(order, made)


def styled(order: Order, made: Image.Image) -> Image.Image:
    """The picture in the colours of the one that came for the style, if one did."""
    styles = order.of(Role.STYLE)
    if not styles:
        return made
    palette = opened(styles[0]).convert("RGB").quantize(STYLE_COLOURS)
    return made.convert("RGB").quantize(palette=palette).convert("RGB")


def vary(picture: Image.Image, seed: int) -> Image.Image:
    """The picture mirrored, and in other colours for each seed."""
    hue, strength, light = ImageOps.mirror(picture.convert("RGB")).convert("HSV").split()
    turn = random.Random(seed).randrange(32, 224)  # noqa: S311 - a picture is no secret
    return Image.merge("HSV", (hue.point([(one + turn) % 256 for one in range(256)]), strength, light)).convert("RGB")


def cut_out(picture: Image.Image) -> Image.Image:
    """The picture without what has nearly the colour of its corners."""
    plain = picture.convert("RGB")
    corners = [plain.getpixel((x, y)) for x in (0, plain.width - 1) for y in (0, plain.height - 1)]
    ground = max(set(corners), key=corners.count)
    far = ImageChops.difference(plain, Image.new("RGB", plain.size, ground)).convert("L")
    plain.putalpha(far.point([0 if one < NEAR else 255 for one in range(256)]))
    return plain


def blur(picture: Image.Image, times: int) -> Image.Image:
    """The picture as it looks before it is clear; the more `times`, the less of it."""
    return picture.filter(ImageFilter.BoxBlur(min(picture.size) * times / 60))
