"""Aliases: requests for retired models go on working, and what was changed in them is said."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Admitted, admit
from gateway.core.catalog import Catalog
from gateway.core.config import AliasConfig
from gateway.core.errors import GatewayError
from gateway.core.wording import edges
from providers.card import Parameter, SizeRule
from providers.contract import Kind, Operation
from tests.core.vendors import MODEL, ScriptedProvider, card_of, generation, models_of, words

QUALITIES = {"quality": words("low", "medium", "high", "auto")}
SIZES = ("1024x1024", "1536x1024", "1024x1536")
RULE = SizeRule(multiple_of=16, min_edge=16, max_edge=3840, min_pixels=655_360, max_pixels=8_294_400, max_ratio=3)


def admitted(model: dict[str, Any], alias: AliasConfig | None = None, **members: Any) -> Admitted:
    """A generation that asks for `old`, an alias of a model with these facts."""
    provider = ScriptedProvider(card_of(model={"sizes": SIZES, "parameters": QUALITIES, **model}))
    aliases = {"old": alias or AliasConfig(MODEL)}
    return admit(Catalog(models_of([provider]), aliases, {"vendor": provider}), generation(model="old", **members))


@pytest.mark.parametrize(("asked", "used"), [("hd", "high"), ("standard", "medium")])
def test_a_legacy_quality_is_translated(asked: str, used: str) -> None:
    """What dall-e-3 called its qualities becomes the quality that came after, and the change is said."""
    made = admitted({}, parameters={"quality": asked})
    assert made.generation.parameters == {"quality": used}
    assert made.adjusted == {"quality": [asked, used]}


@pytest.mark.parametrize("asked", ["low", "high"])
def test_what_the_model_takes_is_not_touched(asked: str) -> None:
    """A value of the model's own stays, and nothing is said."""
    made = admitted({}, parameters={"quality": asked}, size="1536x1024")
    assert (made.generation.parameters, made.generation.size) == ({"quality": asked}, "1536x1024")
    assert made.adjusted == {}


def test_what_has_no_meaning_any_more_is_left_out_and_said() -> None:
    """Members that nobody has any more, and qualities of a model that has none, are left out, not refused."""
    made = admitted({"parameters": {}}, parameters={"style": "vivid", "moderation": "low", "quality": "hd"})
    assert made.generation.parameters == {}
    assert made.adjusted == {"style": ["vivid", None], "moderation": ["low", None], "quality": ["hd", None]}


def test_what_no_table_knows_is_refused() -> None:
    """A slip is not a legacy value: it is refused as it would be without the alias."""
    for parameters in ({"quality": "hgih"}, {"quality": "ultra"}, {"colour": "red"}):
        with pytest.raises(GatewayError) as caught:
            admitted({}, parameters=parameters)
        assert caught.value.param in parameters


def test_the_configuration_wins_over_the_table() -> None:
    """An alias's own mapping decides before the built-in one, and an empty target leaves the member out."""
    alias = AliasConfig(
        MODEL, {"quality": {"hd": "low", "standard": ""}, "size": {"1792x1024": "1024x1024", "1x1": ""}}
    )
    made = admitted({}, alias, parameters={"quality": "hd"}, size="1792x1024")
    assert (made.generation.parameters, made.generation.size) == ({"quality": "low"}, "1024x1024")
    assert made.adjusted == {"quality": ["hd", "low"], "size": ["1792x1024", "1024x1024"]}
    made = admitted({}, alias, parameters={"quality": "standard"}, size="1x1")
    assert (made.generation.parameters, made.generation.size) == ({}, None)
    assert made.adjusted == {"quality": ["standard", None], "size": ["1x1", None]}


