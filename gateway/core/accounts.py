"""Accounts: what a virtual key, or an owner with several keys, may spend and do, and how it stands now."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.errors import GatewayError, allowed, invalid
from gateway.core.runtime import Runtime
from gateway.core.tables import ACCOUNTS

Period = Literal["day", "week", "month", "total"]
PERIODS: tuple[Period, ...] = get_args(Period)
RATES = {"minute": dt.timedelta(minutes=1), "hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1)}
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Budget(msgspec.Struct, frozen=True):
    """How much may be spent in each period, in micro-USD; `thresholds` are the percentages worth a word."""

    limit: int
    period: Period = "total"
    thresholds: tuple[int, ...] = (80, 100)


class Limits(msgspec.Struct, frozen=True):
    """How many new tasks a minute, hour and day (each as the clock has it, in UTC), and how many at the same time."""

    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    concurrent: int | None = None


class Rate(msgspec.Struct, frozen=True):
    """One limit on new tasks, in each minute, hour or day: how many of how many are left until `resets_at`."""

    each: str
    limit: int
    left: int
    resets_at: dt.datetime


class AccountRecord(msgspec.Struct, frozen=True):
    """An account as it stands: `spent` is that of the current period. Amounts are micro-USD."""

    id: str
    budget: Budget | None
    limits: Limits
    spent: int
    reserved: int
    waiting: int
    running: int
    window_at: dt.datetime
    resets_at: dt.datetime | None
    rates: tuple[Rate, ...]

    @property
    def remaining(self) -> int | None:
        """What the budget still allows; None without one."""
        return None if self.budget is None else max(self.budget.limit - self.spent - self.reserved, 0)


def account_ids(key_id: str, owner: str | None) -> tuple[str, ...]:
    """The accounts that a key's tasks are booked on."""
    return (key_id,) if owner is None else (key_id, owner_account(owner))


def owner_account(owner: str) -> str:
    """The id of an owner's account."""
    return f"owner:{owner}"


def windows(now: dt.datetime) -> dict[str, dt.datetime]:
    """When the current minute, hour, day, week (from Monday) and month began, in UTC."""
    minute = now.astimezone(dt.UTC).replace(second=0, microsecond=0)
    day = minute.replace(hour=0, minute=0)
    return {
        "minute": minute,
        "hour": minute.replace(minute=0),
        "day": day,
        "week": day - dt.timedelta(days=day.weekday()),
        "month": day.replace(day=1),
    }


def end_of(period: str, start: dt.datetime) -> dt.datetime | None:
    """When a period that began at `start` ends; None for one that never does."""
    if period == "month":
        return (start + dt.timedelta(days=32)).replace(day=1)
    days = {"day": 1, "week": 7}.get(period)
    return None if days is None else start + dt.timedelta(days=days)


async def make(connection: AsyncConnection, id: str, key_id: str | None, now: dt.datetime) -> None:
    """Makes an account without any limit, in the transaction that makes whom it belongs to."""
    at = windows(now)
    row: dict[str, Any] = {f"{name}_at": at[name] for name in RATES} | {f"{name}_used": 0 for name in RATES}
    row |= dict.fromkeys(("spent", "reserved", "sequence", "waiting", "running"), 0)
    row |= {"id": id, "key_id": key_id, "period": "total", "thresholds": [], "window_at": now, "served_at": now}
    await connection.execute(insert(ACCOUNTS), row)


async def lock(connection: AsyncConnection, id: str) -> None:
    """Waits for whoever is changing the account, and keeps others waiting until the transaction ends."""
    await connection.execute(select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == id).with_for_update())


async def ensure_owner(connection: AsyncConnection, owner: str, now: dt.datetime) -> None:
    """Makes the owner's account unless there is one; raises what is wrong with the name."""
    if not OWNER.fullmatch(owner):
        raise invalid("owner", "owner must be 1 to 64 letters, digits, dots, dashes or underscores.")
    id = owner_account(owner)
    if (await connection.execute(select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == id))).first() is None:
        # Somebody else may be making it just now.
        with suppress(IntegrityError):
            async with connection.begin_nested():
                await make(connection, id, None, now)


