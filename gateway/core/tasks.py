"""Tasks: made, read, listed and cancelled for the caller to whom they belong."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import claims, events, ids
from gateway.core.admission import admit, with_extras
from gateway.core.advance import go_on
from gateway.core.assets import AssetRecord, record_of
from gateway.core.catalog import Route
from gateway.core.claims import Idempotency
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.lifecycle import FINAL, State
from gateway.core.ports import TASK, Message, QueueError
from gateway.core.pricing import quote
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, ATTEMPTS, TASKS
from gateway.core.turns import Turn
from providers.contract import Generation
from storage.database import DatabaseUnavailable

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

    `replayed` says that an earlier request with the same Idempotency-Key had made it.
    """

    id: str
    key_id: str
    kind: str
    operation: str
    model: str
    generation: dict[str, Any]
    adjusted: dict[str, Any]
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
    retry_of: str | None
    replayed: bool = False
    attempts: tuple[AttemptRecord, ...] = ()
    assets: tuple[AssetRecord, ...] = ()

    @property
    def final(self) -> bool:
        """Whether nothing about it will change any more."""
        return self.state in FINAL


class Wanted(msgspec.Struct, frozen=True):
    """A generation as a dialect understood it, with what only the model's card can judge.

    `unknown` are members that the dialect does not know, refused with `strict` unless the card lists them; `hints`
    are passed on where the card lists them and mean nothing elsewhere. `labels` are the caller's own, echoed. With
    `idempotency`, a repetition of the request gets the task that is there already.
    """

    generation: Generation
    unknown: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    strict: bool = False
    labels: dict[str, str] = {}
    idempotency: Idempotency | None = None


TASK_FIELDS = tuple(name for name in TaskRecord.__struct_fields__ if name not in ("attempts", "assets", "replayed"))
ATTEMPT_FIELDS = AttemptRecord.__struct_fields__


class Plan(msgspec.Struct, frozen=True):
    """What would become of a generation: the routes that can do it, in the order in which they are tried; its price."""

    routes: tuple[Route, ...]
    quoted: int | None
    adjusted: dict[str, Any]


def plan(rt: Runtime, wanted: Wanted) -> Plan:
    """What `create` would do, without doing any of it; raises what it would refuse."""
    generation = with_extras(rt.catalog, wanted.generation, wanted.unknown, wanted.hints, strict=wanted.strict)
    admitted = admit(rt.catalog, generation)
    first = admitted.routes[0]
    return Plan(admitted.routes, quote(admitted.generation, first.card, first.price), admitted.adjusted)


async def create(rt: Runtime, caller: Caller, wanted: Wanted, *, here: bool) -> TaskRecord:
    """Accepts a generation: checks it against the cards, then makes its task and first event in one transaction.

    With `here` this process takes the first turn itself, without a queue between; else a bell is rung for a worker.
    Either way the task is durable when this returns. A repeated request starts nothing, and gets the task of the first.
    """
    earlier = await claims.find(rt, caller.key_id, wanted.idempotency) if wanted.idempotency else None
    if earlier is not None:
        return await _replay(rt, caller, earlier)
    generation = with_extras(rt.catalog, wanted.generation, wanted.unknown, wanted.hints, strict=wanted.strict)
    row = _row(rt, caller, generation, here=here) | {"labels": wanted.labels}
    return await _make(rt, caller, row, wanted.idempotency, here=here)


async def retry(rt: Runtime, caller: Caller, task_id: str, idempotency: Idempotency | None = None) -> TaskRecord:
    """Makes a new task of what a failed one was asked for, as things stand now; a bell is rung for a worker.

    Raises `task_not_found`, `task_not_retryable`, and what `create` raises.
    """
    earlier = await claims.find(rt, caller.key_id, idempotency) if idempotency else None
    if earlier is not None:
        return await _replay(rt, caller, earlier)
    task = await get(rt, caller.key_id, task_id)
    if task.state is not State.FAILED:
        raise GatewayError("task_not_retryable", f"The task is {task.state}: only a failed one can be tried again.")
    try:
        generation = msgspec.convert(task.generation, Generation)
    except msgspec.ValidationError as error:
        raise GatewayError("task_not_retryable", "Another version made this task. Send the request anew.") from error
    row = _row(rt, caller, generation, here=False)
    row |= {"labels": task.labels, "adjusted": task.adjusted | row["adjusted"], "retry_of": task.id}
    return await _make(rt, caller, row, idempotency, here=False)


