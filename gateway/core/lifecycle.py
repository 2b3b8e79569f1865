"""The states of a task and the ways between them. Pure: no clock, no row, no provider."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a task stands; what is done next depends on nothing else."""

    QUEUED = "queued"
    SUBMITTING = "submitting"
    WAITING = "waiting"
    STORING = "storing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


EDGES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.SUBMITTING, State.CANCELLED, State.FAILED}),
    State.SUBMITTING: frozenset({State.WAITING, State.STORING, State.QUEUED, State.FAILED, State.CANCELLED}),
    State.WAITING: frozenset({State.WAITING, State.STORING, State.QUEUED, State.CANCELLED, State.FAILED}),
    State.STORING: frozenset({State.STORING, State.COMPLETED, State.FAILED, State.CANCELLED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
FINAL = frozenset(state for state, ways in EDGES.items() if not ways)

STATUS = {
    State.QUEUED: "queued",
    State.SUBMITTING: "processing",
    State.WAITING: "processing",
    State.STORING: "processing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
STAGE = {
    State.QUEUED: "queued",
    State.SUBMITTING: "submitting",
    State.WAITING: "generating",
    State.STORING: "storing",
}


def check(source: State, target: State) -> None:
    """Raises ValueError when a task may not go from `source` to `target`."""
    if target not in EDGES[source]:
        raise ValueError(f"a task cannot go from {source} to {target}")


def states_of(status: str) -> tuple[State, ...]:
    """The states that a caller sees as `status`; empty for a word that is none."""
    return tuple(state for state, word in STATUS.items() if word == status)
