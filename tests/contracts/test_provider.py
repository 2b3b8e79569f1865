"""The contract of a provider, run over every vendor of the registry.

A vendor with a network is driven over recordings, `tests/vendors/<name>/<kind>.json`; several of one kind are told
apart by a suffix, `rate_limited-quota.json`. Which kinds must be there follows from the vendor and its card. Each
recording holds the exchanges that the call makes, in order:

    {"source": …, "order": {"model": …, "generation": {…}, "inputs": [{"role": …, "media_type": …}]},
     "job": …, "callback_url": …, "exchanges": [{"request": {"method": …, "path": …, "json": {…} or "form": {…}},
                    "response": {"status": …, "headers": {…}, "json": … or "body": …}}]}

`path` is the whole path with its query, `json` a part of what the body must hold; `form` has fields of a multipart
body, the text of each, or null for a file. An input is a picture of 64 by 64 pixels, and so is the body of a response
with a `picture` of that media type. `order` may be left out where `submit.json` has it; `job` is for polls and cancels.
A vendor without a network runs for real. One whose wire is not HTTP/1.1 has a server of that wire beside its
recordings, `tests/vendors/<name>/server.py`: its `serving` puts each call as a request, and answers as they say.
"""

from __future__ import annotations

import email
import email.policy
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from PIL import Image

from providers.card import Card
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Generation,
    Input,
    Order,
    Output,
    Pending,
    Progress,
    Provider,
    ProviderError,
    RateLimited,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.registry import Registry
from tests.core.vendors import film

VENDORS = Path(__file__).parent.parent / "vendors"
REGISTRY = Registry.load()
FAILURES: dict[str, tuple[type[ProviderError], ...]] = {
    "refused": (Refused,),
    "blocked": (Blocked,),
    "unauthorised": (BadCredential,),
    "rate_limited": (RateLimited,),
    "server_error": (Unsure, Unavailable),
    "nonsense": (Broken,),
}
AUTH_HEADERS = {"authorization", "x-api-key", "x-goog-api-key", "api-key", "x-key", "key"}


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What must be sent."""

    method: str
    path: str
    json: Any = None
    form: dict[str, str | None] | None = None


class Response(msgspec.Struct, forbid_unknown_fields=True):
    """What is answered: JSON, or a body as it is, or a picture."""

    status: int
    headers: dict[str, str] = {}
    json: Any = msgspec.UNSET
    body: str = ""
    picture: str | None = None

    def made(self) -> httpx.Response:
        """The answer for httpx."""
        if self.json is not msgspec.UNSET:
            return httpx.Response(self.status, headers=self.headers, json=self.json)
        if self.picture is not None:
            headers = {"content-type": self.picture, **self.headers}
            return httpx.Response(self.status, headers=headers, content=drawn("RGB", self.picture))
        return httpx.Response(self.status, headers=self.headers, text=self.body)


class Exchange(msgspec.Struct, forbid_unknown_fields=True):
    """One request with its answer."""

    request: Request
    response: Response


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """An input of an order."""

    role: Role
    media_type: str = "image/png"


class Ordered(msgspec.Struct, forbid_unknown_fields=True):
    """What is ordered, and the vendor's name of the model."""

    model: str
    generation: Generation
    inputs: list[Given] = []


class Recording(msgspec.Struct, forbid_unknown_fields=True):
    """One file. `source` says where it is from: a capture of the real thing, or the pages that it was written by."""

    exchanges: list[Exchange]
    source: str = ""
    order: Ordered | None = None
    job: str | None = None
    callback_url: str | None = None


class Replay:
    """Answers with the exchanges of a recording, in order, and keeps what was sent."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self.left = list(exchanges)
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        assert self.left, f"one request more than was recorded: {request.method} {request.url.path}"
        exchange = self.left.pop(0)
        assert (request.method, request.url.raw_path.decode()) == (exchange.request.method, exchange.request.path)
        if exchange.request.json is not None:
            assert_holds(json.loads(request.content), exchange.request.json)
        if exchange.request.form is not None:
            assert_holds(form_of(request), exchange.request.form)
        return exchange.response.made()


def form_of(request: httpx.Request) -> dict[str, str | None]:
    """The fields of a multipart body: the text of each, None for a file."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.content, policy=email.policy.HTTP)
    return {
        str(part.get_param("name", header="content-disposition")): (
            None if part.get_filename() else bytes(part.get_payload(decode=True)).decode()
        )
        for part in message.iter_parts()
    }


