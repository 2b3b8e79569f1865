"""Tasks: made, read, listed and cancelled for the caller to whom they belong."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from sqlalchemy import RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import acceptance, assets, claims, endpoints, ids, slots, standings, uploads
from gateway.core.admission import Admitted, readmit
from gateway.core.assets import AssetRecord
from gateway.core.choosing import Candidate, candidates
from gateway.core.claims import Idempotency
from gateway.core.enhancing import Enhancement
from gateway.core.errors import GatewayError, invalid
from gateway.core.inputs import Upload
from gateway.core.keys import Caller
from gateway.core.lifecycle import FINAL, STATUS, State
from gateway.core.ports import TASK, Message
from gateway.core.preparing import Wanted, check_texts, prepared
from gateway.core.quoting import quoted
from gateway.core.runtime import Runtime
from gateway.core.standings import Estimate, Standing
from gateway.core.tables import ASSETS, ATTEMPTS, TASKS, VIRTUAL_KEYS
from providers.contract import Generation

log = logging.getLogger(__name__)
# How long a cancel waits for the vendor's word before it answers that the wish is noted.
CANCEL_SECONDS = 10


class AttemptRecord(msgspec.Struct, frozen=True):
    """An attempt as others may see it; the vendor's job id stays inside."""

    number: int
    provider: str
    model: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    outcome: str | None
    error_message: str | None


class TaskRecord(msgspec.Struct, frozen=True):
    """A task with its attempts and assets, as others may see it. Amounts are micro-USD.

    `replayed` says that an earlier request with the same Idempotency-Key had made it; `retention_days` how long its key
    keeps it, where that differs. `expected_seconds` is what such tasks took before, `queue_position` its place in the
    line of its key, from 1.
    """

    id: str
    key_id: str
    kind: str
    operation: str
    model: str
    generation: dict[str, Any]
    adjusted: dict[str, Any]
    fallbacks: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    enhancement: dict[str, Any] | None
    labels: dict[str, str]
    state: State
    progress: int
    created_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    provider: str | None
    quoted: int | None
    charged: int | None
    usage: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    error_param: str | None
    cancel_asked_at: dt.datetime | None
    stopped: str | None
    retry_of: str | None
    deleted_at: dt.datetime | None
    erased_at: dt.datetime | None
    retention_days: int | None
    webhook_url: str | None
    replayed: bool = False
    expected_seconds: float | None = None
    queue_position: int | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    assets: tuple[AssetRecord, ...] = ()

    @property
    def final(self) -> bool:
        """Whether nothing about it will change any more."""
        return self.state in FINAL


ELSEWHERE = {"attempts", "assets", "replayed", *Standing._fields}
TASK_FIELDS = tuple(name for name in TaskRecord.__struct_fields__ if name not in ELSEWHERE)
RECORDS = select(TASKS, VIRTUAL_KEYS.c.retention_days).join(VIRTUAL_KEYS, TASKS.c.key_id == VIRTUAL_KEYS.c.id)
ATTEMPT_FIELDS = AttemptRecord.__struct_fields__


class Plan(msgspec.Struct, frozen=True):
    """What would become of a generation: the routes that can do it, in the order in which they are tried; its price.

    `skipped` are the models to fall back on that cannot do it, with the reason of each.
    """

    candidates: tuple[Candidate, ...]
    skipped: dict[str, str]
    quoted: int | None
    adjusted: dict[str, Any]


async def plan(rt: Runtime, caller: Caller, wanted: Wanted) -> Plan:
    """What `create` would do, without doing any of it; raises what it would refuse."""
    _check_webhook(rt, wanted)
    async with prepared(rt, caller, wanted) as ready:
        admitted = ready.first, *ready.fallbacks
        offered = candidates(rt.catalog, [one.generation for one in admitted], ready.received)
        most = quoted(rt, offered, len(ready.received), ready.enhancement)
    return Plan(tuple(offered), ready.skipped, most, ready.first.adjusted)


