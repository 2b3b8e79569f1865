"""Admission: whatever a model cannot honour is refused by name before anything is spent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import admit, check, readmit, takes_size, verify, with_extras
from gateway.core.catalog import Catalog, Model
from gateway.core.errors import GatewayError
from gateway.core.settings import SettingsError
from providers.card import Card, Parameter, SizeRule
from providers.contract import Generation, Kind, Operation
from tests.core.vendors import MODEL, ScriptedProvider, card_of, generation, models_of, words

RULE = SizeRule(multiple_of=16, min_edge=64, max_edge=2048, min_pixels=65_536, max_pixels=1_048_576, max_ratio=2)
PARAMETERS = {
    "quality": words("low", "high", "auto"),
    "seed": Parameter("integer", min=0, max=100),
    "strength": Parameter("number", min=0, max=1),
    "tiling": Parameter("boolean"),
    "negative": Parameter("string", min=2, max=10),
    "steps": Parameter("integer", values=(10, 20)),
}
FULL: dict[str, Any] = {
    "parameters": PARAMETERS,
    "aspect_ratios": ("1:1", "16:9"),
    "extras": ("style_id",),
    "prompt_max": 50,
}


def catalog(*cards: Card, **facts: Any) -> Catalog:
    """A catalog of one model whose routes are these cards; `facts` change the public model."""
    providers = {card.name: ScriptedProvider(card) for card in cards or (card_of(model=FULL),)}
    models = {name: msgspec.structs.replace(one, **facts) for name, one in models_of(providers.values()).items()}
    return Catalog(models, {}, providers)


def refusal(**members: Any) -> GatewayError:
    """The error with which a generation of these members is refused."""
    with pytest.raises(GatewayError) as caught:
        admit(catalog(), generation(**members))
    return caught.value


@pytest.mark.parametrize("operation", [Operation.UPSCALE, Operation.REMOVE_BACKGROUND])
def test_what_keeps_its_shape_takes_none(operation: Operation) -> None:
    """An upscale, or a picture without its background, has the shape of the picture that was given."""
    able = catalog(card_of(model=FULL | {"operations": tuple(Operation)}))
    for member, value in (("aspect_ratio", "16:9"), ("size", "64x64")):
        with pytest.raises(GatewayError) as caught:
            admit(able, generation(operation=operation, **{member: value}))
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", member)
        admit(able, generation(operation=operation, **{member: "auto"}))


def test_what_is_for_another_operation_is_refused() -> None:
    """A parameter, or a shape, that a model has for some of its operations means nothing for the others."""
    parameters = {"scale": Parameter("number", operations=(Operation.UPSCALE,)), **PARAMETERS}
    doing = {"operations": tuple(Operation), "shaped": (Operation.GENERATION,), "parameters": parameters}
    able = catalog(card_of(model=FULL | doing))
    admit(able, generation(operation=Operation.UPSCALE, parameters={"scale": 2}))
    admit(able, generation(size="64x64"))
    for members in ({"parameters": {"scale": 2}}, {"operation": Operation.VARIATION, "size": "64x64"}):
        with pytest.raises(GatewayError, match=r"takes no (scale|size) for (generation|variation)") as caught:
            admit(able, generation(**members))
        assert caught.value.code == "unsupported_parameter"
        assert "scale," not in caught.value.message


def test_what_must_be_given_must_be_given_for_its_operation_alone() -> None:
    """A parameter that is required for one operation is not asked for with another."""
    sides = {"left": Parameter("integer", required=True, operations=(Operation.OUTPAINT,))}
    able = catalog(card_of(model=FULL | {"operations": tuple(Operation), "parameters": sides}))
    admit(able, generation())
    with pytest.raises(GatewayError, match="needs left"):
        admit(able, generation(operation=Operation.OUTPAINT))


def test_a_film_grows_by_one_measure() -> None:
    """How much larger, or how large: both at once would leave one of them out."""
    parameters = {"scale": Parameter("number"), "resolution": Parameter("string")}
    able = catalog(card_of(model=FULL | {"operations": tuple(Operation), "parameters": parameters}))
    with pytest.raises(GatewayError, match="Give one of them"):
        admit(able, generation(operation=Operation.UPSCALE, parameters={"scale": 2, "resolution": "720p"}))


def test_what_the_model_can_is_admitted_as_it_is() -> None:
    """A generation whose members all fit is not changed."""
    wanted = generation(
        size="128x64",
        n=4,
        parameters={"quality": "low", "seed": 0, "strength": 1, "tiling": False, "negative": "no", "steps": 20},
    )
    admitted = admit(catalog(), wanted)
    assert (admitted.generation, admitted.adjusted, len(admitted.routes)) == (wanted, {}, 1)


@pytest.mark.parametrize(
    ("members", "code", "param", "said"),
    [
        ({"model": "gpt-9"}, "model_not_found", "model", "'gpt-9'"),
        ({"prompt": "x" * 51}, "invalid_parameter", "prompt", "51 characters"),
        ({"n": 0}, "invalid_parameter", "n", "between 1 and 4"),
        ({"n": 5}, "invalid_parameter", "n", "between 1 and 4"),
        ({"n": -1}, "invalid_parameter", "n", "between 1 and 4"),
        ({"size": "65x65"}, "invalid_image_size", "size", "Allowed: 64x64, 128x64"),
        ({"aspect_ratio": "3:2"}, "invalid_parameter", "aspect_ratio", "Allowed: 1:1, 16:9"),
        ({"aspect_ratio": "16:9", "size": "64x64"}, "invalid_parameter", "aspect_ratio", "Allowed with it: 1:1."),
        ({"model": "gtp"}, "model_not_found", "model", "GET /v1/models lists all."),
        ({"parameters": {"quality": "best"}}, "invalid_parameter", "quality", "Allowed: low, high, auto"),
        ({"parameters": {"quality": 1}}, "invalid_parameter", "quality", "string"),
        ({"parameters": {"seed": 101}}, "invalid_parameter", "seed", "at most 100"),
        ({"parameters": {"seed": -1}}, "invalid_parameter", "seed", "at least 0"),
        ({"parameters": {"seed": 1.5}}, "invalid_parameter", "seed", "integer"),
        ({"parameters": {"seed": True}}, "invalid_parameter", "seed", "integer"),
        ({"parameters": {"seed": "7"}}, "invalid_parameter", "seed", "integer"),
        ({"parameters": {"seed": 10**400}}, "invalid_parameter", "seed", "at most 100"),
        ({"parameters": {"seed": None}}, "invalid_parameter", "seed", "integer"),
        ({"parameters": {"seed": [1]}}, "invalid_parameter", "seed", "integer"),
        ({"parameters": {"strength": 1.01}}, "invalid_parameter", "strength", "at most 1"),
        ({"parameters": {"strength": float("nan")}}, "invalid_parameter", "strength", "number"),
        ({"parameters": {"strength": float("inf")}}, "invalid_parameter", "strength", "number"),
        ({"parameters": {"tiling": "yes"}}, "invalid_parameter", "tiling", "boolean"),
        ({"parameters": {"tiling": 1}}, "invalid_parameter", "tiling", "boolean"),
        ({"parameters": {"negative": "x"}}, "invalid_parameter", "negative", "at least 2 characters"),
        ({"parameters": {"negative": "x" * 11}}, "invalid_parameter", "negative", "at most 10 characters"),
        ({"parameters": {"steps": 15}}, "invalid_parameter", "steps", "Allowed: 10, 20"),
        ({"parameters": {"colour": "red"}}, "unsupported_parameter", "colour", "It takes: quality, seed"),
    ],
    ids=str,
)
def test_what_the_model_cannot_is_refused_by_name(members: dict[str, Any], code: str, param: str, said: str) -> None:
    """Each wrong member has its code, is named as the parameter, and what would be allowed is said."""
    error = refusal(**members)
    assert (error.code, error.param) == (code, param)
    assert said in error.message


def test_an_operation_or_kind_of_another_model_is_refused() -> None:
    """A model that draws does not edit, and makes no films."""
    for wanted in (
        Generation(Kind.IMAGE, Operation.EDIT, MODEL, prompt="x"),
        Generation(Kind.VIDEO, Operation.GENERATION, MODEL, prompt="x"),
    ):
        with pytest.raises(GatewayError) as caught:
            admit(catalog(), wanted)
        assert (caught.value.code, caught.value.param) == ("invalid_parameter", "model")


def test_previews_of_more_outputs_than_the_model_can_show_are_refused() -> None:
    """Its vendor would refuse the order, once it is made; n alone, and previews alone, are taken."""
    (model,) = card_of(model={"max_n": 4, "partial_images": 3, "partial_images_max_n": 1}).models
    check(generation(n=4), model)
    check(generation(partial_images=3), model)
    with pytest.raises(GatewayError, match="n must be at most 1") as caught:
        check(generation(n=2, partial_images=1), model)
    assert caught.value.param == "n"


def test_a_model_without_ratios_or_parameters_says_so() -> None:
    """Where a member is not known at all, the error is of its own code and says what there is."""
    plain = catalog(card_of())
    for members, param in (({"aspect_ratio": "1:1"}, "aspect_ratio"), ({"parameters": {"quality": "low"}}, "quality")):
        with pytest.raises(GatewayError) as caught:
            admit(plain, generation(**members))
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("size", "taken"),
    [
        ("1024x1024", True), ("2048x1024", False), ("1024x512", True), ("512x1024", True), ("1024x496", False),
        ("256x256", True), ("240x256", False), ("1040x1024", False), ("1025x1024", False), ("64x64", True),
        ("48x48", False), ("auto", True), ("01024x1024", False), ("1024 x1024", False), ("1024x1024\n", False),
        ("1024x٣024", False), ("", False), ("x", False), ("999999x1", False),
    ],
    ids=repr,
)  # fmt: skip
def test_a_size_fits_the_rule_or_is_listed(size: str, taken: bool) -> None:
    """Multiples, edges, pixels and ratio are all bounds to the very number; listed sizes need not fit."""
    card = card_of(model={"size_rule": RULE, "sizes": ("64x64",)}).models[0]
    assert takes_size(size, card) is taken


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_rule_is_what_it_says(width: int, height: int) -> None:
    """A size is taken exactly when each of the stated bounds holds, whichever edge is the longer."""
    card = card_of(model={"size_rule": RULE, "sizes": ()}).models[0]
    fits = (
        not width % 16 and not height % 16 and min(width, height) >= 64 and max(width, height) <= 2048
        and 65_536 <= width * height <= 1_048_576 and max(width, height) <= 2 * min(width, height)
    )  # fmt: skip
    assert takes_size(f"{width}x{height}", card) is fits
    assert takes_size(f"{height}x{width}", card) is fits


def test_a_rule_is_described_where_it_refuses() -> None:
    """Who asks for a size that does not fit is told the whole rule."""
    with pytest.raises(GatewayError) as caught:
        admit(catalog(card_of(model={"size_rule": RULE})), generation(size="1000x1000"))
    assert (
        "edges multiples of 16 from 64 to 2048, 65536 to 1048576 pixels, long edge at most 2 times"
        in caught.value.message
    )


def test_auto_is_what_leaving_out_means() -> None:
    """`auto` is admitted everywhere, also for a member that the model does not know, and is gone after that."""
    wanted = generation(size="auto", parameters={"quality": "auto", "background": "auto"})
    admitted = admit(catalog(), wanted)
    assert (admitted.generation.size, admitted.generation.parameters) == (None, {})
    assert admitted.adjusted == {}


def test_defaults_fill_in_what_a_request_lacks() -> None:
    """A model's defaults count where the request says nothing, and never against it."""
    made = catalog(defaults={"quality": "high", "size": "128x64", "seed": 7})
    assert admit(made, generation()).generation.size == "128x64"
    assert admit(made, generation()).generation.parameters == {"quality": "high", "seed": 7}
    asked = generation(size="64x64", parameters={"quality": "low"})
    assert admit(made, asked).generation.parameters == {"quality": "low", "seed": 7}
    assert admit(made, asked).generation.size == "64x64"
    assert admit(made, generation(aspect_ratio="1:1")).generation.size is None
    assert admit(made, generation(size="auto", parameters={"quality": "auto"})).generation.parameters == {"seed": 7}