@pytest.mark.parametrize(
    ("asked", "used"),
    [("1792x1024", "1536x1024"), ("1024x1792", "1024x1536"), ("256x256", "1024x1024"), ("512x512", "1024x1024")],
)
@pytest.mark.parametrize("rule", [None, RULE], ids=["listed sizes", "a rule beside them"])
def test_a_legacy_size_goes_to_the_nearest_shape(asked: str, used: str, rule: SizeRule | None) -> None:
    """A size that the model does not take becomes the listed one of the nearest shape; what its rule takes stays."""
    made = admitted({"size_rule": rule}, size=asked)
    if rule is not None and asked in ("1792x1024", "1024x1792"):
        assert (made.generation.size, made.adjusted) == (asked, {})
    else:
        assert (made.generation.size, made.adjusted) == (used, {"size": [asked, used]})


def test_what_is_for_another_operation_is_judged_as_unknown() -> None:
    """Old code that edits gives a size. Where an edit has the shape of its picture it is left out, and that is said."""
    strength = Parameter("number", operations=(Operation.GENERATION,))
    facts = {"operations": tuple(Operation), "shaped": (Operation.GENERATION,), "parameters": {"strength": strength}}
    for operation in (Operation.VARIATION, Operation.UPSCALE):
        for size in ("1024x1024", "512x512"):
            made = admitted(facts, operation=operation, size=size)
            assert (made.generation.size, made.adjusted) == (None, {"size": [size, None]})
        assert admitted(facts, operation=operation, size="auto").adjusted == {}
    assert admitted(facts, size="1024x1024").generation.size == "1024x1024"
    left_out = AliasConfig(MODEL, {"strength": {"0.5": ""}})
    made = admitted(facts, left_out, operation=Operation.VARIATION, parameters={"strength": 0.5})
    assert (made.generation.parameters, made.adjusted) == ({}, {"strength": [0.5, None]})


def test_the_configuration_maps_sizes_of_models_with_a_rule_too() -> None:
    """A mapping that was written down is not ignored because the model takes many sizes."""
    alias = AliasConfig(MODEL, {"size": {"256x256": "1536x1024"}})
    assert admitted({"size_rule": RULE}, alias, size="256x256").generation.size == "1536x1024"


def test_of_equal_shapes_the_nearest_area_is_taken() -> None:
    """Shape counts first, then area, both as ratios."""
    sizes = {"sizes": ("256x256", "512x512", "1024x1024", "2048x1024")}
    nearest = {"300x300": "256x256", "400x400": "512x512", "4096x4096": "1024x1024", "200x100": "2048x1024"}
    for asked, used in nearest.items():
        assert admitted(sizes, size=asked).generation.size == used


BROKEN = (
    "9" * 5000 + "x1",
    "1x" + "9" * 400,
    "0x0",
    "1e3x1",
    "1024x1024\n",
    "x",
    "",
    "1024",
    "1024X1024",
    "-1x1",
    "1٣x16",
)


@given(st.text("0123456789x٣ \n-", max_size=12) | st.sampled_from(BROKEN))
def test_no_size_breaks_an_alias(size: str) -> None:
    """Whatever is asked, the size that is used is one of the model's, or the request is refused by name."""
    used: str | None = None
    with suppress(GatewayError):
        used = admitted({}, size=size).generation.size
    assert used in SIZES if edges(size) else used is None


