"""Preparing: what comes before a task: what hooks, cards and the content policy make of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from gateway.core import ledger, slots, uploads
from gateway.core.admission import Admitted, admit, check_members, with_extras
from gateway.core.claims import Idempotency
from gateway.core.endpoints import Webhook
from gateway.core.enhancing import Enhancement, asked_for
from gateway.core.errors import GatewayError
from gateway.core.hooks import Asker
from gateway.core.inputs import Upload
from gateway.core.keys import Caller
from gateway.core.pricing import least
from gateway.core.prompt_settings import TemplateName
from gateway.core.runtime import Runtime
from gateway.core.safety import texts_of
from gateway.core.uploads import Given
from providers.contract import Generation


class Wanted(msgspec.Struct, frozen=True):
    """A generation as a dialect understood it, with what only the model's card can judge.

    `unknown` are members that the dialect does not know, refused with `strict` unless the card lists them; with `texts`
    they come from a form. `hints` are passed on where the card lists them and mean nothing elsewhere. `labels` are the
    caller's own, echoed. `enhance` and `template` say whether and how its prompt is enhanced, None what the settings
    say. With `idempotency`, a repetition of the request gets the task that is there already.
    """

    generation: Generation
    unknown: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    strict: bool = False
    labels: dict[str, str] = {}
    idempotency: Idempotency | None = None
    priority: int = slots.USUAL
    timeout: float | None = None
    fallback_models: tuple[str, ...] = ()
    pictures: tuple[Given, ...] = ()
    texts: bool = False
    webhook: Webhook | None = None
    enhance: bool | None = None
    template: TemplateName | None = None


class Prepared(msgspec.Struct, frozen=True):
    """A generation that may become a task: its pictures, as its model and those to fall back on will do it.

    `skipped` are the models to fall back on that cannot do it, with the reason of each.
    """

    received: tuple[Upload, ...]
    first: Admitted
    fallbacks: list[Admitted]
    skipped: dict[str, str]
    enhancement: Enhancement | None


@asynccontextmanager
async def prepared(rt: Runtime, caller: Caller, wanted: Wanted) -> AsyncIterator[Prepared]:
    """What hooks, cards and the content policy make of it, for as long as the block lasts; raises what they refuse."""
    generation, changed = await rt.hooks.apply(wanted.generation, Asker(caller.key_id, caller.owner))
    wanted = msgspec.structs.replace(wanted, generation=generation)
    enhancement = asked_for(rt.settings, generation, wanted.enhance, wanted.template)
    if wanted.pictures:
        # Who would be refused in the end has nothing fetched and decoded first.
        await ledger.look(rt, caller.key_id, caller.owner, _least(rt, wanted))
    async with uploads.received(rt, caller, wanted.pictures, lambda seen: _admitted(rt, wanted, seen)) as received:
        first, fallbacks, skipped = _admitted(rt, wanted, received)
        await check_texts(rt, [first, *fallbacks])
        first, *fallbacks = (_with_changes(one, changed) for one in (first, *fallbacks))
        yield Prepared(received, first, fallbacks, skipped, enhancement)


def _least(rt: Runtime, wanted: Wanted) -> int:
    """What it will cost at least, in micro-USD; raises `model_not_found`."""
    generation = wanted.generation
    return min(least(generation, route.price) for route in rt.catalog.model(generation.model).routes)


def _with_changes(admitted: Admitted, changed: dict[str, list[Any]]) -> Admitted:
    """Says also what hooks have changed."""
    return msgspec.structs.replace(admitted, adjusted=changed | admitted.adjusted)


async def check_texts(rt: Runtime, admitted: Sequence[Admitted]) -> None:
    """Raises what the content policy says of them."""
    await rt.safety.check(text for one in admitted for text in texts_of(one.generation, one.routes[0].card))


def _admitted(
    rt: Runtime, wanted: Wanted, received: Sequence[Upload]
) -> tuple[Admitted, list[Admitted], dict[str, str]]:
    """The generation as its model will do it, as those to fall back on will, and why others of these cannot.

    Raises what its own model cannot do, and `model_not_found` for one to fall back on that there is not.
    """
    film = next((one for one in received if one.seconds is not None), None)

    def of(model: str) -> Generation:
        seconds = film.seconds if film else None
        generation = msgspec.structs.replace(wanted.generation, model=model, source_seconds=seconds)
        return with_extras(
            rt.catalog, generation, wanted.unknown, wanted.hints, strict=wanted.strict, texts=wanted.texts
        )

    asked = of(wanted.generation.model)
    first, others, skipped = admit(rt.catalog, asked, received), list[Admitted](), dict[str, str]()
    for name in dict.fromkeys(name for name in wanted.fallback_models if name != asked.model):
        if rt.catalog.find(name) is None:
            raise rt.catalog.unknown(name, "fallback_models")
        try:
            generation = of(name)
            check_members(asked, generation, wanted.hints)
            others.append(admit(rt.catalog, generation, received))
        except GatewayError as error:
            skipped[name] = error.message
    return first, others, skipped