def picture(given: Given) -> Input:
    """A small picture of the kind that is wanted, or a film."""
    if given.role is Role.VIDEO:
        return Input(given.role, "video/mp4", film(8, (64, 64), fps=8), 64, 64)
    data = drawn("RGBA" if given.role is Role.MASK else "RGB", given.media_type)
    return Input(given.role, given.media_type, data, 64, 64)


def drawn(mode: str, media_type: str) -> bytes:
    """A white picture."""
    file = io.BytesIO()
    Image.new(mode, (64, 64), "white").save(file, media_type.removeprefix("image/").upper())
    return file.getvalue()


def assert_holds(whole: Any, part: Any) -> None:
    """Fails unless every member of `part` is in `whole`, at any depth."""
    if isinstance(part, dict):
        assert isinstance(whole, dict)
        for name, value in part.items():
            assert name in whole, f"{name} was not sent"
            assert_holds(whole[name], value)
    else:
        assert whole == part


def secrets(card: Card) -> dict[str, str]:
    """A recognisable credential for every one that the card names."""
    return {name: f"secret-{name}-0123456789abcdef" for name in card.credentials}


def build(name: str, transport: httpx.AsyncBaseTransport | None = None, base_url: str | None = None) -> Provider:
    """The provider, on that transport."""
    card = REGISTRY.cards[name]
    return REGISTRY.build(name, card, base_url=base_url, secrets=secrets(card), transport=transport)


@asynccontextmanager
async def played(name: str, replay: Replay) -> AsyncIterator[Provider]:
    """The provider, whose calls are answered by the replay: as its transport, or from the server of its wire."""
    async with AsyncExitStack() as stack:
        if (VENDORS / name / "server.py").is_file():
            server = import_module(f"tests.vendors.{name}.server")
            provider = build(name, base_url=await stack.enter_async_context(server.serving(replay)))
        else:
            provider = build(name, httpx.MockTransport(replay))
        stack.push_async_callback(provider.http.close)
        yield provider


def required(provider: Provider) -> set[str]:
    """The kinds of recordings that a provider must have."""
    kinds = {"submit", *FAILURES}
    if type(provider).poll is not Provider.poll:
        kinds |= {"poll_pending", "poll_done"}
    if provider.card.can_cancel:
        kinds.add("cancel")
    if provider.card.can_find:
        kinds.add("find")
    return kinds


def check_recordings(provider: Provider, folder: Path) -> None:
    """Fails with the names of the recordings that are missing, or are of no kind that a provider has."""
    found = {kind(file) for file in folder.glob("*.json")}
    missing = sorted(required(provider) - found)
    if missing:
        pytest.fail(
            f"{provider.card.name} lacks recordings: {', '.join(f'{folder.name}/{one}.json' for one in missing)}"
        )
    strange = sorted(found - required(provider))
    if strange:
        pytest.fail(f"{provider.card.name} has recordings that nothing plays: {', '.join(strange)}")


def kind(file: Path) -> str:
    """The kind of a recording, from its file's name."""
    return file.stem.partition("-")[0]


def recording(name: str, file: Path) -> Recording:
    """Reads a recording; its order is that of `submit.json` when it has none."""
    read = msgspec.json.decode(file.read_bytes(), type=Recording)
    if read.order is None and file.stem != "submit":
        read.order = recording(name, file.with_name("submit.json")).order
    return read


def networked() -> list[str]:
    """The vendors that are reached over a network."""
    return sorted(name for name, card in REGISTRY.cards.items() if card.base_url)


def over_http() -> list[str]:
    """Those that speak HTTP/1.1, by httpx."""
    return [name for name in networked() if not (VENDORS / name / "server.py").is_file()]


def recordings() -> Iterator[Any]:
    """Every recording of every vendor, as test parameters."""
    for name in networked():
        for file in sorted((VENDORS / name).glob("*.json")):
            yield pytest.param(name, file, id=f"{name}-{file.stem}")


async def perform(provider: Provider, what: str, read: Recording) -> Pending | Done | None:
    """Makes the call that a recording is of."""
    if what == "cancel":
        await provider.cancel(read.job or "")
        return None
    if what.startswith("poll"):
        return await provider.poll(read.job or "")
    assert read.order is not None, "the recording has no order"
    inputs = tuple(picture(one) for one in read.order.inputs)
    order = Order(read.order.generation, read.order.model, "attempt-1", callback_url=read.callback_url, inputs=inputs)
    return await (provider.find(order) if what == "find" else provider.submit(order))


