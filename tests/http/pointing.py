"""A vendor whose results lie wherever its order says: for what a vendor's word may not make us dial."""

from __future__ import annotations

import json

from providers.contract import Done, Order, Output, Provider


class Pointing(Provider):
    """Answers an order with the URL that is its prompt, as JSON."""

    async def submit(self, order: Order) -> Done:
        """Says where its picture lies."""
        return Done((Output("image/png", url=json.loads(order.generation.prompt)),))
