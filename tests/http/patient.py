"""A vendor whose jobs never end, and can be cancelled: for whatever happens while a client waits.

It refuses the prompt `refuse`, which nobody can know before.
"""

from __future__ import annotations

from providers.card import Card
from providers.contract import Broken, Order, Pending, Provider, Refused
from providers.http import Http


class Patient(Provider):
    """Takes every other order, and never has a result."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        self.stopped: set[str] = set()

    async def submit(self, order: Order) -> Pending:
        """Starts a job."""
        if order.generation.prompt == "refuse":
            raise Refused("this is not drawn here", param="prompt")
        return Pending(order.idempotency_key, poll_after=60)

    async def poll(self, job: str) -> Pending:
        """It is still not done, or was stopped."""
        if job in self.stopped:
            raise Broken("The job was stopped.")
        return Pending(job, poll_after=60)

    async def cancel(self, job: str) -> None:
        """Stops the job."""
        self.stopped.add(job)
