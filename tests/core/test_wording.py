"""Wording: what a caller says in one model's words is understood by another, and is never changed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.admission import Admitted, admit
from gateway.core.catalog import Catalog
from gateway.core.errors import GatewayError
from gateway.core.wording import has_shape
from providers.card import Parameter
from providers.contract import Generation, Kind
from tests.core.vendors import ScriptedProvider, card_of, generation, models_of, words

RATIOS = ("16:9", "9:16", "1:1", "4:3")
RESOLUTIONS = {"resolution": words("480p", "720p", "1080p", default="720p")}
BY_RESOLUTION = {"sizes": (), "aspect_ratios": RATIOS, "parameters": RESOLUTIONS}
BY_SIZE = {"sizes": ("1280x720", "720x1280", "720x720", "960x720"), "default_size": "720x1280"}


def admitted(model: dict[str, Any], **members: Any) -> Admitted:
    """A film that is asked of a model with these facts."""
    provider = ScriptedProvider(card_of(model={"kind": Kind.VIDEO, **model}))
    return admit(Catalog(models_of([provider]), {}, {"vendor": provider}), generation(kind=Kind.VIDEO, **members))


def shape(made: Generation) -> tuple[str | None, str | None, Any]:
    """Size, shape and resolution."""
    return made.size, made.aspect_ratio, made.parameters.get("resolution")


@pytest.mark.parametrize(
    ("size", "used"),
    [("1280x720", ("720p", "16:9")), ("720x1280", ("720p", "9:16")), ("1920x1080", ("1080p", "16:9")),
     ("480x480", ("480p", "1:1")), ("640x480", ("480p", "4:3"))],
)  # fmt: skip
def test_a_size_is_a_resolution_and_a_shape(size: str, used: tuple[str, str]) -> None:
    """A model that has resolutions and shapes in place of sizes takes the sizes that these come to; nothing changed."""
    made = admitted(BY_RESOLUTION, size=size)
    assert shape(made.generation) == (None, used[1], used[0])
    assert made.adjusted == {}


@pytest.mark.parametrize("size", ["1024x1792", "1281x720", "854x480", "853x480", "720x720x720", "big", "100x100"])
def test_a_size_that_no_resolution_comes_to_is_refused(size: str) -> None:
    """Nothing is taken for something near it."""
    with pytest.raises(GatewayError) as caught:
        admitted(BY_RESOLUTION, size=size)
    assert (caught.value.code, caught.value.param) == ("invalid_image_size", "size")


def test_a_size_and_its_own_shape_are_one() -> None:
    """What says the same twice is understood once."""
    assert shape(admitted(BY_RESOLUTION, size="1280x720", aspect_ratio="16:9").generation) == (None, "16:9", "720p")


@pytest.mark.parametrize(
    ("size", "ratio", "same"),
    [
        ("1024x1024", "1:1", True), ("1792x1024", "16:9", True), ("1024x1792", "9:16", True),
        ("512x512", "16:9", False), ("1024x1536", "3:2", False), ("auto", "1:1", False),
        ("1x1", "0:0", False), ("512x512", "square", False),
    ],
)  # fmt: skip
def test_a_shape_is_told_as_vendors_mean_it(size: str, ratio: str, same: bool) -> None:
    """Edges that are rounded for a model's sake keep their ratio; no other size has it."""
    assert has_shape(size, ratio) is same


@pytest.mark.parametrize("beside", [{"aspect_ratio": "9:16"}, {"parameters": {"resolution": "720p"}}])
def test_a_size_beside_a_resolution_or_another_shape_is_refused(beside: dict[str, Any]) -> None:
    """Which of two words counts is not ours to say."""
    with pytest.raises(GatewayError, match="size"):
        admitted(BY_RESOLUTION, size="1280x720", **beside)


@pytest.mark.parametrize(
    ("ratio", "size"),
    [(None, "720x1280"), ("16:9", "1280x720"), ("9:16", "720x1280"), ("1:1", "720x720"), ("4:3", "960x720")],
)
def test_a_resolution_is_a_size(ratio: str | None, size: str) -> None:
    """A model that lists sizes takes a resolution with a shape, or with the shape of what it makes by itself."""
    made = admitted(BY_SIZE, aspect_ratio=ratio, parameters={"resolution": "720p"})
    assert shape(made.generation) == (size, None, None)
    assert made.adjusted == {}


@pytest.mark.parametrize(
    ("resolution", "beside"),
    [("1080p", {}), ("720", {}), ("4k", {}), ("720p", {"aspect_ratio": "21:9"}), ("720p", {"aspect_ratio": "0:1"}),
     ("720p", {"aspect_ratio": "wide"}), ("720p", {"size": "720x720"})],
)  # fmt: skip
def test_a_resolution_that_no_size_has_is_refused(resolution: str, beside: dict[str, Any]) -> None:
    """Nothing is taken for something near it, and the member is named."""
    with pytest.raises(GatewayError) as caught:
        admitted(BY_SIZE, parameters={"resolution": resolution}, **beside)
    assert caught.value.param in ("resolution", "aspect_ratio")


def test_what_the_card_has_itself_is_not_touched() -> None:
    """A model that has both takes both as they are given."""
    both = {**BY_RESOLUTION, "sizes": ("1280x720",)}
    assert shape(admitted(both, size="1280x720").generation) == ("1280x720", None, None)
    made = admitted(both, aspect_ratio="1:1", parameters={"resolution": "720p"})
    assert shape(made.generation) == (None, "1:1", "720p")


def test_a_length_is_a_number_or_a_text_as_the_card_has_it() -> None:
    """A card that lists lengths as text gets text, and the others get the number."""
    text, number = Parameter("string", values=("4", "7.5")), Parameter("number", values=(4, 7.5))
    for parameter, values in ((text, ["4", "7.5"]), (number, [4, 7.5])):
        facts = {"parameters": {"seconds": parameter}}
        made = [admitted(facts, parameters={"seconds": seconds}) for seconds in (4, 7.5)]
        assert [one.generation.parameters["seconds"] for one in made] == values
