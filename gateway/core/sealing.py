"""Sealing: what must be known again as it was, and be read by nobody who has only the database."""

from __future__ import annotations

import base64

import msgspec
from cryptography.fernet import Fernet, InvalidToken


class Unreadable(Exception):
    """What was sealed cannot be read: the installation's secret is another one now, or the text was changed."""


def seal(key: bytes, headers: dict[str, str]) -> str:
    """The headers encrypted and authenticated, as text."""
    return _box(key).encrypt(msgspec.json.encode(headers)).decode()


def unseal(key: bytes, text: str) -> dict[str, str]:
    """What was sealed; raises Unreadable."""
    try:
        return msgspec.json.decode(_box(key).decrypt(text.encode()), type=dict[str, str])
    except InvalidToken as error:
        raise Unreadable("the headers were encrypted under another secret") from error


def _box(key: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(key))
