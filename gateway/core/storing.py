"""Storing: from a vendor's finished job to a completed task, and nothing that was paid for gets lost between."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from gateway.core import assets
from gateway.core.assets import Landed
from gateway.core.failures import failed
from gateway.core.outbound import OutboundError
from gateway.core.pricing import quote
from gateway.core.work import Work
from providers.contract import Broken, Done, Output, Provider, ProviderError
from storage.objects import ObjectError

log = logging.getLogger(__name__)


async def deliver(work: Work, number: int, provider: Provider, model: str, answer: Done) -> None:
    """Takes in what the vendor answered: bytes at once, then whatever lies behind URLs."""
    if not answer.outputs:
        return await failed(work, number, Broken("The provider finished without a result."))
    landed = assets.expected(answer.outputs)
    async with work.turn.renewing():
        landed = await asyncio.gather(
            *(_keep(work, number, one, output) for one, output in zip(landed, answer.outputs, strict=True))
        )
    work.rt.crash.pass_by("store.after_put")
    usage = dict(answer.usage) if answer.usage else None
    if any(one.url for one in landed):
        await work.store(number, landed, usage=usage, cost=answer.cost)
    await finish(work, (provider.card.name, model), number, answer.cost, landed, usage)


async def _keep(work: Work, number: int, landed: Landed, output: Output) -> Landed:
    """Stores bytes that came with the answer. They exist nowhere else: a store that fails is tried until it works."""
    while output.data is not None:
        try:
            return await assets.keep(work.rt, assets.object_key(work.id, number, landed.position), landed, output.data)
        except ObjectError as error:
            if work.seconds_left <= 0:
                return msgspec.structs.replace(landed, flaw="the object store did not take it in time")
            log.warning("%s: the object store failed, trying again: %s", work.id, error)
            await work.rt.sleep((work.later() - work.rt.now()).total_seconds())
    return landed


async def finish(
    work: Work,
    place: tuple[str, str],
    number: int,
    cost: int | None,
    landed: list[Landed],
    usage: dict[str, Any] | None,
) -> None:
    """Brings in what is still at the vendor, and completes the task with what is whole; else tries again later."""
    if work.task["cancel_asked_at"]:
        return await work.cancel(number)
    provider = work.rt.catalog.providers[place[0]]
    if any(one.url for one in landed):
        async with work.turn.renewing():
            landed = await asyncio.gather(*(_bring(work, provider, number, one) for one in landed))
    if any(one.url for one in landed) and work.seconds_left > 0:
        return await work.store(number, landed, due_at=work.later())
    good = [one for one in landed if one.key]
    for one in landed:
        if not one.key:
            log.warning("%s: output %s of attempt %s is not kept: %s", work.id, one.position, number, one.flaw)
    if not good:
        error = Broken("The provider's result could not be fetched, or is no image.")
        return await failed(work, number, error, cost=cost, outputs=msgspec.to_builtins(landed))
    await work.complete(
        number, good, charged=_charge(work, place, cost, len(good)), adjusted=_deviations(work, good),
        usage=usage, cost=cost, outputs=msgspec.to_builtins(landed),
    )  # fmt: skip


async def _bring(work: Work, provider: Provider, number: int, landed: Landed) -> Landed:
    """The output in our store; unchanged, so with its URL still, when that did not work this time."""
    if landed.url is None:
        return landed
    key = assets.object_key(work.id, number, landed.position)
    try:
        return await assets.fetch(work.rt, provider, key, landed)
    except (OutboundError, ProviderError, ObjectError, OSError) as error:
        log.warning("%s: output %s was not brought in: %s", work.id, landed.position, error)
        return landed


def _charge(work: Work, place: tuple[str, str], cost: int | None, delivered: int) -> int | None:
    """What the delivered outputs cost in micro-USD: what the vendor said, else the card's price of that many."""
    if cost is not None:
        return cost
    model = work.rt.catalog.find(work.generation.model)
    route = next((one for one in model.routes if one.place == place), None) if model else None
    if route is None:
        # The configuration has changed since: what was quoted still holds.
        quoted = work.task["quoted"]
        return None if quoted is None else quoted * delivered // work.generation.n
    return quote(msgspec.structs.replace(work.generation, n=delivered), route.card, route.price)


def _deviations(work: Work, landed: list[Landed]) -> dict[str, Any]:
    """What an alias changed already, and where number and size are not the ones that were asked for."""
    adjusted = dict(work.task["adjusted"])
    if len(landed) != work.generation.n:
        adjusted["delivered_n"] = [work.generation.n, len(landed)]
    delivered = {f"{one.width}x{one.height}" for one in landed}
    asked = work.generation.size
    if asked is not None and delivered != {asked}:
        adjusted["delivered_size"] = [asked, ", ".join(sorted(delivered))]
    return adjusted
