"""Cards: what is read, what is refused, and the arithmetic on them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from providers.card import Beside, Card, CardError, UsagePrice, decode, load
from providers.registry import Registry

MODEL = {"name": "m", "kind": "image", "operations": ["generation"]}
TODAY = dt.date(2026, 11, 21)


def price(**when: str) -> dict[str, Any]:
    """A price for that."""
    return {"as_of": TODAY, "rows": [{"usd": "0.01", "when": when}]}


def card(**members: Any) -> Card:
    """A card with these members."""
    return decode({"name": "acme", "title": "Acme", "checked_on": TODAY, **members}, "acme.toml")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"titel": "x"}, "titel"),
        ({"title": 7}, r"\$\.title"),
        ({"errors": {"x": "bad"}}, r"\$\.errors"),
        ({"models": 3}, r"\$\.models"),
        ({"models": [3]}, r"\$\.models"),
        ({"models": [{**MODEL, "sise": "x"}]}, "sise"),
        ({"models": [{**MODEL, "kind": "sound"}]}, r"\$\.models\[0\]\.kind"),
        ({"models": [{**MODEL, "price": {"as_of": TODAY, "rows": [{"usd": "0.0000001"}]}}]}, "usd"),
        ({"models": [{**MODEL, "price": {"as_of": TODAY, "rows": [{"usd": 0.01}]}}]}, "usd"),
        ({"models": [{**MODEL, "price": price(colour="red")}]}, "model m: a price is for colour; there are size, "),
        ({"models": [{**MODEL, "sizes": ["1x1"], "price": price(size="2x2")}]}, "for size 2x2; allowed are 1x1"),
        ({"models": [{**MODEL, "price": {**price(), "unit": "second"}}]}, "per second needs a parameter seconds"),
        ({"models": [MODEL, MODEL]}, "two models are named m"),
        ({"models": [{"name": "a", "like": "m"}, MODEL]}, "there is no model m above a"),
    ],
)
def test_what_is_wrong_with_a_card_is_said(members: dict[str, Any], said: str) -> None:
    """The message names the file and the member."""
    with pytest.raises(CardError, match=f"acme.toml: .*{said}"):
        card(**members)


def test_text_that_is_no_toml_is_a_card_error(tmp_path: Path) -> None:
    """A syntax error is reported like every other fault of a card."""
    path = tmp_path / "acme.toml"
    path.write_text("name = ")
    with pytest.raises(CardError, match=r"^acme\.toml: "):
        load(path)


def test_a_model_takes_over_what_it_does_not_state() -> None:
    """`like` copies every member of another model, parameters one by one; what is stated counts."""
    seed, quality = {"type": "integer"}, {"type": "string"}
    first = {**MODEL, "max_n": 4, "sizes": ["1x1"], "parameters": {"seed": seed, "quality": quality}}
    second = {"name": "n", "like": "m", "max_n": 2, "parameters": {"seed": {"type": "number"}}}
    model = card(models=[first, second]).model("n")
    assert model is not None
    assert (model.max_n, model.sizes) == (2, ("1x1",))
    assert {name: parameter.type for name, parameter in model.parameters.items()} == {
        "seed": "number",
        "quality": "string",
    }


def test_the_public_name_is_the_vendors_unless_it_is_another() -> None:
    """Callers ask for `public` where the card has it."""
    found = card(models=[MODEL, {**MODEL, "name": "v/2", "public": "two"}])
    assert [model.public_name for model in found.models] == ["m", "two"]
    assert found.model("two") is None


def test_parameters_are_renamed_for_the_vendor() -> None:
    """`sent_as` is the name on the wire; others keep theirs."""
    model = card(models=[{**MODEL, "parameters": {"seed": {"type": "integer", "sent_as": "random_seed"}}}]).models[0]
    assert model.renamed({"seed": 1, "other": 2}) == {"random_seed": 1, "other": 2}


PRICE = UsagePrice(TODAY, {"in.text": "1.25", "out": "30"}, "total")


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"in": {"text": 4}, "out": 2, "total": 6}, 65),
        ({"in": {"text": 1}, "out": 0, "total": 1}, 2),
        ({"out": 1_000_000, "total": 1_000_000}, 30_000_000),
        ({"in": {"text": 4}, "out": 2, "total": 7}, None),
        ({"in": {"text": 4}, "out": 2}, None),
        ({"in": 4, "out": True, "total": 1}, None),
        ({}, None),
    ],
)
def test_usage_is_priced(usage: dict[str, Any], cost: int | None) -> None:
    """Numbers times price per million give micro-USD, rounded up; a count that does not add up gives none."""
    assert PRICE.cost(usage) == cost


def test_what_is_counted_beside_an_output_is_priced() -> None:
    """So many for each output, byte of the prompt, input and preview, at the price of their place, rounded up once."""
    beside = {"in.text": Beside(each=6, byte=1), "in.image": Beside(input=100), "out": Beside(preview=10)}
    price = UsagePrice(TODAY, {"in.text": "0.5", "in.image": "8", "out": "30"}, "total", beside)
    assert price.most_beside(prompt=5, inputs=2, previews=3) == 6 + 1600 + 900


def test_what_is_counted_beside_needs_a_price() -> None:
    """A card that counts something which costs nothing has a slip in it."""
    usage = {"as_of": TODAY, "per_million": {"out": "30"}, "total": "total", "beside": {"outt": {"preview": 1}}}
    with pytest.raises(CardError, match="outt is counted and has no price; there are out"):
        card(models=[{**MODEL, "usage_price": usage}])


@pytest.mark.parametrize("name", sorted(Registry.load().cards))
def test_the_cards_hold_together(name: str) -> None:
    """Defaults are among the values, and default sizes among the sizes."""
    for model in Registry.load().cards[name].models:
        assert model.operations
        assert model.default_size is None or model.default_size in model.sizes
        assert model.usage_price is None or model.usage_price.beside, f"nobody says what {model.name} bills beside"
        for parameter in model.parameters.values():
            assert parameter.default is None or not parameter.values or parameter.default in parameter.values
