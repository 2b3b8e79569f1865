"""What `outbound` refuses, what it lets through, and that its bounds hold. All servers are real and on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
import trustme
from aiohttp.streams import DataQueue
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.addresses import is_ours, is_public
from gateway.core.heads import LARGEST_HEAD
from gateway.core.outbound import Blocked, Outbound, OutboundError, Policy, TooLarge, default_tls
from tests.providers.sockets import upstream
from tests.vendors.misbehaving import IMMENSE, SLOW, Misbehaviour, bounded_memory

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
PUBLIC = "93.184.216.34"

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A raw HTTP server that answers each request with what `answer` writes, and remembers the request heads."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.port = 0
        self.heads: list[str] = []
        self.done = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self.answer(writer)
        self.done.set()
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
        self.port = sock.getsockname()[1]
        server = await asyncio.start_server(self.serve, sock=sock, ssl=tls)
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


def serving(
    answer: Answer | bytes, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> contextlib.AbstractAsyncContextManager[Server]:
    """A Server for as long as the block runs. `answer` may be the bytes of the one answer that it knows."""

    async def fixed(writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)
        await writer.drain()

    server = Server(fixed if isinstance(answer, bytes) else answer)
    return server.listening(socket.create_server((host, port)), tls)


def ok(body: bytes, *headers: str) -> bytes:
    """An answer 200 with this body."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str, status: int = 302) -> bytes:
    """An answer that points elsewhere."""
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def answering(*addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    """A resolver that gives every name these addresses."""

    async def resolve(host: str) -> list[str]:
        return list(addresses)

    return resolve


async def read(
    outbound: Outbound,
    url: str,
    *,
    limit: int = 1000,
    timeout: float = 5,
    hosts: tuple[str, ...] = (),
    redirects: int = 0,
) -> bytes:
    """Fetches a URL whole."""
    async with outbound.fetch(url, limit=limit, timeout=timeout, hosts=hosts, redirects=redirects) as body:
        return b"".join([chunk async for chunk in body])


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """One client context for all tests: building the default one takes tens of milliseconds."""
    return ssl.create_default_context()


@pytest.fixture
async def make(tls: ssl.SSLContext) -> AsyncIterator[Callable[..., Outbound]]:
    """Makes Outbounds from the members of a Policy, and closes them."""
    made: list[Outbound] = []

    def build(
        *allow: str,
        ports: tuple[int, ...] = (80, 443),
        https_only: bool = False,
        resolver: Callable[[str], Awaitable[list[str]]] | None = None,
        connect_timeout: float = 2,
        trust: ssl.SSLContext = tls,
    ) -> Outbound:
        policy = Policy(allow=allow, ports=ports, https_only=https_only)
        made.append(Outbound(policy, connect_timeout=connect_timeout, resolver=resolver, tls=trust))
        return made[-1]

    yield build
    for outbound in made:
        await outbound.close()


Make = Callable[..., Outbound]


@pytest.fixture
async def decoy() -> AsyncIterator[Server]:
    """Listens on every address of this machine. Nothing that is refused may ever connect to it."""
    both = socket.has_dualstack_ipv6()
    sock = socket.create_server(
        ("", 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=100
    )
    server = Server(answer=lambda writer: asyncio.sleep(0))
    async with server.listening(sock):
        yield server
        await asyncio.sleep(0)


HOSTS = [
    # loopback in all its spellings
    *["127.0.0.1", "127.1", "127.0.1", "127.1.", "127.0.0.1.", "127.0.0.01", "127.255.255.254", "256.0.0.1"],
    *["0", "00", "1", "0x", "0.0.0.0", "0x7f.1", "0x7f000001", "0x7f.0.0.1", "127.0.0.0x1", "2130706433"],  # noqa: S104
    *["0177.0.0.1", "017700000001", "%3127.0.0.1", "127.0.0.1%2e"],
    # digits and dots of other scripts: ideographic, circled, full-width
    *["127\u30020\u30020\u30021", "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460", "\uff11\uff12\uff17.0.0.1"],
    *["127\uff0e0\uff0e0\uff0e1", "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3"],
    # IPv6, and IPv4 dressed as IPv6
    *["[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0:127.0.0.1]"],
    *["[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::1]"],
    *["[2002:7f00:1::]", "[2002:808:808::]"],
    *["[2001:0::1]", "[2001:0:808:808::f7f7]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[fec0::1]"],
    *["[fd00:ec2::254]", "[fc00::1]", "[5f00::1]", "[100::1]", "[100:0:0:1::1]", "[ff02::1]", "[3fff::1]"],
    *["[2001:db8::1]", "[2001:2::1]", "[3ffe::1]", "[4000::1]", "[127.0.0.1]", "[v1.x]", "[::1", "::1"],
    # metadata services
    *["169.254.169.254", "metadata.google.internal", "metadata", "100.100.100.200", "192.0.0.192"],
    # names of this machine and its neighbours
    *["localhost", "localhost.", "LOCALHOST", "x.localhost", "localhost.localdomain", "ip6-localhost"],
    *["printer", "printer.local", "x.home.arpa"],
    # names that are none
    *["", ".", "public.example.", "public.example..", "public..example", ".public.example", "-x.example", "x-.example"],
    *["\u0430pple.example", "\u212aelvin.example", "\ud800.example"],
    *["x" * 64 + ".example", "x" * 256 + ".example", "x." * 127 + "example"],
    *["public.example\\.x", "public%2eexample", "public.example,x", "public.example;x", "public.example:80:80"],
    # user info
    *["u:p@public.example", "public@127.0.0.1", "@127.0.0.1", ":@127.0.0.1", "public.example\\@127.0.0.1"],
]

URLS = [
    # schemes
    *["file:///etc/passwd", "ftp://{h}/", "gopher://{h}/", "data:text/html,x", "javascript:x", "dict://{h}/"],
    *["ws://{h}/", "unix:/run/x", "http:{h}", "http:/{h}", "http:\\\\{h}", "view-source:http://{h}/"],
    *["http\u017f://public.example:80/"],
    # what one parser takes for the host and another does not
    *["https://{h}#@public.example", "https://{h}?@public.example", "https://public.example#@{h}\\"],
    *["https://127.0.0.1:80%40public.example", "http://[{h}]/", "http://public.example\n.{h}/"],
    # characters that parsers drop
    *[f"http://{{h}}/{char}" for char in "\t\r\n\0 \x7f\x1f"],
    *["ht\ttp://{h}/", " http://{h}/", "http://127.0.0.1\t:80/", "https://public.example/\ud800"],
    # not even a URL, ports that are none or not for strangers
    *["", "/", "//{h}/", "https://", "https:///x", "https://[::1", "https://public.example/" + "x" * 8192],
    *[f"https://public.example:{port}/" for port in ("0", "22", "25", "5432", "5672", "6379", "99999", "-1")],
    *[f"https://public.example:{port}/" for port in ("", "+80", "8_0", "0x50", "\u0668\u0660", "080000")],
]

HOSTILE = [f"http://{host}:{{port}}/" for host in HOSTS] + URLS


@pytest.mark.parametrize("form", HOSTILE, ids=[f"{n} {form[:60]!a}" for n, form in enumerate(HOSTILE)])
async def test_hostile_urls_are_refused_from_the_url_alone(form: str, make: Make, decoy: Server) -> None:
    """Each hostile form is Blocked when it is given and when it is used, and nobody connects to this machine."""
    url = form.replace("{h}", f"127.0.0.1:{decoy.port}").replace("{port}", str(decoy.port))
    outbound = make(ports=(80, 443, decoy.port), resolver=answering("127.0.0.1"))
    with pytest.raises(Blocked):
        outbound.check(url)
    with pytest.raises(Blocked):
        await read(outbound, url, redirects=4)
    assert decoy.connections == 0


async def test_the_decoy_counts(make: Make, decoy: Server) -> None:
    """The decoy of these tests is reachable: without the deny table the same URL connects to it."""
    with pytest.raises(OutboundError):
        await read(make("127.0.0.0/8", ports=(decoy.port,)), f"http://127.0.0.1:{decoy.port}/")
    assert decoy.connections > 0


NETWORKS = [
    *["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"],
    *["192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"],
    *["192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"],
    *["255.255.255.255/32", "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"],
    *["2001::/32", "2001:2::/48", "2001:10::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48"],
    *["3ffe::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"],
]


@pytest.mark.parametrize("network", NETWORKS)
async def test_denied_networks_are_denied_to_their_edges(network: str, make: Make, decoy: Server) -> None:
    """The first and last address of each special network is refused, written out and as the answer of a look-up."""
    for address in (ip_network(network)[0], ip_network(network)[-1]):
        outbound = make(ports=(decoy.port,), resolver=answering(str(address)))
        with pytest.raises(Blocked):
            outbound.check(f"http://{address if address.version == 4 else f'[{address}]'}:{decoy.port}/")
        outbound.check(f"http://public.example:{decoy.port}/")
        with pytest.raises(Blocked, match="public address"):
            await read(outbound, f"http://public.example:{decoy.port}/")
    assert decoy.connections == 0


@pytest.mark.parametrize(
    "neighbour", ["9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0"]
)
def test_neighbours_of_denied_networks_are_public(neighbour: str) -> None:
    """The deny table is no wider than it says."""
    assert is_public(ip_address(neighbour))


@given(st.ip_addresses())
def test_the_table_is_stricter_than_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    """No address that Python itself calls special passes the table."""
    assert address.is_global or not is_public(address)


def test_own_addresses_are_recognised() -> None:
    """An address of this machine is told from one that it does not have, so that a public own address is refused."""
    assert is_ours(ip_address("127.0.0.1"))
    assert not is_ours(ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/a.png",
        "http://cdn.example:80/a",
        "HTTPS://CDN.Example:443",
        "https://xn--80ak6aa92e.example/",
        f"https://{PUBLIC}/",
        "https://[2606:2800:220:1::1]/a",
        "https://my_bucket.s3.example/a%2Fb?X-Amz-Signature=a%3Db+c&é=ü|[]{}#part",
        "https://0x7f.example/",
        "https://mylocalhost.example/",
        "https://localhost.example/",
    ],
)
def test_public_urls_pass(url: str, make: Make) -> None:
    """What vendors and callers really send is accepted without a look-up."""
    make().check(url)


def test_plain_http_can_be_forbidden(make: Make) -> None:
    """Under https_only plain http is left to allowed hosts."""
    outbound = make("comfy.lan:8188", https_only=True)
    outbound.check("https://public.example/")
    outbound.check("http://comfy.lan:8188/")
    with pytest.raises(Blocked, match="https"):
        outbound.check("http://public.example/")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://u:p@public.example/", "user name"),
        ("https://public.example/\ud800", "Unicode"),
        ("https://public.example/a b", "space"),
        ("https://public.example/" + "x" * 8192, "longer than 8192"),
        ("ftp://public.example/", "begin with"),
        ("https://public.example:25/", "port"),
        ("https://127.1/", "unusual"),
        ("https://127.0.0.1/", "public address"),
        ("https://printer/", "public one"),
        ("https://public_.\u0430.example/", "malformed"),
    ],
)
def test_a_refusal_names_its_reason(url: str, reason: str, make: Make) -> None:
    """The caller who mistyped a URL can see what to change."""
    with pytest.raises(Blocked, match=reason):
        make().check(url)


