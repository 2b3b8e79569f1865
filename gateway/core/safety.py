"""Safety: which prompts are accepted. Asked before a task is made, so that nothing is spent on one that is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.core.advisers import Adviser, Silent, open_adviser
from gateway.core.blocklist import Blocklist, BlocklistError
from gateway.core.errors import GatewayError
from gateway.core.settings import Settings, SettingsError, variable
from providers.card import ModelCard
from providers.contract import Generation

# What somebody does not want to see may well be on a list.
UNASKED = ("negative_prompt",)
RETRY_SECONDS = 5


class Judgement(msgspec.Struct):
    """What a moderation model says of a text."""

    flagged: bool


class Judgements(msgspec.Struct):
    """The answer of a moderation model."""

    results: Annotated[list[Judgement], Meta(min_length=1)]


class Safety:
    """The rules of an installation, none if nothing is given; `lenient`: a silent moderation model forbids nothing."""

    def __init__(
        self, blocklist: Blocklist | None = None, moderation: Adviser | None = None, *, lenient: bool = False
    ) -> None:
        self._blocklist = blocklist
        self._moderation = moderation
        self._lenient = lenient

    async def check(self, texts: Iterable[str]) -> None:
        """Raises `content_policy_violation` for a text that is not accepted.

        Raises `moderation_unavailable` where nobody could say so.
        """
        said = list(dict.fromkeys(text for text in texts if text.strip()))
        if self._is_listed(said) or await self._is_flagged("\n".join(said)):
            message = "The prompt is against the content policy of this gateway. Nothing was started."
            raise GatewayError("content_policy_violation", message, param="prompt")

    async def permits(self, text: str) -> bool:
        """Whether a text of our own making may be sent; no, where nobody could say so."""
        try:
            await self.check([text])
        except GatewayError:
            return False
        return True

    async def close(self) -> None:
        """Closes the connections."""
        if self._moderation:
            await self._moderation.close()

    def _is_listed(self, texts: Iterable[str]) -> bool:
        return self._blocklist is not None and any(map(self._blocklist.finds, texts))

    async def _is_flagged(self, text: str) -> bool:
        if self._moderation is None or not text:
            return False
        try:
            judged = await self._moderation.ask("/moderations", Judgements, input=text)
        except Silent as error:
            if self._lenient:
                return False
            message = "The prompt could not be checked just now. Nothing was started; please try again."
            raise GatewayError("moderation_unavailable", message, retry_after=RETRY_SECONDS) from error
        return any(one.flagged for one in judged.results)


def open_safety(settings: Settings) -> Safety:
    """The rules that the settings name; raises SettingsError."""
    try:
        blocklist = Blocklist(Path(settings.blocklist_file)) if settings.blocklist_file else None
    except BlocklistError as error:
        raise SettingsError(f"{variable('blocklist_file')}: {error}") from error
    return Safety(blocklist, open_adviser(settings, "moderation"), lenient=settings.moderation_failure == "open")


def texts_of(generation: Generation, card: ModelCard) -> Iterator[str]:
    """Everything that a caller has put in words: the prompt, and what else is free text to the model."""
    yield generation.prompt
    for name, value in generation.parameters.items():
        parameter = card.parameters.get(name)
        if name not in UNASKED and not (parameter and parameter.values):
            yield from _texts(value)
    for name, value in generation.extras.items():
        if name not in UNASKED:
            yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
