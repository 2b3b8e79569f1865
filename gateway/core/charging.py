"""Charging: what a task costs its owner in the end. The ledger follows what the provider bills.

What was delivered is charged by its number, and where the price is per second by its length. An order that failed is
charged only where the card says that the provider bills failures. One that was to be stopped and could not be is
charged as ordered, for the provider bills it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from gateway.core.assets import Landed
from gateway.core.catalog import Catalog, Route
from gateway.core.pricing import quote, rate_of, seconds_of
from providers.contract import Blocked, Broken, Generation, ProviderError

# Seconds that a film may be longer or shorter than it was ordered: vendors make whole groups of frames.
SLACK = 0.25


class Stopped(StrEnum):
    """What a cancel, or a deadline, could stop."""

    ASKED = "asked"
    NOTHING_SENT = "nothing_sent"
    AT_PROVIDER = "at_provider"
    NOT_STOPPED = "not_stopped"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"


def of_delivery(
    catalog: Catalog, generation: Generation, attempt: Mapping[str, Any], cost: int | None, landed: Sequence[Landed]
) -> int | None:
    """What the delivered outputs cost: what the vendor said, else the card's price of that many, so large and so long.

    A price that the operator has set holds whatever the vendor says. What was delivered beyond the order costs nothing.
    """
    landed = landed[: generation.n]
    route = _route(catalog, generation, attempt)
    if cost is not None and not (route and route.fixed):
        return cost
    if route is None or route.price is None or route.price.as_of != attempt["priced_on"]:
        # The configuration has changed since: what was quoted still holds.
        return None if attempt["quoted"] is None else attempt["quoted"] * len(landed) // generation.n
    if route.price.unit == "second":
        return _by_length(generation, route, landed)
    changes: dict[str, Any] = {"n": len(landed)}
    sizes = {f"{one.width}x{one.height}" for one in landed}
    if generation.size is None and len(sizes) == 1:
        changes["size"] = sizes.pop()
    return _lower(quote(msgspec.structs.replace(generation, **changes), route.card, route.price),
                  quote(msgspec.structs.replace(generation, n=len(landed)), route.card, route.price))  # fmt: skip


def _by_length(generation: Generation, route: Route, landed: Sequence[Landed]) -> int | None:
    """The price of so many seconds as were delivered, and never of more than were ordered.

    What a second costs goes by the order: a row may be for a length that was ordered, and not for what came of it.
    """
    rate, ordered = rate_of(generation, route.card, route.price), math.ceil(seconds_of(generation, route.card))
    seconds = sum(min(ordered, math.ceil((one.seconds or ordered) - SLACK)) for one in landed)
    return None if rate is None else rate * seconds


def of_failure(
    catalog: Catalog, generation: Generation, attempt: Mapping[str, Any], error: ProviderError
) -> int | None:
    """What an order costs that the provider took and that came to nothing."""
    route = _route(catalog, generation, attempt)
    billed = route is not None and route.card.billed_on_failure and isinstance(error, Blocked | Broken)
    return attempt["quoted"] if billed else None


def _lower(sized: int | None, asked: int | None) -> int | None:
    """A size that the model chose by itself never costs more than what was reserved for it."""
    return asked if sized is None or asked is None else min(sized, asked)


def _route(catalog: Catalog, generation: Generation, attempt: Mapping[str, Any]) -> Route | None:
    model = catalog.find(generation.model)
    place = attempt["provider"], attempt["model"]
    return next((one for one in model.routes if one.place == place), None) if model else None