async def create(rt: Runtime, caller: Caller, wanted: Wanted, *, here: bool) -> TaskRecord:
    """Accepts a generation: has it checked, then makes its task and first event in one transaction.

    With `here` this process takes the first turn itself, without a queue between; else a bell is rung for a worker.
    Either way the task is durable when this returns. A repeated request starts nothing, and gets the task of the first.
    """
    earlier = await claims.find(rt, caller.key_id, wanted.idempotency) if wanted.idempotency else None
    if earlier is not None:
        return await _replay(rt, caller, earlier)
    _check_webhook(rt, wanted)
    try:
        return await _create(rt, caller, wanted, here=here)
    except GatewayError as error:
        if wanted.idempotency is None or error.task_id is not None:
            raise
        # What the first of two equal requests has taken may be what the second one lacked.
        earlier = await claims.find(rt, caller.key_id, wanted.idempotency)
        if earlier is None:
            raise
        return await _replay(rt, caller, earlier)


async def _create(rt: Runtime, caller: Caller, wanted: Wanted, *, here: bool) -> TaskRecord:
    async with prepared(rt, caller, wanted) as ready:
        first, fallbacks = ready.first, ready.fallbacks
        row = _row(
            rt, caller, first, fallbacks, ready.received, ready.enhancement, priority=wanted.priority,
            seconds=wanted.timeout,
        )  # fmt: skip
        row["labels"] = wanted.labels
        endpoint = endpoints.of_task(rt, row, wanted.webhook) if wanted.webhook else None
        if here:
            await _refuse_if_closed(rt, [first, *fallbacks])
        row["inputs"] = await uploads.keep(rt, row["id"], ready.received)
    return await _make(rt, caller, row, wanted.idempotency, here=here, endpoint=endpoint)


def _check_webhook(rt: Runtime, wanted: Wanted) -> None:
    if wanted.webhook is not None:
        endpoints.check_webhook(rt, wanted.webhook, wanted.generation)


async def retry(rt: Runtime, caller: Caller, task_id: str, idempotency: Idempotency | None = None) -> TaskRecord:
    """Makes a new task of what a failed one was asked for, as things stand now; a bell is rung for a worker.

    Raises `task_not_found`, `task_not_retryable`, and what `create` raises.
    """
    earlier = await claims.find(rt, caller.key_id, idempotency) if idempotency else None
    if earlier is not None:
        return await _replay(rt, caller, earlier)
    task = await get(rt, caller.key_id, task_id)
    if task.state is not State.FAILED:
        message = f"The task is {STATUS[task.state]}: only a failed one can be tried again."
        raise GatewayError("task_not_retryable", message)
    if task.erased_at is not None:
        raise GatewayError("task_not_retryable", "What was asked for is erased. Send the request anew.")
    try:
        generation = msgspec.convert(task.generation, Generation)
        fallbacks = [(msgspec.convert(one["generation"], Generation), one["adjusted"]) for one in task.fallbacks]
    except msgspec.ValidationError as error:
        raise GatewayError("task_not_retryable", "Another version made this task. Send the request anew.") from error
    inputs = msgspec.convert(task.inputs, list[Upload])
    first, others = readmit(rt.catalog, generation, inputs), []
    for fallback, adjusted in fallbacks:
        with suppress(GatewayError):
            others.append(msgspec.structs.replace(readmit(rt.catalog, fallback, inputs), adjusted=adjusted))
    await check_texts(rt, [first, *others])
    enhancement = None if task.enhancement is None else Enhancement(task.enhancement["template"])
    row = _row(rt, caller, first, others, inputs, enhancement)
    row |= {"labels": task.labels, "adjusted": task.adjusted, "retry_of": task.id}
    row["inputs"] = await uploads.copy(rt, row["id"], inputs)
    endpoint = await endpoints.copy(rt, task.id, row)
    return await _make(rt, caller, row, idempotency, here=False, endpoint=endpoint)


