"""Cleaning: what a vendor says, made fit to be kept. It is not refused, for a result may hang on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from providers.contract import Done, Pending


def cleaned(answer: Pending | Done) -> Pending | Done:
    """The answer without characters that PostgreSQL stores nowhere, and with an account that is JSON or none."""
    if isinstance(answer, Pending):
        return msgspec.structs.replace(answer, job=text(answer.job))
    outputs = tuple(
        one if one.revised_prompt is None else msgspec.structs.replace(one, revised_prompt=text(one.revised_prompt))
        for one in answer.outputs
    )
    return msgspec.structs.replace(answer, outputs=outputs, usage=_account(answer.usage))


def text(value: str) -> str:
    """The text without NUL, and with a question mark for each half of a character."""
    return value.replace("\0", "").encode("utf-8", "replace").decode()


def _account(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    account = None if usage is None else _deep(dict(usage))
    try:
        msgspec.json.encode(account)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return account


def _deep(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {text(str(name)): _deep(one) for name, one in value.items()}
    return [_deep(one) for one in value] if isinstance(value, list | tuple) else value