def check_pending(result: Pending | Done | None) -> None:
    """Fails unless it is Pending as it should be."""
    assert isinstance(result, Pending)
    assert result.job
    assert result.poll_after > 0
    assert result.progress is None or 0 <= result.progress <= 1


def check_done(result: Pending | Done | None, n: int) -> None:
    """Fails unless it is Done as it should be, with at least `n` outputs."""
    assert isinstance(result, Done)
    assert len(result.outputs) >= n
    for output in result.outputs:
        assert isinstance(output, Output)
        assert bool(output.url) is not bool(output.data), "an output has either an address or bytes"
    assert result.cost is None or (isinstance(result.cost, int) and result.cost >= 0)
    assert result.usage is None or json.dumps(result.usage)


def check_secrets(card: Card, requests: list[httpx.Request]) -> None:
    """Fails when a credential stands anywhere but in an auth header, or when a request has none."""
    for request in requests:
        elsewhere = [str(request.url), request.content.decode("utf-8", "replace")]
        elsewhere += [value for name, value in request.headers.items() if name.lower() not in AUTH_HEADERS]
        for secret in secrets(card).values():
            assert not any(secret in text for text in elsewhere), "a secret was sent outside the auth header"
        if card.credentials:
            assert AUTH_HEADERS & {name.lower() for name in request.headers}, "the request has no credential"


async def check_played(provider: Provider, what: str, read: Recording) -> None:
    """Makes the call, and fails unless what comes of it is as the contract says."""
    if what in FAILURES:
        with pytest.raises(ProviderError) as caught:
            await perform(provider, "poll" if read.job else "submit", read)
        assert type(caught.value) in FAILURES[what]
        assert not any(secret in f"{caught.value} {caught.value.code}" for secret in secrets(provider.card).values())
        return
    result = await perform(provider, what, read)
    if what == "poll_pending" or (what == "submit" and isinstance(result, Pending)):
        assert "poll_done" in required(provider), "a vendor without jobs has nothing pending"
        check_pending(result)
    elif what in ("submit", "poll_done"):
        check_done(result, read.order.generation.n if read.order else 1)


@pytest.mark.parametrize("name", networked())
def test_a_vendor_has_its_recordings(name: str) -> None:
    """Every vendor with a network has the recordings that its card calls for, and no others."""
    check_recordings(build(name), VENDORS / name)


def test_a_vendor_without_recordings_is_caught(tmp_path: Path) -> None:
    """A folder without recordings fails with the names of the files to write."""
    with pytest.raises(pytest.fail.Exception, match=r"blocked\.json.*submit\.json"):
        check_recordings(build(networked()[0]), tmp_path)


@pytest.mark.parametrize(("name", "file"), list(recordings()))
async def test_a_recording_is_played(name: str, file: Path) -> None:
    """The call sends what was recorded and no more, and makes of the answer what the contract says."""
    read, what = recording(name, file), kind(file)
    replay = Replay(read.exchanges)
    async with played(name, replay) as provider:
        await check_played(provider, what, read)
    assert not replay.left, f"{len(replay.left)} recorded exchanges were not used"
    assert what != "submit" or len(replay.seen) == 1, "a submit is one request"
    check_secrets(provider.card, replay.seen)


@pytest.mark.parametrize("name", sorted(set(REGISTRY.cards) - set(networked())))
async def test_a_vendor_without_network_runs(name: str) -> None:
    """A vendor that needs no network makes every one of its models' outputs here, and reports how far it is."""
    reports: list[Progress] = []

    async def report(progress: Progress) -> None:
        reports.append(progress)

    def refuse(request: httpx.Request) -> httpx.Response:
        raise AssertionError("a vendor without an address sent a request")

    provider = build(name, httpx.MockTransport(refuse))
    for model in provider.card.models:
        wanted = Generation(model.kind, model.operations[0], model.public_name, prompt="a test", n=model.max_n)
        inputs = tuple(picture(Given(role)) for role, rule in model.inputs.items() for _ in range(rule.min))
        reports.clear()
        order = Order(wanted, model.name, "attempt-1", report=report, inputs=inputs)
        check_done(await provider.submit(order), model.max_n)
        fractions = [one.fraction for one in reports]
        assert fractions == sorted(fractions)
        assert bool(fractions) is provider.card.reports_progress
    await provider.http.close()
