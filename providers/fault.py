"""A vendor's account of a failure, as it stands in the body and the headers of its answer."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

MAX_RETRY_AFTER = 120.0
"""Seconds; a vendor that asks for more is asked again after this time."""


class Fault(msgspec.Struct, frozen=True):
    """A vendor's account of a failure. `codes` are its words to look up in the card, the most telling one first."""

    message: str | None = None
    codes: tuple[str, ...] = ()
    param: str | None = None


def read_fault(body: Any) -> Fault:
    """Reads the common shapes: `{"error": {message, type, code, param}}`, the same without `error`, or mere text."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, str):
        return Fault(inner)
    if not isinstance(inner, dict):
        return Fault()
    message, param = inner.get("message"), inner.get("param")
    words = [inner.get("code"), inner.get("type")]
    return Fault(
        message=message if isinstance(message, str) else None,
        codes=tuple(str(word) for word in words if word and isinstance(word, str | int)),
        param=param if isinstance(param, str) else None,
    )


def retry_after(headers: Mapping[str, str], now: dt.datetime) -> float | None:
    """Seconds that the vendor asks us to wait, within 0 and MAX_RETRY_AFTER; None when it says nothing sensible."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _seconds(headers.get(name, ""), scale, now)
        if seconds is not None:
            return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    return None


def _seconds(text: str, scale: float, now: dt.datetime) -> float | None:
    try:
        number = float(text) * scale
    except ValueError:
        pass
    else:
        return number if math.isfinite(number) else None
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)) - now).total_seconds()
