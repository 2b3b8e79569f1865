"""Enhancing: from the caller's prompt to one that a model makes more of: by a chat model, or by rules without it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from gateway.core.advisers import Adviser, Silent
from gateway.core.cleaning import text
from gateway.core.errors import invalid
from gateway.core.prompt_settings import TemplateName
from gateway.core.settings import Settings
from gateway.core.templates import brief, by_rule
from providers.contract import Generation

# Bytes of the longest answer that counts as a prompt.
LONGEST = 4000
# What models that think aloud put before their answer.
THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


class Enhancement(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a task's prompt is enhanced. With a `source` that was done, and `prompt` is what came of it.

    Kept as JSON with the task, so that every attempt sends the same. Without a `prompt`, the caller's own is sent.
    """

    template: TemplateName
    source: Literal["model", "rules", "none"] | None = None
    prompt: str | None = None


class Message(msgspec.Struct):
    """What a chat model says."""

    content: str | None = None


class Choice(msgspec.Struct):
    """One of its answers."""

    message: Message


class Completion(msgspec.Struct):
    """The answer of a chat model."""

    choices: list[Choice]


class Enhancer:
    """Enhances by a chat model if there is one; when that is silent, and without one, by the rules."""

    def __init__(self, adviser: Adviser | None = None) -> None:
        self._adviser = adviser

    async def by_model(self, generation: Generation, template: TemplateName) -> str | None:
        """The prompt as the chat model would have it; None when there is none, or it says nothing of use in time."""
        if self._adviser is None:
            return None
        said = ({"role": "system", "content": brief(template, generation)},
                {"role": "user", "content": generation.prompt})  # fmt: skip
        try:
            answer = await self._adviser.ask("/chat/completions", Completion, messages=said)
        except Silent:
            return None
        content = answer.choices[0].message.content if answer.choices else None
        plain = _plain(content or "")
        return plain if 0 < len(plain.encode()) <= LONGEST else None

    def by_rules(self, generation: Generation, template: TemplateName) -> str:
        """The prompt as the rules have it."""
        return by_rule(template, generation)

    def longest(self, generation: Generation, template: TemplateName) -> int:
        """How many bytes the prompt may have that comes of it."""
        own = len(self.by_rules(generation, template).encode())
        return max(own, LONGEST) if self._adviser else own

    async def close(self) -> None:
        """Closes the connections."""
        if self._adviser:
            await self._adviser.close()


def asked_for(
    settings: Settings, generation: Generation, enhance: bool | None, template: TemplateName | None
) -> Enhancement | None:
    """How the request wants its prompt enhanced, if at all; raises `invalid_parameter` where it contradicts itself."""
    if enhance is False:
        if template is not None:
            raise invalid("enhance_template", "enhance_template does not go with enhance: false.")
        return None
    if not generation.prompt.strip():
        if enhance or template:
            raise invalid("enhance" if enhance else "enhance_template", "There is no prompt that could be enhanced.")
        return None
    wanted = enhance or template is not None or settings.enhance == "always"
    return Enhancement(template or settings.enhance_template) if wanted else None


def _plain(answer: str) -> str:
    """The answer as a prompt: one line, without thoughts before it and quotation marks around it."""
    line = " ".join(text(THOUGHTS.sub(" ", answer)).split())
    line = "".join(letter for letter in line if letter.isprintable())
    for left, right in ('""', "“”", "``"):
        if len(line) > 1 and line.startswith(left) and line.endswith(right):
            line = line[1:-1].strip()
    return line
