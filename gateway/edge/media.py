"""`/admin/v1/media`: what is kept for whom, and cleaning up at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec
from litestar import Request, Router, get, post
from litestar.di import NamedDependency

from gateway.core import cleanup, inventory
from gateway.core.cleanup import Report
from gateway.core.inventory import Held
from gateway.core.runtime import Runtime
from gateway.web.body import read_all, taking
from providers.contract import Kind

# No longer, for proxies do not wait for ever; what is left then goes on by itself.
SECONDS = 30.0


class AmountBody(msgspec.Struct):
    """So many of them, and their bytes together; of media without the small pictures beside them, as owners see it."""

    count: int = 0
    bytes: int = 0


class KeyAmount(msgspec.Struct):
    """What one key has."""

    id: str
    name: str
    total: AmountBody
    kinds: dict[str, AmountBody]


class ReportBody(msgspec.Struct):
    """What a cleanup has erased, or with `dry_run` would: tasks, of which the bill is left, and what was theirs.

    `inputs` are pictures that came with requests; `orphans` objects that nothing refers to; `failed` what the store did
    not let go. `missing` counts media whose bytes are gone, `missing_ids` names the first of them, and `given_up`
    counts those deleted for it, which are among the `media`. One that is not `complete` goes on by itself, unless it
    was a dry run.
    """

    dry_run: bool
    complete: bool
    tasks: int
    media: AmountBody
    inputs: AmountBody
    orphans: AmountBody
    failed: int
    missing: int
    missing_ids: list[str]
    given_up: int
    notes: list[str]
    object: str = "media.cleanup"


class Statistics(msgspec.Struct):
    """What is kept, in all, by kind and by key; how long, in days (0: for ever) unless a key says; and the cleanups."""

    total: AmountBody
    kinds: dict[str, AmountBody]
    keys: list[KeyAmount]
    retention_days: int
    next_cleanup_at: int | None
    last_cleanup_at: int | None
    last_cleanup: ReportBody | None
    object: str = "media.statistics"


class CleanupRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Unless `dry_run` is false, it only says what would go. `give_up` deletes media whose bytes are gone, for good."""

    dry_run: bool = True
    give_up: bool = False


@get("/media/statistics")
async def media_statistics(rt: NamedDependency[Runtime]) -> Statistics:
    """How many media are kept, and how many bytes: in all, by kind and by key."""
    held = await inventory.held(rt)
    standing = await cleanup.standing(rt)
    due_at = standing.due_at if standing.started_at is None else standing.started_at
    return Statistics(
        total=_amount(held),
        kinds=_kinds(held),
        keys=[_of_key([one for one in held if one.key_id == id]) for id in dict.fromkeys(one.key_id for one in held)],
        retention_days=rt.settings.retention_days,
        next_cleanup_at=_unix(due_at),
        last_cleanup_at=_unix(standing.ended_at),
        last_cleanup=None if standing.report is None else _report(standing.report),
    )


@post("/media/cleanup", operation_class=taking(CleanupRequest), status_code=200)
async def clean_up(request: Request[Any, Any, Any], rt: NamedDependency[Runtime]) -> ReportBody:
    """Erases what is over and what nothing refers to; by default it only says what that would be."""
    body = await read_all(request, CleanupRequest)
    return _report(await cleanup.run(rt, dry_run=body.dry_run, seconds=SECONDS, give_up=body.give_up))


def _amount(held: Iterable[Held]) -> AmountBody:
    held = list(held)
    return AmountBody(sum(one.count for one in held), sum(one.bytes for one in held))


def _kinds(held: Iterable[Held]) -> dict[str, AmountBody]:
    held = list(held)
    return {kind.value: _amount(one for one in held if one.kind == kind) for kind in Kind}


def _of_key(held: list[Held]) -> KeyAmount:
    return KeyAmount(held[0].key_id, held[0].name, _amount(held), _kinds(held))


def _report(report: Report) -> ReportBody:
    return msgspec.convert(msgspec.to_builtins(report), ReportBody)


def _unix(time: dt.datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())


router = Router("/", route_handlers=[media_statistics, clean_up], tags=["Administration"])
SHAPES = (CleanupRequest,)
