"""Key sets: the Ed25519 keys that a vendor publishes (RFC 8037), and what they sign."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class KeySet(msgspec.Struct, frozen=True):
    """A JWKS, of which only the keys of this curve count."""

    keys: list[dict[str, Any]]

    def usable(self) -> tuple[Ed25519PublicKey, ...]:
        """The keys that can be read; what is none is left out."""
        return tuple(key for one in self.keys if (key := _key(one)) is not None)


def is_signed(message: bytes, signature: str, keys: Sequence[Ed25519PublicKey]) -> bool:
    """Whether one of the keys made that signature, in hex, for the message."""
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        return False
    return any(_verifies(key, raw, message) for key in keys)


def _verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _key(entry: dict[str, Any]) -> Ed25519PublicKey | None:
    text = entry.get("x")
    if entry.get("crv", "Ed25519") != "Ed25519" or not isinstance(text, str):
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        return None
