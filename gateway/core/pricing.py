"""What a generation costs, from the price on a card. Integer micro-USD; decimal text is never a float."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from providers.card import ModelCard, Price, PriceRow, UsagePrice, priced_as
from providers.contract import Generation

MICRO = 1_000_000
# An amount as people write it.
USD = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


def micro(usd: str) -> int:
    """Micro-USD of a decimal text of at most six places, such as "0.04"."""
    return int(Decimal(usd) * MICRO)


def dollars(amount: int) -> str:
    """Decimal text with six places of an amount in micro-USD."""
    return f"{amount // MICRO}.{amount % MICRO:06d}"


def quote(generation: Generation, card: ModelCard, price: Price | None) -> int | None:
    """The most that the generation's outputs can cost, in micro-USD; None when no price is known for them."""
    rate = rate_of(generation, card, price)
    return None if rate is None or price is None else rate * _units(generation, card, price)


def rate_of(generation: Generation, card: ModelCard, price: Price | None) -> int | None:
    """The most that one unit of the price can cost, in micro-USD; None when no price is known for it.

    A member that the model will choose by itself could become the dearest of its values, so that one is taken.
    """
    if price is None:
        return None
    fitting = [row for row in price.rows if all(_may_be(generation, card, *item) for item in row.when.items())]
    if not fitting or (price.unit == "second" and not _has_length(generation, card)):
        return None
    reached = [
        row
        for place, row in enumerate(fitting)
        if not any(_hides(generation, card, above, row) for above in fitting[:place])
    ]
    return max(micro(row.usd) for row in reached)


def most(
    generation: Generation, card: ModelCard, price: Price | None, usage: UsagePrice | None, *, prompt: int, inputs: int
) -> int | None:
    """The most that an order can cost, in micro-USD; None when no price is known for its outputs.

    To its quote comes what the vendor counts beside the outputs, for a `prompt` of so many bytes and so many `inputs`.
    Each output counts them anew.
    """
    quoted = quote(generation, card, price)
    if quoted is None or usage is None:
        return quoted
    return quoted + generation.n * usage.most_beside(prompt, inputs, generation.partial_images)


def least(generation: Generation, price: Price | None) -> int:
    """What the generation costs at least, in micro-USD, whatever its members are and turn out to be."""
    if price is None:
        return 0
    return min((micro(row.usd) for row in price.rows), default=0) * (generation.n if price.unit == "image" else 1)


def unpriced(generation: Generation, card: ModelCard, price: Price) -> tuple[str, tuple[str, ...]] | None:
    """The first member that has a value for which there is no price, with those that have one; None if none alone is.

    Only a price whose every row names the member says so: another row is for whatever it may be.
    """
    for name in dict.fromkeys(name for row in price.rows for name in row.when):
        values = tuple(dict.fromkeys(row.when[name] for row in price.rows if name in row.when))
        named = all(name in row.when for row in price.rows)
        if named and _member(generation, card, name) not in (None, *values):
            return name, values
    return None


def _units(generation: Generation, card: ModelCard, price: Price) -> int:
    """How many of the price's units the generation has."""
    if price.unit == "request":
        return 1
    if price.unit == "image":
        return generation.n
    return generation.n * math.ceil(seconds_of(generation, card))


def _has_length(generation: Generation, card: ModelCard) -> bool:
    """Whether anything says how long it is: an enhancement lasts as long as its film, which may not be here yet."""
    return generation.source_seconds is not None or "seconds" in card.parameters


def seconds_of(generation: Generation, card: ModelCard) -> Decimal:
    """How long each output is: as the film that is worked on, else as asked for, else the longest that it could be."""
    if generation.source_seconds is not None:
        return Decimal(str(generation.source_seconds))
    parameter = card.parameters["seconds"]
    asked = generation.parameters.get("seconds", parameter.default)
    if asked is not None and asked != "auto":
        return Decimal(str(asked))
    return max(Decimal(str(one)) for one in (*parameter.values, parameter.max or 0))


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
    return None if value in (None, "auto") else priced_as(value)


def _may_be(generation: Generation, card: ModelCard, name: str, wanted: str) -> bool:
    return _member(generation, card, name) in (None, wanted)
