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
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from gateway.core import assets, turns
from gateway.core.admission import admit
from gateway.core.assets import Landed
from gateway.core.catalog import Route
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import State
from gateway.core.outbound import OutboundError
from gateway.core.ports import Message
from gateway.core.pricing import quote
from gateway.core.runtime import Runtime
from gateway.core.tables import TASKS
from gateway.core.turns import Turn, TurnLost
from gateway.core.work import Work
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Order,
    Output,
    Pending,
    Provider,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)  # fmt: skip
from storage.objects import ObjectError

log = logging.getLogger(__name__)
MAX_TAKES = 3
# Seconds that an adapter has, beyond its card's timeout, to say itself what became of a call.
MARGIN = 15
ELSEWHERE = (BadCredential, RateLimited, Unavailable)
CODES: dict[type[ProviderError], str] = {
    Blocked: "content_policy_violation",
    Refused: "provider_refused",
    BadCredential: "provider_error",
    RateLimited: "model_overloaded",
    Unavailable: "model_overloaded",
    Unsure: "outcome_unknown",
    Broken: "provider_error",
}
UNKNOWN = "The provider may have accepted the request, but the answer did not arrive. It is not sent again."


async def advance(rt: Runtime, message: Message) -> None:
    """Takes the turn that the message rings for and does what is due; a stale message is a normal end."""
    turn = await turns.take(rt.db, TASKS, message, rt.now, rt.settings.lease_seconds)
    if turn is not None:
        await go_on(rt, turn)


async def go_on(rt: Runtime, turn: Turn) -> None:
    """Does what is due in a turn that was taken."""
    try:
        await _step(Work(rt, turn))
    except TurnLost:
        log.info("%s went on elsewhere", turn.id)


async def _step(work: Work) -> None:
    attempt = (await work.attempts())[-1] if work.started else None
    number = attempt["number"] if attempt else None
    if work.task["takes"] > MAX_TAKES:
        await work.fail("internal_error", "The task stopped its worker several times.", number=number)
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
        await _store(work, attempt["provider"], attempt["number"], attempt["cost"], landed, None)


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


def _choose(rt: Runtime, routes: tuple[Route, ...], attempts: list[RowMapping]) -> Route | None:
    """The first route among those tried least; None when all had their rounds or do not accept our credential."""
    tries = _tries(rt, attempts)
    best = min(routes, key=lambda route: tries[_place(route)])
    return best if tries[_place(best)] < rt.settings.max_rounds else None


def _tries(rt: Runtime, attempts: list[RowMapping]) -> Counter[tuple[str, str]]:
    """How often each route was tried; one that does not accept our credential counts as tried to the end."""
    tries: Counter[tuple[str, str]] = Counter()
    for attempt in attempts:
        for_good = attempt["outcome"] == BadCredential.__name__
        tries[attempt["provider"], attempt["model"]] += rt.settings.max_rounds if for_good else 1
    return tries


def _place(route: Route) -> tuple[str, str]:
    return route.provider, route.card.name


async def _send(work: Work, number: int, provider_name: str, model: str) -> None:
    """Submits, with the turn kept alive meanwhile. From here on the vendor may have the order."""
    provider = work.rt.catalog.providers[provider_name]
    order = Order(work.generation, model, f"{work.id}-{number}", report=work.report)
    try:
        async with work.turn.renewing(), asyncio.timeout(_patience(work, provider)):
            answer = await provider.submit(order)
    except ELSEWHERE as error:
        return await _go_elsewhere(work, number, error)
    except ProviderError as error:
        return await _failed(work, number, error)
    except TimeoutError:
        return await _failed(work, number, Unsure(UNKNOWN))
    except TurnLost:
        raise
    except Exception:
        log.exception("%s: the provider %s failed while submitting", work.id, provider_name)
        return await _failed(work, number, Unsure(UNKNOWN))
    await _answered(work, number, provider, answer)


def _patience(work: Work, provider: Provider) -> float:
    """How long a submit may take. The adapter's own limit ends first: it knows whether anything was sent by then."""
    return min(provider.card.timeout + MARGIN, max(work.seconds_left, 1))


async def _go_elsewhere(work: Work, number: int, error: ProviderError) -> None:
    """The vendor took nothing: on to a route that was not tried yet, at once, or round again, later."""
    tries = _tries(work.rt, await work.attempts())
    routes = admit(work.rt.catalog, work.generation).routes
    if any(not tries[_place(route)] for route in routes):
        await work.requeue(number, type(error).__name__, error.message)
        return await _submit(work)
    await work.requeue(number, type(error).__name__, error.message, _retry_at(work, error))


async def _resolve(work: Work, attempt: RowMapping) -> None:
    """Whoever sent this is gone, and the answer with it. Nothing is sent again unless that cannot buy twice."""
    provider = work.rt.catalog.providers[attempt["provider"]]
    number = attempt["number"]
    if provider.card.idempotent_submit:
        return await _send(work, number, attempt["provider"], attempt["model"])
    if not provider.card.can_find:
        return await _failed(work, number, Unsure(UNKNOWN))
    order = Order(work.generation, attempt["model"], f"{work.id}-{number}")
    async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
        found = await provider.find(order)
    if found is None:
        await work.requeue(number, Unavailable.__name__, "The order never reached the provider.")
        return await _submit(work)
    await _answered(work, number, provider, found)


