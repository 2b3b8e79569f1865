"""Deliveries: an event on its way to an endpoint, tried in turns until it is there or given up.

Every attempt sends the same bytes under the same id, unless its task was erased meanwhile, with a time and signatures
of its own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import RowMapping, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import endpoints, ids, payloads, sealing, signing, turns
from gateway.core.bells import ring, ring_to_deliver
from gateway.core.destinations import EACH
from gateway.core.errors import GatewayError, invalid, shown
from gateway.core.outbound import Blocked, OutboundError, Reply
from gateway.core.outbox import OPEN, Stage
from gateway.core.payloads import News
from gateway.core.ports import DELIVERY, Message
from gateway.core.runtime import Runtime
from gateway.core.turns import Turn, TurnLost
from gateway.core.webhook_tables import DELIVERIES, DELIVERY_ATTEMPTS, ENDPOINTS
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
D, E = DELIVERIES.c, ENDPOINTS.c
# Seconds before each further attempt, give or take a part of them; after the last one it is given up.
SCHEDULE = (5, 30, 120, 600, 3_600, 21_600, 86_400)
JITTER = 0.1
# How much of what the receiver says beside his status is kept.
EXCERPT = 8_192
# An endpoint to which nothing was delivered for so long, although it was tried, is disabled.
PATIENCE = dt.timedelta(days=5)
RETENTION = dt.timedelta(days=30)
MAX_TAKES = 3
AT_ONCE = 1000


class Verdict(StrEnum):
    """What follows from an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"
    STOP = "stop"
    GONE = "gone"


class Outcome(msgspec.Struct, frozen=True):
    """What an attempt came to: the receiver's reply, or the reason why there is none."""

    verdict: Verdict
    at: dt.datetime
    milliseconds: int
    reply: Reply | None = None
    error: str | None = None


