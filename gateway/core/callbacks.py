"""Callbacks: a vendor says that a job moved. It only makes the task due now: how the job stands, a look tells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update

from gateway.core import signing
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import State
from gateway.core.ports import TASK, Message, QueueError
from gateway.core.runtime import Runtime
from gateway.core.tables import ATTEMPTS, TASKS
from providers.contract import Callback, Provider, ProviderError, Refused

log = logging.getLogger(__name__)
PATH = "/callbacks"


def address(rt: Runtime, provider: Provider, reference: str) -> str | None:
    """Where the vendor may tell us of that attempt; None when it never does, or could not reach us.

    `reference` is the task's id and the attempt's number. Nobody else can make up the address.
    """
    if not provider.card.callbacks or rt.settings.public_url is None:
        return None
    signature = signing.sign(rt.secrets.callbacks, reference)
    return f"{rt.settings.public_url.rstrip('/')}{PATH}/{reference}/{signature}"


async def hear(rt: Runtime, reference: str, signature: str, callback: Callback) -> Mapping[str, Any]:
    """Makes the task of the attempt due, and says what answers the vendor.

    Raises `task_not_found` for an address that we did not give out, `operation_not_allowed` for one whom the vendor's
    adapter does not take for the vendor.
    """
    task_id, _, number = reference.rpartition("-")
    provider = await _provider(rt, task_id, int(number)) if _is_ours(rt, reference, signature) else None
    if provider is None:
        raise GatewayError("task_not_found", "There is no such task.")
    try:
        answer = await provider.hear(callback)
    except Refused as error:
        log.warning("%s: a callback was not its provider's: %s", task_id, error.message)
        raise GatewayError("operation_not_allowed", "This is not signed by the provider.") from error
    except ProviderError as error:
        # Whether it is the vendor's could not be found out now. The address was: a look costs nothing.
        log.warning("%s: a callback could not be checked: %s", task_id, type(error).__name__)
        answer = None
    await _ring(rt, task_id, int(number))
    return answer or {}


def _is_ours(rt: Runtime, reference: str, signature: str) -> bool:
    return signature.isascii() and signing.verify(rt.secrets.callbacks, reference, signature)


async def _provider(rt: Runtime, task_id: str, number: int) -> Provider | None:
    columns = (ATTEMPTS.c.provider, ATTEMPTS.c.credential)
    of = (ATTEMPTS.c.task_id == task_id, ATTEMPTS.c.number == number)
    async with rt.db.read() as connection:
        row = (await connection.execute(select(*columns).where(*of))).first()
    provider = rt.catalog.provider(*row) if row is not None else None
    return provider if provider is not None and provider.card.callbacks else None


async def _ring(rt: Runtime, task_id: str, number: int) -> None:
    """Rings for a task that waits for that attempt; one bell is enough, however often the vendor calls."""
    last = select(ATTEMPTS.c.number).where(ATTEMPTS.c.task_id == task_id).order_by(ATTEMPTS.c.number.desc()).limit(1)
    waiting = (TASKS.c.id == task_id, TASKS.c.state == State.WAITING, TASKS.c.rings == 0)
    rung = update(TASKS).where(*waiting, last.scalar_subquery() == number)
    async with rt.db.write_one() as connection:
        due = rung.values(due_at=rt.now(), rings=1).returning(TASKS.c.version)
        version = (await connection.execute(due)).scalar()
    if version is None:
        return
    try:
        await rt.queue.send(Message(TASK, task_id, version))
    except QueueError as error:
        log.warning("the bell for %s was not rung, the sweep will: %s", task_id, error)
