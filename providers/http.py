"""How a provider reaches its vendor: it sends once, waits, and turns every failure into a contract error.

No other file translates HTTP. What matters most here is the difference between a call that surely did nothing
(Unavailable) and one that may have been accepted (Unsure): nothing may be bought twice.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec

from providers.card import Card, ErrorClass
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
from providers.fault import Fault, read_fault, retry_after
from providers.line import MAX_BODY, Line, connections

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection, and for a free place in the pool."""
MESSAGE_LENGTH = 300
WORD_LENGTH = 64

Answer = TypeVar("Answer")

_STATUS: Mapping[int, ErrorClass] = {
    401: "bad_credential",
    402: "bad_credential",
    403: "bad_credential",
    408: "unsure",
    429: "rate_limited",
    # No 503: proxies answer it also for an order that they had passed on. Where it is the vendor's own, its card knows
    # the code that comes with it.
}
_ERRORS: Mapping[ErrorClass, type[Refused | BadCredential | Unsure | Broken]] = {
    "refused": Refused,
    "blocked": Blocked,
    "bad_credential": BadCredential,
    "unsure": Unsure,
    "broken": Broken,
}
_WAITING_ERRORS: Mapping[ErrorClass, type[RateLimited | Unavailable]] = {
    "rate_limited": RateLimited,
    "unavailable": Unavailable,
}
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
_KEYLIKE = re.compile(r"(?i)\bbearer\s+\S+|\b(?:sk|pk|rk|r8|hf)[-_][\w*.\-]{6,}|https?://\S+")


def utc_now() -> dt.datetime:
    """The time, with its zone."""
    return dt.datetime.now(dt.UTC)


class Part(NamedTuple):
    """One field of a multipart form: text, or with a `filename` a file."""

    name: str
    data: str | bytes
    filename: str | None = None
    media_type: str | None = None


