"""Cleaning up, on both deployments: it happens by itself, and by command, and leaves nothing of what is over."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from gateway.core.tables import TASKS
from storage.database import Database
from tests.acceptance.deployments import Deployment


@pytest.fixture
def admin(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client with the admin key."""
    with deployment.client(deployment.environ["HELIOGRAPH_ADMIN_KEY"]) as client:
        yield client


async def age(deployment: Deployment, task_id: str, days: int) -> None:
    """Lets a task have ended so many days earlier."""
    file = Path(deployment.environ["HELIOGRAPH_DATA_DIR"], "heliograph.db")
    db = Database(deployment.environ.get("HELIOGRAPH_DATABASE_URL", f"sqlite:///{file}"))
    task = TASKS.c.id == task_id
    async with db.write() as connection:
        ended: dt.datetime = (await connection.execute(select(TASKS.c.ended_at).where(task))).scalar_one()
        await connection.execute(update(TASKS).where(task).values(ended_at=ended - dt.timedelta(days=days)))
    await db.close()


def test_it_begins_by_itself(admin: httpx.Client) -> None:
    """Nobody has to ask: soon after the start the first run has looked around, and the next one has its time."""
    deadline = time.monotonic() + 60
    while (told := admin.get("/admin/v1/media/statistics").json())["last_cleanup_at"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert told["last_cleanup"]["complete"]
    due = dt.datetime.fromtimestamp(told["next_cleanup_at"], dt.UTC)
    assert (due.hour, due.minute) == (2, 0)


def test_the_command_erases_what_is_over(deployment: Deployment, admin: httpx.Client) -> None:
    """First it says what would go; then it is gone, from the store and for its owner, and the bill is left."""
    issued = admin.post("/admin/v1/keys", json={"name": "brief", "retention_days": 3}).json()
    with deployment.client(issued["key"]) as client:
        body = {"model": "demo-image", "prompt": "a", "size": "256x256", "n": 2}
        reply = client.post("/v1/images/generations", json=body)
        links = [one["url"] for one in reply.json()["data"]]
        task_id = reply.headers["x-heliograph-task-id"]
        asyncio.run(age(deployment, task_id, 3))
        assert "media             2 would be erased" in deployment.command("clean", "--dry-run")
        assert [httpx.get(link).status_code for link in links] == [200, 200]
        assert "media             2 erased" in deployment.command("clean")
        assert [httpx.get(link).status_code for link in links] == [404, 404]
        assert "media             0 would be erased" in deployment.command("clean", "--dry-run")
        task = client.get(f"/v1/tasks/{task_id}").json()
        assert (task["status"], task["result"]["data"]) == ("completed", [])
        assert client.get("/v1/usage").json()["mediaUsage"]["imagesGenerated"] == 2
