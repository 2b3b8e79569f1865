"""Insisting: what a step has to record of an order is paid for, so it is written again until the database takes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from gateway.core.runtime import Runtime
from storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)
PAUSE = 1.0
# Seconds beyond the task's deadline for which its outcome is still tried to be recorded.
GRACE = 600


class Insistent(Protocol):
    """Whose methods may insist: a task's work."""

    rt: Runtime
    id: str

    @property
    def seconds_left(self) -> float:
        """How long the task may still take."""


P = ParamSpec("P")
T = TypeVar("T")


def insisting(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Repeats a transaction while the database does not answer: what it records is paid for, and is nowhere else.

    A commit whose answer was lost is found done: the row's version is not ours any more, which is TurnLost.
    """

    @wraps(method)
    async def insist(*args: P.args, **kwargs: P.kwargs) -> T:
        work = cast(Insistent, args[0])
        while True:
            try:
                return await method(*args, **kwargs)
            except DatabaseUnavailable as error:
                if work.seconds_left <= -GRACE:
                    raise
                log.warning("%s: the database does not answer (%s), trying again", work.id, error)
                await work.rt.sleep(PAUSE)

    return insist
