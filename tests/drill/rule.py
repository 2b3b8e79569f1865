"""A rule holds the records of a history against each other, and says what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.drill.history import History


class Violation(NamedTuple):
    """Something that must not be: under which counter it counts, whom it is about, and what it is."""

    counter: str
    subject: str
    what: str


Rule = Callable[[History], Iterator[Violation]]
