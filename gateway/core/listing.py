"""Listing: which models the providers have just now, where they can say it. What a server lacks is not offered.

Who does not answer has said nothing: what was known of it before holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.core.catalog import Catalog
from providers.contract import Provider, ProviderError

log = logging.getLogger(__name__)
# How often they are asked: an answer may have megabytes.
INTERVAL = 300.0


async def keep_models(catalog: Catalog, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Asks for ever, every few minutes."""
    while True:
        await refresh(catalog)
        await sleep(INTERVAL)


async def refresh(catalog: Catalog) -> None:
    """Asks every provider that can say what it has, all at once."""
    asked = [(key, one) for key, one in catalog.providers.items() if one.card.lists_models]
    await asyncio.gather(*(_ask(catalog, key, one) for key, one in asked))


async def _ask(catalog: Catalog, key: str, provider: Provider) -> None:
    try:
        async with asyncio.timeout(provider.card.timeout):
            models = await provider.models()
    except (ProviderError, TimeoutError) as error:
        log.warning("the models of %s could not be listed: %s", key, error or type(error).__name__)
    except Exception:
        log.exception("listing the models of %s failed", key)
    else:
        catalog.narrow(key, models)
