"""Faults planted in the core, each of which the simulation has to find."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest.mock import patch

from sqlalchemy import RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import (
    acceptance,
    advance,
    assets,
    claims,
    deliveries,
    events,
    failures,
    ledger,
    outbox,
    storing,
    sweep,
    turns,
)
from gateway.core.assets import Landed
from gateway.core.ports import Message
from gateway.core.runtime import Runtime
from gateway.core.tables import TASKS
from gateway.core.turns import Turn
from gateway.core.work import Work
from providers.contract import Provider, Unsure
from storage.database import DatabaseUnavailable


class Planted(NamedTuple):
    """A fault, as a patch, and a word of what is found wrong then."""

    patch: AbstractContextManager[Any]
    word: str


async def _sends_again(work: Work, attempt: RowMapping, provider: Provider) -> None:
    await advance._send(work, attempt["number"], provider, attempt["model"], (), again=True)


async def _does_not_look(turn: Turn, connection: AsyncConnection, values: dict[str, Any]) -> None:
    mine = update(TASKS).where(TASKS.c.id == turn.id)
    await connection.execute(mine.values({name: value for name, value in values.items() if name in TASKS.c}))


async def _takes_anything(db: Any, table: Any, message: Message, now: Any, lease: float) -> Turn | None:
    values = {"version": table.c.version + 1, "rings": 0, "due_at": now() + dt.timedelta(seconds=lease)}
    mine = update(table).where(table.c.id == message.id, table.c.due_at.is_not(None))
    async with db.write_one() as connection:
        row = (await connection.execute(mine.values(values).returning(table))).mappings().one_or_none()
    return Turn(db, table, row, now, lease) if row is not None else None


async def _forgets(*_: Any) -> None:
    return None


async def _keeps_the_hold(
    connection: AsyncConnection, rt: Runtime, task: Mapping[str, Any], charged: int | None, *, kept: int = 0
) -> bool:
    return await _SETTLE(connection, rt, task, charged, kept=task["held"] if charged is None else kept)


async def _keeps_the_slot(*given: Any, **more: Any) -> Any:
    return await _BOOK(*given, **more | {"running": 0})


async def _books_twice(*given: Any, **more: Any) -> Any:
    await _BOOK(*given, **more)
    return await _BOOK(*given, **more)


async def _believes(_: Work) -> bool:
    return True


async def _gives_up(*_: Any, **__: Any) -> str | None:
    raise DatabaseUnavailable("the commit was not answered")


async def _finds_room(*_: Any, here: bool) -> bool:
    return here


async def _no_bytes(rt: Runtime, kind: str, key: str, landed: Landed, data: bytes, *_: Any) -> Landed:
    facts = (await rt.inspector.see(kind, data)).facts
    return Landed(landed.position, key=key, media_type=facts.media_type, size=len(data), sha256="0" * 64)


async def _does_nothing(_: Runtime) -> int:
    return 0


async def _makes_none(*_: Any) -> list[str]:
    return []


async def _goes_first(*_: Any) -> bool:
    return True


async def _not_asked(work: Work, connection: AsyncConnection) -> bool:
    await connection.execute(select(TASKS.c.id).where(TASKS.c.id == work.id))
    return False


_SETTLE, _BOOK = ledger.settle, ledger._book

PLANTED = {
    "an overdue order is sent again": Planted(patch.object(advance, "_resolve", _sends_again), "bought"),
    "a lost answer counts as a refusal": Planted(
        patch.multiple(
            advance, ELSEWHERE=(*failures.ELSEWHERE, Unsure), NEUTRAL=failures.NEUTRAL | {Unsure: "No answer came."}
        ),
        "bought|went on",
    ),
    "writes without the turn": Planted(patch.object(Turn, "_change", _does_not_look), "fell|changed|became|bought"),
    "takes whatever is rung": Planted(patch.object(turns, "take", _takes_anything), "."),
    "any commit of an intention is ours": Planted(patch.object(Work, "_begun", _believes), "."),
    "forgets events": Planted(patch.object(events, "record", _forgets), "events"),
    "forgets claims": Planted(patch.object(claims, "make", _forgets), "claim|made"),
    "releases nothing": Planted(patch.object(ledger, "settle", _keeps_the_hold), "reserved"),
    "gives no slot back": Planted(patch.object(ledger, "_book", _keeps_the_slot), "waiting, running"),
    "settles twice": Planted(patch.object(ledger, "_book", _books_twice), "waiting, running|unforeseen"),
    "charges what was asked for": Planted(
        patch.object(storing, "of_delivery", lambda _, __, attempt, *___: attempt["quoted"]), "charged for"
    ),
    "a commit without an answer is none": Planted(patch.object(acceptance, "_accept_again", _gives_up), "was refused"),
    "starts more than the key may": Planted(patch.object(acceptance, "_finds_room", _finds_room), "at work"),
    "keeps no bytes": Planted(patch.object(assets, "keep", _no_bytes), "not the picture|no such object"),
    "sweeps nothing": Planted(patch.object(sweep, "sweep", _does_nothing), "its end"),
    "makes no deliveries": Planted(patch.object(outbox, "_make", _makes_none), "was wanted"),
    "sends webhooks as they come": Planted(patch.object(deliveries, "_is_next", _goes_first), "came in"),
    "takes any answer for a delivery": Planted(
        patch.object(deliveries, "verdict", lambda _: deliveries.Verdict.DELIVERED), "came in"
    ),
    "does not hear a cancel": Planted(patch.object(Work, "_cancel_asked", _not_asked), "cancel"),
}
