"""What we serve, in a browser."""

from __future__ import annotations

import asyncio
import io
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from tests.acceptance.deployments import Deployment
from tests.acceptance.test_realtime import accept, draw
from tests.browser import Browser
from tests.node import Node
from tests.processes import free_port

# What begins with noise is large for its length: over a slow line it is not there before the browser seeks in it.
FILM = {"model": "demo-video", "prompt": "a lighthouse at dawn", "seconds": "4", "size": "640x360", "seed": "1"}
SLOW = {"offline": False, "latency": 0, "downloadThroughput": 200_000, "uploadThroughput": -1}
FAST = SLOW | {"downloadThroughput": -1}
PAGE = """<!doctype html>
<video src="{link}" preload="metadata" muted width="640" height="360"></video>
<script>
  const film = document.querySelector("video");
  const when = (name) => new Promise((resolve, reject) => {{
    film.addEventListener(name, resolve, {{ once: true }});
    film.addEventListener("error", () => reject(new Error(film.error.message)), {{ once: true }});
  }});
  async function seek() {{
    await when("loadedmetadata");
    film.currentTime = film.duration / 2;
    await when("seeked");
    return [film.duration, film.currentTime, film.videoWidth, film.videoHeight];
  }}
  const sought = seek();
  async function play() {{
    const ended = when("ended");
    film.playbackRate = 8;
    await film.play();
    await ended;
    return film.currentTime;
  }}
</script>
"""


FOLLOWING = Path(__file__).parents[2] / "docs/realtime.md"
SEEN = """new Promise((resolve, reject) => {
  const heard = [], previews = [];
  socket.onAny((name, event) => {
    heard.push([name, event.sequence, event.progress, event.status, stage.textContent, bar.value]);
    if (name === "Preview") picture.decode().then(() => previews.push([picture.naturalWidth, picture.naturalHeight]));
    if (name.endsWith("Failed")) reject(new Error(event.error));
    if (name.endsWith("Completed")) {
      picture.decode().then(() => resolve({ heard, previews, size: [picture.naturalWidth, picture.naturalHeight],
        link: picture.src, transport: socket.io.engine.transport.name }), reject);
    }
  });
})"""


@pytest.fixture(scope="module")
def origin() -> str:
    """Where pages are served that follow tasks."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def environ(origin: str) -> dict[str, str]:
    """That origin is allowed."""
    return {"HELIOGRAPH_ALLOW_ORIGINS": origin}


@pytest.fixture
def single_key(deployment: Deployment) -> str:
    """A key whose tasks run one at a time."""
    return deployment.command("keys", "create", "--quiet", "--concurrent", "1").strip()


@pytest.fixture
async def following(deployment: Deployment, single_key: str, origin: str, node: Node) -> AsyncIterator[str]:
    """Where the page of realtime.md is served, by a server that has the key and gives tokens to it."""
    (example,) = re.findall(r"^```html\n(.*?)^```$", FOLLOWING.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    text = example.replace("http://127.0.0.1:8000", deployment.url)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

    async def token(request: web.Request) -> web.Response:
        async with httpx.AsyncClient(
            base_url=deployment.url, headers={"Authorization": f"Bearer {single_key}"}
        ) as client:
            reply = await client.post("/v1/realtime/tokens", json={"task_id": request.query["task"]})
        return web.Response(text=reply.json()["token"])

    application = web.Application()
    application.router.add_get("/", page)
    application.router.add_get("/token", token)
    application.router.add_static("/", node.folder / "node_modules/socket.io-client/dist")
    async with TestServer(application, port=int(origin.rpartition(":")[2])) as server:
        assert str(server.make_url("")).rstrip("/") == origin
        yield origin


async def test_a_page_follows_a_task(
    browser: Browser, deployment: Deployment, single_key: str, following: str, tmp_path: Path
) -> None:
    """The page of realtime.md, elsewhere, with a token for one task: from the queue over previews to the picture."""
    with deployment.client(single_key) as client:
        first = await asyncio.to_thread(accept, client, "never")
        task_id = await asyncio.to_thread(draw, client)
        async with browser.page() as page:
            await page.open(f"{following}/?task={task_id}")
            await page.run(until('stage.textContent === "queued"'))
            await page.run(f"globalThis.seen_all = {SEEN}; 0")
            await asyncio.to_thread(client.post, f"/v1/tasks/{first}/cancel")
            seen = await page.run("seen_all")
            (tmp_path / "followed.png").write_bytes(await page.screenshot())
    names = [name for name, *_ in seen["heard"]]
    assert (names[0], names[-1]) == ("ImageGenerationStarted", "ImageGenerationCompleted")
    assert set(names[1:-1]) == {"ImageGenerationProgress", "Preview"}
    assert [shown for *_, shown, _ in seen["heard"]] == [status for _, _, _, status, *_ in seen["heard"]]
    steps = [progress for _, _, progress, *_ in seen["heard"]]
    assert (steps, steps[-1]) == (sorted(steps), 100)
    assert seen["previews"] == [[1024, 1024]] * len(seen["previews"]) != []
    assert (seen["size"], seen["transport"]) == ([1024, 1024], "websocket")
    assert seen["link"].startswith(deployment.url)
    fetched = {one["url"].partition("?")[0] for one in page.responses}
    assert {f"{following}/token", seen["link"].partition("?")[0]} <= fetched


def until(condition: str) -> str:
    """A script that ends when it holds."""
    return f"new Promise((done) => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})"


@pytest.fixture
def link(deployment: Deployment, key: str) -> str:
    """A signed link to a film."""
    noise = io.BytesIO()
    Image.frombytes("RGB", (640, 360), random.Random(1).randbytes(3 * 640 * 360)).save(noise, "PNG")  # noqa: S311 - no secret
    with deployment.client(key) as client:
        task = client.post("/v1/video/generations", data=FILM, files={"image": noise.getvalue()}).json()
        task = client.get(f"/v1/tasks/{task['id']}", params={"wait": 60}).json()
    return str(task["result"]["video_url"])


@pytest.fixture
async def address(link: str) -> AsyncIterator[str]:
    """Where a page with the film is served, by somebody else than us."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.format(link=link.replace("&", "&amp;")), content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    async with TestServer(application) as server:
        yield str(server.make_url("/"))


async def test_a_film_is_sought_through_and_played(browser: Browser, address: str, link: str, tmp_path: Path) -> None:
    """A page elsewhere has the film by its link: the browser seeks to its middle, asks for that part, and plays on."""
    async with browser.page() as page:
        await page.call("Network.enable")
        await page.call("Network.emulateNetworkConditions", **SLOW)
        await page.open(address)
        length, middle, *size = await page.run("sought")
        shot = await page.screenshot()
        await page.call("Network.emulateNetworkConditions", **FAST)
        end = await page.run("play()")
    assert (length, middle, size, end) == (4, 2, [640, 360], 4)
    (tmp_path / "film.png").write_bytes(shot)
    with Image.open(io.BytesIO(shot)) as picture:
        seen = picture.convert("RGB").crop((8, 8, 648, 368)).resize((64, 36))
    assert len(set(seen.get_flattened_data())) > 100
    answers = [one for one in page.responses if one["url"] == link]
    assert {one["status"] for one in answers} == {206}
    parts = [re.fullmatch(r"bytes (\d+)-\d+/(\d+)", one["headers"]["Content-Range"]) for one in answers]
    assert parts[0] is not None
    assert all(parts)