def verdict(status: int) -> Verdict:
    """What a receiver's status asks for. Other 4xx than these will say the same again."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status == 410:
        return Verdict.GONE
    return Verdict.STOP if 400 <= status < 500 and status not in (408, 425, 429) else Verdict.RETRY


def pause(retries: int, advice: float | None, draw: float) -> float | None:
    """Seconds until the next attempt after so many; None: it is given up. `draw` is a lot from -1 to 1.

    What the receiver advises makes it later, up to twice the time.
    """
    if retries >= len(SCHEDULE):
        return None
    usual = SCHEDULE[retries]
    return max(usual * (1 + JITTER * draw), min(advice or 0.0, 2.0 * usual))


def advised(text: str | None, now: dt.datetime) -> float | None:
    """Seconds that a Retry-After asks for, as a number or as a date; None for one that says nothing."""
    if not text:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        return max((parsedate_to_datetime(text) - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


async def attempt(rt: Runtime, message: Message) -> None:
    """Takes the turn that the message rings for and sends what is due; a stale message is a normal end."""
    turn = await turns.take(rt.db, DELIVERIES, message, rt.now, rt.settings.lease_seconds)
    if turn is None:
        return
    try:
        await _step(rt, turn)
    except TurnLost:
        log.info("%s went on elsewhere", turn.id)
    except DatabaseUnavailable as error:
        log.warning("%s: nothing was noted, it will be tried again: %s", turn.id, error)


async def try_out(rt: Runtime, key_id: str, endpoint_id: str, type: str) -> int:
    """Sends a sample of that type to an endpoint, once; the receiver's status.

    Raises `endpoint_not_found`, `invalid_parameter` or `endpoint_unreachable`.
    """
    endpoint = await endpoints.get(rt, key_id, endpoint_id)
    if type not in endpoints.EVENT_TYPES or not endpoint.url:
        raise invalid("event_type", f"event_type {shown(type)} is none that can be sent there.")
    async with rt.db.read() as connection:
        secrets = await endpoints.live(connection, rt, endpoint_id)
    news = News(ids.new("evt", rt.now()), type, rt.now())
    body = payloads.body(news, {"test": True, "sequence": 0}).encode()
    try:
        headers = headers_of(rt, news.id, body, secrets)
        reply = await _post(rt, endpoint.url, body, headers)
    except OutboundError as error:
        message = f"The webhook endpoint could not be reached: {error.message}."
        raise GatewayError("endpoint_unreachable", message) from error
    return reply.status


def within_reach(rt: Runtime) -> Select[Any]:
    """The ids of due deliveries that may be sent: of each destination that is open, so many at once."""
    now = rt.now()
    place = func.row_number().over(partition_by=D.destination, order_by=D.due_at).label("place")
    ranked = select(D.id, place).where(D.due_at <= now, D.destination.not_in(rt.destinations.closed(now))).subquery()
    return select(ranked.c.id).where(ranked.c.place <= EACH)


async def purge(rt: Runtime) -> None:
    """Forgets deliveries that ended long ago."""
    old = select(D.id).where(D.ended_at < rt.now() - RETENTION).limit(AT_ONCE)
    async with rt.db.read() as connection:
        found = (await connection.execute(old)).scalars().all()
    if found:
        async with rt.db.write() as connection:
            await connection.execute(delete(DELIVERY_ATTEMPTS).where(DELIVERY_ATTEMPTS.c.delivery_id.in_(found)))
            await connection.execute(delete(DELIVERIES).where(D.id.in_(found)))


async def _step(rt: Runtime, turn: Turn) -> None:
    later = rt.destinations.later(turn.row["destination"], rt.now())
    if later is not None:
        async with rt.db.write_one() as connection:
            return await turn.write(connection, due_at=later, takes=0)
    with rt.destinations.visiting(turn.row["destination"]):
        if not await _is_next(rt, turn):
            return None
        # Only now: what became of the event before this one may have ended the endpoint.
        async with rt.db.read() as connection:
            found = await connection.execute(select(ENDPOINTS).where(E.id == turn.row["endpoint_id"]))
            endpoint = dict(found.mappings().one())
            secrets = await endpoints.live(connection, rt, endpoints.signer(endpoint))
        if endpoint["deleted_at"] or endpoint["disabled_at"]:
            return await _end(rt, turn, Stage.SKIPPED)
        outcome = await _send(rt, turn, endpoint, secrets)
    await _note(rt, turn, endpoint, outcome)


async def _is_next(rt: Runtime, turn: Turn) -> bool:
    """Whether no earlier event of the task is still on its way there; else gives the turn back, to be rung after it."""
    row = turn.row
    if row["task_id"] is None:
        return True
    same = (D.task_id == row["task_id"], D.endpoint_id == row["endpoint_id"])
    before_this = (*same, D.sequence < row["sequence"], D.state.in_(OPEN))
    earlier = select(D.due_at).where(*before_this).order_by(D.sequence).limit(1)
    if row["state"] == Stage.PENDING:
        async with rt.db.read() as connection:
            if (await connection.execute(earlier)).first() is None:
                return True
    async with rt.db.write() as connection:
        # Whoever ends the earlier one ends it before this lock, or finds us waiting.
        before = (await connection.execute(earlier.with_for_update())).first()
        if before is None:
            await turn.write(connection, state=Stage.PENDING, takes=turn.row["takes"])
            return True
        due_at = max(before.due_at, rt.now() + dt.timedelta(seconds=1))
        await turn.write(connection, state=Stage.WAITING, due_at=due_at, takes=0)
        return False


async def _send(rt: Runtime, turn: Turn, endpoint: Mapping[str, Any], secrets: list[str]) -> Outcome:
    body = turn.row["body"].encode()
    at, begun = rt.now(), time.monotonic()
    reply, error, found = None, None, Verdict.RETRY
    if turn.row["takes"] > MAX_TAKES:
        # An attempt that failed, like any other: the schedule goes on.
        return Outcome(found, at, 0, error="the attempt stopped its worker several times")
    rt.crash.pass_by("delivery.before_send")
    try:
        headers = _headers(rt, turn.row["event_id"], body, secrets, endpoint["headers"])
        async with turn.renewing():
            reply = await _post(rt, endpoint["url"], body, headers)
        found = verdict(reply.status)
    except sealing.Unreadable as refusal:
        error, found = str(refusal), Verdict.STOP
    except Blocked as refusal:
        error, found = f"blocked: {refusal.message}", Verdict.STOP
    except OutboundError as trouble:
        error = trouble.message
    rt.crash.pass_by("delivery.after_send")
    return Outcome(found, at, int((time.monotonic() - begun) * 1000), reply, error)


async def _post(rt: Runtime, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    return await rt.outbound.post(url, body, headers, limit=EXCERPT, timeout=rt.settings.webhook_seconds)


def headers_of(rt: Runtime, event_id: str, body: bytes, secrets: list[str]) -> dict[str, str]:
    """What says of a body whose it is and when it was sent: by the Standard Webhooks, and by older habit if set."""
    timestamp = int(rt.now().timestamp())
    signatures = [signing.webhook_signature(one, event_id, timestamp, body) for one in secrets]
    headers = {
        "Content-Type": "application/json", "webhook-id": event_id, "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }  # fmt: skip
    if rt.settings.webhook_legacy_headers:
        digest = hmac.new(secrets[0].encode(), body, hashlib.sha256).hexdigest()
        headers |= {"X-Conduit-Signature": f"sha256={digest}", "X-Conduit-Event-Id": event_id}
    return headers


def _headers(rt: Runtime, event_id: str, body: bytes, secrets: list[str], sealed: str | None) -> dict[str, str]:
    own = {} if sealed is None else sealing.unseal(rt.secrets.headers, sealed)
    return own | headers_of(rt, event_id, body, secrets)


async def _note(rt: Runtime, turn: Turn, endpoint: Mapping[str, Any], outcome: Outcome) -> None:
    """Writes down what an attempt came to, and what follows: for the delivery, its endpoint, and those behind it."""
    status = outcome.reply.status if outcome.reply else None
    changes = _changes(rt, turn, outcome)
    number = turn.row["attempts"] + 1
    log.info("%s: attempt %s: %s", turn.id, number, status or outcome.error)
    if outcome.verdict is Verdict.RETRY:
        rt.destinations.failed(turn.row["destination"], rt.now())
    else:
        rt.destinations.succeeded(turn.row["destination"])
    tried = {
        "delivery_id": turn.id, "number": number, "at": outcome.at, "milliseconds": outcome.milliseconds,
        "status": status, "error": outcome.error, "reply": outcome.reply.text if outcome.reply else None,
    }  # fmt: skip
    async with rt.db.write() as connection:
        await turn.write(connection, attempts=number, **changes)
        if await _was_erased(connection, turn):
            tried["reply"] = None
        await connection.execute(insert(DELIVERY_ATTEMPTS), tried)
        told = await _judge(connection, rt, endpoint, outcome.verdict)
        behind = await _wake(connection, rt, turn) if changes.get("ended_at") else []
    ring_to_deliver(rt, told)
    for message in behind:
        ring(rt, message)


async def _was_erased(connection: AsyncConnection, turn: Turn) -> bool:
    """Whether the task's words went while they were on their way: what the receiver says of them is not kept either."""
    body = select(DELIVERIES.c.body).where(DELIVERIES.c.id == turn.id)
    return bool((await connection.execute(body)).scalar() != turn.row["body"])


