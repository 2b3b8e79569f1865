"""Failures: what a provider's error means for the task, and what its owner is told."""

from __future__ import annotations

from typing import Any

from gateway.core.cleaning import text
from gateway.core.work import Work
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)

# Failures that cost nothing and may go better on another route, and what the caller is told: how we stand with a
# vendor is none of its business, and stands in the log.
NEUTRAL: dict[type[ProviderError], str] = {
    BadCredential: "The provider does not accept this gateway's credential.",
    RateLimited: "The provider has no room for this now.",
    Unavailable: "The provider could not be reached, or took nothing.",
}
ELSEWHERE = tuple(NEUTRAL)
# Failures to learn how an order stands: they say nothing about the order, so it is asked for again.
NOT_NOW: tuple[type[Exception], ...] = (*ELSEWHERE, Unsure, TimeoutError)
CODES: dict[type[ProviderError], str] = {
    Blocked: "content_policy_violation",
    Refused: "provider_refused",
    BadCredential: "provider_error",
    RateLimited: "model_overloaded",
    Unavailable: "model_overloaded",
    Unsure: "outcome_unknown",
    Broken: "provider_error",
}
UNKNOWN = "The provider may have accepted the request, but the answer did not arrive. It is not sent again."


async def failed(work: Work, number: int, error: ProviderError, **values: Any) -> None:
    """Ends the task with the code that stands for the provider's error; `values` are further ones of the attempt."""
    kind = next((kind for kind in CODES if isinstance(error, kind)), Broken)
    message = text(error.message)
    await work.fail(CODES[kind], message, param=error.param, number=number, outcome=kind.__name__, **values)
