"""Stability's gRPC API: what its recordings do not show. The servers are real ones, made of the SDK's stubs."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import pytest
import trustme
from PIL import Image

from gateway.core.admission import check, open_catalog
from gateway.core.errors import GatewayError
from gateway.core.settings import SettingsError, load
from providers.card import CardError
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Generation,
    Input,
    Kind,
    Order,
    Provider,
    ProviderError,
    RateLimited,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.registry import Registry
from tests.contracts.test_provider import Given, drawn, picture
from tests.providers.sockets import Behaviour, hangs_up, resets, says_nothing

if sys.version_info >= (3, 13):
    pytest.skip("the extra has nothing for this Python", allow_module_level=True)

from providers.vendors import stability_grpc as vendor
from tests.vendors.stability_grpc.server import CODES, ENGINES, GENERATION, Answering, serving

KEY = "sk-test-0123456789abcdef"
REGISTRY = Registry.load()
CARD = REGISTRY.cards["stability_grpc"]
XL, UPSCALER = "stable-diffusion-xl-1024-v1-0", "esrgan-v1-x2plus"
OPTIONS = vendor.OPTIONS
PNG = drawn("RGB", "image/png")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END, ACK = 1, 1
REFUSED_STREAM = 7

Message = dict[str, Any]


@asynccontextmanager
async def provider(base_url: str, *, timeout: float = 5.0, key: str | None = KEY) -> AsyncIterator[Provider]:
    """The provider of the server at that address."""
    card = msgspec.structs.replace(CARD, timeout=timeout)
    found = REGISTRY.build("stability_grpc", card, base_url=base_url, secrets={"api_key": key} if key else {})
    try:
        yield found
    finally:
        await found.http.close()


def order(model: str = XL, *roles: Role, inputs: Sequence[Input] = (), **members: Any) -> Order:
    """An order of a generation with these members, and with a picture for each role."""
    card = CARD.model(model)
    assert card is not None
    operation = card.operations[-1] if inputs or roles else card.operations[0]
    prompt = {"prompt": "a sun"} if card.prompt_max else {}
    wanted = Generation(Kind.IMAGE, operation, card.public_name, **{**prompt, **members})
    return Order(wanted, model, "attempt-1", inputs=(*inputs, *(picture(Given(role)) for role in roles)))


def made(seed: int = 7, **members: Any) -> Message:
    """An answer with a picture."""
    artifact = {"type": "ARTIFACT_IMAGE", "mime": "image/png", "binary": base64.b64encode(PNG).decode(), "seed": seed}
    return {"artifacts": [artifact | members]}


def stream(*messages: Message, status: int = 0, details: str = "") -> Answering:
    """Answers every call with these messages, and then with that status."""
    headers = {"grpc-status": str(status), "grpc-message": details}
    return lambda request: httpx.Response(200, headers=headers, json=messages)


async def submit(wanted: Order, answering: Answering, **terms: Any) -> Done:
    """What comes of an order at a server that answers so."""
    async with serving(answering) as address, provider(address, **terms) as found:
        done = await found.submit(wanted)
    assert isinstance(done, Done)
    return done


async def sent(wanted: Order, **terms: Any) -> tuple[httpx.Request, Message]:
    """The one call that an order makes, and its message."""
    seen: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=[made()])

    await submit(wanted, answering, **terms)
    (request,) = seen
    message: Message = msgspec.json.decode(request.content)
    return request, message


def shown(message: Message, place: int) -> Image.Image:
    """The picture in one of a request's prompts."""
    return Image.open(io.BytesIO(base64.b64decode(message["prompt"][place]["artifact"]["binary"])))


class Wire:
    """A server that speaks just enough HTTP/2 to read whole requests, and then behaves as it is told."""

    def __init__(self, behave: Behaviour) -> None:
        self.requests = 0
        self._behave = behave
        self._talks: set[asyncio.Task[None]] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            await reader.readexactly(len(PREFACE))
            writer.write(frame(SETTINGS))
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == SETTINGS and not head[4] & ACK:
                    writer.write(frame(SETTINGS, flags=ACK))
                if head[3] in (DATA, HEADERS) and head[4] & END:
                    self.requests += 1
                    if not await self._behave(writer):
                        break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        writer.close()

    async def end(self) -> None:
        """Ends all connections."""
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks)


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


