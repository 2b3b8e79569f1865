"""The states of a task and the ways between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lifecycle import EDGES, FINAL, STAGE, STATUS, State, check, states_of

# The published table; submitting and storing end at a cancel too, when the holder of the turn finds the wish.
PUBLISHED = {
    "queued": "submitting cancelled failed",
    "submitting": "waiting storing queued failed cancelled",
    "waiting": "waiting storing queued cancelled failed",
    "storing": "storing completed failed cancelled",
    "completed": "",
    "failed": "",
    "cancelled": "",
}


def test_the_ways_are_the_published_ones() -> None:
    """The table of ways in the code is the one that the design states, no more and no less."""
    assert {str(state): set(ways) for state, ways in EDGES.items()} == {
        state: set(ways.split()) for state, ways in PUBLISHED.items()
    }


def test_only_three_states_are_final() -> None:
    """Completed, failed and cancelled have no way out, and every other state has one."""
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} == FINAL


@pytest.mark.parametrize("source", State)
@pytest.mark.parametrize("target", State)
def test_check_agrees_with_the_table(source: State, target: State) -> None:
    """`check` lets exactly the published ways pass."""
    if target in PUBLISHED[source].split():
        check(source, target)
    else:
        with pytest.raises(ValueError, match=f"cannot go from {source} to {target}"):
            check(source, target)


@given(st.lists(st.sampled_from(State), max_size=40))
def test_no_walk_leaves_a_final_state(wishes: list[State]) -> None:
    """Whatever is tried in whatever order, a task that has ended stays as it is, and passes the queue first."""
    state, path = State.QUEUED, [State.QUEUED]
    for wish in wishes:
        try:
            check(state, wish)
        except ValueError:
            continue
        state = wish
        path.append(state)
    assert not FINAL & set(path[:-1])
    if State.COMPLETED in path:
        assert path[-2] is State.STORING


def test_every_state_can_still_end() -> None:
    """From every state that is not final, each of failed and cancelled can be reached in one step."""
    for state in set(State) - FINAL:
        assert {State.FAILED, State.CANCELLED} <= EDGES[state]


def test_every_state_has_a_word_on_the_wire() -> None:
    """Each state is one of the five statuses, final ones under their own name, and only running ones have a stage."""
    assert set(STATUS) == set(State)
    assert set(STATUS.values()) == {"queued", "processing", "completed", "failed", "cancelled"}
    assert all(STATUS[state] == state for state in FINAL)
    assert set(STAGE) == set(State) - FINAL


@pytest.mark.parametrize("status", sorted(set(STATUS.values())))
def test_a_status_stands_for_its_states(status: str) -> None:
    """The states of a status are exactly those that callers see as it."""
    assert set(states_of(status)) == {state for state, word in STATUS.items() if word == status}
    assert states_of(status)


def test_an_unknown_status_stands_for_no_state() -> None:
    """A word that is no status has no states, and neither has an inner state's name."""
    assert states_of("running") == states_of("submitting") == ()
