"""The container deployment, held to what the code knows: compose file, image, broker definitions and .env example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from gateway.core.settings import Settings, load, variable
from storage.opening import bucket_of
from workers.celery_queue import NAME

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "deploy/.env.example").read_text(encoding="utf-8")
PLACEHOLDER = re.compile(r"\$\{(?P<name>\w+)(?P<mark>:[?-])(?P<rest>[^}]*)\}")
OURS = ("migrate", "gateway", "worker")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as Compose sees them: with merges done, secrets of 40 characters, and defaults filled in."""
    filled = PLACEHOLDER.sub(lambda found: found["rest"] if found["mark"] == ":-" else "s" * 40, COMPOSE)
    found: dict[str, Any] = yaml.safe_load(filled)["services"]
    return found


@pytest.fixture
def settings(services: dict[str, Any]) -> Settings:
    """What the gateway's settings are in the deployment."""
    return load(services["gateway"]["environment"] | {"HELIOGRAPH_PUBLIC_URL": "https://media.example.com"})


@pytest.mark.parametrize("text", [COMPOSE, DOCKERFILE, EXAMPLE], ids=["compose", "image", "example"])
def test_every_variable_is_a_setting(text: str) -> None:
    """No file names a HELIOGRAPH_ variable that the settings do not have; the gateway would refuse to start."""
    named = set(re.findall(r"\bHELIOGRAPH_[A-Z0-9_]+", text))
    assert named
    assert named <= {variable(field.name) for field in msgspec.structs.fields(Settings)}


def test_the_settings_fit_the_services(services: dict[str, Any], settings: Settings) -> None:
    """Database, broker and bucket are those that the other services make, under the names that they give them."""
    database, broker = urlsplit(settings.database), urlsplit(settings.broker_url or "")
    given = services["postgres"]["environment"]
    assert (database.username, database.password) == (given["POSTGRES_USER"], given["POSTGRES_PASSWORD"])
    assert (database.hostname, database.path) == ("postgres", f"/{given['POSTGRES_DB']}")
    assert (broker.hostname, broker.password) == ("rabbitmq", services["rabbitmq"]["environment"]["RABBITMQ_PASSWORD"])
    store, seaweedfs = (
        bucket_of(settings.storage, settings.s3_access_key, settings.s3_secret_key),
        services["seaweedfs"],
    )
    assert f"-bucket={store.name}" in seaweedfs["command"].split()
    assert store.endpoint == "http://seaweedfs:8333"
    keys = (seaweedfs["environment"]["AWS_ACCESS_KEY_ID"], seaweedfs["environment"]["AWS_SECRET_ACCESS_KEY"])
    assert keys == (settings.s3_access_key, settings.s3_secret_key)


def test_the_broker_knows_our_user_vhost_and_queue(settings: Settings) -> None:
    """The definitions make the user and the vhost of the broker URL, and a queue for the dead letters of ours."""
    broker = urlsplit(settings.broker_url or "")
    made = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text(encoding="utf-8"))
    vhost = broker.path.removeprefix("/")
    assert [user["name"] for user in made["users"]] == [broker.username]
    assert {one["vhost"] for kind in ("permissions", "policies", "queues") for one in made[kind]} == {vhost}
    (policy,), (dead,) = made["policies"], made["queues"]
    assert re.search(policy["pattern"], NAME)
    assert policy["definition"]["dead-letter-routing-key"] == dead["name"] != NAME


def test_only_the_gateway_and_the_s3_port_are_published(services: dict[str, Any]) -> None:
    """No other port leaves the compose networks, and by default those two stay on this machine."""
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:8000:8000"], "seaweedfs": ["127.0.0.1:8333:8333"]}


def test_every_image_has_a_tag(services: dict[str, Any]) -> None:
    """No image is taken as whatever is newest."""
    images = [service["image"] for service in services.values()] + re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert [image for image in images if not re.search(r":(?!latest)[\w.-]+$", image)] == []


def test_the_schema_is_there_before_anybody_works(services: dict[str, Any]) -> None:
    """`migrate` ends well before gateway and worker start, and itself waits for the database."""
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("gateway", "worker"):
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "postgres": {"condition": "service_healthy"},
            "rabbitmq": {"condition": "service_healthy"},
            "seaweedfs": {"condition": "service_healthy"},
        }


def test_what_listens_is_watched_and_started_again(services: dict[str, Any]) -> None:
    """Every service that stays up restarts by itself, and every one with a port has a health check."""
    staying = {name: service for name, service in services.items() if name != "migrate"}
    assert {service["restart"] for service in staying.values()} == {"unless-stopped"}
    assert re.search(r"^HEALTHCHECK .*\n.*\n.*/health", DOCKERFILE, re.MULTILINE)
    assert "healthcheck" not in services["gateway"]
    assert {name for name in staying if services[name].get("healthcheck", {}).get("test")} == set(staying) - set(OURS)


def test_a_stop_leaves_time_to_end(services: dict[str, Any], settings: Settings) -> None:
    """Gateway and worker are given longer to stop than they may take to drain."""
    for name in ("gateway", "worker"):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) >= settings.drain_seconds + 10


def test_the_image_does_not_run_as_root() -> None:
    """The last USER of the image is a number, which a cluster can check, and not that of root."""
    user = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1]
    assert int(user.partition(":")[0]) > 0


def test_every_secret_is_asked_for(services: dict[str, Any]) -> None:
    """What the compose file insists on stands in the example, where no secret has a value yet."""
    example = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    needed = {found["name"] for found in PLACEHOLDER.finditer(COMPOSE) if found["mark"] == ":?"}
    assert needed <= set(example)
    assert {name for name in needed if example[name]} == {"HELIOGRAPH_PUBLIC_URL"}
    assert "$" not in PLACEHOLDER.sub("", COMPOSE)
    assert all(services[name]["env_file"] == ".env" for name in OURS)


def test_every_mounted_file_is_there(services: dict[str, Any]) -> None:
    """A file that is missing would be mounted as an empty folder; and the mounted heliograph.toml is one."""
    mounts = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    files = {ROOT / mount for mount in mounts if mount.startswith("./")}
    assert files
    assert all(file.is_file() for file in files)
    assert load({}, ROOT / "deploy/heliograph.toml").models == {}
