"""Fan-out: more outputs than a vendor makes in one call, by several calls under one job.

Each call is sent once. When some of them come to nothing the others count: what was bought is delivered, and charged by
its number. Of a call whose outcome nobody knows the outputs are counted as unknown, for it may be billed.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence

import msgspec

from providers.contract import (
    BadCredential,
    Broken,
    Done,
    Order,
    Pending,
    Provider,
    ProviderError,
    RateLimited,
    Unavailable,
    Unsure,
)

# The vendor's jobs; a number in their place is that of the outputs of a call of which nobody knows.
JOBS = msgspec.json.Decoder(list[str | int])
# Failures of a look that say nothing about the job.
SAYS_NOTHING = (Unavailable, RateLimited, BadCredential, Unsure, TimeoutError)


class FanOut(Provider):
    """A provider that makes `n_per_call` outputs with one call, and as many calls as the order needs."""

    @abstractmethod
    async def submit_one(self, order: Order) -> Pending | Done:
        """As `submit`, for an order that one call can fill.

        Where one call may be done at once while another is not, what is done names its job.
        """

    async def poll_one(self, job: str) -> Pending | Done:
        """As `poll`, for the job of one call."""
        raise Broken(f"{self.card.name} has no jobs to look at")

    async def cancel_one(self, job: str) -> None:
        """As `cancel`, for the job of one call."""
        raise Broken(f"{self.card.name} cannot cancel")

    async def submit(self, order: Order) -> Pending | Done:
        """Sends the order in as many calls as it takes, at the same time."""
        orders = self._split(order)
        answers = await asyncio.gather(*(self.submit_one(one) for one in orders), return_exceptions=True)
        unsure = [one for one in answers if isinstance(one, Unsure)]
        if unsure and self.card.can_find:
            # The vendor knows each call by our reference, and says which of them it has.
            raise unsure[0]
        good = _good(answers)
        unknown = sum(one.generation.n for one, answer in zip(orders, answers, strict=True) if _is_unknown(answer))
        pending = [one for one in good if isinstance(one, Pending)]
        if not pending:
            return _merged([one for one in good if isinstance(one, Done)], unknown)
        # What is done already is looked at again with the rest: its outputs are bought like theirs.
        jobs: list[str | int] = [one.job for one in good if one.job is not None]
        entries = [*jobs, unknown] if unknown else jobs
        job = pending[0].job if len(answers) == 1 else msgspec.json.encode(entries).decode()
        return msgspec.structs.replace(pending[0], job=job)

    async def poll(self, job: str) -> Pending | Done:
        """Looks at each job once; done when all of them are, with the outputs of those that went well."""
        jobs, unknown = jobs_of(job)
        answers = await asyncio.gather(*(self.poll_one(one) for one in jobs), return_exceptions=True)
        if not all(isinstance(one, SAYS_NOTHING) for one in answers):
            # Nobody knows yet how the others stand: to go on without them would be to lose them.
            answers = [Pending(one) if isinstance(answer, SAYS_NOTHING) else answer
                       for one, answer in zip(jobs, answers, strict=True)]  # fmt: skip
        # When what is known has come to nothing, the rest still may come to something.
        good = [] if unknown and _are_over(answers) else _good(answers)
        pending = [one for one in good if isinstance(one, Pending)]
        if not pending:
            # A job that the adapter cannot read has at least one output.
            unread = sum(isinstance(one, Exception) and not isinstance(one, ProviderError) for one in answers)
            return _merged([one for one in good if isinstance(one, Done)], unknown + unread)
        fractions = [1.0 if isinstance(one, Done) else one.progress for one in good]
        known = [one for one in fractions if one is not None]
        progress = sum(known) / len(fractions) if len(known) == len(fractions) else None
        return msgspec.structs.replace(pending[0], job=job, progress=progress)

    async def cancel(self, job: str) -> None:
        """Asks the vendor to stop each job; raises when one of them was not."""
        await asyncio.gather(*(self.cancel_one(one) for one in jobs_of(job)[0]))

    def _split(self, order: Order) -> list[Order]:
        """One order for each call, with a key of its own, and with seeds that differ."""
        card = self.card.model(order.model)
        most, n = (card.n_per_call if card and card.n_per_call else order.generation.n), order.generation.n
        if n <= most:
            return [order]
        seed = order.generation.parameters.get("seed")
        orders = []
        for place, first in enumerate(range(0, n, most)):
            parameters = dict(order.generation.parameters)
            if isinstance(seed, int):
                parameters["seed"] = seed + place
            generation = msgspec.structs.replace(order.generation, n=min(most, n - first), parameters=parameters)
            key = f"{order.idempotency_key}-{place + 1}"
            orders.append(msgspec.structs.replace(order, generation=generation, idempotency_key=key))
        return orders


def jobs_of(job: str) -> tuple[list[str], int]:
    """The jobs that it stands for, and the number of outputs of which nobody knows."""
    entries = JOBS.decode(job) if job.startswith("[") else [job]
    return [one for one in entries if isinstance(one, str)], sum(one for one in entries if isinstance(one, int))


def _is_unknown(answer: Pending | Done | BaseException) -> bool:
    """Whether nobody knows what became of a call: the vendor may have taken it, or its adapter broke off."""
    return isinstance(answer, Unsure) or (isinstance(answer, Exception) and not isinstance(answer, ProviderError))


def _are_over(answers: Sequence[Pending | Done | BaseException]) -> bool:
    """Whether each of the calls has failed, by the vendor's own word."""
    return all(isinstance(one, ProviderError) and not isinstance(one, SAYS_NOTHING) for one in answers)


def _good(answers: Sequence[Pending | Done | BaseException]) -> list[Pending | Done]:
    """The answers that are none of failure. When all failed, raises the one that says most of what may be billed.

    What nobody foresaw is raised as it is when there is nothing good beside it.
    """
    good = [one for one in answers if not isinstance(one, BaseException)]
    failures = [one for one in answers if isinstance(one, BaseException)]
    strange = [one for one in failures if not isinstance(one, Exception)]
    if strange or not good:
        unsure = [one for one in failures if _is_unknown(one)]
        # What is tried elsewhere after the first of these must not be something that another one has billed.
        billed = [one for one in failures if isinstance(one, Broken)]
        raise (strange or unsure or billed or failures)[0]
    return good


def _merged(answers: Sequence[Done], unknown: int) -> Done:
    """All outputs as of one call, and of how many nobody knows; the cost is known when each call's is."""
    costs = [one.cost for one in answers]
    known = [one for one in costs if one is not None]
    usage = next((one.usage for one in answers if one.usage), None)
    outputs = tuple(output for one in answers for output in one.outputs)
    cost = sum(known) if known and len(known) == len(costs) else None
    return Done(outputs, cost=cost, usage=usage, unknown=unknown + sum(one.unknown for one in answers))
