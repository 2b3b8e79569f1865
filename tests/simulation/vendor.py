"""A vendor: takes orders, works on them, bills them, and remembers all of it whatever becomes of us."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from providers.card import Card
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Order,
    Output,
    Pending,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from tests.core.vendors import card_of, price
from tests.simulation.pictures import GARBAGE, picture

if TYPE_CHECKING:
    from tests.simulation.world import World

# What a vendor may be like. Each of those that a seed has is one route of the model, in this order.
FACTS: tuple[dict[str, Any], ...] = (
    {}, {}, {"can_cancel": True}, {"idempotent_submit": True}, {"can_find": True},
    {"idempotent_submit": True, "can_cancel": True}, {"can_find": True, "can_cancel": True},
)  # fmt: skip
# What a vendor says to an order that it does not take.
REFUSALS: dict[str, type[ProviderError]] = {
    "refused": Refused, "blocked": Blocked, "credential": BadCredential, "full": RateLimited,
    "unavailable": Unavailable,
}  # fmt: skip
AT_ANY_TIME = ("credential", "full", "unavailable")
# What comes of an order that it takes.
BAD_ENDS = ("broken", "blocked late", "defect")
FATES = ("done", "done", "done", "fewer", "half garbage", "garbage", "nothing", *BAD_ENDS)
SECONDS = 2.0


@dataclass
class Bought:
    """An order that the vendor has taken, and bills."""

    key: str
    at: float
    ready_at: float
    fate: str
    pictures: tuple[bytes, ...]
    cost: int | None
    job: str | None
    prompt: str
    times: int = 1
    stopped: bool = False

    @property
    def task_id(self) -> str:
        return self.key.rpartition("-")[0]

    @property
    def good(self) -> tuple[bytes, ...]:
        """The pictures that come of it, if it is not stopped."""
        return () if self.fate in BAD_ENDS else tuple(one for one in self.pictures if one != GARBAGE)


@dataclass
class Vendor:
    """One vendor as a seed has it: how it takes orders, and what comes of them."""

    world: World
    card: Card
    refusals: tuple[str, ...]
    fates: tuple[str, ...]
    jobs: float
    links: float
    orders: dict[str, Bought] = field(default_factory=dict)

    def submit(self, order: Order) -> Pending | Done:
        """Takes the order, or raises why not. With the same key again, where it promises that, it is the same order."""
        known = self.orders.get(order.idempotency_key)
        if known is not None and self.card.idempotent_submit:
            return self._again(known)
        if self.refusals and self.random.random() < 0.4:
            word = self.random.choice(self.refusals)
            self.world.note(self.card.name, f"says {word} to {order.idempotency_key}")
            raise self._refusal(word)
        if known is not None:
            known.times += 1
            return self.answer(known)
        self.orders[order.idempotency_key] = bought = self._buy(order)
        self.world.note(self.card.name, f"TAKES {order.idempotency_key}: {bought.fate}, ready at {bought.ready_at:.2f}")
        return self.answer(bought)

    def find(self, order: Order) -> Pending | Done | None:
        """What became of an order, by our own reference to it."""
        bought = self.orders.get(order.idempotency_key)
        return None if bought is None else self.answer(bought)

    def poll(self, job: str) -> Pending | Done:
        """How a job stands."""
        return self.answer(self.orders[job.removeprefix("job ")])

    def cancel(self, job: str) -> None:
        """Stops a job that still runs."""
        bought = self.orders[job.removeprefix("job ")]
        if bought.ready_at > self.world.loop.time():
            bought.stopped = True
            self.world.note(self.card.name, f"stops {bought.key}")

    def answer(self, bought: Bought) -> Pending | Done:
        """What it says of an order now."""
        if bought.stopped:
            raise Broken("It was stopped.")
        now = self.world.loop.time()
        if bought.job is not None and now < bought.ready_at:
            done = (now - bought.at) / (bought.ready_at - bought.at)
            return Pending(bought.job, poll_after=2.0, progress=done if self.random.random() < 0.5 else None)
        if bought.fate in ("broken", "blocked late"):
            raise Broken("It broke.") if bought.fate == "broken" else Blocked("It shows what must not be shown.")
        if bought.fate == "defect":
            raise KeyError("defect")
        return Done(self._outputs(bought), cost=bought.cost)

    def _again(self, known: Bought) -> Pending | Done:
        """The same order once more. It may have no time for it now, which says nothing about the first time."""
        word = self.random.choice(self.refusals) if self.refusals and self.random.random() < 0.3 else None
        if word in AT_ANY_TIME:
            raise self._refusal(word)
        return self.answer(known)

    def _refusal(self, word: str) -> ProviderError:
        if word == "full":
            return RateLimited(word, retry_after=self.random.choice((None, 0.5, 20.0)))
        return REFUSALS[word](word)

    def _buy(self, order: Order) -> Bought:
        random, now = self.random, self.world.loop.time()
        fate = random.choice(self.fates)
        runs = random.random() < self.jobs
        seconds = random.choice((1.0, 5.0, 10.0, 40.0)) * random.random() if runs else 0.0
        return Bought(
            key=order.idempotency_key,
            at=now,
            ready_at=now + seconds,
            fate=fate,
            pictures=_pictures(order, fate),
            cost=random.choice((None, None, None, 30_000, 70_000, 900_000)),
            job=f"job {order.idempotency_key}" if runs else None,
            prompt=order.generation.prompt,
        )

    def _outputs(self, bought: Bought) -> tuple[Output, ...]:
        # By its key, so that the same order always gets the same answer.
        if Random(bought.key).random() < self.links:  # noqa: S311 - no secret
            places = range(len(bought.pictures))
            return tuple(Output(url=f"https://{self.card.name}/{bought.key}/{place}") for place in places)
        return tuple(Output(data=one) for one in bought.pictures)

    @property
    def random(self) -> Random:
        return self.world.random


def _pictures(order: Order, fate: str) -> tuple[bytes, ...]:
    count = {"fewer": max(order.generation.n - 1, 1), "nothing": 0}.get(fate, order.generation.n)
    size = (64, 64) if order.generation.size is None else tuple(int(one) for one in order.generation.size.split("x"))
    made = [picture(f"{order.idempotency_key}/{place}", *size) for place in range(count)]
    if fate == "garbage":
        made = [GARBAGE] * count
    elif fate == "half garbage":
        made[::2] = [GARBAGE] * len(made[::2])
    return tuple(made)


def vendors_of(world: World) -> list[Vendor]:
    """The vendors of a seed: one to three, each with its own ways."""
    random = world.random
    return [_vendor(world, f"v{number}") for number in range(random.choice((1, 1, 2, 2, 3)))]


def _vendor(world: World, name: str) -> Vendor:
    random = world.random
    facts = dict(random.choice(FACTS))
    if random.random() < 0.3:
        facts["private_outputs"] = True
    model = {"price": price(random.choice(("0.04", "0.05"))), "billed_on_failure": random.random() < 0.3}
    refusals = random.sample(sorted(REFUSALS), random.choice((0, 0, 1, 2)))
    fates = random.sample(FATES, random.choice((1, 2, 4)))
    return Vendor(
        world,
        card_of(name, timeout=SECONDS, model=model, **facts),
        tuple(refusals),
        tuple(fates) if random.random() < 0.6 else ("done",),
        jobs=random.choice((0.0, 0.5, 1.0)),
        links=random.choice((0.0, 0.0, 0.5)),
    )
