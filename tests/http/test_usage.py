"""`GET /v1/usage`: all that a key has made counts, whatever it is called, and the parts are the whole."""

from __future__ import annotations

import asyncio
import io

import httpx
from PIL import Image
from sqlalchemy import update

from gateway.core.tables import ASSETS, TASKS
from storage.database import Database
from tests.http.server import Heliograph


def picture() -> bytes:
    """A picture to begin with."""
    file = io.BytesIO()
    Image.new("RGB", (256, 256), "white").save(file, "PNG")
    return file.getvalue()


async def become(heliograph: Heliograph, task_id: str, kind: str, charged: int) -> None:
    """Makes another kind of task of one, at that cost in micro-USD."""
    db = Database(heliograph.settings.database)
    async with db.write() as connection:
        await connection.execute(update(TASKS).where(TASKS.c.id == task_id).values(kind=kind, charged=charged))
        await connection.execute(update(ASSETS).where(ASSETS.c.task_id == task_id).values(kind=kind))
    await db.close()


def made(reply: httpx.Response) -> str:
    """The task of a reply."""
    assert reply.status_code == 200, reply.text
    return reply.headers["x-heliograph-task-id"]


def test_edits_and_videos_count_and_the_parts_add_up(heliograph: Heliograph, admin: httpx.Client) -> None:
    """Generations, edits and videos of one name are one part of the breakdown; deleted media were made all the same."""
    issued = admin.post("/admin/v1/keys", json={"name": "counted"}).json()
    with heliograph.client(issued["key"]) as client:
        body = {"model": "demo-image", "prompt": "a", "size": "256x256"}
        drawn = made(client.post("/v1/images/generations", json={**body, "n": 2}))
        edit = made(client.post("/v1/images/edits", data={"prompt": "b"}, files={"image": ("a.png", picture())}))
        video = made(client.post("/v1/images/generations", json=body))
        for task_id, kind, charged in ((drawn, "image", 80_000), (edit, "image", 1), (video, "video", 1_500_000)):
            asyncio.run(become(heliograph, task_id, kind, charged))
        before = client.get("/v1/usage").json()["mediaUsage"]
        for medium in client.get("/v1/media").json()["data"]:
            assert client.delete(f"/v1/media/{medium['id']}").status_code == 200
        assert client.get("/v1/usage").json()["mediaUsage"] == before
    assert before == {
        "imagesGenerated": 3, "videosGenerated": 1, "totalCost": "1.580001",
        "breakdown": {"demo-image": {"count": 4, "cost": "1.580001"}},
    }  # fmt: skip
