"""Measures how fast followers hear of tasks, and what a thousand of them cost: `python -m tests.bench.realtime`.

The deployment is distributed: a worker moves the tasks, and one web process tells of them. The time is that from an
event's own timestamp, which is taken before it is committed, until a client has read it; clients and deployment share
one machine. Needs what `python -m tests.bench` needs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import resource
import time
from contextlib import AsyncExitStack

import aiohttp
import click

from tests.acceptance.deployments import Distributed
from tests.bench.deployed import deployed, memory, percentiles

ONE_BY_ONE, CROWD, TOLD, OPENING = 200, 1000, 20, 50
FILES = 8192
HUB = "/hubs/image-generation"
SECONDS = 120


class Ear:
    """A Socket.IO client, as little of one as there can be: when it heard of the beginning and the end of each task."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.late: dict[str, list[float]] = {"Started": [], "Completed": []}
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def join(self, key: str) -> None:
        """Joins the hub."""
        await self.socket.receive_str()
        await self.socket.send_str(f"40{HUB},{json.dumps({'token': key})}")
        answer = await self.socket.receive_str()
        if not answer.startswith(f"40{HUB}"):
            raise SystemExit(f"a connection was refused: {answer}")

    async def listen(self) -> None:
        """Hears until it is cancelled."""
        while True:
            packet = await self.socket.receive_str()
            now = time.time()
            if packet == "2":
                await self.socket.send_str("3")
                continue
            name, members = json.loads(packet.partition(",")[2])
            word = name.removeprefix("ImageGeneration")
            if word in self.late:
                self.late[word].append((now - dt.datetime.fromisoformat(members["timestamp"]).timestamp()) * 1000)
            if word == "Completed":
                self.ended.put_nowait(members["taskId"])


def main() -> None:
    """Starts everything, measures, prints, and takes everything away."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most), most))
    with deployed() as deployment:
        asyncio.run(measure(deployment))


async def measure(deployment: Distributed) -> None:
    """Prints the figures one after the other."""
    key = deployment.new_key()
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(deployment.url, connector=connector, headers=headers) as session,
        AsyncExitStack() as stack,
    ):
        (one,) = await _open(stack, session, key, 1)
        await _follow(session, [one], ONE_BY_ONE)
        for word, times in one.late.items():
            click.echo(f"1 socket, {len(times)} tasks one by one: {word:9}  {_shown(times)}")
        await stack.aclose()

        web = deployment.web.popen.pid
        before = memory(web)
        began = time.perf_counter()
        ears = await _open(stack, session, key, CROWD)
        took, after = time.perf_counter() - began, memory(web)
        await _follow(session, ears, TOLD)
        for word in one.late:
            times = [late for ear in ears for late in ear.late[word]]
            click.echo(f"{CROWD} sockets, {TOLD} tasks one by one: {word:9}  {_shown(times)}")
        held = {"before": before, "with them": after, "when they were told": memory(web)}
        said = ", ".join(f"{one.proportional:.0f}/{one.resident:.0f} MB {when}" for when, one in held.items())
        click.echo(f"{CROWD} sockets opened in {took:.1f} s; the web process holds (PSS/RSS) {said}")


async def _open(stack: AsyncExitStack, session: aiohttp.ClientSession, key: str, count: int) -> list[Ear]:
    """So many connections that listen, opened a few at a time."""
    gate = asyncio.Semaphore(OPENING)

    async def opened() -> Ear:
        async with gate:
            path = "/socket.io/?EIO=4&transport=websocket"
            ear = Ear(await stack.enter_async_context(session.ws_connect(path)))
            await ear.join(key)
        listening = asyncio.create_task(ear.listen())
        stack.callback(listening.cancel)
        return ear

    return await asyncio.gather(*(opened() for _ in range(count)))


async def _follow(session: aiohttp.ClientSession, ears: list[Ear], count: int) -> None:
    """Makes so many tasks, each once all have heard of the end of the one before."""
    body = {"model": "scripted-image", "prompt": "benchmark", "async": True}
    for _ in range(count):
        async with session.post("/v1/images/generations", json=body) as reply:
            task_id = (await reply.json())["id"]
        async with asyncio.timeout(SECONDS):
            ended = await asyncio.gather(*(ear.ended.get() for ear in ears))
        if set(ended) != {task_id}:
            raise SystemExit("what was heard is not what was made")


def _shown(times: list[float]) -> str:
    p50, p95 = percentiles(times)
    return f"p50 {p50:6.1f} ms  p95 {p95:6.1f} ms  longest {max(times):6.1f} ms"


if __name__ == "__main__":
    main()
