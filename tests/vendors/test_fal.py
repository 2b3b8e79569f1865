"""fal.ai: what its recordings do not show. Those were written after the documentation, not taken from the service."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.core.admission import check
from gateway.core.errors import GatewayError
from gateway.core.pricing import quote
from providers.card import Card, InputRule, ModelCard, Parameter
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Callback,
    Done,
    Generation,
    Input,
    Kind,
    Operation,
    Order,
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
from tests.providers.sockets import Behaviour, answers, answers_half, hangs_up, resets, says_nothing, upstream

KEY = "0b1c2d3e-test:0123456789abcdef0123456789abcdef"
REGISTRY = Registry.load()
CARD = REGISTRY.cards["fal"]
DATA = b"\x89PNG not really"
ADDRESS = f"data:image/png;base64,{b64encode(DATA).decode()}"
BASE = "/fal-ai/flux/requests/7c1e6f0a"
JOB = json.dumps({"status_url": f"{BASE}/status", "response_url": BASE, "cancel_url": f"{BASE}/cancel"})
KLING, PIKA = "fal-ai/kling-video", "fal-ai/pika/v2.2"
IMAGES = {"images": [{"url": "https://v3.fal.media/files/a.png"}]}


@asynccontextmanager
async def fal(
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    *,
    card: Card = CARD,
    base_url: str | None = None,
    timeout: float = 5.0,
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    transport = httpx.MockTransport(handler) if handler else None
    hasty = msgspec.structs.replace(card, timeout=timeout)
    provider = REGISTRY.build("fal", hasty, base_url=base_url, secrets={"api_key": KEY}, transport=transport)
    try:
        yield provider
    finally:
        await provider.http.close()


def order(model: str = "fal-ai/flux/dev", *roles: Role, kind: Kind = Kind.IMAGE, **members: Any) -> Order:
    """An order of a generation with these members, and with a picture for each role."""
    wanted = Generation(kind, Operation.GENERATION, model, **{"prompt": "a sun", **members})
    inputs = tuple(Input(role, "image/png", DATA, 64, 64) for role in roles)
    return Order(wanted, model, "attempt-1", inputs=inputs)


def accepted(host: str = "https://queue.fal.run", number: int = 0) -> dict[str, Any]:
    """What fal answers to an order."""
    at = f"{host}{BASE}{number}"
    return {"status": "IN_QUEUE", "response_url": at, "status_url": f"{at}/status", "cancel_url": f"{at}/cancel"}


async def sent(one: Order, card: Card = CARD) -> list[httpx.Request]:
    """The requests of a submit."""
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=accepted(number=len(seen)))

    async with fal(take, card=card) as provider:
        await provider.submit(one)
    return seen


async def body(one: Order, card: Card = CARD) -> dict[str, Any]:
    """The one body that a submit sends."""
    (request,) = await sent(one, card)
    read: dict[str, Any] = json.loads(request.content)
    return read


async def polled(result: Any, status: dict[str, Any] | None = None, *, code: int = 200) -> Pending | Done:
    """What a look at a job returns that is answered with this status, COMPLETED by itself, and this result."""
    replies = {
        f"{BASE}/status": httpx.Response(200, json={"status": "COMPLETED", **(status or {})}),
        BASE: httpx.Response(code, json=result),
    }
    async with fal(lambda request: replies.pop(request.url.path)) as provider:
        return await provider.poll(JOB)


async def test_only_what_the_caller_gave_is_sent() -> None:
    """No member is invented: the prompt alone is sent when nothing else was given."""
    assert await body(order()) == {"prompt": "a sun"}
    assert await body(order(prompt="")) == {}


async def test_fal_is_told_to_run_an_order_once() -> None:
    """The order carries the key, and the headers by which fal neither repeats it nor runs it elsewhere."""
    (request,) = await sent(order())
    assert str(request.url) == "https://queue.fal.run/fal-ai/flux/dev"
    assert request.headers["authorization"] == f"Key {KEY}"
    assert (request.headers["x-fal-no-retry"], request.headers["x-app-fal-disable-fallback"]) == ("1", "1")


@pytest.mark.parametrize(
    ("model", "roles", "parameters", "expected"),
    [
        ("fal-ai/flux-pro/kontext", [Role.IMAGE], {}, {"image_url": ADDRESS}),
        ("fal-ai/flux-pro/kontext/multi", [Role.IMAGE], {}, {"image_urls": [ADDRESS]}),
        ("fal-ai/flux-pro/kontext/multi", [Role.IMAGE, Role.IMAGE], {}, {"image_urls": [ADDRESS, ADDRESS]}),
        (
            "fal-ai/flux-pro/v1.1-ultra",
            [Role.REFERENCE],
            {"reference_strength": 0.3},
            {"image_url": ADDRESS, "image_prompt_strength": 0.3},
        ),
        (
            f"{KLING}/v2.5-turbo/pro/image-to-video",
            [Role.FIRST_FRAME, Role.LAST_FRAME],
            {"seconds": 5},
            {"image_url": ADDRESS, "tail_image_url": ADDRESS, "duration": "5"},
        ),
        (
            f"{KLING}/v3/pro/image-to-video",
            [Role.FIRST_FRAME, Role.LAST_FRAME],
            {"seconds": 15, "generate_audio": False},
            {"start_image_url": ADDRESS, "end_image_url": ADDRESS, "duration": "15", "generate_audio": False},
        ),
        (f"{PIKA}/image-to-video", [Role.FIRST_FRAME], {"seconds": 10}, {"image_url": ADDRESS, "duration": 10}),
    ],
)
async def test_inputs_and_lengths_are_sent_as_each_endpoint_wants_them(
    model: str, roles: list[Role], parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Pictures are data addresses under the endpoint's names, lists where it takes several; lengths text or numbers."""
    assert await body(order(model, *roles, parameters=parameters)) == {"prompt": "a sun", **expected}


