"""The line to the vendors: orders and answers get lost on it, come late, or never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from gateway.core.outbound import Body, Outbound, OutboundError, Reply
from providers.contract import Done, Order, Output, Pending, Progress, Provider, RateLimited, Unavailable, Unsure
from providers.http import Http
from tests.simulation.vendor import Vendor

if TYPE_CHECKING:
    from tests.simulation.process import Process

T = TypeVar("T")


class VendorLine(Provider):
    """One process's adapter to a vendor. As an adapter must, it tells "surely not taken" from "may have been"."""

    def __init__(self, process: Process, vendor: Vendor) -> None:
        super().__init__(vendor.card, Http(vendor.card))
        self.process = process
        self.world = process.world
        self.vendor = vendor

    async def submit(self, order: Order) -> Pending | Done:
        self.world.note(self.process.name, f"sends {order.idempotency_key} to {self.card.name}")
        # Frozen with the order half sent, for so long that another has asked after it meanwhile: no gateway can be safe
        # from that, so it is not played where orders can be asked after.
        await self._reach("order.sending", may_freeze=not self.card.can_find)
        weather = self.world.weather
        if weather.strikes("order.lost"):
            await self._silence()
        if weather.strikes("order.late"):
            answer = await self._late(order)
        else:
            answer = self._said(lambda: self.vendor.submit(order))
        if self.world.random.random() < 0.1:
            await order.report(Progress(self.world.random.random()))
        return await self._bring_home("order.answer", answer)

    async def poll(self, job: str) -> Pending | Done:
        return await self._ask("poll", lambda: self.vendor.poll(job))

    async def find(self, order: Order) -> Pending | Done | None:
        return await self._ask("find", lambda: self.vendor.find(order))

    async def cancel(self, job: str) -> None:
        await self._ask("cancel", lambda: self.vendor.cancel(job))

    async def read(self, output: Output) -> AsyncIterator[bytes]:
        async with self.process.rt.outbound.fetch(output.url or "", limit=1000, timeout=SHORT) as body:
            async for chunk in body:
                yield chunk

    async def _ask(self, verb: str, call: Callable[[], T]) -> T:
        await self._reach(f"{verb}.sending")
        if self.world.weather.strikes("look.fails"):
            raise self.world.random.choice((Unavailable, RateLimited, Unsure))("not now")
        return await self._bring_home(f"{verb}.answer", self._said(call))

    async def _reach(self, point: str, *, may_freeze: bool = True) -> None:
        await self.process.wait(point, may_freeze=may_freeze)
        if self.world.weather.is_away("vendor", self.world.loop.time()):
            raise Unavailable("no connection")

    def _said(self, call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it has to come home first
            return error

    async def _late(self, order: Order) -> Pending | Done | Exception:
        """Sends it on a slow way: it arrives although its sender may be gone by then."""
        arrived: asyncio.Future[Pending | Done | Exception] = self.world.loop.create_future()

        def arrive() -> None:
            answer = self._said(lambda: self.vendor.submit(order))
            if not arrived.done():
                arrived.set_result(answer)

        self.world.later(self.world.settings.lease_seconds / 3 * self.world.random.random(), arrive)
        return await arrived

    async def _bring_home(self, point: str, answer: T | Exception) -> T:
        await self.process.wait(point)
        weather = self.world.weather
        if weather.strikes("answer.lost"):
            raise Unsure("the connection broke")
        if weather.strikes("answer.never"):
            await self._silence()
        if weather.strikes("answer.slow"):
            await asyncio.sleep(self.card.timeout * self.world.random.random())
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _silence(self) -> None:
        """Nothing comes any more. Most adapters notice that themselves."""
        await asyncio.sleep(self.card.timeout if self.world.random.random() < 0.7 else 1000)
        raise Unsure("no answer")


SHORT = 5.0


class Strangers(Outbound):
    """One process's way to what vendors have to fetch, and to who hears of webhooks."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world

    @asynccontextmanager
    async def fetch(
        self, url: str, *, limit: int, timeout: float, hosts: tuple[str, ...] = (), redirects: int = 0
    ) -> AsyncIterator[Body]:
        await self.process.wait("download.begin")
        if self.world.weather.strikes("download.fails"):
            raise OutboundError("not now", status=self.world.random.choice((None, 500, 503)))
        yield cast(Body, self._chunks(url))

    def check(self, url: str) -> None:
        return None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, limit: int, timeout: float) -> Reply:
        await self.process.wait("webhook.sending")
        if self.world.weather.strikes("webhook.lost"):
            raise OutboundError("not reached")
        status = self.world.receiver.hear(url, body, headers)
        await self.process.wait("webhook.answer")
        if self.world.weather.strikes("webhook.unanswered"):
            await asyncio.sleep(timeout)
            raise OutboundError("no answer")
        return Reply(status, "", None)

    async def _chunks(self, url: str) -> AsyncIterator[bytes]:
        host, key, place = url.removeprefix("https://").split("/")
        vendor = next(one for one in self.world.vendors if one.card.name == host)
        whole = vendor.orders[key].pictures[int(place)]
        for start in range(0, len(whole), 40):
            yield whole[start : start + 40]
            await self.process.wait("download.chunk")

    async def close(self) -> None:
        return None
