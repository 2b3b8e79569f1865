"""The core in simulated worlds, and that the simulation sees what is wrong."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.core import ids
from gateway.core.crashing import POINTS
from gateway.core.lifecycle import FINAL, State
from tests.simulation.planted import PLANTED
from tests.simulation.run import Seen, many, one
from tests.simulation.weather import FAULTS, OUTAGES
from tests.simulation.world import START, World

ROOT = Path(__file__).parents[2]
SEEDS, ENOUGH = 350, 200


@pytest.fixture(scope="module")
def seen() -> Seen:
    """What a share of the seeds came to, the same ones in every run."""
    return many(range(SEEDS), processes=2)


@pytest.mark.timeout(600)
def test_the_promises_hold_in_every_world(seen: Seen) -> None:
    """Whatever breaks, in whatever order: nothing is lost, bought twice, ended twice, overspent or charged wrongly."""
    if seen.broken:
        World(int(seen.broken[0].split(":")[0].split()[1])).run()
    assert seen.broken == []


@pytest.mark.timeout(600)
def test_everything_that_may_break_does(seen: Seen) -> None:
    """Each kind of fault strikes, and processes die in each state, at each named point, and in each wait."""
    assert not set(FAULTS) - set(seen.faults)
    assert not {f"{what}.away" for what in OUTAGES} - set(seen.faults)
    assert not {f"in {state}" for state in State if state not in FINAL} - set(seen.crashes)
    assert not {f"at {point}" for point in POINTS} - set(seen.crashes)
    assert not {state for state in State if state is not State.QUEUED} - set(seen.states)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    """With one line of the core gone wrong, some of the first few hundred worlds break."""
    planted = PLANTED[fault]
    with planted.patch:
        found = (promise for seed in range(ENOUGH) for promise in one(seed).violations)
        assert any(re.search(planted.word, promise) for promise in found)


def test_a_seed_is_one_story() -> None:
    """The same seed gives the same history to the letter, also in another process with other hashes."""
    with _beside(lambda: ids.new("task", START)):
        history = one(7).history
        assert one(7).history == history
    first = _digest(history)
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "7"], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": hashes}, timeout=60, check=False,
        )  # fmt: skip
        assert _digest(done.stdout.splitlines()) == first


@contextmanager
def _beside(work: Callable[[], object]) -> Iterator[None]:
    """Another thread of this process that does this all the time: of a world it is no part."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _digest(history: list[str]) -> str:
    return hashlib.sha256("\n".join(history).encode()).hexdigest()
