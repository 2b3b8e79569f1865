"""Extents: no result is bought that would be too large to be taken in."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.admission import admit
from gateway.core.catalog import Catalog
from gateway.core.errors import GatewayError
from gateway.core.inputs import Upload
from providers.card import InputRule, Parameter
from providers.contract import Operation, Role
from tests.core.vendors import ScriptedProvider, card_of, generation, models_of

MOST = 10_000
SCALE = {"scale": Parameter("number", min=1, max=8, default=2)}
SIDES = {side: Parameter("integer", min=0, max=2000, default=0) for side in ("left", "right", "up", "down")}


def ordered(width: int, height: int, operation: Operation, parameters: dict[str, Any], **members: Any) -> None:
    """Admits an order that changes a picture of that size, where at most ten thousand pixels are taken in."""
    model = {"operations": (operation,), "inputs": {Role.IMAGE: InputRule()}, "parameters": SCALE | SIDES}
    provider = ScriptedProvider(card_of(model=model))
    catalog = Catalog(models_of([provider]), {}, {"vendor": provider}, max_pixels=MOST)
    upload = Upload(Role.IMAGE, "image", "", "image/png", width, height, 100)
    admit(catalog, generation(operation=operation, parameters=parameters, **members), [upload])


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ((50, 50), {}), ((50, 50), {"scale": 2}), ((25, 25), {"scale": 4}), ((40, 40), {"scale": 2.5}),
        ((100, 100), {"scale": 1}),
    ],
)  # fmt: skip
def test_what_fits_is_enlarged(size: tuple[int, int], parameters: dict[str, Any]) -> None:
    """Exactly as many pixels as are taken in are ordered."""
    ordered(*size, Operation.UPSCALE, parameters)


@pytest.mark.parametrize(
    ("size", "parameters", "largest"),
    [
        ((51, 50), {}, "1.98"), ((50, 50), {"scale": 4}, "2"), ((40, 40), {"scale": 2.51}, "2.5"),
        ((90, 100), {}, "1.05"),
    ],
)  # fmt: skip
def test_what_would_be_too_large_is_not_enlarged(
    size: tuple[int, int], parameters: dict[str, Any], largest: str
) -> None:
    """The largest scale is named, also where the one too large is the model's own; and that one is admitted."""
    with pytest.raises(GatewayError, match=f"It may be at most {largest}.$") as caught:
        ordered(*size, Operation.UPSCALE, parameters)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "scale")
    ordered(*size, Operation.UPSCALE, {"scale": float(largest)})


def test_a_picture_is_not_widened_beyond_what_is_taken_in() -> None:
    """Width and height grow by their own sides; the side that adds most is named."""
    ordered(80, 40, Operation.OUTPAINT, {"left": 10, "right": 10, "up": 30, "down": 30})
    with pytest.raises(GatewayError, match="would become 101x100; at most 10000 pixels") as caught:
        ordered(80, 40, Operation.OUTPAINT, {"left": 10, "right": 11, "up": 30, "down": 30})
    assert caught.value.param in ("up", "down")


def test_a_size_is_not_made_beyond_what_is_taken_in() -> None:
    """What the model could make and we would not take is refused before it is bought."""
    ordered(10, 10, Operation.EDIT, {}, size="64x64")
    provider = ScriptedProvider(card_of(model={"sizes": ("128x128",)}))
    catalog = Catalog(models_of([provider]), {}, {"vendor": provider}, max_pixels=MOST)
    with pytest.raises(GatewayError, match="size 128x128 has more pixels than are taken here: at most 10000") as caught:
        admit(catalog, generation(size="128x128"))
    assert (caught.value.code, caught.value.param) == ("invalid_image_size", "size")
