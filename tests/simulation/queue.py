"""The queue: brings messages to any process, late, twice or never, in no order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.ports import Message, QueueError

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


class Broker:
    """What carries the messages of all processes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.under_way = 0

    def carry(self, message: Message) -> None:
        """Takes a message in, and gives it to some process sooner or later."""
        weather = self.world.weather
        if weather.strikes("message.lost"):
            return
        for _ in range(2 if weather.strikes("message.doubled") else 1):
            late = weather.strikes("message.late")
            self.under_way += 1
            self.world.later(self.world.random.random() * (20 if late else 0.05), self._arrive, message)

    def _arrive(self, message: Message) -> None:
        self.under_way -= 1
        ready = [one for one in self.world.processes if one.alive and not one.stopping]
        if ready:
            process = self.world.random.choice(ready)
            process.spawn(_hand_over(process, message), "a message")


async def _hand_over(process: Process, message: Message) -> None:
    await process.rt.executor.submit(message)


class Bells:
    """One process's way to the queue."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world

    async def send(self, message: Message) -> None:
        await self.process.wait("queue.send")
        weather = self.world.weather
        if weather.is_away("queue", self.world.loop.time()) or weather.strikes("queue.refused"):
            raise QueueError("away")
        self.world.broker.carry(message)
        await self.process.wait("queue.sent")
        if weather.strikes("queue.refused_but_sent"):
            raise QueueError("the confirmation is lost")

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        return None
