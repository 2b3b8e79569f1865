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
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from gateway.core import turns
from gateway.core.admission import admit
from gateway.core.assets import Landed
from gateway.core.catalog import Route
from gateway.core.cleaning import cleaned
from gateway.core.errors import GatewayError
from gateway.core.failures import CODES, ELSEWHERE, NEUTRAL, NOT_NOW, UNKNOWN, failed
from gateway.core.lifecycle import State
from gateway.core.ports import Message
from gateway.core.runtime import Runtime
from gateway.core.storing import deliver, finish
from gateway.core.tables import TASKS
from gateway.core.turns import Turn, TurnLost
from gateway.core.work import Work
from providers.contract import (
    BadCredential,
    Done,
    Order,
    Pending,
    Provider,
    ProviderError,
    Unavailable,
    Unsure,
)

log = logging.getLogger(__name__)
MAX_TAKES = 3
# Seconds that an adapter has, beyond its card's timeout, to say itself what became of a call.
MARGIN = 15


async def advance(rt: Runtime, message: Message) -> None:
    """Takes the turn that the message rings for and does what is due; a stale message is a normal end."""
    turn = await turns.take(rt.db, TASKS, message, rt.now, rt.settings.lease_seconds)
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
    elif attempt is None or attempt["provider"] not in work.rt.catalog.providers:
        await work.fail("provider_error", "The provider that had this task is no longer configured.", number=number)
    elif work.state is State.SUBMITTING:
        await _resolve(work, attempt)
    elif work.state is State.WAITING:
        await _poll(work, attempt)
    elif work.state is State.STORING:
        landed = [msgspec.convert(one, Landed) for one in attempt["outputs"]]
        place = attempt["provider"], attempt["model"]
        await finish(work, place, attempt["number"], attempt["cost"], landed, None)


async def _give_up(work: Work, number: int | None) -> None:
    """Several turns in a row came to no end, each with its worker. What was sent by then may have been bought.

    `number` is that of the attempt that is still open.
    """
    if work.state is State.SUBMITTING and number is not None:
        return await failed(work, number, Unsure(UNKNOWN))
    await work.fail("internal_error", "The task stopped its worker several times.", number=number)


async def _submit(work: Work) -> None:
    if work.task["cancel_asked_at"]:
        return await work.cancel()
    attempts = await work.attempts() if work.started else []
    if work.seconds_left <= 0:
        return await work.fail("timeout", "The task was not started in the time that it had.")
    try:
        route = _choose(work.rt, admit(work.rt.catalog, work.generation).routes, attempts)
    except GatewayError as error:
        return await work.fail(error.code, error.message, param=error.param)
    if route is None:
        last = attempts[-1]
        code = CODES[BadCredential] if last["outcome"] == BadCredential.__name__ else CODES[Unavailable]
        return await work.fail(code, last["error_message"])
    number = len(attempts) + 1
    await work.begin(number, route.provider, route.card.name)
    await _send(work, number, route.provider, route.card.name)


def _choose(rt: Runtime, routes: tuple[Route, ...], attempts: Sequence[Mapping[Any, Any]]) -> Route | None:
    """The first route among those tried least; None when all had their rounds or do not accept our credential."""
    tries = _tries(rt, attempts)
    best = min(routes, key=lambda route: tries[route.place])
    return best if tries[best.place] < rt.settings.max_rounds else None


def _tries(rt: Runtime, attempts: Sequence[Mapping[Any, Any]]) -> Counter[tuple[str, str]]:
    """How often each route was tried; one that does not accept our credential counts as tried to the end."""
    tries: Counter[tuple[str, str]] = Counter()
    for attempt in attempts:
        for_good = attempt["outcome"] == BadCredential.__name__
        tries[attempt["provider"], attempt["model"]] += rt.settings.max_rounds if for_good else 1
    return tries


async def _send(work: Work, number: int, provider_name: str, model: str, *, again: bool = False) -> None:
    """Submits, with the turn kept alive meanwhile. From here on the vendor may have the order.

    Sent `again`, it may have had it before: a vendor that does not take it now says nothing about then.
    """
    provider = work.rt.catalog.providers[provider_name]
    order = Order(work.generation, model, f"{work.id}-{number}", report=work.report)
    work.rt.crash.pass_by("submit.before_send")
    try:
        async with work.turn.renewing(), asyncio.timeout(_patience(work, provider)):
            answer = await provider.submit(order)
    except NOT_NOW as error:
        if isinstance(error, ELSEWHERE) and not again:
            return await _go_elsewhere(work, number, error)
        return await _unclear(work, number, provider, error)
    except ProviderError as error:
        return await failed(work, number, error)
    except TurnLost:
        raise
    except Exception:
        log.exception("%s: the provider %s failed while submitting", work.id, provider_name)
        return await failed(work, number, Unsure(UNKNOWN))
    work.rt.crash.pass_by("submit.after_response")
    await _answered(work, number, provider, model, answer)


