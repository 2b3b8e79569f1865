"""Storing: from a vendor's finished job to a completed task, and nothing that was paid for gets lost between."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from gateway.core import assets
from gateway.core.assets import Landed
from gateway.core.charging import SLACK, of_delivery
from gateway.core.failures import UNKNOWN, failed
from gateway.core.orders import origin, revised, target
from gateway.core.outbound import OutboundError
from gateway.core.work import Work
from providers.contract import Broken, Done, Output, Provider, ProviderError, Unsure
from storage.objects import ObjectError

log = logging.getLogger(__name__)


async def deliver(work: Work, number: int, provider: Provider, answer: Done) -> None:
    """Takes in what the vendor answered: bytes at once, then whatever lies behind URLs."""
    if not answer.outputs:
        error = Unsure(UNKNOWN) if answer.unknown else Broken("The provider finished without a result.")
        return await failed(work, number, error)
    landed = assets.expected(answer.outputs, revised(work))
    async with work.turn.renewing():
        landed = await asyncio.gather(
            *(_keep(work, number, one, output) for one, output in zip(landed, answer.outputs, strict=True))
        )
    landed += assets.untold(range(len(landed), len(landed) + answer.unknown))
    work.rt.crash.pass_by("store.after_put")
    usage = dict(answer.usage) if answer.usage else None
    if any(one.url for one in landed):
        await work.store(number, landed, usage=usage, cost=answer.cost)
    await finish(work, provider, number, answer.cost, landed, usage)


async def _keep(work: Work, number: int, landed: Landed, output: Output) -> Landed:
    """Stores bytes that came with the answer. They exist nowhere else: a store that fails is tried until it works."""
    key = assets.object_key(work.id, number, landed.position)
    while output.data is not None:
        try:
            return await assets.keep(work.rt, work.task["kind"], key, landed, output.data, origin(work), target(work))
        except (ObjectError, OSError) as error:
            if work.seconds_left <= 0:
                return msgspec.structs.replace(landed, flaw="it could not be stored in time")
            log.warning("%s: an output could not be stored, trying again: %s", work.id, error)
            await work.rt.sleep((work.later() - work.rt.now()).total_seconds())
    return landed


async def finish(
    work: Work,
    provider: Provider,
    number: int,
    cost: int | None,
    landed: list[Landed],
    usage: dict[str, Any] | None,
) -> None:
    """Brings in what is still at the vendor, and completes the task with what is whole; else tries again later."""
    if any(one.url for one in landed):
        async with work.turn.renewing():
            landed = await asyncio.gather(*(_bring(work, provider, number, one) for one in landed))
    if any(one.url for one in landed) and work.seconds_left > 0:
        return await work.store(number, landed, due_at=work.later())
    good, unknown = [one for one in landed if one.key], sum(one.unknown for one in landed)
    for one in landed:
        if not one.key:
            log.warning("%s: output %s of attempt %s is not kept: %s", work.id, one.position, number, one.flaw)
    if not good:
        what = f"The provider's result could not be fetched, or is no {work.task['kind']}."
        error = Unsure(what) if unknown else Broken(what)
        return await failed(work, number, error, cost=cost, outputs=msgspec.to_builtins(landed))
    assert work.attempt is not None  # noqa: S101 - it is what delivered
    charged = of_delivery(work.rt.catalog, work.generation, work.attempt, cost, good)
    await work.complete(
        number, good, charged=charged, unknown=unknown, adjusted=_deviations(work, good, unknown), usage=usage,
        cost=cost, outputs=msgspec.to_builtins(landed),
    )  # fmt: skip


async def _bring(work: Work, provider: Provider, number: int, landed: Landed) -> Landed:
    """The output in our store; unchanged, so with its URL still, when that did not work this time."""
    if landed.url is None:
        return landed
    key = assets.object_key(work.id, number, landed.position)
    try:
        return await assets.fetch(work.rt, provider, work.task["kind"], key, landed, origin(work), target(work))
    except (OutboundError, ProviderError, ObjectError, OSError) as error:
        log.warning("%s: output %s was not brought in: %s", work.id, landed.position, error)
        return landed


def _deviations(work: Work, landed: list[Landed], unknown: int) -> dict[str, Any]:
    """What an alias changed already, and where number, size, length and format are not those that were asked for.

    Of the outputs that are missing, also of how many nobody knows whether the vendor made them.
    """
    adjusted = work.adjusted
    if len(landed) != work.generation.n:
        adjusted["delivered_n"] = [work.generation.n, len(landed)]
    if unknown:
        adjusted["unknown_n"] = [work.generation.n, unknown]
    delivered = {f"{one.width}x{one.height}" for one in landed}
    asked = work.generation.size
    if asked is not None and delivered != {asked}:
        adjusted["delivered_size"] = [asked, ", ".join(sorted(delivered))]
    seconds = work.generation.parameters.get("seconds")
    farthest = _farthest(seconds, [one.seconds for one in landed if one.seconds is not None])
    if farthest is not None:
        adjusted["delivered_seconds"] = [seconds, farthest]
    wanted, types = target(work), {one.media_type or "" for one in landed}
    if wanted is not None and types != {wanted.media_type}:
        adjusted["delivered_format"] = [_format(wanted.media_type), ", ".join(sorted(map(_format, types)))]
    return adjusted


def _format(media_type: str) -> str:
    return media_type.removeprefix("image/")


def _farthest(wanted: Any, lengths: list[float]) -> float | None:
    """Of the lengths the one that is farthest from what is wanted, unless all are as good as that."""
    try:
        seconds = float(wanted)
    except (TypeError, ValueError):
        return None
    off = [one for one in lengths if abs(one - seconds) > SLACK]
    return max(off, key=lambda one: abs(one - seconds), default=None)