def test_defaults_mean_nothing_for_another_operation() -> None:
    """A default for one operation is left out of the others, and the start takes it for what it is."""
    parameters = {"scale": Parameter("number", max=4, operations=(Operation.UPSCALE,))}
    card = card_of(model=FULL | {"operations": tuple(Operation), "parameters": parameters})
    made = catalog(card, defaults={"scale": 3, "size": "64x64"})
    verify(made)
    assert admit(made, generation()).generation.parameters == {}
    enlarged = admit(made, generation(operation=Operation.UPSCALE)).generation
    assert (enlarged.parameters, enlarged.size) == ({"scale": 3}, None)
    with pytest.raises(SettingsError, match="scale must be at most 4"):
        verify(catalog(card, defaults={"scale": 5}))


def test_a_default_is_for_what_all_routes_can() -> None:
    """Where one of the routes that do an operation has no shape for it, none is filled in, whatever their order."""
    free = card_of("free", model=FULL | {"operations": tuple(Operation)})
    bound = card_of("bound", model=FULL | {"operations": tuple(Operation), "shaped": (Operation.GENERATION,)})
    for cards in ((free, bound), (bound, free)):
        for default in ({"size": "64x64"}, {"aspect_ratio": "1:1"}):
            made = catalog(*cards, defaults=default)
            verify(made)
            assert len(admit(made, generation(operation=Operation.VARIATION)).routes) == 2
            assert admit(made, generation()).generation.size == default.get("size")


