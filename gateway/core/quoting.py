"""Quoting: the most that a task can cost, of all the routes that may serve it."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.choosing import Candidate
from gateway.core.enhancing import Enhancement
from gateway.core.pricing import most
from gateway.core.runtime import Runtime


def quoted(rt: Runtime, offered: Sequence[Candidate], inputs: int, enhancement: Enhancement | None) -> int | None:
    """The most that it can cost, whichever route serves it; None when no price is known for any."""
    prices = [_most(rt, one, inputs, enhancement) for one in offered]
    return max((price for price in prices if price is not None), default=None)


def _most(rt: Runtime, candidate: Candidate, inputs: int, enhancement: Enhancement | None) -> int | None:
    generation, route = candidate.generation, candidate.route
    prompt = len(generation.prompt.encode())
    if enhancement is not None:
        prompt = max(prompt, rt.enhancer.longest(generation, enhancement.template))
    # The operator's own price is all that is charged.
    usage = None if route.fixed else route.card.usage_price
    return most(generation, route.card, route.price, usage, prompt=prompt, inputs=inputs)
