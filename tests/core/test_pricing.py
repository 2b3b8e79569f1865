"""Pricing: whole micro-dollars, and never less than what a choice of the model may cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pricing import dollars, micro, most, quote, unpriced
from providers.card import Beside, ModelCard, Parameter, Price, PriceRow, UsagePrice
from tests.core.vendors import card_of, generation, words
from tests.core.world import START

LENGTH = Parameter("number", min=1, max=10, default=5)
LOW_TO_HIGH = (
    ("0.01", {"quality": "low", "size": "64x64"}),
    ("0.02", {"quality": "low"}),
    ("0.05", {"quality": "high", "size": "64x64"}),
    ("0.09", {"quality": "high"}),
)


def priced(*rows: tuple[str, dict[str, str]], **model: Any) -> ModelCard:
    """A model with these price rows, and with quality and audio as parameters."""
    parameters = {"quality": words("low", "high", "auto"), "audio": Parameter("boolean"), "steps": Parameter("integer")}
    made = Price(START.date(), tuple(PriceRow(usd, when) for usd, when in rows))
    return card_of(model={"price": made, "parameters": parameters, **model}).models[0]


def quoted(card: ModelCard, **members: Any) -> int | None:
    """The quote of a generation with these members."""
    return quote(generation(**members), card, card.price)


@pytest.mark.parametrize(
    ("usd", "amount"), [("0", 0), ("0.04", 40_000), ("0.000001", 1), ("12", 12_000_000), ("1.005", 1_005_000)]
)  # fmt: skip
def test_decimal_text_becomes_micro_dollars(usd: str, amount: int) -> None:
    """Each decimal of the text counts, and none is rounded."""
    assert micro(usd) == amount


@given(st.integers(0, 10**15))
def test_amounts_survive_being_written(amount: int) -> None:
    """An amount as decimal text, read back, is the same amount, and has six places."""
    text = dollars(amount)
    assert micro(text) == amount
    assert Decimal(text) * 1_000_000 == amount
    assert len(text.partition(".")[2]) == 6


@pytest.mark.parametrize(
    ("members", "amount"),
    [
        ({"parameters": {"quality": "low"}, "size": "64x64"}, 10_000),
        ({"parameters": {"quality": "low"}, "size": "128x64"}, 20_000),
        ({"parameters": {"quality": "high"}, "size": "64x64"}, 50_000),
        ({"parameters": {"quality": "high"}, "size": "128x64"}, 90_000),
        ({"parameters": {"quality": "high"}, "size": "128x64", "n": 3}, 270_000),
    ],
    ids=str,
)
def test_the_first_row_that_fits_decides(members: dict[str, Any], amount: int) -> None:
    """With all members decided the price is that of the first row, times the number of pictures."""
    assert quoted(priced(*LOW_TO_HIGH), **members) == amount


@pytest.mark.parametrize(
    ("members", "amount"),
    [
        ({"size": "64x64"}, 50_000),
        ({"size": "64x64", "parameters": {"quality": "auto"}}, 50_000),
        ({"parameters": {"quality": "low"}}, 20_000),
        ({"parameters": {"quality": "low"}, "size": "auto"}, 20_000),
        ({}, 90_000),
        ({"n": 4}, 360_000),
    ],
    ids=str,
)
def test_what_the_model_decides_is_quoted_at_its_dearest(members: dict[str, Any], amount: int) -> None:
    """A member that was left to the model could become any of its values, so the dearest of the rows is quoted."""
    assert quoted(priced(*LOW_TO_HIGH), **members) == amount


@given(
    st.lists(
        st.tuples(
            st.integers(0, 99),
            st.dictionaries(st.sampled_from(["quality", "size"]), st.sampled_from(["low", "high", "64x64", "128x64"])),
        ),
        max_size=6,
    ),
    st.sampled_from([None, "auto", "64x64", "128x64"]),
    st.sampled_from([None, "auto", "low", "high"]),
)
def test_a_quote_is_never_less_than_the_price(
    rows: list[tuple[int, dict[str, str]]], size: str | None, quality: str | None
) -> None:
    """Whatever the model then chooses for what was left open, it costs no more than was quoted."""
    card = priced(*((f"0.{usd:02d}", when) for usd, when in rows))
    parameters = {} if quality is None else {"quality": quality}
    upper = quoted(card, size=size, parameters=parameters)
    for chosen_size in [size] if size not in (None, "auto") else ["64x64", "128x64"]:
        for chosen in [quality] if quality not in (None, "auto") else ["low", "high"]:
            final = quoted(card, size=chosen_size, parameters={"quality": chosen})
            assert final is None or (upper is not None and final <= upper)


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 500), st.integers(0, 16))
def test_what_a_vendor_counts_beside_is_held_for_each_output(n: int, previews: int, prompt: int, inputs: int) -> None:
    """Whatever comes with an order, a vendor that counts no more than its card says bills no more than is held."""
    beside = {"text": Beside(each=6, byte=1), "seen": Beside(input=300), "made": Beside(preview=100)}
    usage = UsagePrice(START.date(), {"text": "0.7", "seen": "8", "made": "30"}, "total", beside)
    card = priced(("0.03", {}))
    held = most(generation(n=n, partial_images=previews), card, card.price, usage, prompt=prompt, inputs=inputs)
    counted = {"text": n * (6 + prompt), "seen": n * 300 * inputs, "made": n * (1000 + 100 * previews)}
    billed = usage.cost({**counted, "total": sum(counted.values())})
    assert held is not None
    assert billed is not None
    assert billed <= held < billed + n


@pytest.mark.parametrize("seconds", [5, 5.0])
def test_a_length_is_found_however_it_is_written(seconds: float) -> None:
    """Five seconds are five seconds, also where a caller writes 5.0."""
    card = priced(("0.5", {"seconds": "5"}), ("0.9", {"seconds": "10"}), parameters={"seconds": LENGTH})
    assert quoted(card, parameters={"seconds": seconds}) == 500_000


def test_a_length_between_the_priced_ones_has_no_price() -> None:
    """Seven seconds cost neither what five cost nor what ten do: nobody has said."""
    card = priced(("0.5", {"seconds": "5"}), ("0.9", {"seconds": "10"}), parameters={"seconds": LENGTH})
    assert card.price is not None
    wanted = generation(parameters={"seconds": 7})
    assert quote(wanted, card, card.price) is None
    assert unpriced(wanted, card, card.price) == ("seconds", ("5", "10"))


def test_no_member_is_blamed_that_has_prices_of_its_own() -> None:
    """A combination without a price is nobody's fault alone, and neither is a member that only some rows name."""
    card = priced(("0.5", {"quality": "low", "audio": "true"}), ("0.9", {"quality": "high", "audio": "false"}))
    assert card.price is not None
    assert unpriced(generation(parameters={"quality": "low", "audio": False}), card, card.price) is None
    card = priced(("0.5", {"size": "64x64", "quality": "low"}), ("0.9", {"quality": "high"}))
    assert card.price is not None
    assert unpriced(generation(size="128x64", parameters={"quality": "low"}), card, card.price) is None