class Http:
    """What a provider is constructed with: address, secrets, time limits and the only HTTP client it uses.

    `secrets` holds the vendor's credentials under the names that the card gives them. A vendor whose error bodies
    have a shape of their own sets `fault` to its own reader of them.
    """

    def __init__(
        self,
        card: Card,
        *,
        base_url: str | None = None,
        secrets: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_body: int = MAX_BODY,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self.card = card
        self.base_url = (base_url or card.base_url or "").rstrip("/")
        self.secrets: Mapping[str, str] = dict(secrets or {})
        self.fault: Callable[[Any], Fault] = read_fault
        self._transport = transport
        self._connect_timeout = connect_timeout
        self._max_body = max_body
        self.now = now

    def __repr__(self) -> str:
        return f"Http({self.card.name})"

    @cached_property
    def client(self) -> httpx.AsyncClient:
        """The client itself, for a vendor's SDK; calls through it belong inside `guard`."""
        return httpx.AsyncClient(
            transport=Line(self._transport or connections(), self._max_body),
            timeout=httpx.Timeout(self.card.timeout, connect=self._connect_timeout, pool=self._connect_timeout),
            headers={"user-agent": "heliograph", "accept-encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes the connections."""
        if "client" in self.__dict__:
            await self.client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        *,
        paid: bool,
        json: Any = None,
        parts: Sequence[Part] = (),
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends once and decodes the JSON that came back as `answer`; Broken when it is anything else."""
        response = await self.send(method, path, paid=paid, json=json, parts=parts, params=params, headers=headers)
        return self.decode(response.content, answer)

    async def send(
        self,
        method: str,
        path: str,
        *,
        paid: bool,
        json: Any = None,
        parts: Sequence[Part] = (),
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Sends once and returns the successful answer, read whole. `paid`: the call may cost money if it arrives.

        The body is `json`, or the multipart form of `parts`.
        """
        if not path.startswith("/"):
            raise ValueError("a path begins with a slash, because the credential must not go to another host")
        if paid and method != "POST":
            raise ValueError("a paid call is a POST, because connections repeat lost calls of other methods")
        content = None if json is None else msgspec.json.encode(json)
        sent = dict(headers or {}) | ({} if content is None else {"content-type": "application/json"})
        files = [(one.name, (one.filename, one.data, one.media_type)) for one in parts] or None
        async with self.guard(paid=paid):
            response = await self.client.request(
                method, self.base_url + path, content=content, files=files, params=params, headers=sent
            )
            response.raise_for_status()
        return response

    def decode(self, content: bytes, answer: type[Answer]) -> Answer:
        """Decodes a successful answer; Broken when it is not the JSON that `answer` describes."""
        try:
            return msgspec.json.decode(content, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Broken(f"{self.card.title} answered something that we do not understand") from error

    @asynccontextmanager
    async def guard(self, *, paid: bool) -> AsyncIterator[None]:
        """Bounds one call by the card's timeout and raises what goes wrong inside as a contract error.

        The time for connecting comes on top, so that a call which only ever tried to connect is never called Unsure.
        """
        try:
            async with asyncio.timeout(self._connect_timeout + self.card.timeout):
                yield
        except ProviderError:
            raise
        except Exception as error:
            failure = self.translate(error, paid=paid)
            if failure is None:
                raise
            raise failure from error

    def translate(self, error: Exception, *, paid: bool) -> ProviderError | None:
        """The contract error for an exception of httpx, or of an SDK on top of it; None for a stranger.

        An SDK's status error carries a `response`, its connection error has the exception of httpx as its cause.
        """
        response = getattr(error, "response", None)
        if isinstance(response, httpx.Response):
            return self._rejection(response, paid=paid)
        reason = error if _is_foreign(error) else error.__cause__
        if isinstance(reason, _NEVER_SENT):
            return Unavailable(f"{self.card.title} could not be reached")
        if isinstance(reason, httpx.DecodingError):
            return Broken(f"{self.card.title} answered something that we do not understand")
        if not _is_foreign(reason):
            return None
        if paid:
            return Unsure(f"{self.card.title} was sent the order and did not answer")
        return Unavailable(f"{self.card.title} did not answer")

    def failure(
        self, fault: Fault, otherwise: ErrorClass = "broken", *, retry_after: float | None = None
    ) -> ProviderError:
        """The contract error for a fault, of a failed job for example: by the card's table, else `otherwise`."""
        kind = next((self.card.errors[code] for code in fault.codes if code in self.card.errors), otherwise)
        message = self._clean(fault.message or "", MESSAGE_LENGTH) or f"{self.card.title} gave no reason"
        code = self._clean(fault.codes[0], WORD_LENGTH) if fault.codes else None
        if waiting := _WAITING_ERRORS.get(kind):
            return waiting(message, code=code, retry_after=retry_after)
        param = self._clean(fault.param, WORD_LENGTH) if fault.param else None
        return _ERRORS[kind](message, code=code, param=param)

    def _rejection(self, response: httpx.Response, *, paid: bool) -> ProviderError:
        try:
            fault = self.fault(msgspec.json.decode(response.content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, httpx.ResponseNotRead):
            fault = Fault()
        plain = f"{self.card.title} answered with status {response.status_code}"
        said = msgspec.structs.replace(fault, message=fault.message or plain)
        wait = retry_after(response.headers, self.now())
        failure = self.failure(said, _by_status(response.status_code), retry_after=wait)
        if fault.message and response.status_code >= 500 and not isinstance(failure, Refused):
            # A server in trouble speaks of itself; and where it quotes the prompt, no log may have its words either.
            failure = self.failure(msgspec.structs.replace(fault, message=plain), "unsure", retry_after=wait)
            failure.detail = self._clean(", ".join(fault.codes), MESSAGE_LENGTH) or None
        if isinstance(failure, Unsure) and not paid:
            unserved = Unavailable(failure.message, code=failure.code, retry_after=wait)
            unserved.detail = failure.detail
            return unserved
        return failure

    def _clean(self, text: str, length: int) -> str:
        """A vendor's words without secrets, addresses and control characters, cut to `length`."""
        for secret in self.secrets.values():
            if secret:
                text = text.replace(secret, "[removed]")
        text = _KEYLIKE.sub("[removed]", text)
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return text if len(text) <= length else text[: length - 1] + "…"


def _is_foreign(error: BaseException | None) -> bool:
    return isinstance(error, httpx.RequestError | httpx.InvalidURL | TimeoutError)


def _by_status(status: int) -> ErrorClass:
    if status in _STATUS:
        return _STATUS[status]
    if 400 <= status < 500:
        return "refused"
    return "unsure" if status >= 500 else "broken"
