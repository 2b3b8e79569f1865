"""Fan-out: several calls for one order, and nothing of what was bought is lost when some fail."""

from __future__ import annotations

from typing import Any

import pytest

from providers.card import Card
from providers.contract import (
    Broken,
    Done,
    Lost,
    Order,
    Output,
    Pending,
    ProviderError,
    RateLimited,
    Unavailable,
    Unsure,
)
from providers.fanout import FanOut
from providers.http import Http
from tests.core.vendors import card_of, generation


class Calls(FanOut):
    """A provider whose calls answer from a script, one by one."""

    def __init__(self, card: Card, *answers: Any) -> None:
        super().__init__(card, Http(card))
        self.answers = list(answers)
        self.orders: list[Order] = []
        self.asked: list[str] = []

    async def submit_one(self, order: Order) -> Pending | Done:
        self.orders.append(order)
        return self._answer()

    async def poll_one(self, job: str) -> Pending | Done:
        self.asked.append(job)
        return self._answer()

    async def cancel_one(self, job: str) -> None:
        self.asked.append(job)

    def _answer(self) -> Pending | Done:
        answer: Pending | Done | Exception = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


CARD = card_of(model={"n_per_call": 1, "max_n": 8})


def order(n: int, **members: Any) -> Order:
    """An order of so many outputs."""
    return Order(generation(n=n, **members), "vendor-model", "task-1")


def made(count: int = 1, cost: int | None = None) -> Done:
    """So many outputs."""
    return Done(tuple(Output(data=b"x") for _ in range(count)), cost=cost)


async def test_one_call_is_passed_through() -> None:
    """An order that one call can fill goes out as it is."""
    provider = Calls(CARD, Pending("a"))
    answer = await provider.submit(order(1))
    assert (answer, provider.orders) == (Pending("a"), [order(1)])


async def test_each_call_has_its_own_key_and_seed() -> None:
    """Three outputs are three orders for one, which differ in key and seed; together they are one answer."""
    provider = Calls(CARD, made(cost=1), made(cost=2), made(cost=3))
    answer = await provider.submit(order(3, parameters={"seed": 7}))
    assert [one.generation.n for one in provider.orders] == [1, 1, 1]
    assert [one.generation.parameters["seed"] for one in provider.orders] == [7, 8, 9]
    assert len({one.idempotency_key for one in provider.orders}) == 3
    assert isinstance(answer, Done)
    assert (len(answer.outputs), answer.cost) == (3, 6)


async def test_an_order_is_split_by_what_a_call_makes() -> None:
    """Five outputs with two to a call are two, two and one."""
    provider = Calls(card_of(model={"n_per_call": 2, "max_n": 8}), made(2), made(2), made(1))
    await provider.submit(order(5))
    assert [one.generation.n for one in provider.orders] == [2, 2, 1]


async def test_jobs_are_looked_at_together() -> None:
    """The job stands for all of them: pending while one is, then done with everything."""
    provider = Calls(CARD, Pending("a"), Pending("b"))
    answer = await provider.submit(order(2))
    assert isinstance(answer, Pending)
    provider.answers = [made(), Pending("b", progress=0.5)]
    waiting = await provider.poll(answer.job)
    assert isinstance(waiting, Pending)
    assert (waiting.job, waiting.progress, provider.asked) == (answer.job, 0.75, ["a", "b"])
    provider.answers = [made(), made()]
    finished = await provider.poll(answer.job)
    assert isinstance(finished, Done)
    assert len(finished.outputs) == 2
    provider.asked.clear()
    await provider.cancel(answer.job)
    assert provider.asked == ["a", "b"]


async def test_what_is_done_at_once_waits_for_the_rest() -> None:
    """One call is answered with its output and the other with a job: in the end both outputs are there."""
    done = Done((Output(data=b"x"),), job="a")
    provider = Calls(CARD, done, Pending("b"))
    answer = await provider.submit(order(2))
    assert isinstance(answer, Pending)
    provider.answers = [done, made()]
    finished = await provider.poll(answer.job)
    assert isinstance(finished, Done)
    assert (provider.asked, len(finished.outputs)) == (["a", "b"], 2)


