"""Grounds for hostile URLs: servers that count as public, decoys that nobody may connect to, and names for both."""

from __future__ import annotations

import datetime as dt
import http.server
import socket
import ssl
import threading
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec
import trustme

from gateway.core.outbound import Outbound, default_tls
from gateway.core.runtime import policy
from gateway.core.settings import Settings
from tests.http.server import CONFIG, ENVIRON, Heliograph, serving

PROVIDERS, SECONDS = "tests.http.patient,tests.http.pointing", 20
# What counts as public here, beside the decoys on 127.0.0.1.
HERE = "127.0.0.2"


class Site(http.server.BaseHTTPRequestHandler):
    """A public server: `/hop/STATUS/URL` leads on, `/loop` to itself, `/answer/NAME` answers with that."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Public)
        self.server.requests[self.path] += 1
        self.server.headers[self.path] = self.headers
        _, verb, *rest = self.path.split("/", 3)
        if verb == "answer":
            said = self.server.answers[unquote(rest[0].partition("?")[0])]
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
    """A server that counts as public; of each of its paths how often it was asked for, and with which headers."""

    def __init__(self, port: int, answers: Mapping[str, bytes], tls: ssl.SSLContext | None) -> None:
        super().__init__((HERE, port), Site)
        self.answers = answers
        self.requests: Counter[str] = Counter()
        self.headers: dict[str, Message[str, str]] = {}
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: Any) -> None:
        """Clients hang up as they like."""


class Names:
    """Where names lead: each has its answers, one for each look-up, of which the last stays. Counts what is asked."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.asked: Counter[str] = Counter()
        self._answers = {name: deque(one) for name, one in answers.items()}

    async def look_up(self, name: str) -> Sequence[str]:
        """The next answer; OSError for a name that there is not."""
        self.asked[name] += 1
        left = self._answers.get(name)
        if left is None:
            raise socket.gaierror(f"{name} is not known")
        return left.popleft() if len(left) > 1 else left[0]


class Grounds(NamedTuple):
    """All of them. A gateway on these grounds dials the ports of all like port 80, and looks up these names alone."""

    decoys: Sequence[socket.socket]
    site: Public
    secure: Mapping[str, Public]
    names: Names
    trust: ssl.SSLContext

    @property
    def port(self) -> int:
        """That of the decoys, and of the public server."""
        return self.site.server_port

    @property
    def public(self) -> str:
        """The address of the public server."""
        return f"http://public.test:{self.port}"

    def url(self, form: str) -> str:
        """The form with the places of these grounds."""
        places = {"{h}": f"127.0.0.1:{self.port}", "{port}": str(self.port), "{machine}": socket.gethostname()}
        for name, place in {**places, "{site}": self.public}.items():
            # As it is, in a URL that another one carries, and in one that this one carries.
            for _ in range(3):
                form, name, place = form.replace(name, place), quote(name, safe=""), quote(place, safe="")
        return form

    def untouched(self) -> bool:
        """Whether nobody has connected to a decoy."""
        return not any(_connected(one) for one in self.decoys)

    def gateway(self, folder: Path, **environ: str) -> AbstractContextManager[Heliograph]:
        """A gateway on these grounds, with what more is set; of what its network may reach all counts as public."""
        common = {"HELIOGRAPH_PROVIDER_MODULES": PROVIDERS, "POINTING_KEY": "the-key-that-opens-the-vendor"}
        return serving(folder, CONFIG, {**ENVIRON, **common, **environ}, self._outbound)

    def _outbound(self, settings: Settings) -> Outbound:
        found = policy(settings)
        ports = *found.ports, self.port, *(one.server_port for one in self.secure.values())
        opened = msgspec.structs.replace(found, allow=(*found.allow, f"{HERE}/32"), ports=ports)
        return Outbound(opened, resolver=self.names.look_up, tls=self.trust)


@contextmanager
def open_grounds(names: Mapping[str, Sequence[Sequence[str]]], answers: Mapping[str, bytes]) -> Iterator[Grounds]:
    """The grounds, with these names beside those of the servers, and what the servers have to say."""
    ours, strange = trustme.CA(), trustme.CA()
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    contexts = {
        "good": certified(ours, "good.test"), "strange": certified(strange, "strange.test"),
        "expired": certified(ours, "expired.test", not_after=past, not_before=past - dt.timedelta(days=1)),
        "other": certified(ours, "someone.test"), "old": _aged(certified(ours, "old.test")),
    }  # fmt: skip
    trust = default_tls()
    ours.configure_trust(trust)
    known = {f"{name}.test": [[HERE]] for name in ("public", "elsewhere", "allowed", *contexts)}
    with ExitStack() as stack:
        decoys = list(_decoys(stack))
        site = _public(stack, decoys[0].getsockname()[1], answers)
        secure = {name: _public(stack, 0, answers, context) for name, context in contexts.items()}
        yield Grounds(decoys, site, secure, Names({**known, **names}), trust)


def certified(authority: trustme.CA, *names: str, **more: Any) -> ssl.SSLContext:
    """A server context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context


def _aged(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context of a server that has learned no TLS after 1.1."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def _public(stack: ExitStack, port: int, answers: Mapping[str, bytes], tls: ssl.SSLContext | None = None) -> Public:
    made = Public(port, answers, tls)
    thread = threading.Thread(target=made.serve_forever, name="site")
    thread.start()
    stack.callback(thread.join, SECONDS)
    stack.callback(made.server_close)
    stack.callback(made.shutdown)
    return made


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
