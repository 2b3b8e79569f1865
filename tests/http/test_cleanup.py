"""What is kept, for whom and how long, over HTTP: told to owners, seen and cleaned up by administrators."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from gateway.core.tables import TASKS
from storage.database import Database
from tests.http.replies import refused
from tests.http.server import ADMIN_KEY, CONFIG, ENVIRON, Heliograph, serving

DAY = 86_400


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """A gateway of its own that keeps media for thirty days, and cleans up when it is told to."""
    environ = {**ENVIRON, "HELIOGRAPH_RETENTION_DAYS": "30", "HELIOGRAPH_CLEANING_SCHEDULE": "off"}
    with serving(tmp_path_factory.mktemp("kept"), CONFIG, environ) as heliograph:
        yield heliograph
    assert [record.getMessage() for record in heliograph.faults] == []


@pytest.fixture
def owner(kept: Heliograph) -> Iterator[httpx.Client]:
    """A client with a key."""
    with kept.client() as client:
        yield client


@pytest.fixture
def keeper(kept: Heliograph) -> Iterator[httpx.Client]:
    """A client with the admin key."""
    with kept.client(ADMIN_KEY) as client:
        yield client


def drawn(client: httpx.Client, n: int = 1) -> dict[str, Any]:
    """A task that has delivered pictures."""
    body = {"model": "demo-image", "prompt": "a", "size": "256x256", "n": n}
    reply = client.post("/v1/images/generations", json=body)
    assert reply.status_code == 200
    task: dict[str, Any] = client.get(f"/v1/tasks/{reply.headers['x-heliograph-task-id']}").json()
    return task


async def age(kept: Heliograph, task_id: str) -> None:
    """Lets a task have ended a day earlier."""
    db = Database(kept.settings.database)
    task = TASKS.c.id == task_id
    async with db.write() as connection:
        ended: dt.datetime = (await connection.execute(select(TASKS.c.ended_at).where(task))).scalar_one()
        await connection.execute(update(TASKS).where(task).values(ended_at=ended - dt.timedelta(days=1)))
    await db.close()


def key_id(keeper: httpx.Client, name: str) -> str:
    """The id of the key with this name."""
    (found,) = [one["id"] for one in keeper.get("/admin/v1/keys").json()["data"] if one["name"] == name]
    return str(found)


def test_owners_are_told_when_media_go(owner: httpx.Client, keeper: httpx.Client) -> None:
    """Task and media say it, by the setting, and from then on by what their key says; 0 is for ever."""
    task = drawn(owner)
    (medium,) = task["result"]["data"]
    path = f"/v1/media/{medium['id']}"
    accept = {"Accept": "application/json"}
    assert task["expires_at"] == task["completed_at"] + 30 * DAY
    assert medium["expires_at"] == medium["created"] + 30 * DAY
    assert owner.get(path, headers=accept).json()["expires_at"] == medium["expires_at"]
    assert owner.get("/v1/media").json()["data"][0]["expires_at"] == medium["expires_at"]
    key = f"/admin/v1/keys/{key_id(keeper, 'first')}"
    for days, end in ((2, medium["created"] + 2 * DAY), (0, None), (None, medium["expires_at"])):
        changed = keeper.patch(key, json={"retention_days": days}).json()
        assert changed["retention_days"] == days
        assert keeper.patch(key, json={"name": "first"}).json()["retention_days"] == days
        assert owner.get(path, headers=accept).json().get("expires_at") == end
        told = owner.get(f"/v1/tasks/{task['id']}").json()["expires_at"]
        assert (told is None) if end is None else abs(told - end) <= 1


def test_a_key_is_issued_with_its_own_time(keeper: httpx.Client) -> None:
    """The first reply says it already, and what is no number of days is refused."""
    assert keeper.post("/admin/v1/keys", json={"name": "brief", "retention_days": 7}).json()["retention_days"] == 7
    for days in (-1, 36_501, 1.5, "7"):
        reply = keeper.post("/admin/v1/keys", json={"name": "brief", "retention_days": days})
        refused(reply, 400, "invalid_parameter", "retention_days")


def test_statistics_add_up(kept: Heliograph, keeper: httpx.Client) -> None:
    """In all, by kind and by key; what was deleted is no longer among them."""
    with kept.client(kept.other_key) as other:
        task = drawn(other, n=2)
        before = keeper.get("/admin/v1/media/statistics").json()
        first, second = task["result"]["data"]
        assert other.delete(f"/v1/media/{first['id']}").json() == {
            "id": first["id"], "object": "image.deleted", "deleted": True,
        }  # fmt: skip
    after = keeper.get("/admin/v1/media/statistics").json()
    assert (after["object"], after["retention_days"]) == ("media.statistics", 30)
    assert before["total"]["count"] == after["total"]["count"] + 1
    (own,) = [one for one in after["keys"] if one["id"] == key_id(keeper, "second")]
    assert own == {
        "id": own["id"], "name": "second", "total": {"count": 1, "bytes": second["bytes"]},
        "kinds": {"image": {"count": 1, "bytes": second["bytes"]}, "video": {"count": 0, "bytes": 0}},
    }  # fmt: skip
    for part in ("count", "bytes"):
        assert after["total"][part] == sum(one[part] for one in after["kinds"].values())
        assert after["total"][part] == sum(one["total"][part] for one in after["keys"])


def test_a_cleanup_is_a_dry_run_unless_it_is_meant(kept: Heliograph, keeper: httpx.Client) -> None:
    """What is over is named first and goes then, and the statistics tell of the last run; the task keeps its bill."""
    issued = keeper.post("/admin/v1/keys", json={"name": "brief", "retention_days": 1}).json()
    path = "/admin/v1/media/cleanup"
    with kept.client(issued["key"]) as brief:
        task = drawn(brief, n=2)
        asyncio.run(age(kept, task["id"]))
        sizes = sum(one["bytes"] for one in task["result"]["data"])
        said = keeper.post(path, json={}).json()
        assert (said["object"], said["dry_run"], said["complete"], said["tasks"]) == ("media.cleanup", True, True, 1)
        assert said["media"] == {"count": 2, "bytes": sizes}
        assert len(brief.get("/v1/media").json()["data"]) == 2
        done = keeper.post(path, json={"dry_run": False}).json()
        assert (done["dry_run"], done["complete"], done["missing"]) == (False, True, 0)
        assert (done["tasks"], done["media"]) == (1, said["media"])
        assert brief.get("/v1/media").json()["data"] == []
        refused(brief.get(f"/v1/media/{task['result']['data'][0]['id']}"), 404, "media_not_found")
        refused(brief.get(task["result"]["url"]), 404, "media_not_found")
        left = brief.get(f"/v1/tasks/{task['id']}").json()
        assert (left["status"], left["cost"], left["result"]["data"]) == ("completed", task["cost"], [])
        assert left["expires_at"] is None
        assert brief.get("/v1/usage").json()["mediaUsage"]["imagesGenerated"] == 2
    told = keeper.get("/admin/v1/media/statistics").json()
    assert told["last_cleanup"] == done
    assert (told["last_cleanup_at"] > 0, told["next_cleanup_at"]) == (True, None)


def test_a_slip_deletes_nothing(keeper: httpx.Client) -> None:
    """A member that is not understood is refused, with its name."""
    path = "/admin/v1/media/cleanup"
    refused(keeper.post(path, json={"dry_run": "no"}), 400, "invalid_parameter", "dry_run")
    refused(keeper.post(path, json={"dryrun": False}), 400, "unsupported_parameter", "dryrun")


def test_only_the_administrator_sees_and_cleans(owner: httpx.Client) -> None:
    """A virtual key may do neither."""
    refused(owner.get("/admin/v1/media/statistics"), 403, "operation_not_allowed")
    refused(owner.post("/admin/v1/media/cleanup", json={}), 403, "operation_not_allowed")


def test_media_are_listed_page_by_page(owner: httpx.Client) -> None:
    """Newest first, each once, of the kind that is asked for; with what it takes to ask for the rest."""
    for _ in range(2):
        drawn(owner, n=2)
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = owner.get("/v1/media", params={"limit": 3, "type": "image", **after}).json()
        found += [one["id"] for one in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], found[-1])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert len(found) == len(set(found)) >= 4
    assert found == sorted(found, reverse=True)
    assert owner.get("/v1/media", params={"type": "video"}).json()["data"] == []
    for name, value in (("type", "audio"), ("limit", "0"), ("after", "img_x")):
        refused(owner.get("/v1/media", params={name: value}), 400, "invalid_parameter", name)