@pytest.mark.parametrize("entry", ["", "http://comfy.lan", "10.0.0.1/8", "127.1", "a b", "comfy.lan:0", "u@comfy.lan"])
def test_an_allow_list_that_means_nothing_is_an_error(entry: str, make: Make) -> None:
    """A mistyped entry stops the start instead of allowing nothing, or something else."""
    with pytest.raises(ValueError, match=r"malformed|out of range|unusual|user name|network|host bits"):
        make(entry)


async def test_an_allowed_host_streams(make: Make) -> None:
    """A private host that the operator or the call allows is fetched, by address and by name."""
    async with serving(ok(PNG, "Content-Type: Image/PNG; charset=x")) as server:
        url = f"http://127.0.0.1:{server.port}/out.png"
        async with make(f"127.0.0.1:{server.port}").fetch(url, limit=1000, timeout=5) as body:
            assert (body.status, body.media_type, body.length) == (200, "image/png", len(PNG))
            assert b"".join([chunk async for chunk in body]) == PNG
        named = f"http://localhost:{server.port}/out.png"
        for allow in ("localhost", f"LOCALHOST:{server.port}"):
            assert await read(make(), named, hosts=(allow,)) == PNG
        network = make("127.0.0.0/8", ports=(server.port,), resolver=answering("127.0.0.1"))
        assert await read(network, f"http://comfy.example:{server.port}/") == PNG