async def test_a_model_by_configuration_is_served() -> None:
    """A model that is in no card of ours gets its parameters under its names, its extras, and its inputs."""
    made = ModelCard(
        "acme/paint/v2/edit",
        Kind.IMAGE,
        (Operation.EDIT,),
        parameters={"steps": Parameter("integer", sent_as="num_steps")},
        extras=("loras",),
        inputs={Role.IMAGE: InputRule(min=1), Role.REFERENCE: InputRule(max=3), Role.MASK: InputRule()},
    )
    card = msgspec.structs.replace(CARD, models=(*CARD.models, made))
    one = order(
        made.name,
        Role.IMAGE,
        Role.REFERENCE,
        Role.MASK,
        size="640x480",
        parameters={"steps": 9},
        extras={"loras": [{"path": "x"}]},
    )
    assert await body(one, card) == {
        "prompt": "a sun",
        "image_size": {"width": 640, "height": 480},
        "num_steps": 9,
        "loras": [{"path": "x"}],
        "image_urls": [ADDRESS, ADDRESS],
        "mask_url": ADDRESS,
    }


@pytest.mark.parametrize("model", ["fal-ai/recraft/upscale/crisp", "fal-ai/bria/background/remove"])
async def test_a_prompt_is_not_dropped_in_silence(model: str) -> None:
    """An endpoint without a prompt refuses one before anything is sent."""
    assert await body(order(model, Role.IMAGE, prompt="")) == {"image_url": ADDRESS}

    async with fal(lambda request: pytest.fail("an order was sent")) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(order(model, Role.IMAGE))
    assert caught.value.param == "prompt"


async def test_more_than_one_call_makes_is_fanned_out() -> None:
    """Six pictures are two orders with seeds that differ, and four films are four orders."""
    bodies = [json.loads(one.content) for one in await sent(order(n=6, parameters={"seed": 7}))]
    assert sorted((one["num_images"], one["seed"]) for one in bodies) == [(2, 8), (4, 7)]
    assert len(await sent(order(f"{PIKA}/text-to-video", kind=Kind.VIDEO, n=4))) == 4


async def test_fanned_out_orders_are_one_job() -> None:
    """Each order is looked at once, and those that went well are delivered together."""
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        if request.method == "POST":
            return httpx.Response(200, json=accepted(number=len(seen)))
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json={"status": "COMPLETED"})
        failed = request.url.path.endswith("1")
        return httpx.Response(500 if failed else 200, json={"detail": [{"type": "x"}]} if failed else IMAGES)

    async with fal(reply) as provider:
        pending = await provider.submit(order(n=6))
        assert isinstance(pending, Pending)
        done = await provider.poll(pending.job)
    assert isinstance(done, Done)
    assert len(done.outputs) == 1
    assert sorted(seen[2:]) == sorted([f"{BASE}1", f"{BASE}1/status", f"{BASE}2", f"{BASE}2/status"])