async def refuses(writer: asyncio.StreamWriter) -> bool:
    """Turns the call away, which is what gRPC itself would send again unseen."""
    writer.write(frame(RST_STREAM, REFUSED_STREAM.to_bytes(4), stream=1))
    await writer.drain()
    return True


async def goes_away(writer: asyncio.StreamWriter) -> bool:
    """Says that it has looked at no call at all, and closes."""
    writer.write(frame(GOAWAY, bytes(8)))
    await writer.drain()
    return False


@asynccontextmanager
async def wired(behave: Behaviour) -> AsyncIterator[tuple[Wire, str]]:
    """Such a server, and its address."""
    wire = Wire(behave)
    server = await asyncio.start_server(wire.talk, "127.0.0.1", 0)
    try:
        yield wire, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await wire.end()


async def test_an_order_is_one_call() -> None:
    """All pictures are asked for at once, with the attempt's own id, and arrive with their seeds; the price is ours."""
    request, message = await sent(order(n=3, parameters={"seed": 41, "cfg_scale": 6.5}))
    assert (request.method, request.url.path) == ("POST", f"/{GENERATION}/Generate")
    assert message == {
        "engine_id": XL,
        "request_id": "attempt-1",
        "prompt": [{"text": "a sun"}],
        "image": {
            "width": "1024",
            "height": "1024",
            "samples": "3",
            "seed": [41],
            "parameters": [{"sampler": {"cfg_scale": 6.5}}],
        },
    }
    done = await submit(order(n=2), stream({"answer_id": "alive"}, made(7), {}, made(8)))
    assert [(one.data, one.media_type, one.url) for one in done.outputs] == [(PNG, "image/png", None)] * 2
    assert (done.cost, done.usage) == (None, {"seeds": [7, 8]})


async def test_a_seed_is_chosen_once_for_an_attempt() -> None:
    """Where the caller names none, the same attempt has the same one, and it leaves room for ten."""
    (_, first), (_, again) = await sent(order()), await sent(order())
    (_, other) = await sent(msgspec.structs.replace(order(), idempotency_key="attempt-2"))
    assert first["image"]["seed"] == again["image"]["seed"] != other["image"]["seed"]
    assert 1 <= first["image"]["seed"][0] <= 2**32 - 10


@pytest.mark.parametrize("sampler", CARD.models[0].parameters["sampler"].values)
async def test_every_sampler_has_its_number(sampler: str) -> None:
    """Each one on the card is one that the API knows."""
    _, message = await sent(order(parameters={"sampler": sampler}))
    assert message["image"]["transform"] == {"diffusion": f"SAMPLER_{sampler.upper()}"}


async def test_a_picture_goes_along_as_png() -> None:
    """A JPEG is sent as the PNG of the same pixels, with its own size; a PNG is sent as it is."""
    given = picture(Given(Role.IMAGE, "image/jpeg"))
    _, message = await sent(order(inputs=[given]))
    copy, original = shown(message, 1), Image.open(io.BytesIO(given.data))
    assert (copy.format, copy.size, copy.tobytes()) == ("PNG", (64, 64), original.tobytes())
    assert message["prompt"][1]["artifact"]["type"] == "ARTIFACT_IMAGE"
    assert (message["image"]["width"], message["image"]["height"]) == ("64", "64")
    _, message = await sent(order(XL, Role.IMAGE, size="1152x896"))
    assert base64.b64decode(message["prompt"][1]["artifact"]["binary"]) == PNG
    assert (message["image"]["width"], message["image"]["height"]) == ("1152", "896")


async def test_a_mask_keeps_what_is_white() -> None:
    """What is transparent in our mask is black in the API's, what is opaque is white, and half stays half."""
    mask = Image.new("RGBA", (3, 1), (9, 9, 9, 255))
    mask.putpixel((0, 0), (9, 9, 9, 0))
    mask.putpixel((1, 0), (9, 9, 9, 128))
    file = io.BytesIO()
    mask.save(file, "PNG")
    given = Input(Role.MASK, "image/png", file.getvalue(), 3, 1)
    _, message = await sent(order(XL, inputs=[picture(Given(Role.IMAGE)), given]))
    turned = shown(message, 2)
    assert message["prompt"][2]["artifact"]["type"] == "ARTIFACT_MASK"
    assert (turned.mode, [turned.getpixel((x, 0)) for x in range(3)]) == ("L", [0, 128, 255])


