"""Formats: in which one pictures are wanted, and whether their provider makes it or we do once they are here.

What a card offers is asked of the provider: its own file is the first one, and may say where it is from. Everything
else is made here of what the provider delivers, which is asked for without loss where it can be.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.errors import allowed, invalid
from providers.card import ModelCard
from providers.contract import Generation, Kind, Operation

FORMAT, COMPRESSION = "output_format", "output_compression"
MEMBERS = (FORMAT, COMPRESSION)
MADE_HERE = ("png", "jpeg", "webp", "avif", "gif")
# Those whose quality can be chosen.
LOSSY = ("jpeg", "webp", "avif")
LOSSLESS = "png"
# The only one without transparency.
OPAQUE = "jpeg"


class Target(msgspec.Struct, frozen=True):
    """What a delivered picture must become; `anew` also where it has that media type, for a quality of its own."""

    media_type: str
    quality: int | None = None
    anew: bool = False


def offered(card: ModelCard) -> tuple[str, ...]:
    """The formats that may be asked of a model: what its provider makes first, then what is made here of that."""
    if card.kind is not Kind.IMAGE:
        return card.formats
    return tuple(dict.fromkeys((*card.formats, *MADE_HERE)))


def check(generation: Generation, card: ModelCard) -> None:
    """Raises the error of a format that nobody makes, or of one that cannot be what else is asked for."""
    if card.kind is not Kind.IMAGE:
        return
    asked, quality = _said(generation, FORMAT), _said(generation, COMPRESSION)
    native = _is_native(generation, card)
    if asked is not None and not native and asked not in offered(card):
        raise allowed(FORMAT, asked, offered(card))
    if quality is not None and (asked or _usual(card) or not native):
        _check_quality(asked or _usual(card), quality)
    _check_transparency(generation, asked, card)


def _check_transparency(generation: Generation, asked: Any, card: ModelCard) -> None:
    if _said(generation, "background") == "transparent" and (asked or _usual(card)) == OPAQUE:
        raise invalid(
            "background",
            f"background cannot be transparent in {OPAQUE}. Allowed with it is {FORMAT}: {_see_through(card)}.",
        )
    if generation.operation is Operation.REMOVE_BACKGROUND and asked == OPAQUE:
        message = f"A removed background needs an {FORMAT} that can be seen through. Allowed: {_see_through(card)}."
        raise invalid(FORMAT, message)


def _see_through(card: ModelCard) -> str:
    return ", ".join(one for one in offered(card) if one != OPAQUE)


def _check_quality(asked: Any, quality: Any) -> None:
    if asked not in LOSSY:
        raise invalid(COMPRESSION, f"{COMPRESSION} needs an {FORMAT} that has it: {', '.join(LOSSY)}.")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 0 <= quality <= 100:
        raise invalid(COMPRESSION, f"{COMPRESSION} must be an integer from 0 to 100.")


def ordered(generation: Generation, card: ModelCard) -> Generation:
    """The generation as the provider is asked for it: without a format that it does not make."""
    if card.kind is not Kind.IMAGE or _is_native(generation, card):
        return generation
    parameters = {name: value for name, value in generation.parameters.items() if name not in MEMBERS}
    if FORMAT in card.parameters and LOSSLESS in card.parameters[FORMAT].values:
        parameters[FORMAT] = LOSSLESS
    return msgspec.structs.replace(generation, parameters=parameters)


def target(generation: Generation, card: ModelCard) -> Target | None:
    """What the pictures must become when they are here; None where what the provider makes is as good as any."""
    asked, quality = _said(generation, FORMAT), _said(generation, COMPRESSION)
    if card.kind is not Kind.IMAGE or asked not in MADE_HERE:
        return None
    return Target(f"image/{asked}", quality, quality is not None and not _is_native(generation, card))


def _said(generation: Generation, name: str) -> Any:
    """What is asked for; None where that is left to the model."""
    value = generation.parameters.get(name)
    return None if value == "auto" else value


def _is_native(generation: Generation, card: ModelCard) -> bool:
    """Whether the card offers everything that is said of the format, so that the provider is asked for it."""
    return all(_lists(card, name, value) for name in MEMBERS if (value := _said(generation, name)) is not None)


def _lists(card: ModelCard, name: str, value: Any) -> bool:
    parameter = card.parameters.get(name)
    return parameter is not None and (not parameter.values or value in parameter.values)


def _usual(card: ModelCard) -> Any:
    return card.parameters[FORMAT].default if FORMAT in card.parameters else None
