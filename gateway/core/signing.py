"""Digests and signatures, all derived from the one secret of an installation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY, CHECK = 32, 6


def derive(secret: str, purpose: str) -> bytes:
    """A key of its own for each purpose, so that no signature of one can stand for another."""
    return hmac.digest(secret.encode(), purpose.encode(), "sha256")


def sign(key: bytes, text: str) -> str:
    """The signature of `text`: 128 bits in URL-safe characters."""
    return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")[:16]).rstrip(b"=").decode()


def verify(key: bytes, text: str, signature: str) -> bool:
    """Whether `signature` is ours for `text`, in constant time."""
    return hmac.compare_digest(sign(key, text).encode(), signature.encode())


def digest(key: bytes, text: str) -> str:
    """What is stored in place of a secret: useless without `key`, which is not in the database."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def webhook_secret(key: bytes, owner: str, salt: str) -> str:
    """The text of a secret that signs webhooks, in the form of the Standard Webhooks: 256 bits after `whsec_`."""
    return "whsec_" + base64.b64encode(hmac.digest(key, f"{owner} {salt}".encode(), "sha256")).decode()


def webhook_signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The signature `v1,…` of the Standard Webhooks, over the id, the time in Unix seconds and the very bytes."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, f"{id}.{timestamp}.".encode() + body, "sha256")).decode()


def new_key_text(prefix: str) -> str:
    """The text of a new virtual key: prefix, 190 random bits, and a checksum that shows a slip without a query."""
    body = "".join(secrets.choice(BASE62) for _ in range(BODY))
    return prefix + body + _checksum(prefix + body)


def well_formed(text: str, prefix: str) -> bool:
    """Whether `text` could be a key that we made with this prefix: length, alphabet and checksum agree."""
    rest = text[len(prefix) :]
    if not text.startswith(prefix) or len(rest) != BODY + CHECK or not (rest.isascii() and rest.isalnum()):
        return False
    return hmac.compare_digest(text[-CHECK:], _checksum(text[:-CHECK]))


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECK):
        number, rest = divmod(number, 62)
        digits = BASE62[rest] + digits
    return digits