def test_a_default_contradicts_nobody() -> None:
    """Who says how large an upscale becomes is not told that a default says it otherwise."""
    parameters = {"scale": Parameter("number"), "resolution": Parameter("string")}
    facts = FULL | {"operations": tuple(Operation), "parameters": parameters}
    made = catalog(card_of(model=facts), defaults={"scale": 2})
    asked = generation(operation=Operation.UPSCALE, parameters={"resolution": "720p"})
    assert admit(made, asked).generation.parameters == {"resolution": "720p"}


@pytest.mark.parametrize("defaults", [{"quality": "best"}, {"size": "1x1"}, {"colour": "red"}, {"n": 2}], ids=str)
def test_a_default_that_no_route_honours_is_refused_at_the_start(defaults: dict[str, Any]) -> None:
    """A slip in the defaults of a model is found when the catalog is made, and its model is named."""
    verify(catalog(defaults={"quality": "high", "aspect_ratio": "1:1"}))
    with pytest.raises(SettingsError, match=f"models.{MODEL}.defaults, route vendor: "):
        verify(catalog(defaults=defaults))


def test_only_routes_that_can_are_taken() -> None:
    """A route that cannot honour a member is left out; the others keep their order."""
    one, two, three = card_of("one"), card_of("two", model={"max_n": 1}), card_of("three")
    admitted = admit(catalog(one, two, three), generation(n=2))
    assert [route.provider for route in admitted.routes] == ["one", "three"]
    assert len(admit(catalog(one, two, three), generation()).routes) == 3


