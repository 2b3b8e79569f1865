"""`/admin/v1` on money and limits: owners, the ledger, and orders whose outcome nobody learned."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Router, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from msgspec import UNSET, Meta, UnsetType

from gateway.core import accounts, ledger
from gateway.core.accounts import AccountRecord, Budget, Limits, Period
from gateway.core.errors import GatewayError, invalid
from gateway.core.ids import is_id
from gateway.core.pricing import USD, dollars, micro
from gateway.core.runtime import Runtime
from gateway.web.body import read_all, taking
from gateway.web.query import page_size, plain_text, whole_number

MOST_ENTRIES = 2**31 - 1
Usd = Annotated[str, Meta(description="Decimal USD, such as 10.00.")]
Rate = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Percent = Annotated[int, Meta(ge=1, le=100)]


class BudgetBody(msgspec.Struct, forbid_unknown_fields=True):
    """How much may be spent in each period; the log says when a threshold, in percent, is passed."""

    limit: Usd
    period: Period = "total"
    thresholds: tuple[Percent, ...] = (80, 100)


class LimitsBody(msgspec.Struct, forbid_unknown_fields=True):
    """How many new tasks in each minute, hour and day of UTC, and how many tasks at the same time; null: no limit."""

    requests_per_minute: Rate | None = None
    requests_per_hour: Rate | None = None
    requests_per_day: Rate | None = None
    concurrent: Rate | None = None


class BudgetChange(msgspec.Struct, forbid_unknown_fields=True):
    """What of a budget is to change: what is absent stays as it is, or has its usual value where there was none."""

    limit: Usd | UnsetType = UNSET
    period: Period | UnsetType = UNSET
    thresholds: tuple[Percent, ...] | UnsetType = UNSET


class RatesChange(msgspec.Struct, forbid_unknown_fields=True):
    """Which rates are to change: what is absent stays, and null takes a limit away."""

    requests_per_minute: Rate | UnsetType | None = UNSET
    requests_per_hour: Rate | UnsetType | None = UNSET
    requests_per_day: Rate | UnsetType | None = UNSET


class LimitsChange(RatesChange):
    """Which limits are to change."""

    concurrent: Rate | UnsetType | None = UNSET


class UsageBody(msgspec.Struct):
    """What of a budget is used in its current period, and how many tasks there are. Decimal USD."""

    spent: str
    reserved: str
    remaining: str | None
    resets_at: int | None
    waiting: int
    running: int


class OwnerRequest(msgspec.Struct):
    """What an owner's keys may spend and do together. What is absent stays; null takes a budget away."""

    budget: BudgetChange | UnsetType | None = UNSET
    limits: RatesChange | UnsetType = UNSET


class OwnerBody(msgspec.Struct):
    """An owner and how its account stands."""

    name: str
    budget: BudgetBody | None
    limits: LimitsBody
    usage: UsageBody
    object: str = "owner"


class OwnerList(msgspec.Struct):
    """All owners, by name."""

    data: list[OwnerBody]
    object: str = "list"


class EntryBody(msgspec.Struct):
    """One movement of money. `spent` and `reserved` are the account's balances after it. Decimal USD."""

    account: str
    sequence: int
    task_id: str
    kind: str
    amount: str
    spent: str
    reserved: str
    period_started_at: int
    at: int
    object: str = "ledger.entry"


class EntryList(msgspec.Struct):
    """Entries in their order; the last one's `sequence` is the `after` of the next page."""

    data: list[EntryBody]
    has_more: bool
    object: str = "list"


class SettleRequest(msgspec.Struct):
    """What an order of unknown outcome did cost; `"0"` releases what was reserved for it."""

    charged: Usd


class SettledBody(msgspec.Struct):
    """A task whose reservation was ended."""

    task_id: str
    charged: str


@put("/owners/{name:str}", operation_class=taking(OwnerRequest))
async def put_owner(request: Request[Any, Any, Any], rt: NamedDependency[Runtime], name: FromPath[str]) -> OwnerBody:
    """Makes an owner, or changes what its keys may spend and do together."""
    body = await read_all(request, OwnerRequest)
    id = accounts.owner_account(name)
    known = await accounts.read(rt, (id,)) if accounts.OWNER.fullmatch(name) else []
    budget = changed_budget(body.budget, known[0] if known else None)
    async with rt.db.write() as connection:
        await accounts.ensure_owner(connection, name, rt.now())
        await accounts.change(connection, id, rt.now(), budget=budget, limits=limits_of(body.limits))
    return _owner(await accounts.get(rt, id))


@get("/owners")
async def list_owners(rt: NamedDependency[Runtime]) -> OwnerList:
    """All owners."""
    return OwnerList([_owner(account) for account in await accounts.owners(rt)])


