"""What settings change: several web processes, links into the store, and a configuration file."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.acceptance.deployments import Deployment, Distributed, Embedded, Vendor

CONFIG = """
[aliases]
"dall-e-3" = "demo-image"

[models.house-style]
routes = [{ provider = "second", model = "scripted-image" }, { provider = "scripted", model = "scripted-image" }]
defaults = { size = "128x64" }
response_format = "b64_json"

[providers.second]
vendor = "scripted"
base_url = "http://127.0.0.1:9"
credentials = { api_key = "sk-second" }
"""


@pytest.fixture(scope="module")
def presigning(
    vendor: Vendor, services: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Two web processes on one port, whose links lead into the store."""
    settings = {"HELIOGRAPH_PROCESSES": "2", "HELIOGRAPH_MEDIA_LINKS": "presigned"}
    made = Distributed(tmp_path_factory.mktemp("presigning"), vendor, services() | settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def configured(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An embedded deployment with a heliograph.toml in its folder."""
    folder = tmp_path_factory.mktemp("configured")
    (folder / "heliograph.toml").write_text(CONFIG, encoding="utf-8")
    made = Embedded(folder, vendor, {})
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_links_may_lead_into_the_store(presigning: Deployment) -> None:
    """With `media_links=presigned` the link is the store's own, signed, and opens without any key."""
    with presigning.client(presigning.new_key()) as client:
        reply = client.post("/v1/images/generations", json={"model": "demo-image", "prompt": "a", "size": "256x256"})
    link = reply.json()["data"][0]["url"]
    assert link.startswith(presigning.environ["HELIOGRAPH_STORAGE_URL"].partition("endpoint=")[2].partition("&")[0])
    opened = httpx.get(link)
    assert (opened.status_code, opened.headers["content-type"]) == (200, "image/png")
    assert httpx.get(link.partition("?")[0]).status_code == 403


def test_several_web_processes_serve_as_one(presigning: Deployment) -> None:
    """Requests, each on a connection of its own, find what others have made, whichever process they meet."""
    key = presigning.new_key()
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "scripted-image", "prompt": "many", "async": True}
    made = [httpx.post(f"{presigning.url}/v1/images/generations", json=body, headers=headers) for _ in range(8)]
    ended = [
        httpx.get(f"{presigning.url}/v1/tasks/{one.json()['id']}?wait=20", headers=headers, timeout=30) for one in made
    ]
    assert {one.json()["status"] for one in ended} == {"completed"}


def test_code_for_a_retired_model_runs_unchanged(configured: Deployment) -> None:
    """`dall-e-3` with its old values is served by what it is an alias of, and the reply says what was changed."""
    with OpenAI(base_url=f"{configured.url}/v1", api_key=configured.new_key()) as sdk:
        raw = sdk.images.with_raw_response.generate(
            model="dall-e-3", prompt="a house", quality="hd", style="natural", size="1792x1024", response_format="url"
        )
    assert raw.headers["x-heliograph-adjusted"] == '{"quality": ["hd", null], "style": ["natural", null]}'
    assert raw.parse().data[0].url.startswith(configured.url)  # type: ignore[index,union-attr]  # the SDK says Optional


def test_a_model_of_ones_own_has_routes_in_order_and_defaults(configured: Deployment) -> None:
    """The second route serves at once while the first is unreachable; defaults fill in what the request lacks."""
    with configured.client(configured.new_key()) as client:
        reply = client.post("/v1/images/generations", json={"model": "house-style", "prompt": "anything"})
        task = client.get(f"/v1/tasks/{reply.headers['x-heliograph-task-id']}").json()
    assert (reply.json()["size"], list(reply.json()["data"][0])) == ("128x64", ["b64_json"])
    assert [(one["provider"], one["outcome"]) for one in task["attempts"]] == [
        ("second", "Unavailable"),
        ("scripted", "done"),
    ]


def test_a_dry_run_says_what_a_request_would_come_to(configured: Deployment) -> None:
    """Price, routes and what an alias changes are said, what cannot be is refused, and there is no task."""
    with configured.client(configured.new_key()) as client:
        body = {"model": "house-style", "prompt": "anything", "n": 3, "dry_run": True}
        plan = client.post("/v1/images/generations", json=body).json()
        legacy = {"model": "dall-e-3", "prompt": "a", "quality": "hd", "size": "1024x1024", "dry_run": True}
        adjusted = client.post("/v1/images/generations", json=legacy).json()["adjusted"]
        refused = client.post("/v1/images/generations", json=body | {"n": 99})
        assert client.get("/v1/tasks").json()["data"] == []
    assert plan["cost"] == {"reserved": "0.120000", "charged": None, "currency": "USD"}
    assert (plan["route"]["provider"], [one["provider"] for one in plan["fallbacks"]]) == ("second", ["scripted"])
    assert adjusted == {"quality": ["hd", None]}
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"HELIOGRAPH_PORT": "eighty"}, "HELIOGRAPH_PORT"),
        ({"HELIOGRAPH_BROKER_URL": "redis://127.0.0.1"}, "HELIOGRAPH_BROKER_URL"),
        ({"HELIOGRAPH_SECRET": "short"}, "HELIOGRAPH_SECRET"),
        ({"HELIOGRAPH_PROT": "1"}, "HELIOGRAPH_PORT"),
        ({"HELIOGRAPH_DATA_DIR": "/dev/null/data"}, "HELIOGRAPH_DATA_DIR: "),
        ({"HELIOGRAPH_DATA_DIR": "/dev/null/data", "HELIOGRAPH_SECRET": "s" * 40}, "HELIOGRAPH_DATA_DIR"),
    ],
)
def test_a_setting_that_makes_no_sense_refuses_to_start(
    tmp_path: Path, vendor: Vendor, environ: dict[str, str], named: str
) -> None:
    """The command ends with one line that names the setting, and no traceback."""
    made = Embedded(tmp_path, vendor, environ)
    with pytest.raises(AssertionError) as refusal:
        made.command("up")
    assert named in str(refusal.value)
    assert "Traceback" not in str(refusal.value)


