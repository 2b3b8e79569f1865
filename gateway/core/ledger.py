"""The ledger: what is reserved for tasks and what they cost, in integer micro-USD and entries that are never changed.

A task is booked on its key's account and on the key's owner's, if it has one. One conditional UPDATE over both takes
what it may cost, in the transaction that makes it; what it did cost is settled in the one that ends it.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Update, and_, bindparam, case, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import accounts, outbox
from gateway.core.accounts import RATES, Budget, account_ids
from gateway.core.errors import GatewayError, counted
from gateway.core.pricing import dollars
from gateway.core.runtime import Runtime
from gateway.core.tables import ACCOUNTS, ENTRIES, TASKS

log = logging.getLogger(__name__)
A = ACCOUNTS.c
AT_ONCE = 100
Kind = Literal["reservation", "charge", "overrun", "release", "expiry"]


class Movement(NamedTuple):
    """One entry to be: what it does to what is reserved and to what is spent."""

    kind: Kind
    amount: int
    reserved: int
    spent: int


class EntryRecord(msgspec.Struct, frozen=True):
    """An entry. `spent` and `reserved` are the account's balances after it."""

    account_id: str
    sequence: int
    task_id: str
    kind: str
    amount: int
    spent: int
    reserved: int
    window_at: dt.datetime
    at: dt.datetime


def _reservation(amount: int) -> list[Movement]:
    return [Movement("reservation", amount, amount, 0)] if amount else []


def _settlement(held: int, charged: int) -> list[Movement]:
    """From what was held: the charge; beyond it, if need be, an overrun for everybody to see; the rest is released."""
    covered = min(held, charged)
    every = (
        Movement("charge", covered, -covered, covered),
        Movement("overrun", charged - covered, 0, charged - covered),
        Movement("release", held - covered, covered - held, 0),
    )
    return [one for one in every if one.amount]


def _conclusion(held: int, charged: int | None, *, settled: bool) -> list[Movement]:
    """From what was held for what nobody knew; a task that is `settled` for the rest has its charge already."""
    if charged is not None and not settled:
        return _settlement(held, charged)
    every = Movement("expiry", held, -held, 0), Movement("overrun", charged or 0, 0, charged or 0)
    return [one for one in every if one.amount]