def _changes(rt: Runtime, turn: Turn, outcome: Outcome) -> dict[str, Any]:
    """Of the delivery: it has ended, or is due again."""
    now, retries = rt.now(), turn.row["retries"]
    if outcome.verdict is Verdict.DELIVERED:
        return _ended(now, Stage.DELIVERED)
    seconds = None
    if outcome.verdict is Verdict.RETRY:
        advice = advised(outcome.reply.retry_after, now) if outcome.reply else None
        seconds = pause(retries, advice, random.uniform(-1, 1))  # noqa: S311 - jitter, no secret
    if seconds is None:
        return _ended(now, Stage.FAILED)
    return {"due_at": now + dt.timedelta(seconds=seconds), "retries": retries + 1, "takes": 0}


def _ended(now: dt.datetime, stage: Stage) -> dict[str, Any]:
    return {"state": stage, "due_at": None, "ended_at": now, "takes": 0}


async def _end(rt: Runtime, turn: Turn, stage: Stage) -> None:
    """Ends a delivery without another attempt."""
    async with rt.db.write() as connection:
        await turn.write(connection, **_ended(rt.now(), stage))
        behind = await _wake(connection, rt, turn)
    for message in behind:
        ring(rt, message)


async def _judge(connection: AsyncConnection, rt: Runtime, endpoint: Mapping[str, Any], found: Verdict) -> list[str]:
    """What the attempt means for its endpoint; the ids of deliveries that tell of its end."""
    since, mine = endpoint["failing_since"], update(ENDPOINTS).where(E.id == endpoint["id"])
    if found is Verdict.DELIVERED:
        if since is not None:
            await connection.execute(mine.values(failing_since=None))
        return []
    reason = "the receiver says that it is gone (410)" if found is Verdict.GONE else None
    if since is None:
        await connection.execute(mine.where(E.failing_since.is_(None)).values(failing_since=rt.now()))
    elif rt.now() - since >= PATIENCE:
        reason = reason or f"nothing could be delivered for {PATIENCE.days} days"
    if reason is None:
        return []
    log.warning("the webhook endpoint %s of %s is disabled: %s", endpoint["id"], endpoint["key_id"], reason)
    return await endpoints.disable(connection, rt, endpoint, reason)


async def _wake(connection: AsyncConnection, rt: Runtime, turn: Turn) -> list[Message]:
    """Makes due what waits for this delivery."""
    if turn.row["task_id"] is None:
        return []
    same = (D.task_id == turn.row["task_id"], D.endpoint_id == turn.row["endpoint_id"], D.state == Stage.WAITING)
    due = update(DELIVERIES).where(*same).values(due_at=rt.now(), rings=D.rings + 1).returning(D.id, D.version)
    found: list[RowMapping] = list((await connection.execute(due)).mappings())
    return [Message(DELIVERY, row["id"], row["version"]) for row in found]
