"""URLs that lead where they should not, through every member in which a URL is taken: refused, and nobody connects."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.http.grounds import HERE, Grounds, open_grounds
from tests.http.replies import refusal
from tests.http.server import ADMIN_KEY, Heliograph
from tests.http.test_edits import picture
from tests.providers.sockets import Upstream, upstream
from tests.vendors.misbehaving import IMMENSE, SLOW, Misbehaviour

PUBLIC, SECONDS = "93.184.216.34", 20
TYPE = "image.generation.completed"
DENIED = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip


def ends(network: str) -> tuple[str, str]:
    """The first and the last address of a network."""
    return str(ip_network(network)[0]), str(ip_network(network)[-1])


def hosts(*names: str) -> list[str]:
    """A URL of each, at the decoy's port."""
    return [f"http://{name}:{{port}}/" for name in names]


# What each line of the catalogue tries; `{port}` is the decoy's, `{own}` the gateway itself.
LINES = {
    "scheme": [
        "file:///etc/passwd",
        "ftp://{h}/",
        "gopher://{h}/",
        "data:text/html,x",
        "javascript:x",
        "dict://{h}/",
        "ws://{h}/",
        "unix:/run/x",
    ],
    "loopback": hosts("127.0.0.1", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0", "0.0.0.0"),  # noqa: S104 - never bound
    "digits of other scripts": hosts("127\u30020\u30020\u30021", "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460"),
    "IPv6": hosts(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2001:0::1]",
        "[fe80::1%25eth0]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "[5f00::1]",
        "[100::1]",
        "[ff02::1]",
        "[3fff::1]",
        "[2001:db8::1]",
    ),
    "networks": hosts(*(ends(one)[number % 2] for number, one in enumerate(DENIED))),
    "metadata": hosts("169.254.169.254", "metadata.google.internal", "100.100.100.200"),
    "local names": hosts("localhost", "localhost.", "LOCALHOST", "x.localhost", "ip6-localhost", "{machine}"),
    "credentials": [
        "https://u:p@public.test/",
        "https://public.test@{h}/",
        "https://{h}#@public.test",
        "https://public.test\\@{h}/",
        "https://127.0.0.1:80%40public.test/",
    ],
    "characters": [f"http://{{h}}/{char}" for char in "\t\r\n\0 "] + ["ht\ttp://{h}/", " http://{h}/"],
    "malformed": ["https://", "https:///x", "//{h}/", "https://[::1"]
    + [f"https://public.example:{port}/" for port in (0, 22, 25, 5432, 5672, 6379, 99999, -1)],
    "lengths": [
        "https://public.example/" + "x" * 8192,
        *hosts("x" * 256 + ".example", "\u0430pple.example", "public.example.", "public..example"),
    ],
    "the gateway itself": ["{own}/health", "{own}/v1/models"],
}


# Where names lead that look public.
NAMES = {
    "v4.example": ["127.0.0.1"], "v6.example": ["::1"], "mixed.example": [PUBLIC, "127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"], "nat64.example": ["64:ff9b::7f00:1"], "cloud.example": ["169.254.169.254"],
    "many.example": [PUBLIC] * 99 + ["10.0.0.1"], "zero.example": ["0.0.0.0"],  # noqa: S104 - never bound
}  # fmt: skip
# Names that lead to a public server when they are looked up first, and inside from then on.
FLIPS = {f"flip-{way}.example": [[HERE], ["127.0.0.1"]] for way in ("picture", "hop", "output", "webhook")}
# Names that an operator allows although they lead inside.
INSIDE = {name: [["127.0.0.1"]] for name in ("never.test", "own.test")}
# Where a public server sends whoever asks; `{site}` is that server.
HOPS = [
    (301, "http://127.0.0.1:{port}/"), (302, "http://169.254.169.254/latest/meta-data"), (303, "http://[::1]:{port}/"),
    (307, "http://v4.example:{port}/"), (308, "http://localhost:{port}/"), (302, "//127.0.0.1:{port}/"),
    (302, "file:///etc/passwd"), (302, "https://u:p@127.0.0.1:{port}/"), (307, "http://2130706433:{port}/"),
    (302, "{site}/hop/302/" + quote("{site}/hop/302/" + quote("http://127.0.0.1:{port}/", safe=""), safe="")),
    (302, "{site}/loop"), (301, "http://127.0.0.1:{port}/\tx"), (302, ""),
]  # fmt: skip
PNG, PICTURE = picture(), "a picture that says it is a page"