async def test_the_key_goes_to_the_cards_host_alone() -> None:
    """Of the addresses that an answer names the paths count: another host in them gets no request."""
    hosts: set[str] = set()

    def reply(request: httpx.Request) -> httpx.Response:
        hosts.add(request.url.host)
        return httpx.Response(200, json=accepted("https://evil.test") if request.method == "POST" else {"status": "x"})

    async with fal(reply) as provider:
        pending = await provider.submit(order())
        assert isinstance(pending, Pending)
        with pytest.raises(Broken):
            await provider.poll(pending.job)
        await provider.cancel(pending.job)
    assert hosts == {"queue.fal.run"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"request_id": "7c1e"},
        {"status_url": "", "response_url": "", "cancel_url": ""},
        {"status_url": "http://[", "response_url": "/a", "cancel_url": "/b"},
        {"status_url": 1, "response_url": 2, "cancel_url": 3},
    ],
)
async def test_an_order_that_cannot_be_asked_for_is_broken(answer: Any) -> None:
    """An accepted order without usable addresses is Broken, for it may be billed."""
    async with fal(lambda request: httpx.Response(200, json=answer)) as provider:
        with pytest.raises(Broken):
            await provider.submit(order())


@pytest.mark.parametrize(
    ("status", "progress", "note"),
    [
        ({"status": "IN_QUEUE", "queue_position": 0}, None, "in queue, 0 ahead"),
        ({"status": "IN_QUEUE"}, None, "in queue"),
        ({"status": "IN_PROGRESS", "logs": [{"message": " 7%|"}, {"message": "43%|"}, {}]}, 0.43, "in progress"),
        ({"status": "IN_PROGRESS", "logs": [{"message": "999%|"}]}, 1.0, "in progress"),
        ({"status": "IN_PROGRESS", "logs": "much"}, None, "in progress"),
        ({"status": "IN_PROGRESS", "logs": [None, {"message": None}, 7]}, None, "in progress"),
    ],
)
async def test_a_running_job_is_looked_at_once(status: dict[str, Any], progress: float | None, note: str) -> None:
    """One request tells the place in the queue, or the percentage that the model prints last."""
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(202, json=status)

    async with fal(reply) as provider:
        assert await provider.poll(JOB) == Pending(JOB, poll_after=CARD.poll_after, progress=progress, note=note)
    assert seen == [f"{BASE}/status?logs=1"]


@pytest.mark.parametrize(
    ("result", "urls"),
    [
        ({"images": [{"url": "a"}, {"url": "b"}], "has_nsfw_concepts": [True, False]}, ["b"]),
        ({"images": [{"url": "a"}, {}, None, 4, {"url": 7}, {"url": "b"}], "has_nsfw_concepts": None}, ["a", "b"]),
        ({"images": [{"url": "a"}], "image": {"url": "a"}}, ["a"]),
        ({"images": [], "image": {"url": "c", "width": -1, "height": "x", "content_type": 5}}, ["c"]),
        ({"video": "https://v3.fal.media/files/v.mp4"}, ["https://v3.fal.media/files/v.mp4"]),
        ({"videos": [{"url": "v"}], "has_nsfw_concepts": ["yes", 1]}, ["v"]),
    ],
)
async def test_what_is_paid_for_is_delivered(result: dict[str, Any], urls: list[str]) -> None:
    """Files are found wherever a model puts them; an unsafe or a senseless entry does not spoil the others."""
    done = await polled(result)
    assert isinstance(done, Done)
    assert [one.url for one in done.outputs] == urls
    assert (done.cost, done.outputs[-1].media_type, done.outputs[-1].width, done.outputs[-1].height) == (None,) * 4


