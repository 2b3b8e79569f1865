"""Budgets and limits over HTTP: what an operator sets, what a caller meets, and what both can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI, RateLimitError

from tests.http.replies import refused
from tests.http.server import ADMIN_KEY, ENVIRON, Heliograph, serving

CONFIG = """
[models.priced]
routes = [{ provider = "demo", model = "demo-image", price = { as_of = 2026-11-21, rows = [{ usd = "0.04" }] } }]

[models.graded]
defaults = { size = "256x256" }

[[models.graded.routes]]
provider = "demo"
model = "demo-image"

[models.graded.routes.price]
as_of = 2026-11-21
rows = [{ usd = "0.01", when = { size = "256x256" } }, { usd = "1", when = { size = "1024x1024" } }]
"""
BODY = {"model": "priced", "prompt": "a fox", "size": "256x256"}
PATH = "/v1/images/generations"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """A gateway whose pictures cost four cents."""
    with serving(tmp_path_factory.mktemp("shop"), CONFIG, ENVIRON) as heliograph:
        yield heliograph
        assert [record.getMessage() for record in heliograph.faults] == []


@pytest.fixture
def admin(shop: Heliograph) -> Iterator[httpx.Client]:
    """A client with the admin key."""
    with shop.client(ADMIN_KEY) as client:
        yield client


def new_key(admin: httpx.Client, **members: Any) -> dict[str, Any]:
    """A new key as the administrator is told of it."""
    reply = admin.post("/admin/v1/keys", json={"name": "a key", **members})
    assert reply.status_code == 201, reply.text
    body: dict[str, Any] = reply.json()
    return body


def usage(client: httpx.Client, **query: Any) -> dict[str, Any]:
    """What the key is told of its usage."""
    reply = client.get("/v1/usage", params=query)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def test_a_budget_holds_and_is_shown(shop: Heliograph, admin: httpx.Client) -> None:
    """Two pictures fit in nine cents; the third is refused without a task, and everybody reads the same numbers."""
    key = new_key(admin, budget={"limit": "0.09", "period": "day", "thresholds": [50]})
    with shop.client(key["key"]) as client:
        for _ in range(2):
            reply = client.post(PATH, json=BODY)
            assert (reply.status_code, reply.headers["x-heliograph-cost"]) == (200, "0.040000")
        message = refused(client.post(PATH, json=BODY), 429, "insufficient_quota")
        assert "$0.010000 is left" in message
        found = usage(client)
        assert client.get("/v1/tasks").json()["data"][0]["status"] == "completed"
    budget = found["budget"]
    assert (budget["limit"], budget["spent"], budget["reserved"], budget["remaining"]) == (
        "0.090000", "0.080000", "0.000000", "0.010000",
    )  # fmt: skip
    assert (budget["period"], budget["thresholds"]) == ("day", {"50": True})
    assert found["mediaUsage"]["breakdown"] == {"priced": {"count": 2, "cost": "0.080000"}}
    assert (found["mediaUsage"]["imagesGenerated"], found["mediaUsage"]["totalCost"]) == (2, "0.080000")
    shown = admin.get(f"/admin/v1/keys/{key['id']}").json()
    assert (shown["usage"]["spent"], shown["usage"]["remaining"]) == ("0.080000", "0.010000")
    entries = admin.get("/admin/v1/ledger", params={"account": key["id"]}).json()["data"]
    assert [one["kind"] for one in entries] == ["reservation", "charge"] * 2


def test_usage_is_of_the_time_asked_for(shop: Heliograph, admin: httpx.Client) -> None:
    """What ended before or after the time does not count."""
    with shop.client(new_key(admin)["key"]) as client:
        assert client.post(PATH, json=BODY).status_code == 200
        assert usage(client, **{"from": "2026-01-01"})["mediaUsage"]["imagesGenerated"] == 1
        assert usage(client, to="2026-01-01")["mediaUsage"] == {
            "imagesGenerated": 0, "videosGenerated": 0, "totalCost": "0.000000", "breakdown": {},
        }  # fmt: skip
        assert usage(client, **{"from": "2100-01-01"})["mediaUsage"]["imagesGenerated"] == 0
        for text in ("yesterday", "2026-02-30", "2026-W01-1"):
            refused(client.get(f"/v1/usage?from={text}"), 400, "invalid_parameter", "from")
        refused(client.get("/v1/usage?from=5&to=4"), 400, "invalid_parameter", "to")


def test_a_limited_key_is_told_how_much_is_left(shop: Heliograph, admin: httpx.Client) -> None:
    """Each reply says so, reads included; beyond the limit the SDK's own error comes, with when to come again."""
    key = new_key(admin, limits={"requests_per_day": 2, "requests_per_minute": 1000})
    with shop.client(key["key"]) as client:
        seen = [client.get("/v1/models"), client.post(PATH, json=BODY), client.post(PATH + "/async", json=BODY)]
        left = [
            (one.headers["x-ratelimit-limit-requests"], one.headers["x-ratelimit-remaining-requests"]) for one in seen
        ]
        assert left == [("2", "2"), ("2", "1"), ("2", "0")]
        reply = client.post(PATH, json=BODY)
        assert (reply.status_code, reply.headers["x-should-retry"]) == (429, "true")
        seconds = reply.headers["retry-after"]
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert f"retry after {seconds} seconds" in reply.json()["error"]["message"]
        assert re.fullmatch(r"\d+s", reply.headers["x-ratelimit-reset-requests"])
        assert len(client.get("/v1/tasks").json()["data"]) == 2
        assert usage(client)["limits"]["requests"][1]["remaining"] == 0
    with pytest.raises(RateLimitError):
        OpenAI(base_url=f"{shop.url}/v1", api_key=key["key"], max_retries=0).images.generate(**BODY)  # type: ignore[call-overload]  # members of a dict


