"""Ids: their form, their order, and what is not one."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import ids
from tests.core.world import START

TIMES = st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - bounds


@given(TIMES)
def test_a_new_id_has_the_form_of_one(time: dt.datetime) -> None:
    """What `new` makes, `is_id` knows, for its own prefix only."""
    made = ids.new("task", time)
    assert ids.is_id(made, "task")
    assert ids.is_id(made, "img", "task")
    assert not ids.is_id(made, "img")


@given(TIMES, st.integers(1, 10**12))
def test_later_ids_sort_later(time: dt.datetime, milliseconds: int) -> None:
    """An id born at least a millisecond later sorts behind, as text."""
    later = time + dt.timedelta(milliseconds=milliseconds + 1)
    assert ids.new("task", time) < ids.new("task", later)


def test_ids_of_one_moment_differ() -> None:
    """Ten thousand ids of the same millisecond are all different, and begin alike."""
    made = {ids.new("task", START) for _ in range(10_000)}
    assert len(made) == 10_000
    assert len({one[:14] for one in made}) == 1


GOOD = "task_01pd3k6c00x8m2h5vq7jt4wyzn"


@pytest.mark.parametrize(
    "text",
    [
        "", "task_", GOOD[:-1], GOOD + "0", GOOD + "\n", GOOD + " ", GOOD.upper(), GOOD.replace("_", "-"),
        "task_" + GOOD, "../" + GOOD, GOOD[:-1] + "l", GOOD[:-1] + "٣", GOOD[:-1] + "\0",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_id_is_not_taken_for_one(text: str) -> None:
    """A slip anywhere in an id, line breaks and foreign digits included, makes it none."""
    assert not ids.is_id(text, "task")