def test_when_no_route_can_the_first_ones_reason_is_said() -> None:
    """The preferred route is the one whose refusal the caller hears."""
    one, two = card_of("one", model={"max_n": 2}), card_of("two", model={"max_n": 3})
    with pytest.raises(GatewayError, match="n must be between 1 and 2"):
        admit(catalog(one, two), generation(n=9))


def test_admitting_again_changes_nothing() -> None:
    """What was admitted once is admitted again as it is: a task's later rounds ask the same of the same routes."""
    made = catalog(defaults={"quality": "high", "size": "128x64"})
    once = admit(made, generation(size="auto", parameters={"quality": "auto", "seed": 3}))
    again = readmit(made, once.generation, ())
    assert (again.routes, again.generation) == (once.routes, once.generation)


# Members that only a card knows


def further(unknown: dict[str, Any] | None = None, hints: dict[str, Any] | None = None, **rest: Any) -> Generation:
    """A generation with further members."""
    strict = rest.pop("strict", False)
    return with_extras(catalog(), generation(**rest), unknown or {}, hints or {}, strict=strict)


def test_members_that_a_card_lists_are_passed_on() -> None:
    """A member of the card's parameters becomes one, a member of its extras stays an extra."""
    made = further({"seed": 4, "style_id": "x"}, extras={"tiling": True})
    assert (made.parameters, made.extras) == ({"seed": 4, "tiling": True}, {"style_id": "x"})