def test_an_unlimited_key_hears_of_no_limits(shop: Heliograph) -> None:
    """Its replies have none of those headers."""
    with shop.client() as client:
        assert not [name for name in client.get("/v1/models").headers if name.startswith("x-ratelimit")]


def test_what_is_refused_does_not_count(shop: Heliograph, admin: httpx.Client) -> None:
    """A request that is wrong, and a replay of one that was accepted, use up nothing."""
    with shop.client(new_key(admin, limits={"requests_per_day": 1})["key"]) as client:
        refused(client.post(PATH, json=BODY | {"n": 99}), 400, "invalid_parameter", "n")
        for _ in range(3):
            assert client.post(PATH, json=BODY, headers={"Idempotency-Key": "mine"}).status_code == 200


def test_a_key_is_changed(shop: Heliograph, admin: httpx.Client) -> None:
    """What is given changes at once, null takes away, and what is absent stays."""
    key = new_key(admin, budget={"limit": "0"}, owner="acme")
    address = f"/admin/v1/keys/{key['id']}"
    with shop.client(key["key"]) as client:
        refused(client.post(PATH, json=BODY), 429, "insufficient_quota")
        changed = admin.patch(address, json={"budget": None, "limits": {"concurrent": 3}, "name": "another"}).json()
        assert (changed["budget"], changed["limits"]["concurrent"], changed["name"]) == (None, 3, "another")
        assert changed["owner"] == "acme"
        assert client.post(PATH, json=BODY).status_code == 200
    assert admin.patch(address, json={"owner": None}).json()["owner"] is None
    assert admin.patch(address, json={}).json()["limits"]["concurrent"] == 3


def test_a_change_of_one_limit_leaves_the_others(admin: httpx.Client) -> None:
    """What is absent stays, within the limits too, and null takes one away."""
    key = new_key(admin, limits={"requests_per_minute": 60, "concurrent": 10})
    address = f"/admin/v1/keys/{key['id']}"
    changed = admin.patch(address, json={"limits": {"concurrent": 20}}).json()["limits"]
    assert (changed["requests_per_minute"], changed["concurrent"]) == (60, 20)
    assert admin.patch(address, json={"limits": {"requests_per_minute": None}}).json()["limits"]["concurrent"] == 20