@get("/owners/{name:str}")
async def get_owner(rt: NamedDependency[Runtime], name: FromPath[str]) -> OwnerBody:
    """One owner."""
    return _owner(await accounts.of_owner(rt, name))


@get("/ledger")
async def list_entries(
    rt: NamedDependency[Runtime],
    account: FromQuery[str | None] = None,
    task_id: FromQuery[str | None] = None,
    after: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
) -> EntryList:
    """The ledger of an account (a key's id, or `owner:` and a name), or of a task."""
    if account is None and task_id is None:
        raise GatewayError("missing_parameter", "account or task_id is required.", param="account")
    size = page_size(limit)
    found = await ledger.entries(
        rt,
        account_id=plain_text("account", account),
        task_id=plain_text("task_id", task_id),
        after=whole_number("after", after, 0, MOST_ENTRIES) if after is not None else 0,
        limit=size + 1,
    )
    return EntryList([_entry(one) for one in found[:size]], len(found) > size)


@post("/tasks/{task_id:str}/settle", operation_class=taking(SettleRequest), status_code=200)
async def settle_task(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], task_id: FromPath[str]
) -> SettledBody:
    """Ends what is reserved for an order whose outcome was unknown, with what the provider's invoice says."""
    body = await read_all(request, SettleRequest)
    if not is_id(task_id, "task"):
        raise GatewayError("task_not_found", "There is no such task.")
    charged = _micro("charged", body.charged)
    await ledger.conclude(rt, task_id, charged)
    return SettledBody(task_id, dollars(charged))


def _micro(name: str, usd: str) -> int:
    """The amount in micro-USD."""
    if not USD.fullmatch(usd):
        message = f"{name} must be decimal USD such as 10.00: at most 9 digits, and 6 after the point."
        raise invalid(name.partition(".")[0], message)
    return micro(usd)


def budget_of(body: BudgetBody | UnsetType | None) -> Budget | UnsetType | None:
    """The budget in micro-USD."""
    if not isinstance(body, BudgetBody):
        return body
    return Budget(_micro("budget.limit", body.limit), body.period, body.thresholds)


def changed_budget(change: BudgetChange | UnsetType | None, account: AccountRecord | None) -> Budget | UnsetType | None:
    """The budget after a change; raises `missing_parameter` for a new one without a limit."""
    if change is None or isinstance(change, UnsetType):
        return change
    before = account.budget if account else None
    if before is None and change.limit is UNSET:
        raise GatewayError("missing_parameter", "budget.limit is required.", param="budget")
    known = before or Budget(0)
    return Budget(
        known.limit if isinstance(change.limit, UnsetType) else _micro("budget.limit", change.limit),
        known.period if isinstance(change.period, UnsetType) else change.period,
        known.thresholds if isinstance(change.thresholds, UnsetType) else change.thresholds,
    )


def limits_of(body: RatesChange | UnsetType | None) -> dict[str, int | None]:
    """The limits that are given, by the names that they have inside."""
    if isinstance(body, UnsetType):
        return {}
    if body is None:
        return dict.fromkeys(Limits.__struct_fields__)
    given = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name.removeprefix("requests_"): value for name, value in given.items() if value is not UNSET}


def budget_body(account: AccountRecord) -> BudgetBody | None:
    """An account's budget in the wire's words."""
    budget = account.budget
    return BudgetBody(dollars(budget.limit), budget.period, budget.thresholds) if budget else None


def limits_body(account: AccountRecord) -> LimitsBody:
    """An account's limits in the wire's words."""
    limits = account.limits
    return LimitsBody(limits.per_minute, limits.per_hour, limits.per_day, limits.concurrent)


def usage_body(account: AccountRecord) -> UsageBody:
    """How an account stands, in the wire's words."""
    return UsageBody(
        spent=dollars(account.spent),
        reserved=dollars(account.reserved),
        remaining=None if account.remaining is None else dollars(account.remaining),
        resets_at=None if account.resets_at is None else int(account.resets_at.timestamp()),
        waiting=account.waiting,
        running=account.running,
    )


def _owner(account: AccountRecord) -> OwnerBody:
    name = account.id.removeprefix("owner:")
    return OwnerBody(name, budget_body(account), limits_body(account), usage_body(account))


def _entry(entry: ledger.EntryRecord) -> EntryBody:
    return EntryBody(
        account=entry.account_id, sequence=entry.sequence, task_id=entry.task_id, kind=entry.kind,
        amount=dollars(entry.amount), spent=dollars(entry.spent), reserved=dollars(entry.reserved),
        period_started_at=int(entry.window_at.timestamp()), at=int(entry.at.timestamp()),
    )  # fmt: skip


router = Router(
    "/", route_handlers=[put_owner, list_owners, get_owner, list_entries, settle_task], tags=["Administration"]
)
SHAPES = (OwnerRequest, SettleRequest)
