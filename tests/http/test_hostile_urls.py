"""URLs that lead where they should not, through every member in which a URL is taken: refused, and nobody connects."""

from __future__ import annotations

import datetime as dt
import gzip
import http.server
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import httpx
import pytest
import trustme

from gateway.core.outbound import Policy
from tests.http.replies import refusal
from tests.http.server import ADMIN_KEY, CONFIG, ENVIRON, Heliograph, serving
from tests.http.test_edits import picture

PUBLIC, PROVIDERS, SECONDS = "93.184.216.34", "tests.http.patient,tests.http.pointing", 20
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
    "loopback": hosts("127.0.0.1", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0", "0.0.0.0"),  # noqa: S104
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
# Where a public server sends whoever asks; `{site}` is that server.
HOPS = [
    (301, "http://127.0.0.1:{port}/"), (302, "http://169.254.169.254/latest/meta-data"), (303, "http://[::1]:{port}/"),
    (307, "http://v4.example:{port}/"), (308, "http://localhost:{port}/"), (302, "//127.0.0.1:{port}/"),
    (302, "file:///etc/passwd"), (302, "https://u:p@127.0.0.1:{port}/"), (307, "http://2130706433:{port}/"),
    (302, "{site}/hop/302/" + quote("{site}/hop/302/" + quote("http://127.0.0.1:{port}/", safe=""), safe="")),
    (302, "{site}/loop"), (301, "http://127.0.0.1:{port}/\tx"), (302, ""),
]  # fmt: skip
PNG = picture()


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
    "a picture that says it is a page": (answer(PNG, "Content-Type: text/html"), True, True),
}  # fmt: skip


class Site(http.server.BaseHTTPRequestHandler):
    """A public server: `/hop/STATUS/URL` leads on, `/loop` to itself, `/answer/NAME` answers with that."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Public)
        self.server.requests[self.path] += 1
        _, verb, *rest = self.path.split("/", 3)
        if verb == "answer":
            said = ANSWERS[unquote(rest[0])][0]
        else:
            status, location = (302, "/loop") if verb == "loop" else (int(rest[0]), unquote(rest[1]))
            said = f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        self.close_connection = True
        self.wfile.write(said)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class Public(http.server.ThreadingHTTPServer):
    """A server that counts as public, and how often each of its paths was asked for."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Site)
        self.requests: Counter[str] = Counter()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: Any) -> None:
        """Clients hang up as they like."""


def site(stack: ExitStack, tls: ssl.SSLContext | None = None) -> Public:
    """A public server, until the stack closes."""
    made = Public(tls)
    thread = threading.Thread(target=made.serve_forever, name="site")
    thread.start()
    stack.callback(thread.join, SECONDS)
    stack.callback(made.server_close)
    stack.callback(made.shutdown)
    return made


def certified(authority: trustme.CA, *names: str, **more: Any) -> ssl.SSLContext:
    """A server context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context


class Grounds(NamedTuple):
    """A gateway, the decoys that nobody may connect to, and servers that count as public."""

    heliograph: Heliograph
    http: httpx.Client
    decoys: Sequence[socket.socket]
    site: Public
    secure: dict[str, Public]

    def url(self, form: str) -> str:
        """The form with the places of these grounds."""
        port, machine = str(self.decoys[0].getsockname()[1]), socket.gethostname()
        places = {"{h}": f"127.0.0.1:{port}", "{port}": port, "{own}": self.heliograph.url, "{machine}": machine}
        for name, place in {**places, "{site}": self.public}.items():
            # As it is, in a URL that another one carries, and in one that this one carries.
            for _ in range(3):
                form, name, place = form.replace(name, place), quote(name, safe=""), quote(place, safe="")
        return form

    @property
    def public(self) -> str:
        """The address of the public server."""
        return f"http://public.test:{self.site.server_port}"

    def untouched(self) -> bool:
        """Whether nobody has connected to a decoy."""
        return not any(_connected(one) for one in self.decoys)


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    """All of them: the gateway dials the decoys' port like port 80, and looks names up in a table of ours."""
    ours, strange = trustme.CA(), trustme.CA()
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    contexts = {
        "good": certified(ours, "good.test"), "strange": certified(strange, "strange.test"),
        "expired": certified(ours, "expired.test", not_after=past, not_before=past - dt.timedelta(days=1)),
        "other": certified(ours, "someone.test"),
    }  # fmt: skip
    with ExitStack() as stack:
        decoys = list(_decoys(stack))
        public, secure = site(stack), {name: site(stack, context) for name, context in contexts.items()}
        allow = [f"public.test:{public.server_port}"]
        allow += [f"{name}.test:{one.server_port}" for name, one in secure.items()]
        environ = ENVIRON | {"HELIOGRAPH_PROVIDER_MODULES": PROVIDERS, "HELIOGRAPH_ALLOW_HOSTS": ",".join(allow)}
        running = stack.enter_context(serving(tmp_path_factory.mktemp("hostile"), CONFIG, environ))
        outbound = running.application.app.state.runtime.outbound
        outbound._policy = Policy(allow=tuple(allow), ports=(80, 443, decoys[0].getsockname()[1]))
        outbound._resolver, outbound._tls = _look_up, ssl.create_default_context()
        ours.configure_trust(outbound._tls)
        yield Grounds(running, stack.enter_context(running.client()), decoys, public, secure)
        assert [record.getMessage() for record in running.faults] == []


