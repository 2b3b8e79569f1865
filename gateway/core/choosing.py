"""Choosing: which route a task takes next, of all that the models it asked for have."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.admission import readmit
from gateway.core.catalog import Catalog, Route, Way
from gateway.core.errors import GatewayError
from gateway.core.inputs import Upload
from gateway.core.runtime import Runtime
from providers.contract import BadCredential, Generation

# Seconds that the order which tries a route has beyond its provider's timeout, before another may try.
MARGIN = 30


class Candidate(msgspec.Struct, frozen=True):
    """A route, and the generation as it would be done there; `choice` is 0 for the model that was asked for first."""

    route: Route
    generation: Generation
    choice: int


def candidates(catalog: Catalog, generations: Sequence[Generation], uploads: Sequence[Upload]) -> list[Candidate]:
    """All routes that can do what was admitted, in order. When none can, raises what the first one cannot do."""
    found: list[Candidate] = []
    error: GatewayError | None = None
    for choice, generation in enumerate(generations):
        try:
            admitted = readmit(catalog, generation, uploads)
        except GatewayError as refusal:
            error = error or refusal
            continue
        found += [Candidate(route, admitted.generation, choice) for route in admitted.routes]
    if not found and error is not None:
        raise error
    return found


class Choice(msgspec.Struct, frozen=True):
    """What to do next: take `taken`; or rest until `rest_until`, as all routes do; or neither: all had their rounds."""

    taken: Candidate | None = None
    rest_until: dt.datetime | None = None


async def choose(
    rt: Runtime,
    task_id: str,
    offered: Sequence[Candidate],
    attempts: Sequence[Mapping[Any, Any]],
    *,
    again: bool = True,
) -> Choice:
    """Of the routes tried least the first in order that is not left alone just now.

    Where it has to be tried whether that is well again, this order is the one that does. Without `again` a route that
    the task has tried before is only named, for the order does not go there now.
    """
    await rt.health.refresh()
    tried = tries(rt, attempts)
    open_to_us = [one for one in offered if tried[one.route.way] < rt.settings.max_rounds]
    if not open_to_us:
        return Choice()
    for one in sorted(open_to_us, key=lambda one: (tried[one.route.way], *_place(task_id, one))):
        if await _admits(rt, one.route, goes=again or not tried[one.route.way]):
            return Choice(one)
    # Another process may have won the right to try in this very moment: that is soon decided.
    soon = rt.now() + dt.timedelta(seconds=1)
    return Choice(rest_until=rt.health.closed_until([one.route for one in open_to_us]) or soon)


async def _admits(rt: Runtime, route: Route, *, goes: bool) -> bool:
    if not goes:
        return rt.health.closed_until([route]) is None
    provider = rt.catalog.provider(route.provider, route.credential)
    return await rt.health.admits(route, (provider.card.timeout if provider else 0) + MARGIN)


def tries(rt: Runtime, attempts: Sequence[Mapping[Any, Any]]) -> Counter[Way]:
    """How often each way was tried; one where our credential is rejected counts as tried to the end."""
    found: Counter[Way] = Counter()
    for attempt in attempts:
        for_good = attempt["outcome"] == BadCredential.__name__
        way = attempt["provider"], attempt["credential"], attempt["model"]
        found[way] += rt.settings.max_rounds if for_good else 1
    return found


def _place(task_id: str, candidate: Candidate) -> tuple[int, int, float]:
    """Where a candidate stands: by model and order, then by lot. The lots of one task are always the same.

    Weighted rendezvous hashing: over many tasks each route comes first as often as its weight says.
    """
    route = candidate.route
    digest = hashlib.blake2b(f"{task_id} {route.way}".encode(), digest_size=8).digest()
    lot = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return candidate.choice, route.order, -math.log(lot) / route.weight