@pytest.mark.parametrize(
    ("status", "code", "result", "wanted"),
    [
        ({}, 200, {"images": [{"url": "a"}], "has_nsfw_concepts": [True]}, Blocked),
        ({}, 200, {"images": [{"url": "a"}, {}], "has_nsfw_concepts": [True, False]}, Blocked),
        ({}, 200, {"text": "ok"}, Broken),
        ({}, 200, ["a"], Broken),
        ({"error": "it broke"}, 200, IMAGES, Broken),
        ({"error_type": "content_policy_violation"}, 200, IMAGES, Blocked),
        ({"error": "it broke"}, 500, {"detail": "Internal Server Error"}, Broken),
        ({"error": "gone", "error_type": "client_cancelled"}, 404, {"detail": "Not found"}, Broken),
        ({"error": "x"}, 422, {"detail": [{"type": "content_policy_violation", "msg": "no"}]}, Blocked),
        ({}, 422, {"detail": [{"type": "value_error"}, {"type": "content_policy_violation"}]}, Blocked),
        ({}, 422, {"detail": [{"type": "face_detection_error", "msg": "no face"}]}, Refused),
        ({}, 400, {"detail": [{"type": "downstream_service_error", "msg": "x"}]}, Broken),
        ({}, 422, {"detail": [{"type": "no_media_generated", "msg": "x"}]}, Broken),
        ({}, 422, {"detail": []}, Refused),
        ({}, 500, {"detail": [{"type": "downstream_service_unavailable"}]}, Broken),
        ({}, 504, {"detail": "late", "error_type": "request_timeout"}, Broken),
        ({}, 503, {"detail": "none", "error_type": "runner_scheduling_failure"}, Broken),
        ({}, 500, {"detail": "Internal Server Error"}, Unavailable),
        ({}, 429, {"detail": "slow down"}, RateLimited),
        ({}, 403, {"detail": "User is locked"}, RateLimited),
        ({}, 401, {"detail": "no"}, BadCredential),
    ],
)
async def test_a_job_that_came_to_nothing_is_raised(
    status: dict[str, Any], code: int, result: Any, wanted: type[ProviderError]
) -> None:
    """COMPLETED stands for failures too: the job's own are final, others of the way there are looked at again."""
    with pytest.raises(ProviderError) as caught:
        await polled(result, status, code=code)
    assert type(caught.value) is wanted


async def test_the_vendors_words_are_read_and_cleaned() -> None:
    """Of what a model finds wrong, message, kind and place travel on, without our key and without addresses."""
    wrong = {
        "loc": ["body", "image_size", "width"],
        "msg": f"Too wide, {KEY}, see https://x.test/y",
        "type": "less_than",
    }
    with pytest.raises(Refused) as caught:
        await polled({"detail": [{**wrong, "input": "the prompt"}]}, code=422)
    error = caught.value
    assert (error.message, error.code, error.param) == (
        "Too wide, [removed], see [removed]",
        "less_than",
        "image_size.width",
    )


@pytest.mark.parametrize(("code", "word"), [(400, "ALREADY_COMPLETED"), (404, "NOT_FOUND")])
async def test_a_job_that_cannot_be_stopped_says_so(code: int, word: str) -> None:
    """A cancel that comes too late is Refused with fal's word, so that nobody takes the job for stopped."""
    async with fal(lambda request: httpx.Response(code, json={"status": word})) as provider:
        with pytest.raises(Refused) as caught:
            await provider.cancel(JOB)
    assert caught.value.code == word


async def watched(answer: httpx.Response, job: str = JOB) -> list[Progress]:
    """What is reported of a job whose stream is answered with this."""
    reports: list[Progress] = []

    async def report(progress: Progress) -> None:
        reports.append(progress)

    async with fal(lambda request: answer) as provider:
        await provider.watch(job, report)
    return reports


async def test_the_stream_of_a_job_is_reported() -> None:
    """Each event is a report, never a step back; the stream ends with the job, and nonsense in it is passed over."""
    events: list[dict[str, Any] | str] = [
        {"status": "IN_QUEUE", "queue_position": 1},
        {"status": "IN_PROGRESS", "logs": [{"message": "50%|"}]},
        "{",
        {"status": "IN_PROGRESS", "logs": []},
        {"status": "COMPLETED"},
        {"status": "IN_QUEUE"},
    ]
    text = ": ping\n\n" + "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in events)
    assert await watched(httpx.Response(200, text=text)) == [
        Progress(0.0, "in queue, 1 ahead"),
        Progress(0.5, "in progress"),
        Progress(0.5, "in progress"),
    ]