def share(held: int, charged: int | None, unknown: int, n: int) -> int:
    """What of a hold is for so many of n outputs; never what is charged for the others."""
    return min(held * unknown // n, max(held - (charged or 0), 0))


async def reserve(
    connection: AsyncConnection, rt: Runtime, key_id: str, owner: str | None, amount: int, *, here: bool
) -> Reserved:
    """Takes the amount, a request of every rate, and a place in the line: all of it or nothing.

    With `here` it takes a slot in place of the place in the line. Raises `insufficient_quota` or
    `rate_limit_exceeded`; the transaction is then to be rolled back.
    """
    ids, now, movements = account_ids(key_id, owner), rt.now(), _reservation(amount)
    starts = {f"start_{name}": start for name, start in accounts.windows(now).items()}
    # What keeps a request out may be gone at the second look: a minute ended, or another's reservation was rolled back.
    for _ in range(2):
        rows = await _move(connection, RESERVE, ids, starts, movements, key_id, 0 if here else 1, 1 if here else 0)
        if len(rows) == len(ids):
            return Reserved(key_id, rows, movements, now)
        refusal = await _refusal(connection, ids, now, amount)
        if rows or refusal is not None:
            break
    raise refusal or GatewayError(
        "rate_limit_exceeded", "The account is busy. Please retry after 1 second.", retry_after=1
    )


async def look(rt: Runtime, key_id: str, owner: str | None, amount: int) -> None:
    """Raises what `reserve` would surely raise now, and takes nothing: a look that spares work, and decides nothing."""
    async with rt.db.read() as connection:
        refusal = await _refusal(connection, account_ids(key_id, owner), rt.now(), amount)
    if refusal is not None:
        raise refusal


class Reserved(NamedTuple):
    """A reservation whose entries are still to be written, when its task has a row. `rows`: the accounts after it."""

    key_id: str
    rows: Sequence[RowMapping]
    movements: list[Movement]
    now: dt.datetime

    async def record(self, connection: AsyncConnection, rt: Runtime, task_id: str) -> None:
        """Writes the entries."""
        await _record(connection, rt, self.rows, self.movements, task_id, self.now)


async def settle(
    connection: AsyncConnection, rt: Runtime, task: Mapping[str, Any], charged: int | None, *, kept: int = 0
) -> bool:
    """Ends what is held for a task, with what it cost, and gives its slot back; whether another has waited for that.

    What is `kept` of it stays reserved, until somebody knows what became of the order.
    """
    movements = _settlement(task["held"] - kept, charged or 0)
    rows = await _book(connection, rt, task, movements, running=-1)
    most = rt.settings.key_concurrency
    return any(
        row["waiting"] and row["running"] + 1 >= (most if row["concurrent"] is None else row["concurrent"])
        for row in rows if row["id"] == task["key_id"]
    )  # fmt: skip


async def conclude(rt: Runtime, task_id: str, charged: int | None) -> None:
    """Ends the hold of a task whose outcome was unknown: charges what the operator found out, or releases (None).

    What was charged already, for the part of it that was delivered, stands. Raises `task_not_held`.
    """
    async with rt.db.write() as connection:
        mine = update(TASKS).where(TASKS.c.id == task_id, TASKS.c.held_until.is_not(None))
        task = (await connection.execute(mine.values(held_until=None).returning(TASKS))).mappings().first()
        if task is None:
            raise GatewayError("task_not_held", "Nothing is held for that task.")
        held = task["held"]
        movements = _conclusion(held, charged, settled=await _is_settled(connection, task_id))
        whole = task["charged"] if charged is None else charged + (task["charged"] or 0)
        await connection.execute(update(TASKS).where(TASKS.c.id == task_id).values(held=0, charged=whole))
        await _book(connection, rt, task, movements, running=0)
    log.warning("%s: the hold of %s ended, charged %s", task_id, dollars(held), charged)


async def _is_settled(connection: AsyncConnection, task_id: str) -> bool:
    """Whether what is known of the task was settled; then only what nobody knew is still held."""
    of_task = ENTRIES.c.task_id == task_id, ENTRIES.c.kind.in_(("charge", "release"))
    return (await connection.execute(select(ENTRIES.c.kind).where(*of_task).limit(1))).first() is not None


async def expire(rt: Runtime) -> None:
    """Releases what was held long enough for orders of which nobody learned the outcome."""
    late = select(TASKS.c.id).where(TASKS.c.held_until <= rt.now()).limit(AT_ONCE)
    async with rt.db.read() as connection:
        found = (await connection.execute(late)).scalars().all()
    for task_id in found:
        try:
            await conclude(rt, task_id, None)
        except GatewayError:
            log.info("%s: the hold was ended by somebody else", task_id)


async def entries(
    rt: Runtime, *, account_id: str | None = None, task_id: str | None = None, after: int = 0, limit: int = 100
) -> list[EntryRecord]:
    """Entries of an account, or of a task, in their order; `after` is the last number of the page before."""
    statement = select(ENTRIES).where(ENTRIES.c.sequence > after)
    if account_id is not None:
        statement = statement.where(ENTRIES.c.account_id == account_id)
    if task_id is not None:
        statement = statement.where(ENTRIES.c.task_id == task_id)
    async with rt.db.read() as connection:
        rows = await connection.execute(statement.order_by(ENTRIES.c.account_id, ENTRIES.c.sequence).limit(limit))
        return [EntryRecord(**row) for row in rows.mappings()]


async def _book(
    connection: AsyncConnection, rt: Runtime, task: Mapping[str, Any], movements: list[Movement], *, running: int
) -> Sequence[RowMapping]:
    """Moves what a task has reserved, and the count of those that run; the accounts after it."""
    now, ids = rt.now(), account_ids(task["key_id"], task["owner"])
    starts = {f"start_{name}": start for name, start in accounts.windows(now).items() if name not in ("minute", "hour")}
    rows = await _move(connection, BOOK, ids, starts, movements, task["key_id"], 0, running)
    await _record(connection, rt, rows, movements, task["id"], now)
    return rows


async def _move(
    connection: AsyncConnection, statement: Update, ids: Sequence[str], starts: Mapping[str, dt.datetime],
    movements: list[Movement], key_id: str, waiting: int, running: int,
) -> Sequence[RowMapping]:  # fmt: skip
    parameters = {
        **starts, "accounts": list(ids), "to_key_id": key_id, "to_waiting": waiting, "to_running": running,
        "to_reserved": sum(one.reserved for one in movements), "to_spent": sum(one.spent for one in movements),
        "entries": len(movements),
    }  # fmt: skip
    return (await connection.execute(statement, parameters)).mappings().all()


async def _record(
    connection: AsyncConnection, rt: Runtime, rows: Sequence[RowMapping], movements: list[Movement], task_id: str,
    now: dt.datetime,
) -> None:  # fmt: skip
    """Writes the entries of movements that the rows, as they are now, have in them already."""
    if not movements:
        return
    written = []
    for row in rows:
        reserved = row["reserved"] - sum(one.reserved for one in movements)
        spent = row["spent"] - sum(one.spent for one in movements)
        for number, one in enumerate(movements, row["sequence"] - len(movements) + 1):
            reserved, spent = reserved + one.reserved, spent + one.spent
            written.append({
                "account_id": row["id"], "sequence": number, "task_id": task_id, "kind": one.kind, "amount": one.amount,
                "spent": spent, "reserved": reserved, "window_at": row["window_at"], "at": now,
            })  # fmt: skip
        await _notice(connection, rt, row, sum(one.reserved + one.spent for one in movements))
    await connection.execute(insert(ENTRIES), written)


async def _notice(connection: AsyncConnection, rt: Runtime, row: RowMapping, moved: int) -> None:
    """Says which threshold of a budget was just passed: in the log, and once in a period to who listens."""
    if not row["budget"]:
        return
    after, budget = row["spent"] + row["reserved"], row["budget"]
    for percent in sorted({*row["thresholds"], 100}):
        if not after - moved < budget * percent / 100 <= after:
            continue
        log.warning("%s has used %s %% of its budget of %s", row["id"], percent, dollars(budget))
        data = {
            "account": row["id"], "threshold": percent, "budget": dollars(budget), "spent": dollars(row["spent"]),
            "reserved": dollars(row["reserved"]), "period_started_at": int(row["window_at"].timestamp()),
        }  # fmt: skip
        type = outbox.EXCEEDED if percent == 100 else outbox.THRESHOLD
        once = f"{row['id']} {row['window_at'].isoformat()} {budget} {percent}"
        await outbox.announce(connection, rt, row["id"], type, data, once=once)


async def _refusal(
    connection: AsyncConnection, ids: Sequence[str], now: dt.datetime, amount: int
) -> GatewayError | None:
    """Why the accounts did not admit the task; None when they would now."""
    rows = (await connection.execute(select(ACCOUNTS).where(A.id.in_(ids)))).mappings().all()
    if len(rows) < len(ids):
        raise LookupError(f"there is no account for {', '.join(ids)}")
    for account in (accounts.record(row, now) for row in rows):
        used_up = [rate for rate in account.rates if rate.left == 0]
        if used_up:
            seconds = max(math.ceil((max(rate.resets_at for rate in used_up) - now).total_seconds()), 1)
            most = " and ".join(f"{counted(rate.limit, 'request')} per {rate.each}" for rate in used_up)
            message = f"Rate limit reached: {most}. Please retry after {counted(seconds, 'second')}."
            return GatewayError("rate_limit_exceeded", message, retry_after=seconds)
        budget, left = account.budget, account.remaining
        if budget is not None and left is not None and left < amount:
            return GatewayError("insufficient_quota", _short(budget, left, account.resets_at, amount))
    return None


def _short(budget: Budget, left: int, resets_at: dt.datetime | None, amount: int) -> str:
    until = "" if resets_at is None else f" It begins anew at {resets_at:%Y-%m-%d %H:%M} UTC."
    return (
        f"This could cost ${dollars(amount)}, and of the budget of ${dollars(budget.limit)} "
        f"${dollars(left)} is left.{until}"
    )


# The statements are built once: what changes is in their parameters.

_PERIOD_START: ColumnElement[dt.datetime] = case(
    *((A.period == name, bindparam(f"start_{name}", type_=A.window_at.type)) for name in ("day", "week", "month")),
    else_=A.window_at,
)
_NEW_WINDOW = A.window_at < _PERIOD_START
_SPENT = case((_NEW_WINDOW, 0), else_=A.spent)
_IS_KEY = A.id == bindparam("to_key_id")


def _booking() -> Update:
    """Moves money on the accounts and counts the key's tasks. Both accounts are locked in one order, always."""
    locked = select(A.id).where(A.id.in_(bindparam("accounts", expanding=True))).order_by(A.id).with_for_update()
    return (
        update(ACCOUNTS)
        .where(A.id.in_(locked))
        .values(
            window_at=case((_NEW_WINDOW, _PERIOD_START), else_=A.window_at),
            spent=_SPENT + bindparam("to_spent"),
            reserved=A.reserved + bindparam("to_reserved"),
            sequence=A.sequence + bindparam("entries"),
            waiting=A.waiting + case((_IS_KEY, bindparam("to_waiting")), else_=0),
            running=A.running + case((_IS_KEY, bindparam("to_running")), else_=0),
        )
        .returning(*(A[name] for name in (
            "id", "budget", "thresholds", "window_at", "spent", "reserved", "sequence", "waiting", "running",
            "concurrent",
        )))
    )  # fmt: skip


def _admitting() -> Update:
    """As `_booking`, for accounts whose budget and rates have room for one more task."""
    statement = _booking()
    room = [or_(A.budget.is_(None), _SPENT + A.reserved + bindparam("to_reserved") <= A.budget)]
    for name in RATES:
        start = bindparam(f"start_{name}", type_=A.minute_at.type)
        used = case((start > A[f"{name}_at"], 0), else_=A[f"{name}_used"])
        room.append(or_(A[f"per_{name}"].is_(None), used < A[f"per_{name}"]))
        statement = statement.values({
            f"{name}_used": used + 1, f"{name}_at": case((start > A[f"{name}_at"], start), else_=A[f"{name}_at"]),
        })  # fmt: skip
    return statement.where(and_(*room))


BOOK, RESERVE = _booking(), _admitting()
