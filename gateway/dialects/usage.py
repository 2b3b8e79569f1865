"""`GET /v1/usage`: what a key has made and spent, and what it still may."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from gateway.core import accounts, usage
from gateway.core.accounts import AccountRecord, account_ids
from gateway.core.errors import invalid
from gateway.core.keys import Caller
from gateway.core.pricing import dollars
from gateway.core.runtime import Runtime
from gateway.core.usage import ModelUsage
from gateway.web.query import whole_number
from providers.contract import Kind

LAST = 253_402_300_799
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
Time = Annotated[str | None, QueryParameter(name="from", description="Unix seconds, or a date such as 2026-11-01.")]
Until = Annotated[str | None, QueryParameter(name="to", description="Until then, exclusive; in the same forms.")]


class ModelCost(msgspec.Struct):
    """How many outputs a model has brought, and what they cost in decimal USD."""

    count: int
    cost: str


class MediaUsage(msgspec.Struct):
    """What was made in the time; the totals are the sums of the parts."""

    imagesGenerated: int  # noqa: N815 - these names are the contract of existing clients
    videosGenerated: int  # noqa: N815 - as above
    totalCost: str  # noqa: N815 - as above
    breakdown: dict[str, ModelCost]


class BudgetUsage(msgspec.Struct):
    """A budget, and what of it is used in its current period, by the very numbers that admission reads."""

    account: str
    limit: str | None
    period: str | None
    spent: str
    reserved: str
    remaining: str | None
    resets_at: int | None
    thresholds: dict[str, bool]


class RateUsage(msgspec.Struct):
    """One limit on requests, and what is left of it."""

    limit: int
    remaining: int
    resets_at: int


class LimitUsage(msgspec.Struct):
    """The key's limits; `concurrent` is null where only the installation's holds."""

    requests: list[RateUsage]
    concurrent: int | None
    running: int
    waiting: int


class UsageReport(msgspec.Struct):
    """`budget` is the one that is used up first; `budgets` are the key's own and its owner's."""

    mediaUsage: MediaUsage  # noqa: N815 - these names are the contract of existing clients
    budget: BudgetUsage
    budgets: list[BudgetUsage]
    limits: LimitUsage


@get("/v1/usage")
async def get_usage(
    rt: NamedDependency[Runtime], caller: NamedDependency[Caller], since: Time = None, until: Until = None
) -> UsageReport:
    """What the key's tasks have brought and cost from a time on, and how its budget and limits stand."""
    start = _time("from", since, dt.datetime.fromtimestamp(0, dt.UTC))
    end = _time("to", until, dt.datetime.fromtimestamp(LAST, dt.UTC))
    if end < start:
        raise invalid("to", "to must not be before from.")
    found = await accounts.read(rt, account_ids(caller.key_id, caller.owner))
    budgets = [_budget(account) for account in found]
    tightest = min(found, key=lambda one: (one.remaining is None, one.remaining or 0))
    return UsageReport(
        _media(await usage.by_model(rt, caller.key_id, start, end)),
        budgets[found.index(tightest)],
        budgets,
        _limits(found),
    )


def _media(found: list[ModelUsage]) -> MediaUsage:
    def count(kind: Kind) -> int:
        return sum(one.count for one in found if one.kind == kind)

    # A name may have stood for models of several kinds.
    parts = {model: [one for one in found if one.model == model] for model in dict.fromkeys(one.model for one in found)}
    breakdown = {
        model: ModelCost(sum(one.count for one in part), dollars(sum(one.cost for one in part)))
        for model, part in parts.items()
    }
    total = dollars(sum(one.cost for one in found))
    return MediaUsage(count(Kind.IMAGE), count(Kind.VIDEO), total, breakdown)


def _budget(account: AccountRecord) -> BudgetUsage:
    budget = account.budget
    used = account.spent + account.reserved
    return BudgetUsage(
        account="key" if account.id.startswith("key_") else account.id,
        limit=None if budget is None else dollars(budget.limit),
        period=None if budget is None else budget.period,
        spent=dollars(account.spent),
        reserved=dollars(account.reserved),
        remaining=None if account.remaining is None else dollars(account.remaining),
        resets_at=None if account.resets_at is None else int(account.resets_at.timestamp()),
        thresholds={str(one): used * 100 >= budget.limit * one for one in budget.thresholds} if budget else {},
    )


def _limits(found: list[AccountRecord]) -> LimitUsage:
    rates = [rate for account in found for rate in account.rates]
    key = found[0]
    return LimitUsage(
        [RateUsage(one.limit, one.left, int(one.resets_at.timestamp())) for one in rates],
        key.limits.concurrent,
        key.running,
        key.waiting,
    )


def _time(name: str, text: str | None, default: dt.datetime) -> dt.datetime:
    if text is None:
        return default
    if not DAY.fullmatch(text):
        return dt.datetime.fromtimestamp(whole_number(name, text, 0, LAST), dt.UTC)
    try:
        return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise invalid(name, f"{name} is no day of the calendar.") from error


router = Router("/", route_handlers=[get_usage], tags=["Usage"])
