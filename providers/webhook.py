"""Webhooks as Standard Webhooks signs them: HMAC-SHA256 over id, time and body, under a key that both sides know."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import re

from providers.contract import Broken, Callback, Refused

TOLERANCE = dt.timedelta(minutes=5)
"""How far a callback's time may be from ours, on either side."""
ID, STAMP, SIGNATURES = "webhook-id", "webhook-timestamp", "webhook-signature"
SECONDS = re.compile(r"[0-9]{1,12}")


def decoded(secret: str) -> bytes:
    """The key in a secret, which is base64 after `whsec_`; Broken when it is not."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise Broken("The key for callbacks is not one of Standard Webhooks") from error


def check_age(callback: Callback, now: dt.datetime) -> None:
    """Raises Refused for a callback that was not signed just now."""
    stamp = callback.headers.get(STAMP, "")
    if not SECONDS.fullmatch(stamp):
        raise Refused(f"The callback has no {STAMP}")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds():
        raise Refused("The callback is too old")


def is_signed(callback: Callback, key: bytes) -> bool:
    """Whether one of its signatures was made with that key."""
    identity, stamp = (callback.headers.get(name, "") for name in (ID, STAMP))
    signed = hmac.new(key, f"{identity}.{stamp}.".encode() + callback.body, hashlib.sha256).digest()
    wanted = f"v1,{base64.b64encode(signed).decode()}".encode()
    given = callback.headers.get(SIGNATURES, "").encode().split()
    return any(hmac.compare_digest(wanted, one) for one in given)