async def test_a_stream_that_fails_is_a_contract_error() -> None:
    """A refused stream raises by the table, and several jobs under one are left to their polls."""
    with pytest.raises(BadCredential):
        await watched(httpx.Response(401, json={"detail": "no"}))
    assert await watched(httpx.Response(401), json.dumps([JOB, JOB])) == []


@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour) -> None:
    """However the connection dies after the order was read, the vendor got it exactly once."""
    async with upstream(behave) as server, fal(base_url=server.base_url, timeout=0.3) as provider:
        with pytest.raises(Unsure):
            await provider.submit(order())
        assert len(server.requests) == 1


async def test_an_unreachable_vendor_is_unavailable() -> None:
    """An order that never left may be sent elsewhere."""
    async with upstream(answers) as server:
        gone = server.base_url
    async with fal(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order())


@pytest.mark.parametrize(("code", "wanted"), [(404, None), (200, None), (401, BadCredential), (502, Unavailable)])
async def test_the_probe_asks_for_a_job_that_is_not_there(code: int, wanted: type[ProviderError] | None) -> None:
    """The probe is a read: it bills nothing, and a wrong key shows."""
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return httpx.Response(code, json={"detail": "Request not found"})

    async with fal(reply) as provider:
        if wanted is None:
            await provider.probe()
        else:
            with pytest.raises(wanted):
                await provider.probe()
    assert seen == ["GET"]


