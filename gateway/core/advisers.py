"""Advisers: models of the operator's that are asked about a prompt, over OpenAI's chat and moderation APIs.

They are asked once, within a bound. Whoever asks knows what to do without an answer.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from gateway.core.settings import Settings, SettingsError, variable
from providers.card import Card
from providers.contract import ProviderError
from providers.http import Http

log = logging.getLogger(__name__)
Purpose = Literal["enhance", "moderation"]
Answer = TypeVar("Answer")


class Silent(Exception):
    """An adviser did not answer in time, or not in a way that we understand."""


class Adviser:
    """One model at one address. What it is asked about stands in no log and no error."""

    def __init__(self, purpose: Purpose, base_url: str, api_key: str | None, model: str, seconds: float) -> None:
        self.purpose = purpose
        self.model = model
        self.seconds = seconds
        card = Card(f"{purpose}-model", f"The {purpose} model", dt.date.min, base_url, timeout=seconds)
        self._http = Http(card, secrets={"api_key": api_key} if api_key else {})

    def __repr__(self) -> str:
        return f"Adviser({self.purpose}, {self.model})"

    async def ask(self, path: str, answer: type[Answer], **body: Any) -> Answer:
        """Sends the body, with the model's name; raises Silent when no such answer comes within the bound."""
        key = self._http.secrets.get("api_key")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            async with asyncio.timeout(self.seconds):
                return await self._http.request(
                    "POST", path, answer, paid=False, json={"model": self.model, **body}, headers=headers
                )
        except (ProviderError, TimeoutError) as error:
            # Its message may repeat what it was asked about.
            log.warning("the %s model %s did not help: %s", self.purpose, self.model, type(error).__name__)
            raise Silent from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()


def open_adviser(settings: Settings, purpose: Purpose) -> Adviser | None:
    """The adviser that the settings name for a purpose, if any; raises SettingsError for one that makes no sense."""
    base_url, api_key, model, seconds = (
        getattr(settings, f"{purpose}_{name}") for name in ("base_url", "api_key", "model", "seconds")
    )
    if base_url is None:
        return None
    if not _is_address(base_url):
        raise SettingsError(f"{variable(f'{purpose}_base_url')} must be a whole URL that begins with http: or https:")
    if model is None:
        raise SettingsError(f"{variable(f'{purpose}_base_url')} needs {variable(f'{purpose}_model')}")
    return Adviser(purpose, base_url, api_key, model, seconds)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is only found out of range when it is asked for
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