def test_what_is_left_to_the_model_is_reserved_at_its_most(shop: Heliograph, admin: httpx.Client) -> None:
    """`auto` is not the operator's default, at whose price the budget would have had room for it."""
    key = new_key(admin, budget={"limit": "0.05"})
    body = {"model": "graded", "prompt": "a fox"}
    with shop.client(key["key"]) as client:
        for size in ("auto", "1024x1024"):
            planned = client.post(PATH, json={**body, "size": size, "dry_run": True}).json()
            assert planned["cost"]["reserved"] == "1.000000"
            refused(client.post(PATH, json={**body, "size": size}), 429, "insufficient_quota")
        assert client.post(PATH, json=body).status_code == 200
        assert usage(client)["budget"]["spent"] == "0.010000"


def test_a_change_of_a_budget_leaves_the_rest_of_it(shop: Heliograph, admin: httpx.Client) -> None:
    """A higher limit keeps the period, the thresholds, and what was spent in it."""
    key = new_key(admin, budget={"limit": "0.04", "period": "month", "thresholds": [10]})
    address = f"/admin/v1/keys/{key['id']}"
    with shop.client(key["key"]) as client:
        assert client.post(PATH, json=BODY).status_code == 200
    changed = admin.patch(address, json={"budget": {"limit": "0.05"}}).json()
    assert changed["budget"] == {"limit": "0.050000", "period": "month", "thresholds": [10]}
    assert (changed["usage"]["spent"], changed["usage"]["remaining"]) == ("0.040000", "0.010000")
    assert admin.patch(address, json={"budget": {"period": "day"}}).json()["budget"]["limit"] == "0.050000"
    assert admin.patch(address, json={"limits": None}).json()["limits"]["concurrent"] is None
    new = admin.patch(f"/admin/v1/keys/{new_key(admin)['id']}", json={"budget": {"period": "day"}})
    refused(new, 400, "missing_parameter", "budget")


def test_an_owner_has_no_slots(admin: httpx.Client) -> None:
    """What is not enforced for an owner is not taken, either."""
    wrong = admin.put("/admin/v1/owners/slots", json={"limits": {"concurrent": 1}})
    refused(wrong, 400, "invalid_parameter", "limits")


@pytest.mark.parametrize("name", ["%00", "a%00b", "a b", "\u00fc"])
def test_what_cannot_be_an_owner_is_none(admin: httpx.Client, name: str) -> None:
    """A name that no owner can have is not looked for."""
    refused(admin.get(f"/admin/v1/owners/{name}"), 404, "account_not_found")


def test_a_ledger_is_asked_for_by_account_or_task(admin: httpx.Client) -> None:
    """Entries of all accounts have no order in which pages could be asked for."""
    refused(admin.get("/admin/v1/ledger"), 400, "missing_parameter", "account")


def test_an_owner_bounds_its_keys(shop: Heliograph, admin: httpx.Client) -> None:
    """Two keys of an owner with one picture's worth: whoever comes second is refused, and is told of that budget."""
    assert admin.put("/admin/v1/owners/studio", json={"budget": {"limit": "0.04"}}).status_code == 200
    first, second = (new_key(admin, owner="studio")["key"] for _ in range(2))
    with shop.client(first) as client:
        assert client.post(PATH, json=BODY).status_code == 200
    with shop.client(second) as client:
        refused(client.post(PATH, json=BODY), 429, "insufficient_quota")
        assert (usage(client)["budget"]["account"], usage(client)["budget"]["remaining"]) == (
            "owner:studio",
            "0.000000",
        )
    assert admin.get("/admin/v1/owners/studio").json()["usage"]["spent"] == "0.040000"
    assert "studio" in [one["name"] for one in admin.get("/admin/v1/owners").json()["data"]]
    refused(admin.get("/admin/v1/owners/nobody"), 404, "account_not_found")


WRONG = [
    ({"budget": {"limit": 5}}, "budget"), ({"budget": {"limit": "-1"}}, "budget"),
    ({"budget": {"limit": "1e3"}}, "budget"), ({"budget": {"limit": "1", "period": "year"}}, "budget"),
    ({"budget": {"limit": "1", "thresholds": [0]}}, "budget"), ({"budget": {"limit": "1", "spent": "0"}}, "budget"),
    ({"budget": {"limit": "9999999999"}}, "budget"), ({"limits": {"concurrent": 0}}, "limits"),
    ({"limits": {"requests_per_minute": 1.5}}, "limits"), ({"owner": "a b"}, "owner"), ({"owner": ""}, "owner"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "param"), WRONG, ids=range(len(WRONG)))