@pytest.mark.parametrize(
    ("model", "members", "price"),
    [
        ("fal-ai/flux/schnell", {}, 3_000),
        ("fal-ai/flux/schnell", {"size": "1024x1024", "n": 6}, 18_000),
        ("fal-ai/flux/dev", {"size": "1920x1072"}, 50_000),
        ("fal-ai/flux-2-pro", {"size": "1536x1024"}, 45_000),
        ("fal-ai/flux-pro/v1.1-ultra", {"aspect_ratio": "21:9"}, 60_000),
        ("fal-ai/clarity-upscaler", {}, None),
        (f"{KLING}/v2.5-turbo/pro/text-to-video", {"parameters": {"seconds": 10}}, 700_000),
        (f"{KLING}/v3/pro/text-to-video", {"parameters": {"seconds": 3, "generate_audio": False}}, 672_000),
        (f"{KLING}/v3/pro/text-to-video", {}, 1_680_000),
        (f"{PIKA}/text-to-video", {"parameters": {"resolution": "1080p"}}, 450_000),
        (f"{PIKA}/text-to-video", {"n": 2}, 400_000),
    ],
)
def test_prices_are_fals(model: str, members: dict[str, Any], price: int | None) -> None:
    """Megapixels are priced by the size, films by the second; what cannot be told beforehand has no price."""
    card = CARD.model(model)
    assert card is not None
    wanted = Generation(card.kind, card.operations[0], model, prompt="-", **members)
    check(wanted, card)
    assert quote(wanted, card, card.price) == price


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        ("fal-ai/flux/schnell", {"n": 11}, "n"),
        ("fal-ai/flux/schnell", {"size": "2048x2048"}, "size"),
        ("fal-ai/flux/schnell", {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("fal-ai/flux/schnell", {"parameters": {"steps": 13}}, "steps"),
        ("fal-ai/flux-pro/v1.1", {"size": "1536x1024"}, "size"),
        ("fal-ai/flux-pro/v1.1-ultra", {"aspect_ratio": "5:1"}, "aspect_ratio"),
        (f"{KLING}/v2.5-turbo/pro/text-to-video", {"parameters": {"seconds": 7}}, "seconds"),
        (f"{KLING}/v3/pro/image-to-video", {"aspect_ratio": "16:9"}, "aspect_ratio"),
        (f"{PIKA}/text-to-video", {"parameters": {"resolution": "4k"}}, "resolution"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_the_card(model: str, members: dict[str, Any], param: str) -> None:
    """The member that a model cannot honour is named before anything is sent."""
    card = CARD.model(model)
    assert card is not None
    with pytest.raises(GatewayError) as caught:
        check(Generation(card.kind, card.operations[0], model, prompt="-", **members), card)
    assert caught.value.param == param


async def test_a_film_is_enhanced() -> None:
    """The film goes along as a data address, and what is wanted of it in fal's own words."""
    model = "fal-ai/bytedance-upscaler/upscale/video"
    wanted = Generation(Kind.VIDEO, Operation.UPSCALE, model, parameters={"resolution": "2k", "fps": 60})
    film = Input(Role.VIDEO, "video/mp4", b"film", 640, 360)
    made = await body(Order(wanted, model, "attempt-1", inputs=(film,)))
    assert made == {
        "video_url": "data:video/mp4;base64," + b64encode(b"film").decode(),
        "target_resolution": "2k", "target_fps": "60fps",
    }  # fmt: skip
    card = CARD.model(model)
    assert card is not None
    lasting = msgspec.structs.replace(wanted, source_seconds=4.2)
    assert quote(lasting, card, card.price) == 5 * 28_800


NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
FALS = Ed25519PrivateKey.generate()


def told(key: Ed25519PrivateKey = FALS, *, body: bytes = b"{}", at: dt.datetime = NOW, **headers: str) -> Callback:
    """A callback, signed by that key."""
    stamp = str(int(at.timestamp()))
    message = "\n".join(["r-1", "u-1", stamp, hashlib.sha256(body).hexdigest()]).encode()
    sent = {"request-id": "r-1", "user-id": "u-1", "timestamp": stamp, "signature": key.sign(message).hex(), **headers}
    return Callback({f"x-fal-webhook-{name}": value for name, value in sent.items()}, body)


def published(*keys: Ed25519PrivateKey) -> httpx.Response:
    """The key set of fal, with something in it that is no key."""
    raw = [b64url(key.public_key().public_bytes_raw()) for key in keys]
    return httpx.Response(
        200, json={"keys": [{"kty": "RSA"}, *({"kty": "OKP", "crv": "Ed25519", "x": x} for x in raw)]}
    )


def b64url(data: bytes) -> str:
    """As JWKS has it, without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_fal_is_told_where_to_call() -> None:
    """The address goes along with the order, and nowhere else."""
    url = "https://media.test/callbacks/task_1-1/abc"
    (request,) = await sent(msgspec.structs.replace(order(), callback_url=url))
    assert dict(request.url.params) == {"fal_webhook": url}
    assert url not in request.content.decode()


async def test_only_fal_is_heard() -> None:
    """A callback counts that a published key has signed, just now, for that very body; our credential goes nowhere."""
    asked: list[httpx.Request] = []

    def keys(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return published(Ed25519PrivateKey.generate(), FALS)

    late = NOW - dt.timedelta(minutes=6)
    async with fal(keys) as provider:
        provider.http.now = lambda: NOW
        await provider.hear(told())
        await provider.hear(told(body=b'{"status": "OK"}'))
        for wrong in (
            told(Ed25519PrivateKey.generate()), told(at=late), told(signature="zz"), told(signature=""),
            told(timestamp="x"), Callback({}, b""), msgspec.structs.replace(told(), body=b"other"),
        ):  # fmt: skip
            with pytest.raises(Refused):
                await provider.hear(wrong)
    assert [str(one.url) for one in asked] == ["https://rest.fal.ai/.well-known/jwks.json"]
    assert "authorization" not in asked[0].headers


async def test_new_keys_are_asked_for_once_a_minute() -> None:
    """A key that was replaced is found, and forgeries do not make us call again and again."""
    answers = [published(Ed25519PrivateKey.generate()), published(FALS)]
    now = [NOW]
    async with fal(lambda _: answers.pop(0)) as provider:
        provider.http.now = lambda: now[0]
        for _ in range(3):
            with pytest.raises(Refused):
                await provider.hear(told())
        now[0] += dt.timedelta(minutes=1)
        await provider.hear(told(at=now[0]))
    assert answers == []


async def test_keys_that_cannot_be_had_say_nothing_of_a_callback() -> None:
    """Nobody knows then whose it is."""
    empty: dict[str, Any] = {"keys": []}
    for status, keys in ((503, {}), (200, empty)):

        def answer(_: httpx.Request, status: int = status, keys: dict[str, Any] = keys) -> httpx.Response:
            return httpx.Response(status, json=keys)

        async with fal(answer) as provider:
            provider.http.now = lambda: NOW
            with pytest.raises(Unavailable):
                await provider.hear(told())