def answer(body: bytes = PNG, *headers: str, length: int | None = None) -> bytes:
    """An answer 200 with this body, as a picture unless the headers say otherwise."""
    kind = [] if any(one.startswith("Content-Type") for one in headers) else ["Content-Type: image/png"]
    size = len(body) if length is None else length
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {size}", "Connection: close", *kind, *headers))
    return f"{head}\r\n\r\n".encode() + body


# What a server may answer with; whether that is a picture, and whether a webhook was taken.
ANSWERS = {
    "nothing": (answer(b""), False, True), "ten gigabytes": (answer(length=10**10), False, True),
    "a bomb": (answer(gzip.compress(bytes(10**6)), "Content-Encoding: gzip"), False, True),
    "six codings": (answer(PNG, "Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip"), False, True),
    "less than it says": (answer(PNG, length=len(PNG) + 9), False, True),
    "ten thousand headers": (answer(PNG, *(f"X-{number}: x" for number in range(10_000))), False, False),
    "a page that says it is a picture": (answer(b"<html>"), False, True),
    PICTURE: (answer(PNG, "Content-Type: text/html"), True, True),
}  # fmt: skip
# What never comes to its end, and how it is told that this was not waited for.
NAMED = "endless chunks", "endless headers"
NEVER = [*SLOW, *(one for one in IMMENSE if one.name in NAMED)]
ENDS = "took too long", "too much before its answer", "is larger than", "not valid HTTP", "broke", "status 400"


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    """Decoys, servers and names."""
    names = {name: [addresses] for name, addresses in NAMES.items()}
    with open_grounds({**names, **FLIPS, **INSIDE}, {name: one[0] for name, one in ANSWERS.items()}) as made:
        yield made


