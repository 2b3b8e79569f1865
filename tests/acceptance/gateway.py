"""A gateway as those who use it see it, beside what its vendors have written down."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
from openai import OpenAI

from providers.registry import Registry
from tests.acceptance.deployments import Deployment
from tests.acceptance.vendors.standin import Order, StandIn

CARDS = Registry.load().cards
CANARY = f"canary-prompt-{uuid4().hex}"
"""What stands in every prompt."""
SECONDS = 20


def prompt(verb: str = "made") -> str:
    """A prompt that no other request has; the verb says what the vendor does with it."""
    return f"{verb} {CANARY} {uuid4().hex}"


class Asked(NamedTuple):
    """A prompt, and what the gateway has answered."""

    prompt: str
    reply: httpx.Response


@dataclass
class Gateway:
    """A deployment with a key of its own. `trust` is what opens its links."""

    deployment: Deployment
    http: httpx.Client
    sdk: OpenAI
    trust: ssl.SSLContext

    def task(self, reply: httpx.Response, *, wait: int = SECONDS) -> dict[str, Any]:
        """The task of a reply, once it is final or the time is over."""
        path = f"/v1/tasks/{reply.headers['x-heliograph-task-id']}"
        task: dict[str, Any] = self.http.get(path, params={"wait": wait}).json()
        return task

    def wait_for_job(self, reply: httpx.Response) -> None:
        """Waits until the vendor has taken the order as a job."""
        wait_for(lambda: self.task(reply, wait=0)["stage"] == "generating")

    def fetched(self, task: Mapping[str, Any]) -> list[bytes]:
        """What lies behind the links of a task."""
        links = [one["url"] for one in task["result"]["data"]]
        assert all(link.startswith(self.deployment.environ["HELIOGRAPH_PUBLIC_URL"]) for link in links)
        return [httpx.get(link, verify=self.trust).content for link in links]

    def check(self, asked: Asked, model: str, vendor: StandIn, calls: int = 1) -> list[Order]:
        """Fails unless it is done, by so many paid calls, with the vendor's own bytes and its price.

        Returns what was ordered of the vendor.
        """
        assert asked.reply.is_success, asked.reply.text
        orders, task = vendor.of(asked.prompt), self.task(asked.reply)
        assert task["status"] == "completed", task
        # The calls of one order come in as they like.
        assert sorted(self.fetched(task)) == sorted(made for order in orders for made in order.made)
        assert charged(task) == owed(vendor, model, orders)
        assert [attempt["outcome"] for attempt in task["attempts"]] == ["done"]
        assert len(orders) == calls
        return orders


def charged(task: Mapping[str, Any]) -> Decimal:
    """What a task cost, in micro-USD."""
    return Decimal(task["cost"]["charged"] or 0) * 10**6


def owed(vendor: StandIn, model: str, orders: Sequence[Order]) -> Decimal:
    """What the vendor bills by its card, in micro-USD: by its own count where it has one, else by what it has made."""
    card = next(one for one in CARDS[vendor.name].models if one.public_name == model)
    if card.usage_price is not None:
        prices = card.usage_price.per_million.items()
        return sum((Decimal(usd) * count(order, place) for order in orders for place, usd in prices), Decimal())
    assert card.price is not None
    return Decimal(card.price.rows[0].usd) * 10**6 * sum(len(order.made) for order in orders)


def count(order: Order, place: str) -> int:
    """The number at a place of what the vendor counts."""
    found: Any = order.usage
    for name in place.split("."):
        found = found[name]
    return int(found)


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits until it holds; fails when that takes longer than on a machine that has much else to do."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
