"""Schedules: five fields as cron has them, in UTC, and a word for never."""

from __future__ import annotations

import datetime as dt

import pytest

from gateway.core.schedules import next_time
from gateway.core.settings import SettingsError, load

NOW = dt.datetime(2030, 1, 1, 12, 30, 15, tzinfo=dt.UTC)
BERLIN = dt.timezone(dt.timedelta(hours=1))


@pytest.mark.parametrize(
    ("schedule", "time"),
    [
        ("0 2 * * *", dt.datetime(2030, 1, 2, 2, tzinfo=dt.UTC)),
        ("30 12 * * *", dt.datetime(2030, 1, 2, 12, 30, tzinfo=dt.UTC)),
        ("*/20 * * * *", dt.datetime(2030, 1, 1, 12, 40, tzinfo=dt.UTC)),
        ("15 4 * * SUN", dt.datetime(2030, 1, 6, 4, 15, tzinfo=dt.UTC)),
        ("0 0 29 2 *", dt.datetime(2032, 2, 29, tzinfo=dt.UTC)),
        ("off", None),
    ],
)
def test_the_next_time(schedule: str, time: dt.datetime | None) -> None:
    """The first one after now, in UTC whatever zone the clock shows."""
    assert next_time(schedule, NOW) == next_time(schedule, NOW.astimezone(BERLIN)) == time


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("daily", 'must be "off", or five fields'),
        ("0 0 2 * * *", 'must be "off", or five fields'),
        ("60 2 * * *", "is no schedule: bad minute"),
        ("0 0 31 2 *", "is no schedule: bad day-of-month"),
        ("* * */20 * 1L", "is a time that never comes"),
    ],
)
def test_what_is_no_schedule_is_refused_at_the_start(schedule: str, said: str) -> None:
    """With the name of the setting, and what would be right."""
    with pytest.raises(SettingsError) as caught:
        load({"HELIOGRAPH_CLEANING_SCHEDULE": schedule})
    assert str(caught.value).startswith(f"HELIOGRAPH_CLEANING_SCHEDULE {said}")