async def change(
    connection: AsyncConnection,
    id: str,
    now: dt.datetime,
    *,
    budget: Budget | msgspec.UnsetType | None = msgspec.UNSET,
    limits: Limits | Mapping[str, int | None] | None = None,
) -> None:
    """Sets the budget (None: no end) or those limits that are given. A budget of another period counts anew."""
    values: dict[str, Any] = msgspec.structs.asdict(limits) if isinstance(limits, Limits) else dict(limits or {})
    if budget is not msgspec.UNSET:
        values |= {"budget": None} if budget is None else _budget_values(budget)
    if not values:
        return
    if isinstance(budget, Budget):
        period = select(ACCOUNTS.c.period).where(ACCOUNTS.c.id == id).with_for_update()
        if (await connection.execute(period)).scalar_one() != budget.period:
            values |= {"spent": 0, "window_at": windows(now).get(budget.period, now)}
    await connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == id).values(values))


def _budget_values(budget: Budget) -> dict[str, Any]:
    if budget.period not in PERIODS:
        raise allowed("budget.period", budget.period, PERIODS)
    if budget.limit < 0:
        raise invalid("budget.limit", "budget.limit must not be negative.")
    if any(not 1 <= one <= 100 for one in budget.thresholds):
        raise invalid("budget.thresholds", "budget.thresholds are percentages from 1 to 100.")
    return {"budget": budget.limit, "period": budget.period, "thresholds": sorted(set(budget.thresholds))}


async def of_owner(rt: Runtime, owner: str) -> AccountRecord:
    """The account of an owner; raises `account_not_found`, also for a name that none can have."""
    if not OWNER.fullmatch(owner):
        raise GatewayError("account_not_found", "There is no such account.")
    return await get(rt, owner_account(owner))


async def get(rt: Runtime, id: str) -> AccountRecord:
    """One account as it stands; raises `account_not_found`."""
    found = await read(rt, (id,))
    if not found:
        raise GatewayError("account_not_found", "There is no such account.")
    return found[0]


async def read(rt: Runtime, ids: tuple[str, ...]) -> list[AccountRecord]:
    """Those of the accounts that there are, in the order given."""
    async with rt.db.read() as connection:
        rows = (await connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id.in_(ids)))).mappings().all()
    found = {row["id"]: record(row, rt.now()) for row in rows}
    return [found[id] for id in ids if id in found]


async def of_keys(rt: Runtime) -> dict[str, AccountRecord]:
    """The accounts of all keys, by the key's id."""
    statement = select(ACCOUNTS).where(ACCOUNTS.c.key_id.is_not(None))
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).mappings().all()
    return {row["id"]: record(row, rt.now()) for row in rows}


async def owners(rt: Runtime) -> list[AccountRecord]:
    """The accounts of all owners, by name."""
    statement = select(ACCOUNTS).where(ACCOUNTS.c.key_id.is_(None)).order_by(ACCOUNTS.c.id)
    async with rt.db.read() as connection:
        return [record(row, rt.now()) for row in (await connection.execute(statement)).mappings()]


def record(row: Any, now: dt.datetime) -> AccountRecord:
    """The account of a row, with what has passed since put right: a period or minute that is over counts no more."""
    at = windows(now)
    start = max(row["window_at"], at.get(row["period"], row["window_at"]))
    budget = None
    if row["budget"] is not None:
        budget = Budget(row["budget"], row["period"], tuple(row["thresholds"]))
    return AccountRecord(
        id=row["id"],
        budget=budget,
        limits=Limits(row["per_minute"], row["per_hour"], row["per_day"], row["concurrent"]),
        spent=row["spent"] if start == row["window_at"] else 0,
        reserved=row["reserved"],
        waiting=row["waiting"],
        running=row["running"],
        window_at=start,
        resets_at=end_of(row["period"], start) if budget else None,
        rates=tuple(_rate(row, name, at[name]) for name in RATES if row[f"per_{name}"] is not None),
    )


def _rate(row: Any, name: str, start: dt.datetime) -> Rate:
    start = max(start, row[f"{name}_at"])
    used = row[f"{name}_used"] if row[f"{name}_at"] == start else 0
    limit = row[f"per_{name}"]
    return Rate(name, limit, max(limit - used, 0), start + RATES[name])
