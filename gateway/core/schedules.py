"""Schedules: when something is next to be done, from the five fields of cron, in UTC."""

from __future__ import annotations

import datetime as dt

from cronsim import CronSim, CronSimError

OFF = "off"
FIELDS = 5


def next_time(schedule: str, now: dt.datetime) -> dt.datetime | None:
    """The first time of the schedule after `now`; None for "off". Raises ValueError for what is no schedule."""
    if schedule == OFF:
        return None
    if len(schedule.split()) != FIELDS:
        raise ValueError(
            f'must be "{OFF}", or five fields as in "0 2 * * *": minute, hour, day, month, day of the week'
        )
    try:
        found: dt.datetime = next(CronSim(schedule, now.astimezone(dt.UTC)))
    except CronSimError as error:
        raise ValueError(f"is no schedule: {str(error)[:1].lower()}{str(error)[1:]}") from error
    except StopIteration as error:
        raise ValueError("is a time that never comes") from error
    return found