@pytest.mark.parametrize("size", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_size_is_refused(size: str) -> None:
    """A text that is no size is not sent to a vendor by a rule either, and is named in the error, shortened."""
    with pytest.raises(GatewayError) as caught:
        admitted({"size_rule": SizeRule()}, size=size)
    assert (caught.value.code, caught.value.param) == ("invalid_image_size", "size")
    assert len(caught.value.message) < 400


def test_auto_and_nothing_stay_what_they_are() -> None:
    """A choice that is left to the model needs no translation."""
    for size in (None, "auto"):
        made = admitted({}, size=size, parameters={"quality": "auto"})
        assert (made.generation.size, made.generation.parameters, made.adjusted) == (None, {}, {})


def test_a_model_that_has_no_sizes_refuses_one() -> None:
    """Where nothing is offered, nothing is nearest."""
    with pytest.raises(GatewayError, match="Allowed: none"):
        admitted({"sizes": ()}, size="1024x1024")


def test_the_task_keeps_the_name_that_was_asked_for() -> None:
    """The alias stays the model of the generation; its routes are those of the target."""
    made = admitted({})
    assert (made.generation.model, made.model.name) == ("old", MODEL)
    assert [route.provider for route in made.routes] == ["vendor"]


def test_free_parameters_are_not_translated() -> None:
    """A parameter without a list of values takes what is given, also a word that was a legacy value elsewhere."""
    made = admitted({"parameters": {"quality": Parameter("string"), "style": Parameter("string")}},
                    parameters={"quality": "hd", "style": "vivid"})  # fmt: skip
    assert (made.generation.parameters, made.adjusted) == ({"quality": "hd", "style": "vivid"}, {})


FILM: dict[str, Any] = {"kind": Kind.VIDEO, "sizes": (), "aspect_ratios": ("16:9", "9:16", "1:1")}
RESOLUTIONS = {"resolution": words("720p", "1080p")}


@pytest.mark.parametrize(
    ("size", "used"),
    [("720x1280", ("720p", "9:16", {})), ("1920x1080", ("1080p", "16:9", {})),
     ("1024x1792", ("1080p", "9:16", {"size": ["1024x1792", "1080p 9:16"]})),
     ("480x480", ("720p", "1:1", {"size": ["480x480", "720p 1:1"]}))],
)  # fmt: skip
def test_a_size_goes_to_the_nearest_resolution_and_shape(size: str, used: tuple[str, str, Any]) -> None:
    """A model of films that lists no sizes makes what comes nearest; where that is the very same, nothing is said."""
    made = admitted({**FILM, "parameters": RESOLUTIONS}, size=size, kind=Kind.VIDEO)
    got = made.generation.parameters["resolution"], made.generation.aspect_ratio, made.adjusted
    assert (made.generation.size, got) == (None, used)


@pytest.mark.parametrize(
    ("parameter", "lengths"),
    [
        (Parameter("integer", values=(5, 10)), {4: 5, 5: 5, 8: 10, 12: 10}),
        (Parameter("string", values=("10", "5")), {4: "5", 8: "10", 12: "10"}),
        (Parameter("number", values=(2.5, 7.5)), {4: 7.5, 7.5: 7.5, 1: 2.5}),
        (Parameter("integer", min=1, max=8), {4: 4}),
        (None, {4: None}),
    ],
)
def test_a_length_goes_to_the_next_longer_one(parameter: Parameter | None, lengths: dict[Any, Any]) -> None:
    """A film becomes no shorter than asked where that can be helped, and what changed is said."""
    facts = {**FILM, "parameters": {"seconds": parameter} if parameter else {}}
    for asked, used in lengths.items():
        made = admitted(facts, parameters={"seconds": asked}, kind=Kind.VIDEO)
        assert made.generation.parameters.get("seconds") == used
        said = [asked if parameter is None or parameter.type != "string" else str(asked), used]
        assert made.adjusted == ({} if asked == used else {"seconds": said})


@pytest.mark.parametrize("asked", ["nan", "sNaN", "long", {}])
def test_what_is_no_length_is_refused(asked: Any) -> None:
    """A text that is no number, or a number that is none, is the caller's mistake and not ours."""
    with pytest.raises(GatewayError, match="seconds must be"):
        admitted({**FILM, "parameters": {"seconds": Parameter("integer", values=(4, 8))}},
                 parameters={"seconds": asked}, kind=Kind.VIDEO)  # fmt: skip


def test_a_length_beyond_the_bounds_is_refused() -> None:
    """Where a model has bounds and no list, nothing is nearest."""
    with pytest.raises(GatewayError, match="seconds must be at most 8"):
        admitted({**FILM, "parameters": {"seconds": Parameter("integer", min=1, max=8)}},
                 parameters={"seconds": 12}, kind=Kind.VIDEO)  # fmt: skip