def _row(rt: Runtime, caller: Caller, generation: Generation, *, here: bool) -> dict[str, Any]:
    """The row of a new task, if a route can do it; raises what the first one cannot do."""
    admitted = admit(rt.catalog, generation)
    route = admitted.routes[0]
    now = rt.now()
    return {
        "id": ids.new("task", now), "key_id": caller.key_id, "kind": generation.kind, "operation": generation.operation,
        "model": generation.model, "generation": msgspec.to_builtins(admitted.generation),
        "adjusted": admitted.adjusted, "labels": {}, "state": State.QUEUED, "progress": 0, "sequence": 1,
        # Either this process has the first turn, or one bell was rung for it.
        "version": 1 if here else 0, "rings": 0 if here else 1, "takes": 1 if here else 0,
        "due_at": now + dt.timedelta(seconds=rt.settings.lease_seconds), "created_at": now,
        "deadline_at": now + dt.timedelta(seconds=rt.settings.task_seconds),
        "quoted": quote(admitted.generation, route.card, route.price), "retry_of": None,
    }  # fmt: skip


async def _make(
    rt: Runtime, caller: Caller, row: dict[str, Any], idempotency: Idempotency | None, *, here: bool
) -> TaskRecord:
    earlier = await _accept(rt, row, idempotency)
    if earlier is not None:
        return await _replay(rt, caller, earlier)
    rt.crash.pass_by("accept.after_commit")
    _start(rt, row, here=here)
    rt.crash.pass_by("accept.before_reply")
    record: dict[str, Any] = {name: row.get(name) for name in TASK_FIELDS}
    return TaskRecord(**record)


async def _replay(rt: Runtime, caller: Caller, task_id: str) -> TaskRecord:
    return msgspec.structs.replace(await get(rt, caller.key_id, task_id), replayed=True)


async def _accept(rt: Runtime, row: dict[str, Any], idempotency: Idempotency | None) -> str | None:
    """Makes the row, its claim and its first event; the id of the task that another request with the claim has made.

    Raises DatabaseUnavailable when there surely is no task. A commit whose answer is lost may stand, and the client
    must not be told to send its request again: the same row is made once more, which waits for what is still under
    way, and finds it.
    """
    committing = False
    try:
        async with rt.db.write() as connection:
            await _insert(connection, row, idempotency)
            rt.crash.pass_by("accept.before_commit")
            committing = True
    except IntegrityError as error:
        return await _taken(rt, row, idempotency, error)
    except DatabaseUnavailable:
        if not committing:
            raise
        return await _accept_again(rt, row, idempotency)
    return None


async def _accept_again(rt: Runtime, row: dict[str, Any], idempotency: Idempotency | None) -> str | None:
    try:
        async with rt.db.write() as connection:
            await _insert(connection, row, idempotency)
    except IntegrityError as error:
        return await _taken(rt, row, idempotency, error)
    except DatabaseUnavailable as error:
        message = f"The database does not answer. GET /v1/tasks/{row['id']} will tell whether the task was accepted."
        raise GatewayError("database_unavailable", message, task_id=row["id"]) from error
    return None


async def _taken(
    rt: Runtime, row: dict[str, Any], idempotency: Idempotency | None, error: IntegrityError
) -> str | None:
    """Whose task stands in the way of ours: another request's, by its id, or our own from a commit unheard of.

    Raises `error` when it is neither: then something else is wrong, and there is no task.
    """
    earlier = await claims.find(rt, row["key_id"], idempotency) if idempotency else None
    if earlier is not None and earlier != row["id"]:
        return earlier
    async with rt.db.read() as connection:
        ours = (await connection.execute(select(TASKS.c.id).where(TASKS.c.id == row["id"]))).first()
    if ours is None:
        raise error
    return None


