"""Hooks: what other packages have to say of a generation before it is admitted.

A hook is an async function in the entry-point group `heliograph.hooks`. It is given the generation as the caller asked
for it and who asks, and returns the generation to go on with, the same or a changed one. With `Rejected` it refuses
the request: nothing is started then. Hooks run one after the other, in the order of their entry points' names.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

import msgspec

from gateway.core.errors import GatewayError
from gateway.core.settings import SettingsError
from providers.contract import Generation

log = logging.getLogger(__name__)
GROUP = "heliograph.hooks"
# What a hook changed is said of these, and of every parameter; nothing is said of texts.
SAID = ("model", "n", "size", "aspect_ratio")


class Asker(msgspec.Struct, frozen=True):
    """Whose request it is: the virtual key's id, and the owner of the key if it has one."""

    key_id: str
    owner: str | None = None


class Rejected(Exception):
    """A hook refuses the request; `message` is for the caller, and `param` the field that is to blame."""

    def __init__(self, message: str, param: str | None = "prompt") -> None:
        super().__init__(message)
        self.message = message
        self.param = param


Hook = Callable[[Generation, Asker], Awaitable[Generation]]


class Hooks:
    """The hooks of this process by name, in order; each may take `seconds`."""

    def __init__(self, hooks: Mapping[str, Hook] | None = None, seconds: float = 5.0) -> None:
        self._hooks = dict(sorted((hooks or {}).items()))
        self._seconds = seconds

    async def apply(self, generation: Generation, asker: Asker) -> tuple[Generation, dict[str, list[Any]]]:
        """The generation to go on with, and what of it was changed: member → [from, to].

        Raises `content_policy_violation` when a hook rejects it, `internal_error` when one fails: what could not be
        checked does not pass.
        """
        made = generation
        for name, hook in self._hooks.items():
            try:
                async with asyncio.timeout(self._seconds):
                    made = _checked(await hook(made, asker))
            except Rejected as error:
                raise GatewayError("content_policy_violation", error.message, param=error.param) from error
            except Exception as error:
                # What it says may be the prompt.
                log.error("the hook %s failed: %s", name, type(error).__name__)
                message = "The request could not be checked on our side. Nothing was started."
                raise GatewayError("internal_error", message) from error
        return made, dict(_changes(generation, made))


def _checked(made: Any) -> Generation:
    if not isinstance(made, Generation):
        raise TypeError("a hook returns a Generation")
    return made


def load_hooks(seconds: float) -> Hooks:
    """The hooks of all installed packages; raises SettingsError for one that is none."""
    hooks: dict[str, Hook] = {}
    for point in entry_points(group=GROUP):
        try:
            hook = point.load()
        except (ImportError, AttributeError) as error:
            raise SettingsError(f"the hook {point.name} cannot be loaded from {point.value}: {error}") from error
        if not inspect.iscoroutinefunction(hook):
            raise SettingsError(f"the hook {point.name} ({point.value}) is no async function")
        hooks[point.name] = hook
    return Hooks(hooks, seconds)


def _changes(before: Generation, after: Generation) -> Iterator[tuple[str, list[Any]]]:
    for name in SAID:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield name, [old, new]
    for name in dict.fromkeys((*before.parameters, *after.parameters)):
        old, new = before.parameters.get(name), after.parameters.get(name)
        if old != new and not name.endswith("prompt"):
            yield name, [old, new]
