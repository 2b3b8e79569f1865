"""A short drill, so that each change meets every kind of fault at least once."""

from __future__ import annotations

import pytest

from tests.drill.checker import show
from tests.drill.drill import Size, drill
from tests.drill.stage import Stage


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_bought_twice_or_overspent_while_everything_fails(stage: Stage) -> None:
    """Under kills, cuts, outages and doubled messages all promises hold, by the word of five independent records."""
    history, findings = drill(stage, seed=1, size=Size(seconds=20, rate=4))
    assert show(history, findings)
    assert findings.figures["ok"] > findings.figures["attempted"] / 2