def _decoys(stack: ExitStack) -> Iterator[socket.socket]:
    first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    yield first
    if socket.has_ipv6:
        yield stack.enter_context(socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6))


def _connected(decoy: socket.socket) -> bool:
    decoy.setblocking(False)
    try:
        decoy.accept()[0].close()
    except BlockingIOError:
        return False
    return True


async def _look_up(host: str) -> list[str]:
    return NAMES.get(host) or ["127.0.0.1"]


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


def output(http: httpx.Client, url: str) -> httpx.Response:
    """Has a vendor say that its picture lies there."""
    return http.post("/v1/images/generations", json={"model": "pointing-image", "prompt": json.dumps(url)})


GENERATIONS, EDIT = "/v1/images/generations", {"model": "demo-image", "prompt": "x"}
PICTURES = {
    "edit": Door(posting("/v1/images/edits", "image", **EDIT), (400, "invalid_image", "image")),
    "generation": Door(
        posting(GENERATIONS, "style_image", model="patient-image", prompt="x"), (400, "invalid_image", "style_image")
    ),
    "film": Door(
        posting("/v1/video/generations", "image", model="demo-video", prompt="x"), (400, "invalid_image", "image")
    ),
    "enhancement": Door(posting("/v1/video/enhancements", "video"), (400, "invalid_image", "video")),
    "output": Door(output, (502, "provider_error", None)),
}
HOOKS = {
    "task": Door(posting(GENERATIONS, "webhook_url", **EDIT), (400, "invalid_parameter", "webhook_url")),
    "endpoint": Door(posting("/v1/webhook_endpoints", "url", event_types=[TYPE]), (400, "invalid_parameter", "url")),
    "change": Door(change, (400, "invalid_parameter", "url")),
}