def test_a_default_of_the_card_decides() -> None:
    """What the card says that a model does when nothing is asked is what will be done, and is priced so."""
    card = priced(*LOW_TO_HIGH, default_size="64x64", parameters={"quality": words("low", "high", default="low")})
    assert quoted(card) == 10_000
    card = priced(*LOW_TO_HIGH, default_size="64x64", parameters={"quality": words("low", "high", default="auto")})
    assert quoted(card) == 50_000


def test_members_of_every_type_can_decide() -> None:
    """A row may name a parameter that is a number or a truth value, in TOML's words."""
    card = priced(("0.5", {"audio": "true"}), ("0.2", {"audio": "false", "steps": "8"}), ("0.1", {"audio": "false"}))
    assert quoted(card, parameters={"audio": True}) == 500_000
    assert quoted(card, parameters={"audio": False}) == 200_000
    assert quoted(card, parameters={"audio": False, "steps": 4}) == 100_000


def test_an_aspect_ratio_can_decide() -> None:
    """A row may name the aspect ratio."""
    card = priced(("0.5", {"aspect_ratio": "16:9"}), ("0.2", {"aspect_ratio": "1:1"}))
    assert [quoted(card, aspect_ratio=one) for one in ("16:9", "1:1", None, "3:2")] == [500_000, 200_000, 500_000, None]


def test_without_a_price_there_is_no_quote() -> None:
    """A model without a price, or with none for this combination, has no known one: not zero."""
    assert quote(generation(), card_of(model={"price": None}).models[0], None) is None
    assert quoted(priced()) is None
    assert quoted(priced(("0.1", {"size": "1x1"})), size="64x64") is None


def test_what_costs_nothing_is_quoted_at_nothing() -> None:
    """Free is a price: zero, not unknown."""
    assert quoted(priced(("0", {})), n=4) == 0