@pytest.fixture(scope="module")
def running(grounds: Grounds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """A gateway on these grounds."""
    with grounds.gateway(tmp_path_factory.mktemp("hostile")) as heliograph:
        yield heliograph


# The ways in.


class Door(NamedTuple):
    """A member in which a URL is taken, and the refusal of a bad one: status, code and param."""

    send: Callable[[httpx.Client, str], httpx.Response]
    refusal: tuple[int, str, str | None]


def posting(path: str, member: str, **more: Any) -> Callable[[httpx.Client, str], httpx.Response]:
    """Sends the URL as that member of a JSON body."""
    return lambda http, url: http.post(
        path, content=json.dumps({member: url, **more}), headers={"Content-Type": "application/json"}
    )


def change(http: httpx.Client, url: str) -> httpx.Response:
    """Moves an endpoint to the URL."""
    found = http.get("/v1/webhook_endpoints").json()["data"]
    return posting(f"/v1/webhook_endpoints/{found[-1]['id']}", "url")(http, url)


def output(http: httpx.Client, url: str, **more: Any) -> httpx.Response:
    """Has a vendor say that its picture lies there."""
    return http.post("/v1/images/generations", json={"model": "pointing-image", "prompt": json.dumps(url), **more})


GENERATIONS, EDIT = "/v1/images/generations", {"model": "demo-image", "prompt": "x"}
PICTURES = {
    "edit": Door(posting("/v1/images/edits", "image", **EDIT), (400, "invalid_image", "image")),
    "generation": Door(
        posting(f"{GENERATIONS}/async", "style_image", model="patient-image", prompt="x"),
        (400, "invalid_image", "style_image"),
    ),
    "film": Door(
        posting("/v1/video/generations", "image", model="demo-video", prompt="x"), (400, "invalid_image", "image")
    ),
    "enhancement": Door(posting("/v1/video/enhancements", "video"), (400, "invalid_image", "video")),
    "output": Door(output, (502, "provider_error", None)),
}
HOOKS = {
    "task": Door(posting(f"{GENERATIONS}/async", "webhook_url", **EDIT), (400, "invalid_parameter", "webhook_url")),
    "endpoint": Door(posting("/v1/webhook_endpoints", "url", event_types=[TYPE]), (400, "invalid_parameter", "url")),
    "change": Door(change, (400, "invalid_parameter", "url")),
}


# When an output did not come in the time that its request had.
LATE = (504, "timeout", None)


def said(reply: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of a refusal."""
    error = refusal(reply) if reply.status_code < 500 else reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


@pytest.fixture
def endpoint(grounds: Grounds, client: httpx.Client) -> Iterator[str]:
    """An endpoint at the public server, gone afterwards: its id."""
    made = endpoint_at(client, f"{grounds.public}/answer/nothing")
    yield made
    client.delete(f"/v1/webhook_endpoints/{made}")


@pytest.mark.parametrize("line", LINES)
def test_a_hostile_url_is_refused_wherever_it_is_given(
    grounds: Grounds, heliograph: Heliograph, client: httpx.Client, endpoint: str, line: str
) -> None:
    """Each form of the line gets the refusal of its door, nothing is made of it, and nobody connects to a decoy."""
    for form in LINES[line]:
        url = grounds.url(form).replace("{own}", heliograph.url)
        for name, door in (HOOKS | PICTURES).items():
            status, code, param = door.refusal
            # A NUL is refused wherever it stands.
            code = "invalid_parameter" if "\0" in form and status == 400 else code
            assert said(door.send(client, url)) == (status, code, param), (name, form)
    assert [one["id"] for one in client.get("/v1/webhook_endpoints").json()["data"]] == [endpoint]
    assert grounds.untouched()


@pytest.mark.parametrize("host", NAMES)
def test_a_name_that_leads_inside_is_refused_when_it_is_used(
    grounds: Grounds, heliograph: Heliograph, client: httpx.Client, endpoint: str, host: str
) -> None:
    """It passes where a webhook's URL is given, for nothing is looked up then; no attempt, and no fetch, dials it.

    A chain of CNAMEs is followed by the resolver, which answers with the addresses at its end, like these.
    """
    url = grounds.url(f"http://{host}:{{port}}/")
    for name, door in PICTURES.items():
        assert said(door.send(client, url)) == door.refusal, name
    assert change(client, url).status_code == 200
    assert "not have a public address" in str(sample(client, endpoint))
    assert "not have a public address" in delivered(heliograph, url)["error"]
    assert grounds.untouched()


def test_a_name_that_turns_inside_gains_nothing(grounds: Grounds, client: httpx.Client, endpoint: str) -> None:
    """What is dialled is what was looked up, once for each use, and checked; the next use checks what it finds then."""
    door, asked = PICTURES["edit"], grounds.names.asked
    url = f"http://flip-picture.example:{grounds.port}/answer/{quote(PICTURE)}"
    assert door.send(client, url).status_code == 200
    assert asked["flip-picture.example"] == 1
    assert said(door.send(client, url)) == door.refusal
    assert asked["flip-picture.example"] == 2

    back = quote(f"http://flip-hop.example:{grounds.port}/answer/{quote(PICTURE)}", safe="")
    assert said(door.send(client, f"http://flip-hop.example:{grounds.port}/hop/302/{back}")) == door.refusal
    assert asked["flip-hop.example"] == 2

    url = f"http://flip-output.example:{grounds.port}/answer/{quote(PICTURE)}"
    assert output(client, url).status_code == 200
    assert said(output(client, url)) == PICTURES["output"].refusal

    assert change(client, f"http://flip-webhook.example:{grounds.port}/answer/nothing").status_code == 200
    assert sample(client, endpoint) == 200
    assert asked["flip-webhook.example"] == 1
    assert "not have a public address" in str(sample(client, endpoint))
    assert grounds.untouched()


@pytest.mark.parametrize(("status", "location"), HOPS)
def test_a_hop_to_a_hostile_url_is_not_taken(
    grounds: Grounds, heliograph: Heliograph, client: httpx.Client, endpoint: str, status: int, location: str
) -> None:
    """A public server that leads inside ends a fetch, however far it leads first; of a webhook it is the answer."""
    url = f"{grounds.public}/hop/{status}/{quote(grounds.url(location), safe='')}"
    for name, door in PICTURES.items():
        if name != "output" or "loop" not in location:
            assert said(door.send(client, url)) == door.refusal, name
    assert change(client, url).status_code == 200
    assert sample(client, endpoint) == status
    assert delivered(heliograph, url)["status_code"] == status
    assert grounds.untouched()


@pytest.mark.parametrize("name", ["strange", "expired", "other", "old", "good"])
def test_who_cannot_prove_his_name_is_told_nothing(
    grounds: Grounds, client: httpx.Client, endpoint: str, name: str
) -> None:
    """Unknown authority, old certificate, another's name, TLS before 1.2: no request is sent. Nor does a hop leave TLS.

    The server that can prove it is asked, and what it answers is heard.
    """
    server = grounds.secure[name]
    hop = quote(f"{grounds.public}/answer/{name}", safe="")
    url = f"https://{name}.test:{server.server_port}/hop/302/{hop}"
    assert said(PICTURES["edit"].send(client, url)) == PICTURES["edit"].refusal
    assert said(output(client, url, timeout=1)) in (PICTURES["output"].refusal, *([] if name == "good" else [LATE]))
    assert change(client, url).status_code == 200
    if name == "good":
        assert sample(client, endpoint) == 302
        assert server.requests.total() == 3
    else:
        assert "TLS" in str(sample(client, endpoint))
        assert server.requests.total() == 0
    assert grounds.site.requests[f"/answer/{name}"] == 0


def test_the_old_server_serves_who_takes_its_tls(grounds: Grounds) -> None:
    """It is the version that keeps the gateway away: who offers TLS 1.1 is answered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with (
        socket.create_connection((HERE, grounds.secure["old"].server_port), SECONDS) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        assert wrapped.version() == "TLSv1.1"


# What travels.


def test_a_secret_stays_with_the_host_that_it_is_for(
    grounds: Grounds, heliograph: Heliograph, client: httpx.Client, endpoint: str
) -> None:
    """What a caller wants sent with a webhook, and our signature, reach its receiver, and nobody he points to."""
    there = f"http://elsewhere.test:{grounds.port}/answer/secret"
    path = f"/hop/307/{quote(there, safe='')}"
    sent = {"Authorization": "Bearer of-the-receiver", "X-Token": "of-the-receiver"}
    assert delivered(heliograph, grounds.public + path, webhook_headers=sent)["status_code"] == 307
    heard = grounds.site.headers.pop(path)
    assert {name: heard[name] for name in sent} == sent
    assert heard["webhook-signature"]
    assert change(client, grounds.public + path).status_code == 200
    assert sample(client, endpoint) == 307
    assert grounds.site.headers[path]["webhook-signature"]
    assert grounds.site.requests["/answer/secret"] == 0


@pytest.mark.parametrize("door", ["edit", "output"])
def test_who_is_fetched_from_learns_no_secret(grounds: Grounds, client: httpx.Client, door: str) -> None:
    """Neither the caller's key nor the vendor's is in what a host is told that they name, nor in what follows a hop."""
    second = f"/answer/{quote(PICTURE)}?to-{door}"
    first = f"/hop/302/{quote(f'http://elsewhere.test:{grounds.port}{second}', safe='')}"
    assert PICTURES[door].send(client, grounds.public + first).status_code == 200
    for path in (first, second):
        assert set(grounds.site.headers[path]) == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}


# What is answered.


@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_does_harm(grounds: Grounds, client: httpx.Client, endpoint: str, name: str) -> None:
    """Whatever a server says, a picture is what decodes as one, and a webhook is taken where the status says so."""
    _, is_picture, is_taken = ANSWERS[name]
    url = f"{grounds.public}/answer/{quote(name)}"
    reply = PICTURES["edit"].send(client, url)
    assert (200 if is_picture else PICTURES["edit"].refusal) == (reply.status_code if is_picture else said(reply))
    assert change(client, url).status_code == 200
    assert (sample(client, endpoint) == 200) == is_taken


@pytest.fixture(scope="module")
def hurried(grounds: Grounds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a gateway that waits for nobody, and takes little."""
    environ = {
        "HELIOGRAPH_FETCH_SECONDS": "0.3", "HELIOGRAPH_WEBHOOK_SECONDS": "0.3", "HELIOGRAPH_ALLOW_HOSTS": "never.test",
        "HELIOGRAPH_MAX_PICTURE_BYTES": str(2**20), "HELIOGRAPH_MAX_OUTPUT_BYTES": str(2**20),
    }  # fmt: skip
    with grounds.gateway(tmp_path_factory.mktemp("hurried"), **environ) as heliograph, heliograph.client() as client:
        yield client
        assert [record.getMessage() for record in heliograph.faults] == []


@contextmanager
def misbehaving(*found: Misbehaviour) -> Iterator[list[str]]:
    """The URLs of servers that behave like this."""
    with start_blocking_portal() as portal, ExitStack() as stack:
        opened: list[Upstream] = [
            stack.enter_context(portal.wrap_async_context_manager(upstream(one.behave))) for one in found
        ]
        yield [f"{one.base_url.replace('127.0.0.1', 'never.test')}/" for one in opened]


@pytest.mark.parametrize("misbehaviour", NEVER, ids=lambda one: one.name)
def test_what_never_ends_is_given_up(hurried: httpx.Client, misbehaviour: Misbehaviour) -> None:
    """Slow and endless answers end in time, and what is told is why; a webhook was taken when its status has come."""
    with misbehaving(misbehaviour) as (url,):
        begun = time.monotonic()
        reply = PICTURES["edit"].send(hurried, url)
        assert said(reply) == PICTURES["edit"].refusal
        assert any(word in refusal(reply)["message"] for word in ENDS)
        found = sample(hurried, endpoint_at(hurried, url))
        assert found in (200, 400) or any(word in str(found) for word in ENDS)
        assert time.monotonic() - begun < SECONDS / 4


def test_no_output_is_waited_for_without_end(hurried: httpx.Client) -> None:
    """Nor does a vendor hold up by them whoever waits: an output is refused, or it is tried until it is too late."""
    with misbehaving(*NEVER) as urls, ThreadPoolExecutor(len(urls)) as pool:
        begun = time.monotonic()
        replies = list(pool.map(lambda url: output(hurried, url, timeout=1), urls))
        assert time.monotonic() - begun < SECONDS / 2
    assert {said(reply) for reply in replies} <= {PICTURES["output"].refusal, LATE}


# Where TLS is demanded, and the gateway itself is allowed.


@pytest.fixture(scope="module")
def moved(grounds: Grounds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Heliograph, str]]:
    """A gateway that demands TLS, and a key with an endpoint from a time when it did not."""
    folder, allowed = tmp_path_factory.mktemp("moved"), f"allowed.test:{grounds.port},own.test"
    with grounds.gateway(folder) as before, before.client() as client:
        endpoint_at(client, f"{grounds.public}/answer/before")
        key = before.key
    with grounds.gateway(folder, HELIOGRAPH_HTTPS_ONLY="true", HELIOGRAPH_ALLOW_HOSTS=allowed) as after:
        yield after, key
        assert [record.getMessage() for record in after.faults] == []


@pytest.mark.parametrize("name", HOOKS | PICTURES)
def test_where_tls_is_demanded_nothing_goes_without(
    grounds: Grounds, moved: tuple[Heliograph, str], client: httpx.Client, name: str
) -> None:
    """At every door http:// is refused; https:// passes, and so do a host that is allowed by name, and other gateways.

    What lies there is fetched at once where it is a picture, and of no webhook before there is something to tell.
    """
    door, site, good = (HOOKS | PICTURES)[name], grounds.site, grounds.secure["good"]
    # It takes a process to find that a picture is no film.
    path = f"/answer/{'nothing' if name == 'enhancement' else quote(PICTURE)}?{name}"
    with moved[0].client() as strict:
        plain = door.send(strict, grounds.public + path)
        assert said(plain) == door.refusal
        assert name == "output" or "must begin with https://" in plain.json()["error"]["message"]
        assert site.requests[path] == 0
        taken = [
            door.send(strict, f"https://good.test:{good.server_port}{path}"),
            door.send(strict, f"http://allowed.test:{grounds.port}{path}"),
            door.send(client, grounds.public + path),
        ]
    assert name in PICTURES or all(one.is_success for one in taken)
    assert name in HOOKS or (good.requests[path], site.requests[path]) == (1, 2)


def test_tls_is_demanded_of_what_was_given_before(grounds: Grounds, moved: tuple[Heliograph, str]) -> None:
    """An endpoint from before the setting is sent nothing any more, neither a sample nor what happens."""
    heliograph, key = moved
    with heliograph.client(key) as http:
        (endpoint,) = [one["id"] for one in http.get("/v1/webhook_endpoints").json()["data"]]
        assert "must begin with https://" in str(sample(http, endpoint))
        assert http.post(GENERATIONS, json={"size": "256x256", **EDIT}).status_code == 200
        assert attempted(http, endpoint)["error"] == "blocked: the URL must begin with https://"
    assert grounds.site.requests["/answer/before"] == 0


def test_a_hop_keeps_to_tls_where_it_is_demanded(grounds: Grounds, moved: tuple[Heliograph, str]) -> None:
    """Nor does a host that may do without lead to one that may not."""
    hop = quote(f"{grounds.public}/answer/hop", safe="")
    with moved[0].client() as strict:
        for door in PICTURES.values():
            assert said(door.send(strict, f"http://allowed.test:{grounds.port}/hop/302/{hop}")) == door.refusal
    assert grounds.site.requests["/answer/hop"] == 0


def test_a_webhook_to_the_gateway_itself_starts_nothing(moved: tuple[Heliograph, str]) -> None:
    """There is no loop even where its address is allowed and a key is sent along: what webhooks say orders nothing."""
    heliograph, _ = moved
    url, sent = f"http://own.test:{heliograph.address[1]}{GENERATIONS}", {"Authorization": f"Bearer {heliograph.key}"}
    with heliograph.client() as http:
        before = [one["id"] for one in http.get("/v1/tasks").json()["data"]]
        assert delivered(heliograph, url, webhook_headers=sent)["status_code"] == 400
        assert [one["id"] for one in http.get("/v1/tasks").json()["data"]] == before


def test_the_decoys_count(grounds: Grounds) -> None:
    """Who connects to one is seen."""
    for decoy in grounds.decoys:
        with socket.create_connection(decoy.getsockname()[:2]):
            assert not grounds.untouched()
    assert grounds.untouched()


def endpoint_at(http: httpx.Client, url: str) -> str:
    """A new endpoint there: its id."""
    made = http.post("/v1/webhook_endpoints", json={"url": url, "event_types": [TYPE]})
    return str(made.json()["id"])


def sample(http: httpx.Client, endpoint: str) -> int | str:
    """Sends a sample to an endpoint: the receiver's status, or why there is none."""
    reply = http.post(f"/v1/webhook_endpoints/{endpoint}/test", json={"event_type": TYPE})
    if reply.status_code != 200:
        return str(refusal(reply)["message"])
    status: int = reply.json()["status_code"]
    return status


def delivered(heliograph: Heliograph, url: str, **more: Any) -> dict[str, Any]:
    """The first attempt at the webhook of a task of a new key: of another one, the receiver might be left alone now."""
    with heliograph.client(ADMIN_KEY) as admin:
        key = admin.post("/admin/v1/keys", json={"name": "of one task"}).json()["key"]
    with heliograph.client(key) as http:
        body = {"webhook_url": url, "size": "256x256", **EDIT, **more}
        assert http.post(GENERATIONS, json=body).status_code == 200
        return attempted(http, "default")


def attempted(http: httpx.Client, endpoint: str) -> dict[str, Any]:
    """The first attempt to send to an endpoint the one thing that there is to send."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        (found,) = http.get(f"/v1/webhook_endpoints/{endpoint}/deliveries").json()["data"]
        if found["attempts"]:
            first: dict[str, Any] = found["attempts"][0]
            return first
        time.sleep(0.02)
    raise AssertionError("nothing was attempted")
