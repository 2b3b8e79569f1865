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
    reached = [
        row
        for place, row in enumerate(fitting)
        if not any(_hides(generation, card, above, row) for above in fitting[:place])
    ]
    return max(micro(row.usd) for row in reached) * generation.n


def _hides(generation: Generation, card: ModelCard, above: PriceRow, row: PriceRow) -> bool:
    """Whether `above` fits whenever `row` does, so that `row` never decides."""
    return all(
        row.when.get(name) == wanted or _member(generation, card, name) == wanted for name, wanted in above.when.items()
    )


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
    if isinstance(value, bool):
        return str(value).lower()
    return None if value in (None, "auto") else str(value)


def _may_be(generation: Generation, card: ModelCard, name: str, wanted: str) -> bool:
    return _member(generation, card, name) in (None, wanted)