async def test_a_job_that_cannot_be_looked_at_is_not_given_up() -> None:
    """One is done and the other not to be reached: all of it waits for the next look."""
    provider = Calls(CARD, made(), Unavailable("away"))
    answer = await provider.poll('["a","b"]')
    assert isinstance(answer, Pending)
    assert answer.job == '["a","b"]'
    provider.answers = [made(), Broken("no")]
    finished = await provider.poll(answer.job)
    assert isinstance(finished, Done)
    assert len(finished.outputs) == 1


@pytest.mark.parametrize("failure", [Unavailable("away"), Unsure("lost"), Broken("no")])
async def test_what_was_bought_is_delivered(failure: ProviderError) -> None:
    """One call of three fails: the outputs of the others are the answer."""
    answer = await Calls(CARD, made(), failure, made()).submit(order(3))
    assert isinstance(answer, Done)
    assert len(answer.outputs) == 2


@pytest.mark.parametrize(("failure", "unknown"), [(Unsure("lost"), 2), (ValueError("a defect"), 2), (Broken("no"), 0)])
async def test_what_nobody_knows_is_counted(failure: Exception, unknown: int) -> None:
    """A call of two outputs that may have been taken counts as two, beside those that are there."""
    card = card_of(model={"n_per_call": 2, "max_n": 8})
    answer = await Calls(card, made(2, cost=5), failure, made(1, cost=3)).submit(order(5))
    assert isinstance(answer, Done)
    assert (len(answer.outputs), answer.cost, answer.unknown) == (3, 8, unknown)


async def test_what_nobody_knows_is_looked_up_where_that_can_be() -> None:
    """The vendor that knows our references is asked for all calls, before anything is taken for unknown."""
    provider = Calls(card_of(can_find=True, model={"n_per_call": 1, "max_n": 8}), Pending("a"), Unsure("lost"))
    with pytest.raises(Unsure):
        await provider.submit(order(2))


async def test_a_job_that_cannot_be_read_is_not_forgotten() -> None:
    """Its adapter stumbles over the answer: beside what is there, it counts as unknown."""
    answer = await Calls(CARD, made(), KeyError("status")).poll('["a","b"]')
    assert isinstance(answer, Done)
    assert (len(answer.outputs), answer.unknown) == (1, 1)


async def test_what_nobody_knows_stays_with_the_jobs() -> None:
    """While the other calls are looked at, and when they are done, it is still said that one is unknown."""
    provider = Calls(CARD, Pending("a"), Unsure("lost"), Pending("b"))
    answer = await provider.submit(order(3))
    assert isinstance(answer, Pending)
    provider.answers = [made(), Unavailable("away")]
    waiting = await provider.poll(answer.job)
    assert isinstance(waiting, Pending)
    assert waiting.job == answer.job
    provider.answers = [made(), made()]
    finished = await provider.poll(answer.job)
    assert isinstance(finished, Done)
    assert (len(finished.outputs), finished.unknown) == (2, 1)
    provider.asked.clear()
    await provider.cancel(answer.job)
    assert provider.asked == ["a", "b"]


@pytest.mark.parametrize("failure", [Broken("no"), Lost("gone")])
async def test_what_nobody_knows_outlives_the_rest(failure: ProviderError) -> None:
    """What is known has failed, and would be given up or tried elsewhere: what is unknown forbids both."""
    provider = Calls(CARD, Pending("a"), Unsure("lost"))
    answer = await provider.submit(order(2))
    assert isinstance(answer, Pending)
    provider.answers = [failure]
    assert await provider.poll(answer.job) == Done((), unknown=1)
    provider.answers = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await provider.poll(answer.job)


@pytest.mark.parametrize(
    ("failures", "raised"),
    [((RateLimited("full"), RateLimited("full")), RateLimited), ((Unavailable("away"), Unsure("lost")), Unsure),
     ((Unavailable("away"), ValueError("a defect")), ValueError)],
)  # fmt: skip
async def test_when_all_fail_the_gravest_counts(failures: tuple[Exception, ...], raised: type[Exception]) -> None:
    """An order is only sent again when surely no call of it was taken."""
    with pytest.raises(raised):
        await Calls(CARD, *failures).submit(order(2))
