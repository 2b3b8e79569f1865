"""A vendor whose jobs never end, and can be cancelled: for whatever happens while a client waits."""

from __future__ import annotations

from providers.contract import Order, Pending, Provider


class Patient(Provider):
    """Takes every order, and never has a result."""

    async def submit(self, order: Order) -> Pending:
        """Starts a job."""
        return Pending(order.idempotency_key, poll_after=60)

    async def poll(self, job: str) -> Pending:
        """It is still not done."""
        return Pending(job, poll_after=60)

    async def cancel(self, job: str) -> None:
        """Stops the job."""