async def _insert(connection: AsyncConnection, row: dict[str, Any], idempotency: Idempotency | None) -> None:
    await connection.execute(insert(TASKS), row)
    type = f"{row['kind']}.{row['operation']}.queued"
    await events.record(connection, row["id"], 1, type, row["created_at"], {})
    if idempotency is not None:
        await claims.make(connection, row["key_id"], idempotency, row["id"], row["created_at"])


def _start(rt: Runtime, row: dict[str, Any], *, here: bool) -> None:
    if here:
        whole = {column.name: row.get(column.name) for column in TASKS.c}
        turn = Turn(rt.db, TASKS, whole, rt.now, rt.settings.lease_seconds)
        rt.executor.spawn(go_on(rt, turn), f"task {row['id']}")
    else:
        rt.executor.spawn(_ring(rt, Message(TASK, row["id"], 0)), f"ringing for {row['id']}")


async def get(rt: Runtime, key_id: str, task_id: str) -> TaskRecord:
    """One task of that key; raises `task_not_found`, also for a task of another key."""
    if ids.is_id(task_id, "task"):
        statement = select(TASKS).where(TASKS.c.id == task_id, TASKS.c.key_id == key_id)
        async with rt.db.read() as connection:
            row = (await connection.execute(statement)).mappings().first()
            if row is not None:
                return (await _records(connection, [row]))[0]
    raise GatewayError("task_not_found", "There is no such task.")


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
) -> tuple[list[TaskRecord], bool]:
    """A page of a key's tasks, and whether more follow. `after` is the last id of the page before."""
    column = TASKS.c.id
    statement = select(TASKS).where(TASKS.c.key_id == key_id)
    if states:
        statement = statement.where(TASKS.c.state.in_(states))
    if type is not None:
        kind, _, operation = type.partition(".")
        statement = statement.where(TASKS.c.kind == kind, TASKS.c.operation == operation)
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
        idle = update(TASKS).where(TASKS.c.id == task_id, TASKS.c.state.in_((State.QUEUED, State.WAITING)))
        rung = idle.values(due_at=now, rings=TASKS.c.rings + 1).returning(TASKS.c.version)
        # A repeated wish must not take the turn from whoever is granting the first.
        version = (await connection.execute(rung)).scalar() if new else None
    if version is not None:
        await asyncio.wait({rt.executor.start(Message(TASK, task_id, version))}, timeout=CANCEL_SECONDS)
    return await get(rt, key_id, task_id)


async def _ring(rt: Runtime, message: Message) -> None:
    try:
        await rt.queue.send(message)
    except QueueError as error:
        log.warning("the bell for %s was not rung, the sweep will: %s", message.id, error)


async def _records(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[TaskRecord]:
    started = [row["id"] for row in rows if row["started_at"] is not None]
    attempts: dict[str, list[AttemptRecord]] = {}
    assets: dict[str, list[AssetRecord]] = {}
    if started:
        tried = select(ATTEMPTS).where(ATTEMPTS.c.task_id.in_(started)).order_by(ATTEMPTS.c.number)
        for row in (await connection.execute(tried)).mappings():
            attempts.setdefault(row["task_id"], []).append(
                AttemptRecord(**{name: row[name] for name in ATTEMPT_FIELDS})
            )
        kept = select(ASSETS).where(ASSETS.c.task_id.in_(started), ASSETS.c.deleted_at.is_(None))
        for row in (await connection.execute(kept.order_by(ASSETS.c.position))).mappings():
            assets.setdefault(row["task_id"], []).append(record_of(row))
    return [
        TaskRecord(
            **{name: row[name] for name in TASK_FIELDS} | {"state": State(row["state"])},
            attempts=tuple(attempts.get(row["id"], ())),
            assets=tuple(assets.get(row["id"], ())),
        )
        for row in rows
    ]