def test_a_budget_that_makes_no_sense_is_refused(admin: httpx.Client, members: dict[str, Any], param: str) -> None:
    """Nothing of the key is made or changed."""
    before = len(admin.get("/admin/v1/keys").json()["data"])
    said = refused(admin.post("/admin/v1/keys", json={"name": "a key", **members}), 400, "invalid_parameter", param)
    assert "regex" not in said
    assert len(admin.get("/admin/v1/keys").json()["data"]) == before


def test_the_administration_of_money_is_not_for_keys(shop: Heliograph, admin: httpx.Client) -> None:
    """A virtual key can neither read the ledger nor change what it may spend."""
    key = new_key(admin)
    with shop.client(key["key"]) as client:
        for method, path in (
            ("GET", "/admin/v1/ledger"), ("PATCH", f"/admin/v1/keys/{key['id']}"), ("PUT", "/admin/v1/owners/a"),
            ("GET", "/admin/v1/owners"), ("GET", "/admin/v1/routes"), ("POST", "/admin/v1/tasks/task_1/settle"),
        ):  # fmt: skip
            refused(client.request(method, path, json={}), 403, "operation_not_allowed")


def test_nothing_is_settled_that_is_not_held(shop: Heliograph, admin: httpx.Client) -> None:
    """A task that ended well, or none at all, has nothing to settle."""
    with shop.client() as client:
        task = client.post(PATH, json=BODY).headers["x-heliograph-task-id"]
    refused(admin.post(f"/admin/v1/tasks/{task}/settle", json={"charged": "0.04"}), 409, "task_not_held")
    refused(admin.post(f"/admin/v1/tasks/{task}/settle", json={"charged": "4e1"}), 400, "invalid_parameter", "charged")
    for id in ("task_1", "%00"):
        refused(admin.post(f"/admin/v1/tasks/{id}/settle", json={"charged": "0.04"}), 404, "task_not_found")


def test_a_cancelled_task_says_what_was_stopped(shop: Heliograph, admin: httpx.Client) -> None:
    """A task that waited for its slot was never sent: nothing is billed, and the reply says so."""
    with shop.client(new_key(admin, limits={"concurrent": 1})["key"]) as client:
        first, second = (
            client.post(PATH + "/async", json={"model": "patient-image", "prompt": "a"}).json()["id"] for _ in range(2)
        )
        body = client.post(f"/v1/tasks/{second}/cancel").json()
        assert body["status"] == "cancelled"
        assert body["cancellation"]["stopped"] == "nothing_sent"
        assert body["cancellation"]["billed"] == "0.000000"
        assert client.delete(f"/v1/video/generations/{first}").json()["status"] == "cancelled"


def test_routes_are_shown_and_reset(admin: httpx.Client) -> None:
    """Each with its place, its price's date and its health; what does not exist cannot be reset."""
    routes = {one["model"]: one for one in admin.get("/admin/v1/routes").json()["data"]}
    assert routes["priced"]["provider"] == "demo"
    assert (routes["priced"]["price_as_of"], routes["priced"]["health"]["standing"]) == ("2026-11-21", "ok")
    assert admin.post("/admin/v1/routes/reset", json={"provider": "demo"}).json()["forgotten"] == 0
    refused(admin.post("/admin/v1/routes/reset", json={"provider": "nope"}), 404, "not_found")


def test_fallback_models_are_planned(shop: Heliograph) -> None:
    """A dry run lists the routes of all models in order; a model that is none is refused by the field's name."""
    with shop.client() as client:
        plan = client.post(PATH, json=BODY | {"fallback_models": ["patient-image"], "size": "auto", "dry_run": True})
        assert plan.json()["route"] == {"provider": "demo", "model": "demo-image"}
        assert plan.json()["fallbacks"] == [{"provider": "patient", "model": "patient-image"}]
        skipped = client.post(PATH, json=BODY | {"fallback_models": ["patient-image"], "dry_run": True}).json()[
            "skipped"
        ]
        assert [one["model"] for one in skipped] == ["patient-image"]
        assert "256x256" in skipped[0]["reason"]
        wrong = client.post(PATH, json=BODY | {"fallback_models": ["nope"]})
        refused(wrong, 404, "model_not_found", "fallback_models")