@pytest.mark.parametrize(
    ("model", "roles", "given", "start"),
    [
        (XL, (), {}, None),
        (XL, (Role.IMAGE,), {}, 0.5),
        (XL, (Role.IMAGE,), {"strength": 0.25}, 0.25),
        (XL, (Role.IMAGE, Role.MASK), {}, None),
        (XL, (Role.IMAGE, Role.MASK), {"strength": 1}, 1.0),
        (UPSCALER, (Role.IMAGE,), {}, None),
    ],
)
async def test_a_schedule_goes_with_a_picture(
    model: str, roles: Sequence[Role], given: dict[str, Any], start: float | None
) -> None:
    """How much is made anew is said for a picture that is changed, and for nothing else."""
    _, message = await sent(order(model, *roles, parameters=given))
    assert message["image"]["parameters"][0].get("schedule", {}).get("start") == start


async def test_strength_without_a_picture_is_refused() -> None:
    """It is not dropped, and not sent for a picture that is washed out by it."""
    with pytest.raises(Refused) as caught:
        await submit(order(parameters={"strength": 0.5}), stream(made()))
    assert caught.value.param == "strength"


async def test_an_upscaler_chooses_its_own_size() -> None:
    """It is sent the picture alone: no prompt, no width and no height."""
    _, message = await sent(order(UPSCALER, Role.IMAGE))
    assert [list(one) for one in message["prompt"]] == [["artifact"]]
    assert {"width", "height"}.isdisjoint(message["image"])


@pytest.mark.parametrize(("key", "header"), [(KEY, f"Bearer {KEY}"), (None, None)])
async def test_the_credential_goes_along_where_there_is_one(key: str | None, header: str | None) -> None:
    """A server of one's own may ask for one or not; it is sent also without TLS, as the operator has configured."""
    request, _ = await sent(order(), key=key)
    assert request.headers.get("authorization") == header


