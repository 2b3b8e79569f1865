"""Which function handles which kind of message: the same in every process that has an executor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gateway.core import cleanup
from gateway.core.advance import advance, start
from gateway.core.deliveries import attempt
from gateway.core.executor import Handler
from gateway.core.ports import CLEANUP, DELIVERY, START, TASK
from gateway.core.runtime import Runtime


def handlers(rt: Runtime) -> Mapping[str, Handler]:
    """The handlers by kind of message."""
    return {
        TASK: partial(advance, rt),
        START: partial(start, rt),
        DELIVERY: partial(attempt, rt),
        CLEANUP: partial(cleanup.handle, rt),
    }