def test_a_port_that_is_taken_is_said_before_anything_is_begun(tmp_path: Path, vendor: Vendor) -> None:
    """One line names the settings to change, and the start has left nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        made = Embedded(tmp_path, vendor, {})
        made.environ["HELIOGRAPH_PORT"] = str(taken.getsockname()[1])
        with pytest.raises(AssertionError) as refusal:
            made.command("up")
    assert "HELIOGRAPH_PORT" in str(refusal.value)
    assert "Traceback" not in str(refusal.value)
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.parametrize("command", ["keys list", "keys create", "keys revoke", "clean", "clean --dry-run"])
def test_a_command_without_a_database_says_what_to_do(tmp_path: Path, vendor: Vendor, command: str) -> None:
    """One line names the command that makes one, and nothing is made; so it is with a database without tables."""
    made = Embedded(tmp_path, vendor, {})
    arguments = [*command.split(), *([f"key_{'0' * 26}"] if "revoke" in command else [])]
    data = Path(made.environ["HELIOGRAPH_DATA_DIR"])
    with pytest.raises(AssertionError, match=r"no database here .* run `heliograph migrate`") as absent:
        made.command(*arguments)
    assert not data.exists()
    data.mkdir()
    (data / "heliograph.db").touch()
    with pytest.raises(AssertionError, match="schema of this version: run `heliograph migrate`") as empty:
        made.command(*arguments)
    assert "Traceback" not in str(absent.value) + str(empty.value)


def test_no_prompt_is_logged_however_much_is(vendor: Vendor, tmp_path: Path) -> None:
    """At `log_level=debug` every library may speak, and still no log holds a prompt, enhanced or not, or a key."""
    made = Embedded(tmp_path, vendor, {"HELIOGRAPH_LOG_LEVEL": "debug"})
    try:
        made.start()
        key = made.new_key()
        body = {"model": "demo-image", "prompt": "a canary on a wire", "size": "256x256", "enhance": True}
        with made.client(key) as client:
            assert client.post("/v1/images/generations", json=body).status_code == 200
    finally:
        made.stop()
    logged = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.log"))
    assert "DEBUG" in logged
    assert "canary" not in logged
    assert key not in logged
