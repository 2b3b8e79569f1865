"""The races that decide on money, on a small scale; the others only measure."""

from __future__ import annotations

import pytest

from tests.drill.races import Scale, race
from tests.drill.stage import Stage

SMALL = Scale(rounds=1, ways=200, copies=100, backlog=300, seconds=4, jobs=10, kills=1)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["budget", "duplicates"])
def test_a_race_goes_as_it_should(name: str, stage: Stage) -> None:
    """With all web processes at it, k are accepted and not one more, and one task is made of equal requests."""
    assert race(name, SMALL, stage)
