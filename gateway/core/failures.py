"""Failures: what a provider's error means for the task, and what its owner is told."""

from __future__ import annotations

import logging
from typing import Any

from gateway.core.cleaning import text
from gateway.core.work import Work
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Lost,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)

log = logging.getLogger(__name__)

# Failures that cost nothing and may go better on another route, and what the caller is told: how we stand with a
# vendor is none of its business, and stands in the log.
NEUTRAL: dict[type[ProviderError], str] = {
    BadCredential: "The provider cannot be used now.",
    RateLimited: "The provider has no room for this now.",
    Unavailable: "The provider could not be reached, or took nothing.",
    Lost: "The provider lost the work before it was finished.",
}
ELSEWHERE = tuple(NEUTRAL)
# Failures to learn how an order stands: they say nothing about the order, so it is asked for again.
NOT_NOW: tuple[type[Exception], ...] = (BadCredential, RateLimited, Unavailable, Unsure, TimeoutError)
# Failures of an order that say nothing against it.
NOT_SERVED: tuple[type[Exception], ...] = (*NOT_NOW, Lost)
CODES: dict[type[ProviderError], str] = {
    Blocked: "content_policy_violation",
    Refused: "provider_refused",
    BadCredential: "provider_error",
    RateLimited: "model_overloaded",
    Unavailable: "model_overloaded",
    Lost: "model_overloaded",
    Unsure: "outcome_unknown",
    Broken: "provider_error",
}
UNKNOWN = "The provider may have accepted the request, but the answer did not arrive. It is not sent again."


async def failed(work: Work, number: int, error: ProviderError, **values: Any) -> None:
    """Ends the task with the code that stands for the provider's error; `values` are further ones of the attempt."""
    kind = next((kind for kind in CODES if isinstance(error, kind)), Broken)
    if error.detail:
        log.warning("%s: attempt %s: %s: %s", work.id, number, kind.__name__, error.detail)
    charged = work.charge_of_failure(error)
    await work.fail(
        CODES[kind], text(error.message), param=error.param, number=number, outcome=kind.__name__, charged=charged,
        unknown=kind is Unsure, **values,
    )  # fmt: skip