def _row(
    rt: Runtime,
    caller: Caller,
    first: Admitted,
    fallbacks: Sequence[Admitted],
    received: Sequence[Upload],
    enhancement: Enhancement | None,
    *,
    priority: int = slots.USUAL,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The row of a new task."""
    generation = first.generation
    now = rt.now()
    offered = candidates(rt.catalog, [generation, *(one.generation for one in fallbacks)], received)
    most = quoted(rt, offered, len(received), enhancement)
    longest = rt.settings.task_seconds
    if seconds is not None and seconds > longest:
        raise invalid("timeout", f"timeout must be at most {longest:g} seconds here.")
    return {
        "id": ids.new("task", now), "key_id": caller.key_id, "owner": caller.owner, "kind": generation.kind,
        "operation": generation.operation, "model": generation.model,
        "generation": msgspec.to_builtins(generation), "adjusted": first.adjusted, "labels": {},
        "fallbacks": [_fallback(one) for one in fallbacks], "inputs": [],
        "enhancement": msgspec.to_builtins(enhancement),
        "state": State.QUEUED, "progress": 0, "sequence": 1, "rank": slots.rank(now, priority), "created_at": now,
        "deadline_at": now + dt.timedelta(seconds=longest if seconds is None else seconds),
        "quoted": most, "held": most or 0, "retry_of": None, "version": 0, "rings": 0, "takes": 0, "due_at": None,
    }  # fmt: skip


def _fallback(admitted: Admitted) -> dict[str, Any]:
    return {"generation": msgspec.to_builtins(admitted.generation), "adjusted": admitted.adjusted}


async def _refuse_if_closed(rt: Runtime, admitted: Sequence[Admitted]) -> None:
    """A request that waits for its answer is refused while every route is left alone: nothing of it is made."""
    await rt.health.refresh()
    until = rt.health.closed_until([route for one in admitted for route in one.routes])
    if until is not None:
        seconds = max(math.ceil((until - rt.now()).total_seconds()), 1)
        message = f"The providers of this model do not answer just now. Please retry after {seconds} seconds."
        raise GatewayError("model_overloaded", message, param="model", retry_after=seconds)


async def _make(
    rt: Runtime,
    caller: Caller,
    row: dict[str, Any],
    idempotency: Idempotency | None,
    *,
    here: bool,
    endpoint: dict[str, Any] | None,
) -> TaskRecord:
    inputs = row["inputs"]
    row["inputs"] = msgspec.to_builtins(inputs)
    row["webhook_url"] = endpoint and endpoint["url"]
    try:
        earlier = await acceptance.accept(rt, row, idempotency, here=here, endpoint=endpoint)
    except Exception as error:
        # Of a commit whose answer was lost nobody knows: the task may stand, and need its pictures.
        if not (isinstance(error, GatewayError) and error.task_id):
            await uploads.drop(rt, inputs)
        raise
    if earlier is not None:
        await uploads.drop(rt, inputs)
        return await _replay(rt, caller, earlier)
    rt.crash.pass_by("accept.after_commit")
    acceptance.start(rt, row)
    rt.crash.pass_by("accept.before_reply")
    record: dict[str, Any] = {name: row.get(name) for name in TASK_FIELDS}
    return TaskRecord(**record)


async def _replay(rt: Runtime, caller: Caller, task_id: str) -> TaskRecord:
    return msgspec.structs.replace(await get(rt, caller.key_id, task_id), replayed=True)


async def get(rt: Runtime, key_id: str, task_id: str) -> TaskRecord:
    """One task of that key; raises `task_not_found`, also for a task of another key."""
    if ids.is_id(task_id, "task"):
        statement = RECORDS.where(TASKS.c.id == task_id, TASKS.c.key_id == key_id)
        async with rt.db.read() as connection:
            row = (await connection.execute(statement)).mappings().first()
            if row is not None:
                return (await _records(connection, [row]))[0]
    raise GatewayError("task_not_found", "There is no such task.")


async def several(rt: Runtime, task_ids: Sequence[str]) -> list[TaskRecord]:
    """The tasks of these ids, whosever they are."""
    async with rt.db.read() as connection:
        found = await connection.execute(RECORDS.where(TASKS.c.id.in_(task_ids)))
        return await _records(connection, found.mappings().all())


def estimated(rt: Runtime, task: TaskRecord) -> Estimate:
    """How far the task is, and how long it still takes."""
    if task.state is State.COMPLETED:
        return Estimate(task.progress, None)
    passed = standings.seconds_between(task.started_at, task.ended_at or rt.now())
    found = standings.estimate(task.progress, passed, task.expected_seconds)
    return Estimate(found.progress, None) if task.final or task.started_at is None else found


async def listing(
    rt: Runtime,
    key_id: str,
    *,
    states: Sequence[State] = (),
    type: str | None = None,
    model: str | None = None,
    after: str | None = None,
    limit: int = 20,
    descending: bool = True,
    deleted: bool = True,
) -> tuple[list[TaskRecord], bool]:
    """A page of a key's tasks, and whether more follow. `after` is the last id of the page before.

    `type` is a kind, or a kind and an operation such as `image.generation`; `deleted` leaves out or adds deleted ones.
    """
    column = TASKS.c.id
    statement = RECORDS.where(TASKS.c.key_id == key_id)
    if states:
        statement = statement.where(TASKS.c.state.in_(states))
    if type is not None:
        kind, _, operation = type.partition(".")
        statement = statement.where(TASKS.c.kind == kind)
        if operation:
            statement = statement.where(TASKS.c.operation == operation)
    if not deleted:
        statement = statement.where(TASKS.c.deleted_at.is_(None))
    if model is not None:
        statement = statement.where(TASKS.c.model == model)
    if after is not None:
        statement = statement.where(column < after if descending else column > after)
    statement = statement.order_by(column.desc() if descending else column).limit(limit + 1)
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).mappings().all()
        return await _records(connection, rows[:limit]), len(rows) > limit


async def cancel(rt: Runtime, key_id: str, task_id: str) -> TaskRecord:
    """Cancels a task: at once while nobody has its turn, else as a wish that the holder of the turn finds.

    Raises `task_not_cancellable` when it is final.
    """
    task = await get(rt, key_id, task_id)
    if task.final:
        raise GatewayError("task_not_cancellable", f"The task is {task.state} already.")
    now = rt.now()
    wish = update(TASKS).where(TASKS.c.id == task_id, TASKS.c.state.not_in(FINAL), TASKS.c.cancel_asked_at.is_(None))
    async with rt.db.write() as connection:
        new = (await connection.execute(wish.values(cancel_asked_at=now))).rowcount
        idle = update(TASKS).where(
            TASKS.c.id == task_id, TASKS.c.state.in_((State.QUEUED, State.WAITING)), TASKS.c.due_at.is_not(None)
        )
        rung = idle.values(due_at=now, rings=TASKS.c.rings + 1).returning(TASKS.c.version)
        # A repeated wish must not take the turn from whoever is granting the first.
        version = (await connection.execute(rung)).scalar() if new else None
    if version is None:
        version = await slots.leave_line(rt, task_id, key_id)
    if version is not None:
        await asyncio.wait({rt.executor.start(Message(TASK, task_id, version))}, timeout=CANCEL_SECONDS)
    return await get(rt, key_id, task_id)


async def _records(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[TaskRecord]:
    started = [row["id"] for row in rows if row["started_at"] is not None]
    attempts: dict[str, list[AttemptRecord]] = {}
    media: dict[str, list[AssetRecord]] = {}
    if started:
        tried = select(ATTEMPTS).where(ATTEMPTS.c.task_id.in_(started)).order_by(ATTEMPTS.c.number)
        for row in (await connection.execute(tried)).mappings():
            attempts.setdefault(row["task_id"], []).append(
                AttemptRecord(**{name: row[name] for name in ATTEMPT_FIELDS})
            )
        kept = assets.RECORDS.where(ASSETS.c.task_id.in_(started), ASSETS.c.deleted_at.is_(None))
        for row in (await connection.execute(kept.order_by(ASSETS.c.position))).mappings():
            media.setdefault(row["task_id"], []).append(assets.record_of(row))
    standing = await standings.of_rows(connection, rows)
    return [
        TaskRecord(
            **{name: row[name] for name in TASK_FIELDS} | {"state": State(row["state"])},
            **standing.get(row["id"], Standing())._asdict(),
            attempts=tuple(attempts.get(row["id"], ())),
            assets=tuple(media.get(row["id"], ())),
        )
        for row in rows
    ]
