"""What a generation costs, from the price on a card. Integer micro-USD; decimal text is never a float."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from providers.card import ModelCard, Price, PriceRow
from providers.contract import Generation

MICRO = 1_000_000


def micro(usd: str) -> int:
    """Micro-USD of a decimal text of at most six places, such as "0.04"."""
    return int(Decimal(usd) * MICRO)


def dollars(amount: int) -> str:
    """Decimal text with six places of an amount in micro-USD."""
    return f"{amount // MICRO}.{amount % MICRO:06d}"


def quote(generation: Generation, card: ModelCard, price: Price | None) -> int | None:
    """The most that the generation can cost, in micro-USD; None when no price is known for it.

    A member that the model will choose by itself could become the dearest of its values, so that one is taken.
    """
    if price is None:
        return None
    fitting = [row for row in price.rows if all(_may_be(generation, card, *item) for item in row.when.items())]
    if not fitting:
        return None
    certain = next((row for row in fitting if all(_is(generation, card, *item) for item in row.when.items())), None)
    amounts = [micro(row.usd) for row in (_until(fitting, certain) if certain else fitting)]
    return max(amounts) * generation.n


def _until(rows: list[PriceRow], last: PriceRow) -> list[PriceRow]:
    return rows[: rows.index(last) + 1]


def _member(generation: Generation, card: ModelCard, name: str) -> str | None:
    value: Any
    if name == "size":
        value = generation.size or card.default_size
    elif name == "aspect_ratio":
        value = generation.aspect_ratio
    else:
        value = generation.parameters.get(name)
        if value is None and name in card.parameters:
            value = card.parameters[name].default
    return None if value in (None, "auto") else str(value)


def _is(generation: Generation, card: ModelCard, name: str, wanted: str) -> bool:
    return _member(generation, card, name) == wanted


def _may_be(generation: Generation, card: ModelCard, name: str, wanted: str) -> bool:
    return _member(generation, card, name) in (None, wanted)
