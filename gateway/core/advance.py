"""Advance: the next step of one task. Whoever is rung calls it; it needs nothing but the row.

queued     → send it to the best route
submitting → found overdue: whoever sent it is gone, so look it up, or say that the outcome is unknown
waiting    → look at the vendor's job once
storing    → copy the outputs to our store, check them, complete
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging

import msgspec
from sqlalchemy import RowMapping

from gateway.core import callbacks, slots, turns, uploads
from gateway.core.assets import Landed
from gateway.core.charging import Stopped
from gateway.core.choosing import Candidate, candidates, choose, tries
from gateway.core.cleaning import cleaned
from gateway.core.errors import GatewayError
from gateway.core.failures import CODES, ELSEWHERE, NEUTRAL, NOT_NOW, NOT_SERVED, UNKNOWN, failed
from gateway.core.lifecycle import State
from gateway.core.orders import enhance, ordered
from gateway.core.ports import Message
from gateway.core.runtime import Runtime
from gateway.core.storing import deliver, finish
from gateway.core.tables import TASKS
from gateway.core.turns import Turn, TurnLost
from gateway.core.watching import watch
from gateway.core.work import Work
from providers.contract import (
    BadCredential,
    Done,
    Input,
    Lost,
    Order,
    Pending,
    Provider,
    ProviderError,
    Unavailable,
    Unsure,
)
from storage.objects import NoSuchObject, ObjectError

log = logging.getLogger(__name__)
MAX_TAKES = 3
# For how long a provider is asked what became of a job that was to be stopped.
STOP_SECONDS, STOP_PAUSE = 60, 2
# Seconds that an adapter has, beyond its card's timeout, to say itself what became of a call.
MARGIN = 15


async def advance(rt: Runtime, message: Message) -> None:
    """Takes the turn that the message rings for and does what is due; a stale message is a normal end."""
    turn = await turns.take(rt.db, TASKS, message, rt.now, rt.settings.lease_seconds)
    if turn is not None:
        await go_on(rt, turn)


async def start(rt: Runtime, _: Message) -> None:
    """Starts the task whose turn it is to get a slot, if one may; which one the bell was rung for does not matter."""
    turn = await slots.start_next(rt)
    if turn is not None:
        await go_on(rt, turn)


async def go_on(rt: Runtime, turn: Turn) -> None:
    """Does what is due in a turn that was taken."""
    rt.crash.pass_by("turn.after_take")
    work = Work(rt, turn)
    try:
        await _step(work)
    except TurnLost:
        # An order that was under way may have brought something, which nobody will see now.
        paid = work.state in (State.SUBMITTING, State.STORING)
        log.log(logging.WARNING if paid else logging.INFO, "%s went on elsewhere, in %s", turn.id, work.state)


async def _step(work: Work) -> None:
    attempt = (await work.attempts())[-1] if work.started else None
    number = attempt["number"] if attempt else None
    if work.task["takes"] > MAX_TAKES:
        await _give_up(work, number if attempt and attempt["outcome"] is None else None)
    elif work.state is State.QUEUED:
        await _submit(work)
    elif attempt is None or work.provider is None:
        await _abandon(work, number, "provider_error", "The provider that had this task is no longer configured.")
    elif work.state is State.SUBMITTING:
        await _resolve(work, attempt, work.provider)
    elif work.state is State.WAITING:
        await _poll(work, attempt, work.provider)
    elif work.state is State.STORING:
        landed = [msgspec.convert(one, Landed) for one in attempt["outputs"]]
        await finish(work, work.provider, attempt["number"], attempt["cost"], landed, None)


async def _give_up(work: Work, number: int | None) -> None:
    """Several turns in a row came to no end, each with its worker. What was sent by then may have been bought.

    `number` is that of the attempt that is still open.
    """
    await _abandon(work, number, "internal_error", "The task stopped its worker several times.")


async def _abandon(work: Work, number: int | None, code: str, message: str) -> None:
    """Ends a task that nobody can go on with. What a provider has of it may be billed: its price stays reserved."""
    if work.state is State.SUBMITTING and number is not None:
        return await failed(work, number, Unsure(UNKNOWN))
    await work.fail(code, message, number=number, unknown=work.state in (State.WAITING, State.STORING))


async def _submit(work: Work, after: ProviderError | None = None) -> None:
    """Sends the task over the next route; `after` a refusal over one that was tried before only later."""
    if work.task["cancel_asked_at"]:
        return await work.cancel()
    attempts = await work.attempts() if work.started else []
    if work.seconds_left <= 0:
        return await work.fail("timeout", "The task was not started in the time that it had.")
    if not await enhance(work):
        return await work.cancel()
    try:
        offered = candidates(work.rt.catalog, work.generations, work.uploads)
    except GatewayError as error:
        return await work.fail(error.code, error.message, param=error.param)
    choice = await choose(work.rt, work.id, offered, attempts, again=after is None)
    rest_until = choice.rest_until
    if choice.taken is not None and after is not None and tries(work.rt, attempts)[choice.taken.route.way]:
        rest_until = _retry_at(work, after)
    if rest_until is not None:
        # Nothing was tried, so nothing counts: the turn is given back until a route may be tried.
        return await work.pause(rest_until)
    if choice.taken is not None:
        return await _order(work, len(attempts) + 1, choice.taken)
    last = attempts[-1]
    code = CODES[BadCredential] if last["outcome"] == BadCredential.__name__ else CODES[Unavailable]
    await work.fail(code, last["error_message"])


async def _order(work: Work, number: int, taken: Candidate) -> None:
    """Sends the task over that route, once its pictures are at hand: nothing is begun for want of them."""
    try:
        async with work.turn.renewing():
            inputs = await uploads.load(work.rt, work.uploads, taken.route.card)
    except NoSuchObject:
        return await work.fail("internal_error", "The pictures of the task are gone.")
    except ObjectError as error:
        log.warning("%s: its pictures could not be read: %s", work.id, error)
        return await work.pause(work.later())
    await work.begin(number, taken)
    provider = work.provider
    assert provider is not None  # noqa: S101 - the catalog has just offered it
    await _send(work, number, provider, taken.route.card.name, inputs)


async def _send(
    work: Work, number: int, provider: Provider, model: str, inputs: tuple[Input, ...], *, again: bool = False
) -> None:
    """Submits, with the turn kept alive meanwhile. From here on the vendor may have the order.

    Sent `again`, it may have had it before: a vendor that does not take it now says nothing about then.
    """
    reference = f"{work.id}-{number}"
    callback_url = callbacks.address(work.rt, provider, reference)
    order = Order(ordered(work), model, reference, callback_url, work.report, inputs)
    way, sent_at = work.way, work.rt.now()
    work.rt.crash.pass_by("submit.before_send")
    try:
        # Also beyond the task's deadline: what is under way is bought. The adapter's own limit ends first, for it knows
        # whether anything was sent by then.
        async with work.turn.renewing(), asyncio.timeout(provider.card.timeout + MARGIN):
            answer = await provider.submit(order)
    except NOT_SERVED as error:
        _note_failure(work, error, sent_at)
        if isinstance(error, ELSEWHERE) and not again:
            return await _go_elsewhere(work, number, error)
        return await _unclear(work, number, provider, error)
    except ProviderError as error:
        await failed(work, number, error)
        return await work.rt.health.succeeded(way, sent_at)
    except TurnLost:
        raise
    except Exception as error:
        log.exception("%s: the provider %s failed while submitting", work.id, provider.card.name)
        _note_failure(work, error, sent_at)
        return await failed(work, number, Unsure(UNKNOWN))
    work.rt.crash.pass_by("submit.after_response")
    await _answered(work, number, provider, model, answer)
    # Last, for nothing may come between an answer that is paid for and its record.
    await work.rt.health.succeeded(way, sent_at)


async def _go_elsewhere(work: Work, number: int, error: ProviderError) -> None:
    """The vendor has nothing of it, which is recorded first; then on to the next route."""
    kind = next(kind for kind in ELSEWHERE if isinstance(error, kind))
    log.warning("%s: attempt %s: %s: %s", work.id, number, kind.__name__, error.detail or error.message)
    await work.requeue(number, kind.__name__, NEUTRAL[kind])
    if work.state is State.QUEUED:
        await _submit(work, after=error)


def _note_failure(work: Work, error: Exception, sent_at: dt.datetime) -> None:
    """Here at once, and for other processes as soon as it is written: no record of an order waits for that."""
    work.rt.health.suspect(work.way, error, sent_at)
    work.rt.executor.spawn(work.rt.health.failed(work.way, error, sent_at), f"noting the health of {work.way[0]}")


async def _resolve(work: Work, attempt: RowMapping, provider: Provider) -> None:
    """Whoever sent this is gone, and the answer with it. Nothing is sent again unless that cannot buy twice."""
    number = attempt["number"]
    if provider.card.idempotent_submit:
        return await _send_again(work, number, provider, attempt["model"])
    if not provider.card.can_find:
        return await failed(work, number, Unsure(UNKNOWN))
    order = Order(ordered(work), attempt["model"], f"{work.id}-{number}")
    try:
        async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
            found = await provider.find(order)
    except Lost as error:
        return await _go_elsewhere(work, number, error)
    except NOT_NOW as error:
        return await _unclear(work, number, provider, error)
    except ProviderError as error:
        return await failed(work, number, error)
    if found is None and (still := _may_be_under_way(work, attempt, provider)) > 0:
        # Whoever sent it may only have been held up, and be about to send it.
        return await work.turn.renew(takes=0, due_at=work.rt.now() + dt.timedelta(seconds=still))
    if found is None:
        await work.requeue(number, Unavailable.__name__, "The order never reached the provider.")
        return await _submit(work) if work.state is State.QUEUED else None
    await _answered(work, number, provider, attempt["model"], found)


async def _send_again(work: Work, number: int, provider: Provider, model: str) -> None:
    """Sends the very same order once more, to a vendor that knows it for the same."""
    card = provider.card.model(model)
    try:
        inputs = await uploads.load(work.rt, work.uploads, card) if card else ()
    except ObjectError as error:
        return await _unclear(work, number, provider, error)
    await _send(work, number, provider, model, inputs, again=True)


def _may_be_under_way(work: Work, attempt: RowMapping, provider: Provider) -> float:
    """For how many more seconds an order that the vendor does not know may still arrive there."""
    passed: float = (work.rt.now() - attempt["started_at"]).total_seconds()
    return min(provider.card.timeout + MARGIN - passed, work.seconds_left)


async def _unclear(work: Work, number: int, provider: Provider, error: Exception) -> None:
    """The vendor may have the order. Where its card offers a way to find out, that is tried until the deadline."""
    log.warning("%s: what became of attempt %s is unclear: %s", work.id, number, type(error).__name__)
    if (provider.card.idempotent_submit or provider.card.can_find) and work.seconds_left > 0:
        # The turn runs out, and then whoever takes it finds the order overdue.
        return await work.turn.renew(takes=0)
    await failed(work, number, error if isinstance(error, Unsure) else Unsure(UNKNOWN))


async def _poll(work: Work, attempt: RowMapping, provider: Provider) -> None:
    number, job = attempt["number"], attempt["job"]
    if work.task["cancel_asked_at"] or work.seconds_left <= 0:
        return await _stop(work, provider, attempt)
    try:
        async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
            answer = await provider.poll(job)
    except Lost as error:
        return await _go_elsewhere(work, number, error)
    except NOT_NOW as error:
        log.warning("%s: looking at its job failed: %s", work.id, type(error).__name__)
        return await work.wait(number, job, work.later(), None)
    except ProviderError as error:
        return await failed(work, number, error)
    work.rt.crash.pass_by("poll.after_response")
    await _answered(work, number, provider, attempt["model"], answer)


async def _stop(work: Work, provider: Provider, attempt: RowMapping) -> None:
    """Ends the task as its owner or its deadline wished: stops the order if it can, and keeps what was made by then.

    What cannot be stopped is charged: the provider bills it. What was stopped is believed once the job shows it; until
    then the provider is asked how it stands, for a while.
    """
    number, job = attempt["number"], attempt["job"]
    told = work.task["stopped"] == Stopped.ASKED
    async with work.turn.renewing():
        if not told and provider.card.can_cancel:
            told = await _asked_to_stop(work, provider, job)
        answer = await _look(provider, job)
    if isinstance(answer, Done):
        return await _answered(work, number, provider, attempt["model"], answer)
    if isinstance(answer, ProviderError):
        charged = None if told else work.charge_of_failure(answer)
        return await work.stop(number, Stopped.AT_PROVIDER if told else Stopped.FAILED, charged)
    if isinstance(answer, Pending) and not told:
        return await work.stop(number, Stopped.NOT_STOPPED, attempt["quoted"])
    if work.seconds_since_stop < STOP_SECONDS:
        soon = work.rt.now() + dt.timedelta(seconds=STOP_PAUSE)
        return await work.wait(number, job, soon, None, stopped=Stopped.ASKED if told else None)
    await work.stop(number, Stopped.UNKNOWN, None)


async def _look(provider: Provider, job: str) -> Pending | Done | ProviderError | None:
    """How a job stands: also that it has come to nothing, perhaps because it was stopped; None: nobody says."""
    try:
        async with asyncio.timeout(provider.card.timeout):
            return await provider.poll(job)
    except NOT_NOW:
        return None
    except ProviderError as error:
        return error


async def _asked_to_stop(work: Work, provider: Provider, job: str) -> bool:
    """Whether the provider took our word to stop."""
    try:
        async with asyncio.timeout(provider.card.timeout):
            await provider.cancel(job)
    except (ProviderError, TimeoutError) as error:
        log.warning("%s: the provider did not cancel: %s", work.id, type(error).__name__)
        return False
    return True


async def _answered(work: Work, number: int, provider: Provider, model: str, answer: Pending | Done) -> None:
    answer = cleaned(answer)
    if isinstance(answer, Pending):
        due_at = work.rt.now() + dt.timedelta(seconds=answer.poll_after)
        first = work.state is State.SUBMITTING
        await work.wait(number, answer.job, due_at, answer.progress)
        if first:
            watch(work.rt, provider, work.id, work.task["key_id"], answer.job)
        return work.rt.crash.pass_by("job.after_commit")
    await deliver(work, number, provider, answer)


def _retry_at(work: Work, error: ProviderError) -> dt.datetime:
    advice = getattr(error, "retry_after", None)
    return work.later() if advice is None else work.rt.now() + dt.timedelta(seconds=min(advice, 120))