async def test_an_allowance_reaches_no_further_than_it_says(make: Make, decoy: Server) -> None:
    """Hosts allowed for one call are not for the next, and neither another port nor another name profits."""
    outbound = make("127.0.0.1:1", "10.0.0.0/8", ports=(decoy.port,), resolver=answering("127.0.0.1"))
    async with serving(ok(PNG)) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await read(outbound, url, hosts=(f"127.0.0.1:{server.port}",)) == PNG
        with pytest.raises(Blocked):
            await read(outbound, url)
    for host in ("127.0.0.1", "127.0.0.2", "public.example", "comfy.lan.example", "lan"):
        with pytest.raises(Blocked):
            await read(outbound, f"http://{host}:{decoy.port}/", hosts=("comfy.lan", "127.0.0.1:2"))
    assert decoy.connections == 0


async def test_rebinding_gains_nothing(make: Make) -> None:
    """The name is looked up once and the checked address is dialled; the later, denied answer is never used."""
    answers = iter([["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return next(answers)

    async with (
        serving(ok(PNG), "127.0.0.2") as public,
        serving(ok(b"secret"), "127.0.0.1", public.port) as private,
    ):
        outbound = make("127.0.0.2/32", ports=(public.port,), resolver=resolve)
        assert await read(outbound, f"http://rebind.example:{public.port}/") == PNG
        assert asked == ["rebind.example"]
        with pytest.raises(Blocked):
            await read(outbound, f"http://rebind.example:{public.port}/")
        assert (public.connections, private.connections) == (1, 0)
        assert f"Host: rebind.example:{public.port}\r\n" in public.heads[0]


@pytest.mark.parametrize(
    "answers",
    [
        (PUBLIC, "127.0.0.1"),
        ("127.0.0.1", PUBLIC),
        ("127.0.0.2", "::ffff:127.0.0.1"),
        ("127.0.0.2", "64:ff9b::7f00:1"),
        ("127.0.0.2", "fe80::1%1"),
        (*(f"127.0.0.{n}" for n in range(2, 101)), "10.0.0.1"),
    ],
)
async def test_one_private_answer_among_public_ones_blocks_the_name(
    answers: tuple[str, ...], make: Make, decoy: Server
) -> None:
    """All answers are checked before one is dialled, wherever among them the private one stands."""
    allow = [f"127.0.0.{n}/32" for n in range(2, 101)]
    with pytest.raises(Blocked):
        await read(make(*allow, ports=(decoy.port,), resolver=answering(*answers)), f"http://a.example:{decoy.port}/")
    assert decoy.connections == 0


async def test_the_next_address_is_tried_when_one_is_dead(make: Make) -> None:
    """A name with a dead address before a living one is still fetched."""
    async with serving(ok(PNG), "127.0.0.2") as server:
        outbound = make("a.example", resolver=answering("127.0.0.3", "127.0.0.2"))
        assert await read(outbound, f"http://a.example:{server.port}/") == PNG


async def test_a_name_that_does_not_resolve_is_an_error_but_not_blocked(make: Make) -> None:
    """A look-up that fails, finds nothing or hangs may work later, so it is not a refusal."""

    async def failing(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, host)

    async def hanging(host: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    start = asyncio.get_running_loop().time()
    for resolver, message in ((failing, "resolved"), (answering(), "resolved"), (hanging, "too long")):
        with pytest.raises(OutboundError, match=message) as caught:
            await read(make(resolver=resolver, connect_timeout=0.05), "http://gone.example/")
        assert not isinstance(caught.value, Blocked)
    assert asyncio.get_running_loop().time() - start < 2


async def test_the_request_is_bare_and_the_url_untouched(
    make: Make, decoy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path and query go out as given (only non-ASCII is encoded), with no cookie, credential or environment proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{decoy.port}")
    async with serving(ok(PNG, "Set-Cookie: session=1; Path=/")) as server:
        outbound, host = make("127.0.0.1"), f"127.0.0.1:{server.port}"
        for _ in range(2):
            assert await read(outbound, f"http://{host}/a%2Fb/../c?X-Sig=a%3Db+c%20&x=%7e|é#frag") == PNG
    assert decoy.connections == 0
    line, *headers = server.heads[1].rstrip().split("\r\n")
    assert line == "GET /a%2Fb/../c?X-Sig=a%3Db+c%20&x=%7e|%C3%A9 HTTP/1.1"
    sent = dict(header.lower().split(": ", 1) for header in headers)
    assert sent["accept-encoding"] == "identity"
    assert sent.keys() <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed_unasked(status: int, make: Make, decoy: Server) -> None:
    """By default a redirect is an error with its status, and its target is left alone."""
    async with serving(redirect(f"http://127.0.0.1:{decoy.port}/", status)) as server:
        with pytest.raises(OutboundError) as caught:
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/")
    assert caught.value.status == status
    assert decoy.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http:\\\\127.0.0.1:{port}/",
        "http://a.example:{port}/",
        "http://localhost:{port}/",
        "http://2130706433:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "ht\ttp://127.0.0.1:{port}/",
        "//[::1",
        "/a\tb",
        "file:///etc/passwd",
        "http://\xff.example/",
        "",
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(status: int, location: str, make: Make, decoy: Server) -> None:
    """A hop to anything denied is Blocked, although the host that sent it is allowed."""
    async with serving(redirect(location.format(port=decoy.port), status)) as server:
        allow = f"127.0.0.1:{server.port}"
        outbound = make(allow, ports=(decoy.port,), resolver=answering("127.0.0.1"))
        with pytest.raises(Blocked):
            await read(outbound, f"http://{allow}/", redirects=4)
    assert (server.connections, decoy.connections) == (1, 0)


async def test_allowed_redirects_are_followed_and_counted(make: Make) -> None:
    """Relative and absolute hops lead to the file within the given number; a loop ends there."""
    async with serving(ok(PNG)) as last, serving(redirect(f"http://127.0.0.1:{last.port}/x")) as second:

        async def answer(writer: asyncio.StreamWriter) -> None:
            loop = "loop" in first.heads[-1]
            writer.write(redirect("/loop" if loop else f"//127.0.0.1:{second.port}/y?z"))

        async with serving(answer) as first:
            outbound, url = make("127.0.0.1"), f"http://127.0.0.1:{first.port}"
            assert await read(outbound, f"{url}/", redirects=2) == PNG
            assert last.heads[0].startswith("GET /x HTTP/1.1\r\n")
            for path, redirects in (("/", 1), ("/loop", 4)):
                with pytest.raises(OutboundError, match=f"redirects more than {redirects} times") as caught:
                    await read(outbound, url + path, redirects=redirects)
                assert caught.value.status == 302
    assert first.connections == 1 + 1 + 5


@pytest.mark.parametrize("status", [101, 304, 400, 403, 404, 410, 500, 503])
async def test_other_statuses_are_errors_that_carry_them(status: int, make: Make) -> None:
    """Whoever asks for a file and gets an error page learns the status, compressed or not, and none of the page."""
    page = f"HTTP/1.1 {status} X\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n".encode()
    async with serving(page) as server:
        with pytest.raises(OutboundError) as caught:
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/")
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("claim", "media_type"),
    [(None, None), ("text/html; charset=utf-8", "text/html"), ("nonsense", None), ("a/b/c", None), ("image/", None)],
)
async def test_the_media_type_is_the_servers_claim(claim: str | None, media_type: str | None, make: Make) -> None:
    """Whatever the bytes are, the claim is passed on in its short form, and None where it is missing or malformed."""
    async with serving(ok(PNG, *([f"Content-Type: {claim}"] if claim else []))) as server:
        url = f"http://127.0.0.1:{server.port}/"
        async with make("127.0.0.1").fetch(url, limit=1000, timeout=5) as body:
            assert body.media_type == media_type


async def test_an_empty_answer_is_an_empty_body(make: Make) -> None:
    """204 is a success without bytes: whether that is a file is for the caller to say."""
    async with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        assert await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/") == b""


async def endless(writer: asyncio.StreamWriter) -> None:
    """A body that never ends, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def test_the_size_limit_is_exact(make: Make) -> None:
    """A body of `limit` bytes passes; one byte more is TooLarge, and nothing beyond the limit is handed out."""
    async with serving(ok(bytes(1000))) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert len(await read(make("127.0.0.1"), url, limit=1000)) == 1000
        with pytest.raises(TooLarge):
            await read(make("127.0.0.1"), url, limit=999)
    seen: list[int] = []

    async def count(server: Server) -> None:
        url = f"http://127.0.0.1:{server.port}/"
        async with make("127.0.0.1").fetch(url, limit=500_000, timeout=5) as body:
            async for chunk in body:
                seen.append(len(chunk))  # noqa: PERF401  what came before the error counts

    async with serving(endless) as server:
        with pytest.raises(TooLarge):
            await count(server)
    assert 0 < sum(seen) <= 500_000


async def test_a_huge_claim_is_refused_before_the_body(make: Make) -> None:
    """A Content-Length over the limit ends the fetch before a byte is read."""

    async def huge(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n")
        await asyncio.Event().wait()

    async with serving(huge) as server:
        with pytest.raises(TooLarge):
            async with make("127.0.0.1").fetch(f"http://127.0.0.1:{server.port}/", limit=1 << 30, timeout=5):
                pytest.fail("the body was opened")


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "br", "gzip, gzip, gzip, gzip, gzip, gzip", "unknown"])
async def test_a_compressed_body_is_refused(coding: str, make: Make) -> None:
    """Nothing is ever decompressed, so a bomb of one kilobyte stays one kilobyte."""
    async with serving(ok(gzip.compress(bytes(1 << 20)), f"Content-Encoding: {coding}")) as server:
        with pytest.raises(OutboundError, match="compressed"):
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/", limit=1 << 30)


@pytest.mark.parametrize("misbehaviour", [*IMMENSE, *SLOW], ids=lambda one: one.name)
async def test_nothing_is_kept_of_what_never_ends(misbehaviour: Misbehaviour, make: Make) -> None:
    """Bombs and floods of all kinds, in head, body and trailers, end in an error in time, and fill no memory."""
    async with upstream(misbehaviour.behave) as server:
        with bounded_memory(), pytest.raises(OutboundError):
            await read(make("127.0.0.1"), server.base_url + "/", limit=1 << 20, timeout=0.2)


HINT = b"HTTP/1.1 103 Early Hints\r\n\r\n"


@pytest.mark.parametrize("hint", [HINT, b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"])
async def test_so_many_interim_answers_may_come_and_no_more(hint: bytes, make: Make) -> None:
    """A few thousand before an answer change nothing in it; one that comes later than that is not waited for."""
    most, body = LARGEST_HEAD // len(hint), bytes(300_000)
    async with serving(hint * (most - 10) + ok(body)) as server:
        assert await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/", limit=len(body)) == body
    async with serving(hint * (most + 1) + ok(body)) as server:
        with pytest.raises(OutboundError, match="too much before its answer"):
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/", limit=len(body))


async def test_a_storm_of_interim_answers_is_hung_up_on(make: Make) -> None:
    """Long before the fetch's time is over: the server has got rid of little more than the kernel keeps for it."""
    sent = 0

    async def storm(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(HINT * 1000)
            await writer.drain()
            sent += len(HINT) * 1000

    async with serving(storm) as server:
        with pytest.raises(OutboundError, match="too much before its answer"):
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/", timeout=5)
        await asyncio.wait_for(server.done.wait(), 60)
    assert sent < 20_000_000


async def test_what_comes_behind_an_answer_is_not_taken_apart(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a storm behind a complete answer costs nothing: the answer counts, the rest is dropped."""
    taken: list[Any] = []
    feed = DataQueue.feed_data

    def count(queue: DataQueue[Any], data: Any, size: int = 0) -> None:
        taken.append(data)
        feed(queue, data, size)

    monkeypatch.setattr(DataQueue, "feed_data", count)
    async with serving(ok(b"") + HINT * 100_000) as server:
        assert await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/") == b""
    assert len(taken) <= 1 + LARGEST_HEAD // len(HINT)


async def silent(writer: asyncio.StreamWriter) -> None:
    """Takes the request and says nothing."""
    await asyncio.Event().wait()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """A byte of the body now and then, often enough for every idle timeout."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def dripping_head(writer: asyncio.StreamWriter) -> None:
    """A header that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def informing(writer: asyncio.StreamWriter) -> None:
    """Interim answers without end."""
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


async def stalling(writer: asyncio.StreamWriter) -> None:
    """Half of the body, and no more."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [silent, stalling, dripping, dripping_head, informing, endless])
async def test_the_timeout_is_for_the_whole_fetch(answer: Answer, make: Make) -> None:
    """However a server spends the time, the fetch ends at its total timeout and the connection is cut."""
    start = asyncio.get_running_loop().time()
    async with serving(answer) as server:
        with pytest.raises(OutboundError, match="too long"):
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/", limit=1 << 40, timeout=0.2)
        assert asyncio.get_running_loop().time() - start < 10
        if answer not in (silent, stalling):
            await asyncio.wait_for(server.done.wait(), 10)


async def test_connecting_has_a_timeout_of_its_own(make: Make) -> None:
    """A server that accepts and then keeps silent in the TLS handshake is given up long before the total timeout."""
    start = asyncio.get_running_loop().time()
    async with serving(silent) as server:
        with pytest.raises(OutboundError, match="too long"):
            await read(make("127.0.0.1", connect_timeout=0.1), f"https://127.0.0.1:{server.port}/", timeout=30)
    assert asyncio.get_running_loop().time() - start < 10


async def test_waiting_bytes_do_not_outrun_the_timeout(make: Make) -> None:
    """A caller that spends the time elsewhere is told at its next read, even when bytes lie ready."""
    async with (
        serving(ok(bytes(1000))) as server,
        make("127.0.0.1").fetch(f"http://127.0.0.1:{server.port}/", limit=1000, timeout=1.0) as body,
    ):
        await asyncio.sleep(1.05)
        with pytest.raises(OutboundError, match="too long"):
            [chunk async for chunk in body]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshortlonger",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 " + b"y" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda answer: ascii(answer[:60]),
)
async def test_answers_that_are_no_sound_http_are_errors(answer: bytes, make: Make) -> None:
    """A broken, truncated, contradictory or oversized answer ends in OutboundError, not in bytes that look complete."""
    async with serving(answer) as server:
        with pytest.raises(OutboundError) as caught:
            await read(make("127.0.0.1"), f"http://127.0.0.1:{server.port}/", timeout=2)
    assert caught.value.status is None


async def test_neither_message_nor_trace_tells_the_url(make: Make, decoy: Server) -> None:
    """The secret in a signed URL and the address behind a name stay out of messages; the secret out of traces too."""
    async with serving(b"nonsense\r\n\r\n") as server, serving(ok(b"x" * 2000)) as large:
        outbound = make("127.0.0.1", ports=(80, decoy.port), resolver=answering("10.11.12.13"))
        for url in (
            f"http://127.0.0.1:{server.port}/?sig=s3cret",
            f"http://127.0.0.1:{large.port}/?sig=s3cret",
            "http://127.0.0.1:1/?sig=s3cret",
            "http://public.example/?sig=s3cret",
            "http://u:s3cret@public.example/",
            "http://public.example/s3cret\t",
            "http://10.11.12.13/s3cret",
        ):
            with pytest.raises(OutboundError) as caught:
                await read(outbound, url)
            for hidden in ("s3cret", "127.0.0.1", "10.11.12.13", "public.example"):
                assert hidden not in caught.value.message
            assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority for the tests."""
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A client context that trusts it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def certified(authority: trustme.CA, *names: str, expires: dt.datetime | None = None) -> ssl.SSLContext:
    """A server context with a certificate for these names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, not_after=expires).configure_cert(context)
    return context


async def test_tls_is_verified_for_the_name_on_the_checked_address(
    make: Make, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    """The pinned address is dialled, but SNI, certificate check and Host are those of the name."""
    asked: list[str | None] = []
    server_tls = certified(authority, "cdn.example")
    server_tls.sni_callback = lambda sock, name, context: asked.append(name)
    async with serving(ok(PNG), tls=server_tls) as server:
        outbound = make("cdn.example", trust=trust, resolver=answering("127.0.0.1"))
        assert await read(outbound, f"https://cdn.example:{server.port}/") == PNG
    assert asked == ["cdn.example"]
    assert f"Host: cdn.example:{server.port}\r\n" in server.heads[0]


@pytest.mark.parametrize("flaw", ["unknown authority", "wrong name", "expired"])
async def test_bad_certificates_are_refused(
    flaw: str, make: Make, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    """No request is sent to a server that cannot prove its name now, to an authority that we trust, even if allowed."""
    issuer = trustme.CA() if flaw == "unknown authority" else authority
    name = "other.example" if flaw == "wrong name" else "cdn.example"
    expires = dt.datetime(2020, 1, 2, tzinfo=dt.UTC) if flaw == "expired" else None
    async with serving(ok(PNG), tls=certified(issuer, name, expires=expires)) as server:
        outbound = make("cdn.example", trust=trust, resolver=answering("127.0.0.1"))
        with pytest.raises(OutboundError, match="certificate"):
            await read(outbound, f"https://cdn.example:{server.port}/")
    assert server.heads == []


async def test_a_redirect_never_leaves_tls(
    make: Make, authority: trustme.CA, trust: ssl.SSLContext, decoy: Server
) -> None:
    """A hop from https to http is Blocked even where the target host is allowed."""
    server_tls = certified(authority, "cdn.example")
    async with serving(redirect(f"http://cdn.example:{decoy.port}/"), tls=server_tls) as server:
        outbound = make("cdn.example", trust=trust, resolver=answering("127.0.0.1"))
        with pytest.raises(Blocked, match="https to http"):
            await read(outbound, f"https://cdn.example:{server.port}/", redirects=1)
    assert decoy.connections == 0


def flood(sock: socket.socket, tls: ssl.SSLContext) -> None:
    """Serves one TLS client with an endless body, deaf to its wish to close; returns when the connection is cut."""
    raw, _ = sock.accept()
    with raw, tls.wrap_socket(raw, server_side=True) as client, contextlib.suppress(OSError):
        client.settimeout(10)
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            client.sendall(bytes(1 << 14))


async def test_leaving_early_hangs_up(make: Make, authority: trustme.CA, trust: ssl.SSLContext) -> None:
    """A caller that stops reading cuts the connection at once; a server that floods TLS is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        flooding = asyncio.create_task(asyncio.to_thread(flood, sock, certified(authority, "cdn.example")))
        outbound = make("cdn.example", trust=trust, resolver=answering("127.0.0.1"))
        url = f"https://cdn.example:{sock.getsockname()[1]}/"
        async with outbound.fetch(url, limit=1 << 40, timeout=20) as body:
            async for _ in body:
                break
        await asyncio.wait_for(flooding, 15)


def test_the_default_trust_verifies() -> None:
    """Without a context of its own an Outbound trusts public authorities, checks names and speaks no TLS before 1.2."""
    context = default_tls()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) > 100
