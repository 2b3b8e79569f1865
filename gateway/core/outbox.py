"""The outbox: one delivery for each endpoint that wants to hear of an event, made in the transaction of that event.

So there is no event without its deliveries, and no delivery of what never happened, whatever dies when.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import events, ids, payloads
from gateway.core.addresses import Target
from gateway.core.assets import record_of
from gateway.core.payloads import OPENAI, News
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, TASKS, VIRTUAL_KEYS
from gateway.core.webhook_tables import DELIVERIES, ENDPOINTS

log = logging.getLogger(__name__)
# What webhooks tell of every task; the last three are how it ended.
STARTED, PROGRESS = "started", "progress"
WORDS = (STARTED, PROGRESS, "completed", "failed", "cancelled")
ENDINGS = WORDS[2:]
THRESHOLD, EXCEEDED = "key.budget.threshold", "key.budget.exceeded"
KEY_DISABLED, ENDPOINT_DISABLED = "key.disabled", "webhook_endpoint.disabled"
OF_KEYS = (THRESHOLD, EXCEEDED, KEY_DISABLED, ENDPOINT_DISABLED)
E = ENDPOINTS.c


class Stage(StrEnum):
    """How far a delivery is. A waiting one goes after an earlier one of its task; a skipped one was never sent."""

    PENDING = "pending"
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"


OPEN = (Stage.PENDING, Stage.WAITING)


async def wanting(connection: AsyncConnection, task: Mapping[str, Any], word: str) -> list[tuple[RowMapping, str]]:
    """The endpoints that want to hear of that event of a task, each with the name by which it wants it."""
    names = _names(task, word)
    mine = or_(E.task_id == task["id"], and_(E.key_id == task["key_id"], E.task_id.is_(None)))
    found = await _endpoints(connection, mine)
    return [
        (one, name)
        for one in found
        if (name := next((name for name in names if name in one["event_types"]), None)) is not None
    ]


async def tell(
    connection: AsyncConnection, rt: Runtime, task: Mapping[str, Any], word: str, sequence: int
) -> list[str]:
    """Makes the deliveries of an event of a task, as its rows stand in this transaction. Returns their ids."""
    wanted = await wanting(connection, task, word) if word in WORDS else []
    if not wanted:
        return []
    row = (await connection.execute(select(TASKS).where(TASKS.c.id == task["id"]))).mappings().one()
    bytes_of = select(ASSETS).where(ASSETS.c.task_id == row["id"], ASSETS.c.deleted_at.is_(None))
    kept = [record_of(one) for one in (await connection.execute(bytes_of.order_by(ASSETS.c.position))).mappings()]
    made, event_id, now = [], ids.new("evt", rt.now()), rt.now()
    for endpoint, name in wanted:
        news = News(event_id, name, now)
        try:
            data = payloads.of_task(rt, name, dict(row), kept, endpoint["base"], sequence)
            made.append(_delivery(endpoint, news, payloads.body(news, data), task_id=row["id"], sequence=sequence))
        except Exception:
            # The event itself may be a result that is paid for: it must not fail for want of words about it.
            log.exception("%s: the webhook of %s to %s could not be written", row["id"], name, endpoint["id"])
    return await _make(connection, made)


async def wants_progress(connection: AsyncConnection, task: Mapping[str, Any], risen: int) -> bool:
    """Whether a webhook is to tell of that progress: nothing is recorded of what nobody wants to hear."""
    if not await wanting(connection, task, PROGRESS):
        return False
    return risen > await events.last_progress(connection, task["id"])


async def announce(
    connection: AsyncConnection,
    rt: Runtime,
    account_id: str,
    type: str,
    data: Mapping[str, Any],
    *,
    once: str | None = None,
) -> list[str]:
    """Makes the deliveries of an event of a key, or of an owner, to the endpoints of its keys.

    What `once` describes is told once only: whoever calls holds the lock of the account. Returns the ids.
    """
    keys = select(VIRTUAL_KEYS.c.id).where(
        or_(VIRTUAL_KEYS.c.id == account_id, literal("owner:") + VIRTUAL_KEYS.c.owner == account_id)
    )
    found = await _endpoints(connection, and_(E.key_id.in_(keys), E.task_id.is_(None)))
    now = rt.now()
    news = News(ids.new("evt", now) if once is None else ids.derived("evt", once), type, now)
    made = [
        _delivery(one, news, payloads.body(news, data))
        for one in found
        if type in one["event_types"] and not (once and await _was_told(connection, one["id"], news.id))
    ]
    return await _make(connection, made)


def destination(key_id: str, url: str) -> str:
    """To whom that URL leads, for that key."""
    target = Target.of(url)
    return f"{key_id} {target.host}:{target.port}"


def _names(task: Mapping[str, Any], word: str) -> list[str]:
    """By which names the event may be wanted; ours comes first."""
    names = [f"{task['kind']}.{task['operation']}.{word}"]
    return [*names, OPENAI[word]] if task["kind"] == "video" and word in OPENAI else names


async def _endpoints(connection: AsyncConnection, which: ColumnElement[bool]) -> Sequence[RowMapping]:
    statement = select(ENDPOINTS).where(which, E.deleted_at.is_(None)).order_by(E.id)
    return (await connection.execute(statement)).mappings().all()


async def _was_told(connection: AsyncConnection, endpoint_id: str, event_id: str) -> bool:
    told = select(DELIVERIES.c.id).where(
        DELIVERIES.c.endpoint_id == endpoint_id, DELIVERIES.c.event_id == event_id
    )  # fmt: skip
    return (await connection.execute(told)).first() is not None


def _delivery(
    endpoint: RowMapping, news: News, body: str, *, task_id: str | None = None, sequence: int = 0
) -> dict[str, Any]:
    """The row: rung for already, unless its endpoint is disabled."""
    skipped: dt.datetime | None = endpoint["disabled_at"] and news.at
    return {
        "id": ids.new("del", news.at), "endpoint_id": endpoint["id"], "key_id": endpoint["key_id"], "task_id": task_id,
        "sequence": sequence, "event_id": news.id, "type": news.type, "body": body,
        "destination": destination(endpoint["key_id"], endpoint["url"]),
        "state": Stage.SKIPPED if skipped else Stage.PENDING, "version": 0, "due_at": None if skipped else news.at,
        "rings": 1, "takes": 0, "retries": 0, "attempts": 0, "created_at": news.at, "ended_at": skipped,
    }  # fmt: skip


async def _make(connection: AsyncConnection, rows: list[dict[str, Any]]) -> list[str]:
    if rows:
        await connection.execute(insert(DELIVERIES), rows)
    return [row["id"] for row in rows if row["due_at"] is not None]