def _patience(work: Work, provider: Provider) -> float:
    """How long a submit may take. The adapter's own limit ends first: it knows whether anything was sent by then."""
    return min(provider.card.timeout + MARGIN, max(work.seconds_left, 1))


async def _go_elsewhere(work: Work, number: int, error: ProviderError) -> None:
    """The vendor took nothing: on to a route that was not tried yet, at once, or round again, later."""
    kind = next(kind for kind in ELSEWHERE if isinstance(error, kind))
    log.warning("%s: attempt %s: %s: %s", work.id, number, kind.__name__, error.message)
    attempts = await work.attempts()
    tried = [*attempts[:-1], {**attempts[-1], "outcome": kind.__name__}]
    route = _choose(work.rt, admit(work.rt.catalog, work.generation).routes, tried)
    at_once = route is None or not _tries(work.rt, tried)[route.place]
    await work.requeue(number, kind.__name__, NEUTRAL[kind], None if at_once else _retry_at(work, error))
    if at_once and work.state is State.QUEUED:
        await _submit(work)


async def _resolve(work: Work, attempt: RowMapping) -> None:
    """Whoever sent this is gone, and the answer with it. Nothing is sent again unless that cannot buy twice."""
    provider = work.rt.catalog.providers[attempt["provider"]]
    number = attempt["number"]
    if provider.card.idempotent_submit:
        return await _send(work, number, attempt["provider"], attempt["model"], again=True)
    if not provider.card.can_find:
        return await failed(work, number, Unsure(UNKNOWN))
    order = Order(work.generation, attempt["model"], f"{work.id}-{number}")
    try:
        async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
            found = await provider.find(order)
    except NOT_NOW as error:
        return await _unclear(work, number, provider, error)
    except ProviderError as error:
        return await failed(work, number, error)
    if found is None:
        await work.requeue(number, Unavailable.__name__, "The order never reached the provider.")
        return await _submit(work) if work.state is State.QUEUED else None
    await _answered(work, number, provider, attempt["model"], found)


async def _unclear(work: Work, number: int, provider: Provider, error: Exception) -> None:
    """The vendor may have the order. Where its card offers a way to find out, that is tried until the deadline."""
    log.warning("%s: what became of attempt %s is unclear: %s", work.id, number, type(error).__name__)
    if (provider.card.idempotent_submit or provider.card.can_find) and work.seconds_left > 0:
        # The turn runs out, and then whoever takes it finds the order overdue.
        return await work.turn.renew(takes=0)
    await failed(work, number, error if isinstance(error, Unsure) else Unsure(UNKNOWN))


async def _poll(work: Work, attempt: RowMapping) -> None:
    provider = work.rt.catalog.providers[attempt["provider"]]
    number, job = attempt["number"], attempt["job"]
    if work.task["cancel_asked_at"] or work.seconds_left <= 0:
        return await _stop(work, provider, number, job)
    try:
        async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
            answer = await provider.poll(job)
    except NOT_NOW as error:
        log.warning("%s: looking at its job failed: %s", work.id, type(error).__name__)
        return await work.wait(number, job, work.later(), None)
    except ProviderError as error:
        return await failed(work, number, error)
    work.rt.crash.pass_by("poll.after_response")
    await _answered(work, number, provider, attempt["model"], answer)


async def _stop(work: Work, provider: Provider, number: int, job: str) -> None:
    """Asks the vendor to stop, as far as it can, and ends the task as its owner or its deadline wished."""
    if provider.card.can_cancel:
        try:
            async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
                await provider.cancel(job)
        except (ProviderError, TimeoutError) as error:
            log.warning("%s: the provider did not cancel: %s", work.id, type(error).__name__)
    if work.task["cancel_asked_at"]:
        return await work.cancel(number)
    await work.fail("timeout", "The provider did not finish in the time that the task had.", number=number)


async def _answered(work: Work, number: int, provider: Provider, model: str, answer: Pending | Done) -> None:
    answer = cleaned(answer)
    if isinstance(answer, Pending):
        due_at = work.rt.now() + dt.timedelta(seconds=answer.poll_after)
        await work.wait(number, answer.job, due_at, answer.progress)
        return work.rt.crash.pass_by("job.after_commit")
    await deliver(work, number, provider, model, answer)


def _retry_at(work: Work, error: ProviderError) -> dt.datetime:
    advice = getattr(error, "retry_after", None)
    return work.later() if advice is None else work.rt.now() + dt.timedelta(seconds=min(advice, 120))