CLEAR: dict[str, type[ProviderError]] = {
    "UNAUTHENTICATED": BadCredential,
    "PERMISSION_DENIED": BadCredential,
    "RESOURCE_EXHAUSTED": RateLimited,
    "INVALID_ARGUMENT": Refused,
    "OUT_OF_RANGE": Refused,
    "FAILED_PRECONDITION": Refused,
    "NOT_FOUND": Unavailable,
    "UNIMPLEMENTED": Unavailable,
}
FAILING = [(number, code.name) for number, code in CODES.items() if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize(("number", "name"), FAILING)
async def test_every_status_is_told(number: int, name: str) -> None:
    """Each is the error that the card says, in the server's words; one that is not clear is Unsure, in ours."""
    with pytest.raises(ProviderError) as caught:
        await submit(order(), stream(status=number, details=f"because of {KEY} at /home/engine"))
    assert type(caught.value) is CLEAR.get(name, Unsure)
    assert caught.value.code == name
    assert ("because of [removed]" in caught.value.message) is (name in CLEAR)
    assert KEY not in caught.value.message


async def test_a_trace_is_not_passed_on() -> None:
    """Of an exception that a server sends with a clear status, nobody reads the files."""
    details = 'Exception in handler. Traceback (most recent call last):\n File "/opt/engine/manager.py"'
    with pytest.raises(Unavailable) as caught:
        await submit(order(), stream(status=5, details=details))
    assert "manager.py" not in caught.value.message


async def test_what_came_before_the_end_is_delivered() -> None:
    """Of three pictures one is filtered, and the stream breaks before the third: the first is not thrown away."""
    filtered = made(8, finish_reason="FILTER")
    done = await submit(order(n=3), stream(made(7), filtered, status=13))
    assert (len(done.outputs), done.usage) == (1, {"seeds": [7]})
    with pytest.raises(Unsure):
        await submit(order(n=3), stream(filtered, status=13))


@pytest.mark.parametrize(
    ("reason", "wanted"), [("FILTER", Blocked), ("ERROR", Broken), ("LENGTH", Broken), ("STOP", None), ("NULL", None)]
)
async def test_a_reason_decides_about_its_picture(reason: str, wanted: type[ProviderError] | None) -> None:
    """A picture that the filter has blurred, or that ended in an error, is none."""
    if wanted is None:
        assert len((await submit(order(), stream(made(finish_reason=reason)))).outputs) == 1
        return
    with pytest.raises(wanted) as caught:
        await submit(order(), stream(made(finish_reason=reason)))
    assert (type(caught.value), caught.value.code) == (wanted, reason)


async def test_a_message_that_cannot_be_decoded_is_nonsense() -> None:
    """In its place gRPC gives nothing, and says no word of it."""

    async def nonsense(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(nonsense)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(GENERATION, {"Generate": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with provider(f"http://127.0.0.1:{port}") as found:
            with pytest.raises(Broken, match="do not understand"):
                await found.submit(order())
    finally:
        await server.stop(None)


async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one message nor all of them together may be larger than any other vendor's answer."""
    monkeypatch.setattr(vendor, "MAX_BODY", 3 * len(PNG))
    with pytest.raises(Broken, match="more than"):
        await submit(order(n=4), stream(*(made(seed) for seed in range(4))))
    options = [(name, len(PNG) if name == "grpc.max_receive_message_length" else value) for name, value in OPTIONS]
    monkeypatch.setattr(vendor, "OPTIONS", options)
    with pytest.raises(Broken, match="more than"):
        await submit(order(), stream(made()))


def large(size: int) -> Input:
    """A picture of that many bytes."""
    return Input(Role.IMAGE, "image/png", bytes(size), 64, 64)


async def test_an_order_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's status for it elsewhere means no room; what is beyond our own bound is not sent at all."""
    with pytest.raises(Refused, match="so large"):
        await submit(order(inputs=[large(5_000_000)]), stream(made()))
    monkeypatch.setattr(vendor, "MAX_BODY", 1000)
    async with wired(hangs_up) as (wire, address), provider(address) as found:
        with pytest.raises(Refused) as caught:
            await found.submit(order(inputs=[large(1000)]))
    assert (caught.value.param, wire.requests) == ("image", 0)


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        (hangs_up, "UNAVAILABLE"),
        (resets, "UNAVAILABLE"),
        (refuses, "UNAVAILABLE"),
        (goes_away, "UNAVAILABLE"),
        (says_nothing, "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_call_that_was_sent_is_never_sent_again(behave: Behaviour, code: str) -> None:
    """A server that has read the order and then fails, in whatever way, has read one; what became of it is unsure."""
    async with wired(behave) as (wire, address), provider(address, timeout=0.5) as found:
        with pytest.raises(Unsure) as caught:
            await found.submit(order())
        assert (caught.value.code, wire.requests) == (code, 1)


async def test_grpc_would_send_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option that forbids it the same server reads two orders: so the test above can fail."""
    monkeypatch.setattr(vendor, "OPTIONS", [option for option in OPTIONS if option[0] != "grpc.enable_retries"])
    async with wired(goes_away) as (wire, address), provider(address, timeout=0.5) as found:
        with pytest.raises(Unsure):
            await found.submit(order())
        assert wire.requests > 1


async def test_a_look_at_the_engines_is_never_unsure() -> None:
    """What may be asked again is not said to be perhaps billed."""
    async with wired(hangs_up) as (_, address), provider(address) as found:
        with pytest.raises(Unavailable):
            await found.probe()


async def test_a_server_that_is_not_there_was_sent_nothing(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port where nobody listens, and a name that does not exist, are told long before the time is over."""
    monkeypatch.setattr(vendor, "CONNECT_TIMEOUT", 1000)
    for address in (f"http://127.0.0.1:{unused_tcp_port}", "http://engine.invalid:50051"):
        async with provider(address) as found, asyncio.timeout(10):
            with pytest.raises(Unavailable):
                await found.submit(order())


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The address of a server that takes connections and never says a word."""
    over = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    over.set()
    server.close()


async def test_a_connection_that_is_never_made_was_sent_nothing(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not greet is given up after the time for connecting, not after that for the work."""
    monkeypatch.setattr(vendor, "CONNECT_TIMEOUT", 0.2)
    async with provider(silent, timeout=100) as found:
        with pytest.raises(Unavailable):
            await found.submit(order())


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """The order goes to the address that is configured."""
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{unused_tcp_port}")
    for variable in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert (await submit(order(), stream(made()))).outputs


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="module")
def credentials(authority: trustme.CA) -> Any:
    """What a server shows that it has certified."""
    certificate = authority.issue_cert("localhost")
    chain = b"".join(one.bytes() for one in certificate.cert_chain_pems)
    return grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])


async def test_an_https_address_is_spoken_to_over_tls(
    authority: trustme.CA, credentials: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server must be certified by an authority that this system trusts, as with any other vendor."""
    seen: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=[made()])

    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(answering, credentials, host="localhost") as address:
        async with provider(address) as found:
            with pytest.raises(Unavailable):
                await found.submit(order())
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            assert isinstance(await found.submit(order()), Done)
        async with provider(address.replace("https", "http")) as found:
            with pytest.raises(Unavailable):
                await found.submit(order())
    assert len(seen) == 1


async def test_the_probe_asks_for_the_engines() -> None:
    """It makes nothing, and says whether address and credential are good."""
    seen: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        bad = "grpc-status" if request.headers["authorization"] != f"Bearer {KEY}" else "x"
        return httpx.Response(200, headers={bad: "16"}, json=[{"engine": [{"id": XL}]}])

    async with serving(answering) as address:
        async with provider(address) as found:
            await found.probe()
        async with provider(address, key="sk-wrong-0123456789") as found:
            with pytest.raises(BadCredential):
                await found.probe()
    assert {one.url.path for one in seen} == {f"/{ENGINES}/ListEngines"}


async def test_a_server_without_a_list_of_engines_is_well() -> None:
    """The service that makes pictures may be the only one that it has."""
    async with serving(stream(status=12)) as address, provider(address) as found:
        await found.probe()


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        (XL, {"size": "1000x1000"}, "size"),
        (XL, {"n": 11}, "n"),
        (XL, {"aspect_ratio": "1:1"}, "aspect_ratio"),
        (XL, {"parameters": {"seed": 0}}, "seed"),
        (XL, {"parameters": {"sampler": "karras"}}, "sampler"),
        (XL, {"parameters": {"strength": 0}}, "strength"),
        (UPSCALER, {"prompt": "a sun"}, "prompt"),
        (UPSCALER, {"size": "1024x1024"}, "size"),
    ],
)
def test_the_card_refuses_what_a_model_cannot_do(model: str, members: dict[str, Any], param: str) -> None:
    """What the API would not honour never reaches it."""
    card = CARD.model(model)
    assert card is not None
    with pytest.raises(GatewayError) as caught:
        check(order(model, **members).generation, card)
    assert caught.value.param == param


ENGINE = '[providers.stability_grpc.models.mine]\nkind = "image"\noperations = ["generation"]\n'


async def test_an_engine_of_ones_own_is_added_in_the_file(tmp_path: Path) -> None:
    """Any engine may be named, with the parameters that the adapter knows; another one is no start."""
    file = tmp_path / "heliograph.toml"
    file.write_text(ENGINE + '[providers.stability_grpc.models.mine.parameters]\nsteps = { type = "integer" }')
    assert "mine" in open_catalog(load({}, file)).models
    file.write_text(ENGINE + '[providers.stability_grpc.models.mine.parameters]\ntiling = { type = "boolean" }')
    with pytest.raises(CardError, match="stability_grpc, model mine: no parameter tiling; there are cfg_scale"):
        open_catalog(load({}, file))


@pytest.mark.parametrize("address", ["http://engine.test/v1", "http://user@engine.test", "http://:80"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    """What gRPC would ignore in one is refused."""
    with pytest.raises(CardError, match="stability_grpc: its address must be"):
        REGISTRY.build("stability_grpc", CARD, base_url=address, secrets={})


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("http://engine.test", "dns:///engine.test:80"),
        ("https://engine.test", "dns:///engine.test:443"),
        ("http://[::1]:50051", "dns:///[::1]:50051"),
    ],
)
def test_a_port_may_be_left_out(address: str, target: str) -> None:
    """It is then the usual one, and an address of IPv6 is taken too."""
    assert vendor._target(CARD, address)[0] == target


def test_without_the_extra_everything_else_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the SDK is not installed the vendor is left out, and who names it reads what to install."""
    monkeypatch.setitem(sys.modules, "stability_sdk", None)
    registry = Registry.load()
    assert set(registry.cards) == set(REGISTRY.cards) - {"stability_grpc"}
    file = tmp_path / "heliograph.toml"
    file.write_text("")

    def names() -> set[str]:
        return set(open_catalog(load({"STABILITY_API_KEY": "k"}, file)).names())

    assert "stable-image-core" in names()
    assert XL not in names()
    file.write_text('[providers.shed]\nvendor = "stability_grpc"\nbase_url = "http://shed.test:50051"')
    with pytest.raises(SettingsError, match=r"providers\.shed: .*install heliograph\[stability-grpc\]"):
        names()
