"""Orders: what a provider is handed of a task, what its pictures must become, and what is said of their origin."""

from __future__ import annotations

import msgspec

from gateway.core import formats
from gateway.core.enhancing import Enhancement
from gateway.core.formats import Target
from gateway.core.provenance import Origin
from gateway.core.work import Work
from providers.card import ModelCard
from providers.contract import Generation, Operation


async def enhance(work: Work) -> bool:
    """Has the prompt enhanced if the caller wants that, once for all attempts: it is recorded before anything is sent.

    False when the owner wished to cancel the task meanwhile.
    """
    wanted = _enhancement(work)
    if wanted is None or wanted.source is not None:
        return True
    async with work.turn.renewing():
        made = await _enhanced(work, wanted)
    return await work.note(enhancement=msgspec.to_builtins(made))


async def _enhanced(work: Work, wanted: Enhancement) -> Enhancement:
    """By the chat model, else by the rules; what the policy does not permit is not sent, whoever wrote it."""
    enhancer, asked = work.rt.enhancer, work.generations[0]
    prompt = await enhancer.by_model(asked, wanted.template)
    if prompt is not None and await work.rt.safety.permits(prompt):
        return msgspec.structs.replace(wanted, source="model", prompt=prompt)
    prompt = enhancer.by_rules(asked, wanted.template)
    if await work.rt.safety.permits(prompt):
        return msgspec.structs.replace(wanted, source="rules", prompt=prompt)
    return msgspec.structs.replace(wanted, source="none")


def ordered(work: Work) -> Generation:
    """What the caller asked for, as the provider of the last attempt is asked for it."""
    card = _card(work)
    if card is None:
        return work.generation
    generation, enhancement = formats.ordered(work.generation, card), _enhancement(work)
    # What has become too long for this model is worth less than what the caller said.
    if enhancement is None or not enhancement.prompt or len(enhancement.prompt) > card.prompt_max:
        return generation
    return msgspec.structs.replace(generation, prompt=enhancement.prompt)


def revised(work: Work) -> str | None:
    """The prompt that was sent, if it is not the caller's own."""
    sent = ordered(work).prompt
    return None if sent == work.generation.prompt else sent


def target(work: Work) -> Target | None:
    """What the delivered pictures must become; None where they are kept as they come."""
    card = _card(work)
    return None if card is None else formats.target(work.generation, card)


def origin(work: Work) -> Origin:
    """What a manifest says of the results; a variation is a new picture, and all else but a generation changes one."""
    made = work.generation.operation in (Operation.GENERATION, Operation.VARIATION)
    return Origin(work.generation.model, edited=not made)


def _enhancement(work: Work) -> Enhancement | None:
    stored = work.task["enhancement"]
    return None if stored is None else msgspec.convert(stored, Enhancement)


def _card(work: Work) -> ModelCard | None:
    """The card of the model that the last attempt is for; None when the configuration has it no more."""
    provider = work.provider
    return None if provider is None or work.attempt is None else provider.card.model(work.attempt["model"])
