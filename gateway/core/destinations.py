"""Destinations: how many webhooks are on their way to whom, so that a receiver who is slow or dead hurts only himself.

Each process counts for itself. A destination is one receiver of one key: nobody's trouble is another's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# How many may be on their way to one destination.
EACH = 8
# Of what a process does at the same moment, webhooks are this part at most.
SHARE = 4
# So many failures in a row, and it is left alone: for as long as this, twice as long each time, up to the longest.
FAILURES = 5
REST, LONGEST_REST = 30.0, 600.0
BUSY = dt.timedelta(seconds=1)
# After so long without another failure, what was is history.
MEMORY = dt.timedelta(hours=1)
MOST_CLOSED = 1000


@dataclass
class Destination:
    """One receiver, as long as there is anything to know of him."""

    under_way: int = 0
    failures: int = 0
    failed_at: dt.datetime | None = None
    rest_until: dt.datetime | None = None


class Destinations:
    """All receivers to whom something is on its way, or who were in trouble last; `concurrency` is the process's."""

    def __init__(self, concurrency: int) -> None:
        self.most = max(concurrency // SHARE, 1)
        self.under_way = 0
        self._known: dict[str, Destination] = {}

    @property
    def room(self) -> int:
        """How many more may be on their way."""
        return self.most - self.under_way

    def closed(self, now: dt.datetime) -> list[str]:
        """Those to whom nothing may go now, or a good part of them."""
        for name in [name for name, one in self._known.items() if _is_history(one, now)]:
            del self._known[name]
        return [name for name in self._known if self._later(name, now) is not None][:MOST_CLOSED]

    def later(self, name: str, now: dt.datetime) -> dt.datetime | None:
        """When to come again; None if something may go there now."""
        return now + BUSY if self.room <= 0 else self._later(name, now)

    @contextmanager
    def visiting(self, name: str) -> Iterator[None]:
        """Counts one on its way, for as long as the block lasts."""
        found = self._known.setdefault(name, Destination())
        self.under_way += 1
        found.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            found.under_way -= 1
            self._forget(name, found)

    def succeeded(self, name: str) -> None:
        """The receiver is well: he answered."""
        if found := self._known.get(name):
            found.failures, found.rest_until = 0, None

    def failed(self, name: str, now: dt.datetime) -> None:
        """Another failure. What was on its way before the receiver was left alone says nothing new."""
        found = self._known.setdefault(name, Destination())
        if found.rest_until is not None and found.rest_until > now:
            return
        found.failures, found.failed_at = found.failures + 1, now
        if found.failures >= FAILURES:
            rest = min(REST * 2 ** min(found.failures - FAILURES, 10), LONGEST_REST)
            found.rest_until = now + dt.timedelta(seconds=rest)

    def _later(self, name: str, now: dt.datetime) -> dt.datetime | None:
        found = self._known.get(name)
        if found is None:
            return None
        if found.rest_until is not None and found.rest_until > now:
            return found.rest_until
        # After a rest, one tries it and the others wait for what he finds.
        return now + BUSY if found.under_way >= (EACH if found.rest_until is None else 1) else None

    def _forget(self, name: str, found: Destination) -> None:
        if not found.under_way and not found.failures:
            self._known.pop(name, None)


def _is_history(one: Destination, now: dt.datetime) -> bool:
    return not one.under_way and (one.failed_at is None or one.failed_at < now - MEMORY)