def said(reply: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of a refusal."""
    error = refusal(reply) if reply.status_code < 500 else reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


@pytest.fixture
def endpoint(grounds: Grounds) -> Iterator[str]:
    """An endpoint at the public server, gone afterwards: its id."""
    body = {"url": f"{grounds.public}/answer/nothing", "event_types": [TYPE]}
    made = grounds.http.post("/v1/webhook_endpoints", json=body).json()["id"]
    yield made
    grounds.http.delete(f"/v1/webhook_endpoints/{made}")


@pytest.mark.parametrize("line", LINES)
def test_a_hostile_url_is_refused_wherever_it_is_given(grounds: Grounds, endpoint: str, line: str) -> None:
    """Each form of the line gets the refusal of its door, nothing is made of it, and nobody connects to a decoy."""
    for form in LINES[line]:
        for name, door in (HOOKS | PICTURES).items():
            status, code, param = door.refusal
            # A NUL is refused wherever it stands.
            code = "invalid_parameter" if "\0" in form and status == 400 else code
            assert said(door.send(grounds.http, grounds.url(form))) == (status, code, param), (name, form)
    assert [one["id"] for one in grounds.http.get("/v1/webhook_endpoints").json()["data"]] == [endpoint]
    assert grounds.untouched()


@pytest.mark.parametrize("host", NAMES)
def test_a_name_that_leads_inside_is_refused_when_it_is_used(grounds: Grounds, endpoint: str, host: str) -> None:
    """It passes where a webhook's URL is given, for nothing is looked up then; no attempt, and no fetch, dials it."""
    url = grounds.url(f"http://{host}:{{port}}/")
    for name, door in PICTURES.items():
        assert said(door.send(grounds.http, url)) == door.refusal, name
    assert change(grounds.http, url).status_code == 200
    assert "not have a public address" in str(sample(grounds, endpoint))
    assert "not have a public address" in delivered(grounds, url)["error"]
    assert grounds.untouched()


@pytest.mark.parametrize(("status", "location"), HOPS)
def test_a_hop_to_a_hostile_url_is_not_taken(grounds: Grounds, endpoint: str, status: int, location: str) -> None:
    """A public server that leads inside ends a fetch, however far it leads first; of a webhook it is the answer."""
    url = f"{grounds.public}/hop/{status}/{quote(grounds.url(location), safe='')}"
    for name, door in PICTURES.items():
        if name != "output" or "loop" not in location:
            assert said(door.send(grounds.http, url)) == door.refusal, name
    assert change(grounds.http, url).status_code == 200
    assert sample(grounds, endpoint) == status
    assert delivered(grounds, url)["status_code"] == status
    assert grounds.untouched()


@pytest.mark.parametrize("name", ["strange", "expired", "other", "good"])
def test_who_cannot_prove_his_name_is_told_nothing(grounds: Grounds, endpoint: str, name: str) -> None:
    """Unknown authority, old certificate, another's name: no request is sent. Nor does a hop leave TLS."""
    server = grounds.secure[name]
    hop = quote(f"{grounds.public}/answer/{name}", safe="")
    url = f"https://{name}.test:{server.server_port}/hop/302/{hop}"
    assert said(PICTURES["edit"].send(grounds.http, url)) == PICTURES["edit"].refusal
    assert change(grounds.http, url).status_code == 200
    if name == "good":
        assert sample(grounds, endpoint) == 302
        assert server.requests.total() == 2
    else:
        assert "TLS" in str(sample(grounds, endpoint))
        assert server.requests.total() == 0
    assert grounds.site.requests[f"/answer/{name}"] == 0


@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_does_harm(grounds: Grounds, endpoint: str, name: str) -> None:
    """Whatever a server says, a picture is what decodes as one, and a webhook is taken where the status says so."""
    _, is_picture, is_taken = ANSWERS[name]
    url = f"{grounds.public}/answer/{quote(name)}"
    reply = PICTURES["edit"].send(grounds.http, url)
    assert (200 if is_picture else PICTURES["edit"].refusal) == (reply.status_code if is_picture else said(reply))
    assert change(grounds.http, url).status_code == 200
    assert (sample(grounds, endpoint) == 200) == is_taken


def test_the_decoys_count(grounds: Grounds) -> None:
    """Who connects to one is seen."""
    for decoy in grounds.decoys:
        with socket.create_connection(decoy.getsockname()[:2]):
            assert not grounds.untouched()
    assert grounds.untouched()


def sample(grounds: Grounds, endpoint: str) -> int | str:
    """Sends a sample to an endpoint: the receiver's status, or why there is none."""
    reply = grounds.http.post(f"/v1/webhook_endpoints/{endpoint}/test", json={"event_type": TYPE})
    if reply.status_code != 200:
        return str(refusal(reply)["message"])
    status: int = reply.json()["status_code"]
    return status


def delivered(grounds: Grounds, url: str) -> dict[str, Any]:
    """The first attempt at the webhook of a task of a new key: of another one, the receiver might be left alone now."""
    with grounds.heliograph.client(ADMIN_KEY) as admin:
        key = admin.post("/admin/v1/keys", json={"name": "of one task"}).json()["key"]
    with grounds.heliograph.client(key) as http:
        body = {"webhook_url": url, "size": "256x256", **EDIT}
        assert http.post(GENERATIONS, json=body).status_code == 200
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            (found,) = http.get("/v1/webhook_endpoints/default/deliveries").json()["data"]
            if found["attempts"]:
                first: dict[str, Any] = found["attempts"][0]
                return first
            time.sleep(0.02)
    raise AssertionError("nothing was attempted")