async def _poll(work: Work, attempt: RowMapping) -> None:
    provider = work.rt.catalog.providers[attempt["provider"]]
    number, job = attempt["number"], attempt["job"]
    if work.task["cancel_asked_at"] or work.seconds_left <= 0:
        return await _stop(work, provider, number, job)
    try:
        async with work.turn.renewing(), asyncio.timeout(provider.card.timeout):
            answer = await provider.poll(job)
    except (BadCredential, RateLimited, Unavailable, Unsure, TimeoutError) as error:
        log.warning("%s: looking at its job failed: %s", work.id, type(error).__name__)
        return await work.wait(number, job, work.later(), None)
    except ProviderError as error:
        return await _failed(work, number, error)
    await _answered(work, number, provider, answer)


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


async def _answered(work: Work, number: int, provider: Provider, answer: Pending | Done) -> None:
    if isinstance(answer, Pending):
        due_at = work.rt.now() + dt.timedelta(seconds=answer.poll_after)
        return await work.wait(number, answer.job, due_at, answer.progress)
    if not answer.outputs:
        return await _failed(work, number, Broken("The provider finished without a result."))
    landed = assets.expected(answer.outputs)
    async with work.turn.renewing():
        landed = await asyncio.gather(
            *(_keep(work, number, one, output) for one, output in zip(landed, answer.outputs, strict=True))
        )
    usage = dict(answer.usage) if answer.usage else None
    if any(one.url for one in landed):
        await work.store(number, landed, usage=usage, cost=answer.cost)
    await _store(work, provider.card.name, number, answer.cost, landed, usage)


async def _keep(work: Work, number: int, landed: Landed, output: Output) -> Landed:
    """Stores bytes that came with the answer. They exist nowhere else: a store that fails is tried until it works."""
    while output.data is not None:
        try:
            return await assets.keep(work.rt, assets.object_key(work.id, number, landed.position), landed, output.data)
        except ObjectError as error:
            if work.seconds_left <= 0:
                raise
            log.warning("%s: the object store failed, trying again: %s", work.id, error)
            await work.rt.sleep((work.later() - work.rt.now()).total_seconds())
    return landed


async def _store(
    work: Work, provider_name: str, number: int, cost: int | None, landed: list[Landed], usage: dict[str, Any] | None
) -> None:
    provider = work.rt.catalog.providers[provider_name]
    if any(one.url for one in landed):
        async with work.turn.renewing():
            landed = await asyncio.gather(*(_bring(work, provider, number, one) for one in landed))
    if any(one.url for one in landed) and work.seconds_left > 0:
        return await work.store(number, landed, due_at=work.later())
    good = [one for one in landed if one.key]
    if not good:
        return await _failed(work, number, Broken("The provider's result could not be fetched, or is no image."))
    await work.complete(
        number, good, charged=_charge(work, provider_name, cost, len(good)), adjusted=_deviations(work, good),
        usage=usage, cost=cost, outputs=msgspec.to_builtins(landed),
    )  # fmt: skip


async def _bring(work: Work, provider: Provider, number: int, landed: Landed) -> Landed:
    """The output in our store; unchanged, so with its URL still, when that did not work this time."""
    if landed.url is None:
        return landed
    key = assets.object_key(work.id, number, landed.position)
    try:
        return await assets.fetch(work.rt, provider, key, landed)
    except (OutboundError, ProviderError, ObjectError) as error:
        log.warning("%s: output %s was not brought in: %s", work.id, landed.position, error)
        return landed


def _charge(work: Work, provider: str, cost: int | None, delivered: int) -> int | None:
    """What the delivered outputs cost in micro-USD: what the vendor said, else the card's price of that many."""
    if cost is not None:
        return cost
    routes = work.rt.catalog.model(work.generation.model).routes
    route = next((one for one in routes if one.provider == provider), None)
    if route is None:
        return None
    return quote(msgspec.structs.replace(work.generation, n=delivered), route.card, route.price)


def _deviations(work: Work, landed: list[Landed]) -> dict[str, Any]:
    """What an alias changed already, and where the delivered size is not the one that was asked for."""
    adjusted = dict(work.task["adjusted"])
    delivered = {f"{one.width}x{one.height}" for one in landed}
    asked = work.generation.size
    if asked is not None and delivered != {asked}:
        adjusted["delivered_size"] = [asked, ", ".join(sorted(delivered))]
    return adjusted


async def _failed(work: Work, number: int, error: ProviderError) -> None:
    code = next(code for kind, code in CODES.items() if isinstance(error, kind))
    await work.fail(code, error.message, param=error.param, number=number, outcome=type(error).__name__)


def _retry_at(work: Work, error: ProviderError) -> dt.datetime:
    advice = getattr(error, "retry_after", None)
    return work.later() if advice is None else work.rt.now() + dt.timedelta(seconds=min(advice, 120))
