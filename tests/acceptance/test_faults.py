"""What fails costs time, and nothing else: killed processes, a broker that is away, a queue that is emptied."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.acceptance.deployments import LEASE_SECONDS, Deployment, Distributed, Embedded, Vendor
from tests.proxy import Proxy

SETTLED_SECONDS = 40


def accept(client: httpx.Client, script: str, prompt: str) -> str:
    """Posts an asynchronous request; the id of its task."""
    body = {"model": "scripted-image", "prompt": prompt, "script": script, "async": True}
    reply = client.post("/v1/images/generations", json=body)
    assert reply.status_code == 202, reply.text
    task_id: str = reply.json()["id"]
    return task_id


def until(seconds: float, look: Callable[[], Any]) -> Any:
    """What `look` returns once that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def ended(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """The task once it is final."""
    task: dict[str, Any] = client.get(f"/v1/tasks/{task_id}", params={"wait": SETTLED_SECONDS}).json()
    return task


@pytest.fixture
def proxy(broker: str) -> Iterator[Proxy]:
    """A line to the broker that the test can cut."""
    address = urlsplit(broker)
    made = Proxy(address.hostname or "", address.port or 5672)
    yield made
    made.close()


@pytest.fixture
def distributed(
    tmp_path: Path, vendor: Vendor, services: Callable[[], dict[str, str]], proxy: Proxy
) -> Iterator[Distributed]:
    """A distributed deployment of the test's own, whose line to the broker can be cut."""
    environ = services()
    address = urlsplit(environ["HELIOGRAPH_BROKER_URL"])
    netloc = f"{address.username}:{address.password}@127.0.0.1:{proxy.port}"
    made = Distributed(tmp_path, vendor, environ | {"HELIOGRAPH_BROKER_URL": address._replace(netloc=netloc).geturl()})
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def embedded(tmp_path: Path, vendor: Vendor) -> Iterator[Embedded]:
    """An embedded deployment of the test's own."""
    made = Embedded(tmp_path, vendor, {})
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_another_worker_finishes_what_a_killed_one_began(distributed: Distributed) -> None:
    """Kill -9 of the worker while the vendor works: another one completes the task, and one order was submitted."""
    prompt = f"worker killed {time.time()}"
    with distributed.client(distributed.new_key()) as client:
        task_id = accept(client, "job:3", prompt)
        until(20, lambda: client.get(f"/v1/tasks/{task_id}").json()["stage"] == "generating")
        distributed.worker.kill()
        distributed.start_worker()
        assert ended(client, task_id)["status"] == "completed"
    assert len(distributed.vendor.accepted(prompt)) == 1


def test_a_killed_embedded_process_goes_on_after_its_restart(embedded: Embedded) -> None:
    """Kill -9 of the only process while the vendor works: started again, it completes the task, bought once."""
    prompt = f"process killed {time.time()}"
    with embedded.client(embedded.new_key()) as client:
        task_id = accept(client, "job:2", prompt)
        until(20, lambda: client.get(f"/v1/tasks/{task_id}").json()["stage"] == "generating")
        embedded.up.kill()
        embedded.start()
        assert ended(client, task_id)["status"] == "completed"
    assert len(embedded.vendor.accepted(prompt)) == 1


@pytest.mark.parametrize("kind", ["embedded", "distributed"])
def test_an_order_whose_sender_was_killed_is_never_sent_again(kind: str, request: pytest.FixtureRequest) -> None:
    """Kill -9 between sending and hearing back: the outcome is said to be unknown, and nothing is bought twice."""
    deployment: Deployment = request.getfixturevalue(kind)
    prompt = f"sender killed {time.time()}"
    with deployment.client(deployment.new_key()) as client:
        task_id = accept(client, "bytes:30", prompt)
        until(20, lambda: deployment.vendor.accepted(prompt))
        if isinstance(deployment, Distributed):
            deployment.worker.kill()
            deployment.start_worker()
        else:
            deployment.processes[-1].kill()
            deployment.start()
        task = ended(client, task_id)
    assert (task["status"], task["error_code"]) == ("failed", "outcome_unknown")
    assert len(deployment.vendor.accepted(prompt)) == 1


def test_tasks_are_accepted_and_done_while_the_broker_is_away(distributed: Distributed, proxy: Proxy) -> None:
    """With the line to the broker cut, requests are still answered 202 and quickly, and all are done, each once."""
    prompts = [f"no broker {number} {time.time()}" for number in range(20)]
    with distributed.client(distributed.new_key()) as client:
        proxy.cut()
        began = time.monotonic()
        tasks = [accept(client, "bytes", prompt) for prompt in prompts[:10]]
        assert time.monotonic() - began < 10
        proxy.mend()
        tasks += [accept(client, "bytes", prompt) for prompt in prompts[10:]]
        assert {ended(client, task_id)["status"] for task_id in tasks} == {"completed"}
    assert [len(distributed.vendor.accepted(prompt)) for prompt in prompts] == [1] * 20


def test_an_emptied_queue_loses_nothing(distributed: Distributed, broker: str) -> None:
    """With no worker, tasks pile up in the queue; it is purged, a worker comes, and all are done."""
    prompts = [f"purged {number} {time.time()}" for number in range(5)]
    with distributed.client(distributed.new_key()) as client:
        distributed.worker.kill()
        tasks = [accept(client, "bytes", prompt) for prompt in prompts]
        vhost = urlsplit(broker).path.removeprefix("/")
        subprocess.run(["rabbitmqctl", "-q", "purge_queue", "-p", vhost, "heliograph"], check=True, timeout=60)
        distributed.start_worker()
        assert {ended(client, task_id)["status"] for task_id in tasks} == {"completed"}
    assert [len(distributed.vendor.accepted(prompt)) for prompt in prompts] == [1] * 5


def test_a_stopped_deployment_ends_in_peace(distributed: Distributed) -> None:
    """SIGTERM ends web process and worker with status 0, and a task that waits is finished by the next worker."""
    prompt = f"stopped {time.time()}"
    with distributed.client(distributed.new_key()) as client:
        task_id = accept(client, "job:2", prompt)
        until(20, lambda: client.get(f"/v1/tasks/{task_id}").json()["stage"] == "generating")
        assert distributed.worker.stop() == 0
        distributed.start_worker()
        assert ended(client, task_id)["status"] == "completed"
    assert distributed.web.stop() == 0


def test_an_outage_of_the_database_costs_no_paid_result(
    tmp_path: Path, vendor: Vendor, services: Callable[[], dict[str, str]]
) -> None:
    """The line to PostgreSQL is cut for longer than a lease while the vendor works: its answer is kept, bought once."""
    environ = services()
    address = urlsplit(environ["HELIOGRAPH_DATABASE_URL"])
    line = Proxy(address.hostname or "", address.port or 5432)
    netloc = f"{address.username}@127.0.0.1:{line.port}"
    made = Distributed(
        tmp_path, vendor, environ | {"HELIOGRAPH_DATABASE_URL": address._replace(netloc=netloc).geturl()}
    )
    prompt = f"no database {time.time()}"
    try:
        made.start()
        made.start_worker()
        with made.client(made.new_key()) as client:
            task_id = accept(client, "bytes:1", prompt)
            until(20, lambda: vendor.accepted(prompt))
            line.cut()
            refused = client.post("/v1/images/generations", json={"model": "scripted-image", "prompt": "a"})
            assert (refused.status_code, refused.headers["x-should-retry"]) == (503, "true")
            time.sleep(2 * LEASE_SECONDS)  # an outage takes its time
            line.mend()
            until(20, lambda: client.get("/health/ready").status_code == 200)
            assert ended(client, task_id)["status"] == "completed"
    finally:
        made.stop()
        line.close()
    assert len(vendor.accepted(prompt)) == 1


def test_a_worker_that_is_stopped_begins_nothing_more(
    tmp_path: Path, vendor: Vendor, services: Callable[[], dict[str, str]]
) -> None:
    """SIGTERM with a full worker and a long queue: what was ordered is finished, and nothing more is ordered."""
    made = Distributed(tmp_path, vendor, services() | {"HELIOGRAPH_CONCURRENCY": "2", "HELIOGRAPH_DRAIN_SECONDS": "20"})
    prompts = [f"stopping {number} {time.time()}" for number in range(8)]

    def ordered() -> int:
        return sum(len(vendor.accepted(prompt)) for prompt in prompts)

    try:
        made.start()
        with made.client(made.new_key()) as client:
            tasks = [accept(client, "bytes:2", prompt) for prompt in prompts]
            until(20, lambda: ordered() == 2)
            assert made.worker.stop() == 0
            assert ordered() == 2
            made.start_worker()
            assert {ended(client, task_id)["status"] for task_id in tasks} == {"completed"}
    finally:
        made.stop()
    assert ordered() == 8


@pytest.mark.parametrize("kind", [Embedded, Distributed])
def test_a_waiting_request_is_answered_when_its_process_is_stopped(
    kind: type[Deployment], tmp_path: Path, vendor: Vendor, services: Callable[[], dict[str, str]]
) -> None:
    """SIGTERM while a client waits: it is told which task goes on, and no SDK sends the request again."""
    environ = services() if kind is Distributed else {}
    made = kind(tmp_path, vendor, environ | {"HELIOGRAPH_DRAIN_SECONDS": "4"})
    prompt = f"stopped while waiting {time.time()}"
    body = {"model": "scripted-image", "prompt": prompt, "script": "job:600"}
    try:
        made.start()
        serving = made.processes[0]
        with made.client(made.new_key()) as client, ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(client.post, "/v1/images/generations", json=body)
            until(20, lambda: vendor.accepted(prompt))
            assert serving.stop() == 0
            reply = waiting.result(10)
    finally:
        made.stop()
    assert (reply.status_code, reply.headers["x-should-retry"]) == (504, "false")
    assert reply.json()["error"]["task_id"] == reply.headers["x-heliograph-task-id"]
    assert len(vendor.accepted(prompt)) == 1


@pytest.mark.parametrize("kind", ["embedded", "distributed"])
def test_a_repeated_request_is_bought_once(kind: str, request: pytest.FixtureRequest) -> None:
    """A hundred times at once, and again after all processes were killed: one task, one order, and replays."""
    deployment: Deployment = request.getfixturevalue(kind)
    prompt = f"repeated {time.time()}"
    body = {"model": "scripted-image", "prompt": prompt, "script": "bytes:1"}
    headers = {"Idempotency-Key": prompt.replace(" ", "-")}

    def post(_: int) -> httpx.Response:
        return client.post("/v1/images/generations", json=body, headers=headers)

    with deployment.client(deployment.new_key()) as client:
        with ThreadPoolExecutor(100) as threads:
            replies = list(threads.map(post, range(100)))
        deployment.stop()
        deployment.start()
        replies.append(post(100))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.headers["x-heliograph-task-id"] for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    assert len(deployment.vendor.accepted(prompt)) == 1