def test_novelties_are_ignored_unless_asked_otherwise() -> None:
    """A member that nobody knows is ignored, as clients send them; with `strict` it is refused by name."""
    assert further({"novelty": 1}) == generation()
    with pytest.raises(GatewayError, match="Further members of this model: negative, quality") as caught:
        further({"novelty": 1}, strict=True)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "novelty")


def test_options_for_the_provider_are_always_strict() -> None:
    """Who names an option of the provider means it: an unknown one is refused, its name shortened."""
    with pytest.raises(GatewayError) as caught:
        further(extras={"x" * 500: 1})
    assert caught.value.code == "unsupported_parameter"
    assert len(caught.value.param or "") == 64
    assert len(caught.value.message) < 300


def test_an_option_that_is_false_is_one() -> None:
    """What a card lists may be turned off, by an option of the provider or beside it; what it does not list may not."""
    assert further(extras={"style_id": False}).extras == {"style_id": False}
    assert further({"style_id": False}).extras == {"style_id": False}
    assert further({"tiling": False}).parameters == {"tiling": False}
    with pytest.raises(GatewayError, match="typo"):
        further(extras={"typo": False})
    with pytest.raises(GatewayError, match="typo"):
        further({"typo": False}, strict=True)
    assert further({"stream": False, "mask": "", "images": []}).extras == {}


def test_hints_mean_nothing_where_no_card_lists_them() -> None:
    """A hint is passed on where it is listed, and otherwise dropped, also with `strict`."""
    assert further(hints={"user": "u-1"}, strict=True) == generation()
    assert further(hints={"style_id": "s"}, strict=True).extras == {"style_id": "s"}


def test_members_of_any_route_are_known() -> None:
    """A member that only the second route lists is known; the first route is then left out."""
    made = catalog(card_of("one"), card_of("two", model=FULL))
    wanted = with_extras(made, generation(), {"seed": 1}, {}, strict=True)
    assert [route.provider for route in admit(made, wanted).routes] == ["two"]


def test_the_right_types_are_checked_for_further_members_too() -> None:
    """A member that came in by the side door is checked like any other."""
    with pytest.raises(GatewayError) as caught:
        check(further({"seed": "seven"}), card_of(model=FULL).models[0])
    assert caught.value.param == "seed"


def test_an_unknown_model_is_said_before_its_members() -> None:
    """Nothing can be said of the members of a model that does not exist."""
    with pytest.raises(GatewayError) as caught:
        with_extras(Catalog(dict[str, Model](), {}, {}), generation(), {"x": 1}, {}, strict=True)
    assert caught.value.code == "model_not_found"
