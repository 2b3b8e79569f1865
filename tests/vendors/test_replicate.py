"""Replicate: what its recordings do not show. They are written after the documentation, not captured."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from PIL import Image

from gateway.core.admission import check, open_catalog
from gateway.core.errors import GatewayError
from gateway.core.pricing import quote
from gateway.core.settings import load
from providers.card import Card, CardError, ModelCard, Parameter
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Callback,
    Done,
    Generation,
    Input,
    Kind,
    Lost,
    Operation,
    Order,
    Output,
    Pending,
    Provider,
    ProviderError,
    RateLimited,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.registry import Registry
from tests.contracts.test_provider import Given, form_of, picture
from tests.providers.sockets import Behaviour, answers, answers_half, hangs_up, resets, says_nothing, upstream

KEY = "r8_0123456789abcdef0123456789abcdef01234"
REGISTRY = Registry.load()
CARD = REGISTRY.cards["replicate"]
SCHNELL, DEV, PRO = (f"black-forest-labs/flux-{name}" for name in ("schnell", "dev", "1.1-pro"))
KLING, VEO = "kwaivgi/kling-v3-video", "google/veo-3.1"
JOB, VERSION = "x7k2m0fh3srma0crr7vt5a9b8c", "5c7d5dc6" * 8
DATA = b"\x89PNG not really"
ADDRESS = f"data:image/png;base64,{base64.b64encode(DATA).decode()}"
FILE = "https://replicate.delivery/xezq/out-0.webp"
WEBHOOK_KEY, OTHER_KEY = b"0123456789abcdef01234567", b"the one that came after!"
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
Handler = Callable[[httpx.Request], httpx.Response] | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


@asynccontextmanager
async def replicate(
    handler: Handler | None = None, *, card: Card = CARD, base_url: str | None = None, timeout: float = 20.0
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    transport = httpx.MockTransport(handler) if handler else None
    hasty = msgspec.structs.replace(card, timeout=timeout)
    provider = REGISTRY.build("replicate", hasty, base_url=base_url, secrets={"api_key": KEY}, transport=transport)
    try:
        yield provider
    finally:
        await provider.http.close()


def own(name: str = "acme/paint", **members: Any) -> Card:
    """The card with a model of one's own, as heliograph.toml gives it."""
    raw = {"name": name, "kind": "image", "operations": ["generation"], **members}
    return msgspec.structs.replace(CARD, models=(*CARD.models, msgspec.convert(raw, ModelCard)))


def order(
    model: str = SCHNELL, *roles: Role, data: bytes = DATA, callback_url: str | None = None, **members: Any
) -> Order:
    """An order of a generation with these members, and with a picture for each role."""
    wanted = Generation(Kind.IMAGE, Operation.GENERATION, model, **{"prompt": "a sun", **members})
    inputs = tuple(Input(role, "image/png", data, 64, 64) for role in roles)
    return Order(wanted, model, "attempt-1", callback_url=callback_url, inputs=inputs)


def prediction(number: int = 0, **members: Any) -> dict[str, Any]:
    """What Replicate answers to an order, and to a look."""
    made = {"id": f"{JOB}{number or ''}", "model": SCHNELL, "version": "hidden", "status": "starting", "output": None}
    return {**made, "error": None, "logs": "", **members}


async def sent(one: Order, card: Card = CARD) -> list[httpx.Request]:
    """The requests of a submit."""
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path == "/v1/files":
            return httpx.Response(201, json={"urls": {"get": f"https://api.replicate.com/v1/files/{len(seen)}"}})
        return httpx.Response(201, json=prediction(len(seen)))

    async with replicate(take, card=card) as provider:
        await provider.submit(one)
    return seen


async def asked(one: Order, card: Card = CARD) -> dict[str, Any]:
    """The inputs of the one prediction that a submit creates."""
    (request,) = await sent(one, card)
    inputs: dict[str, Any] = json.loads(request.content)["input"]
    return inputs


async def polled(card: Card = CARD, **members: Any) -> Pending | Done:
    """What a look at a prediction returns that stands like this."""
    async with replicate(lambda request: httpx.Response(200, json=prediction(**members)), card=card) as provider:
        return await provider.poll(JOB)


async def test_only_what_the_caller_gave_is_sent() -> None:
    """Beside the prompt goes how many are wanted, where one call may make several, and nothing else."""
    assert await asked(order()) == {"prompt": "a sun", "num_outputs": 1}
    assert await asked(order(PRO)) == {"prompt": "a sun"}


async def test_fast_models_are_waited_for_and_films_are_not() -> None:
    """The order carries the token, and for a fast model the wish to hold the answer for some seconds."""
    (request,) = await sent(order())
    assert str(request.url) == f"https://api.replicate.com/v1/models/{SCHNELL}/predictions"
    assert (request.headers["authorization"], request.headers["prefer"]) == (f"Bearer {KEY}", "wait=5")
    (request,) = await sent(order(VEO))
    assert "prefer" not in request.headers


async def test_what_is_finished_at_once_is_done() -> None:
    """A prediction that ended while the answer was held is the result, with what it counted."""
    ended = prediction(status="succeeded", output=[FILE], metrics={"predict_time": 0.7})
    async with replicate(lambda request: httpx.Response(201, json=ended)) as provider:
        done = await provider.submit(order())
    assert done == Done((Output("image/webp", url=FILE),), usage={"predict_time": 0.7})


@pytest.mark.parametrize(
    ("url", "told"), [("https://gateway.test/c/1", True), ("http://gateway.test/c/1", False), (None, False)]
)
async def test_replicate_is_told_where_to_call(url: str | None, told: bool) -> None:
    """It calls once, at the end; an address without TLS is left out, for it would refuse the order."""
    (request,) = await sent(order(callback_url=url))
    body = json.loads(request.content)
    assert (body.get("webhook"), body.get("webhook_events_filter")) == ((url, ["completed"]) if told else (None, None))


@pytest.mark.parametrize(
    ("model", "members", "inputs"),
    [
        (SCHNELL, {"size": "768x1344"}, {"aspect_ratio": "9:16", "num_outputs": 1}),
        (SCHNELL, {"aspect_ratio": "21:9"}, {"aspect_ratio": "21:9", "num_outputs": 1}),
        (PRO, {"size": "1024x768"}, {"aspect_ratio": "custom", "width": 1024, "height": 768}),
        ("recraft-ai/recraft-v3", {"size": "1820x1024"}, {"size": "1820x1024"}),
        ("ideogram-ai/ideogram-v3-turbo", {"size": "832x960"}, {"resolution": "832x960"}),
        (VEO, {"size": "720x1280"}, {"aspect_ratio": "9:16", "resolution": "720p"}),
    ],
)
async def test_a_size_is_told_in_each_models_own_way(
    model: str, members: dict[str, Any], inputs: dict[str, Any]
) -> None:
    """A size becomes a text, two numbers, or the inputs that make it."""
    assert await asked(order(model, **members)) == {"prompt": "a sun", **inputs}


@pytest.mark.parametrize(
    ("size", "inputs"), [("dims", {"dims": "64x48"}), (["w", "h"], {"w": 64, "h": 48}), ({"64x48": {"a": 1}}, {"a": 1})]
)
async def test_inputs_go_along_with_a_size_alone(size: Any, inputs: dict[str, Any]) -> None:
    """What a model wants beside a size is sent with one, however it is told, and not without."""
    card = own(sizes=["64x48"], options={"size": size, "with_size": {"shape": "custom"}})
    assert await asked(order("acme/paint", size="64x48"), card) == {"prompt": "a sun", **inputs, "shape": "custom"}
    assert await asked(order("acme/paint"), card) == {"prompt": "a sun"}


@pytest.mark.parametrize(
    ("one", "param"),
    [
        (order(PRO, size="1024x768", aspect_ratio="4:3"), "size"),
        (order(VEO, size="1280x720", parameters={"resolution": "1080p"}), "size"),
        (order(DEV, Role.IMAGE, size="1024x1024"), "size"),
        (order(KLING, Role.FIRST_FRAME, aspect_ratio="16:9"), "aspect_ratio"),
        (order("recraft-ai/recraft-crisp-upscale", Role.IMAGE), "prompt"),
        (order("acme/unknown"), "model"),
    ],
)
async def test_what_a_model_would_ignore_is_refused(one: Order, param: str) -> None:
    """Members that exclude each other, or that the model has no input for, are named before anything is sent."""
    async with replicate(lambda request: pytest.fail("an order was sent")) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(one)
    assert caught.value.param == param


async def test_a_version_is_named_in_the_body() -> None:
    """A model that is no official one goes to the common address, with the id of its version."""
    (request,) = await sent(order(f"acme/paint:{VERSION}"), own(f"acme/paint:{VERSION}"))
    assert request.url.path == "/v1/predictions"
    assert json.loads(request.content) == {"version": VERSION, "input": {"prompt": "a sun"}}


async def test_a_deployment_has_its_own_address() -> None:
    """A deployment of one's own is told by an option."""
    (request,) = await sent(order("acme/paint"), own(options={"deployment": True}))
    assert request.url.path == "/v1/deployments/acme/paint/predictions"


async def test_a_model_by_configuration_is_asked_as_its_options_say() -> None:
    """Prompt, number, size, pictures and values go where the options say, beside what is fixed."""
    card = own(
        max_n=2,
        sizes=["640x480"],
        extras=["loras"],
        parameters={"steps": {"type": "integer", "sent_as": "num_steps"}, "hd": {"type": "boolean"}},
        inputs={"image": {}, "reference": {"max": 3}, "style": {"max": 2}, "control": {}},
        options={
            "prompt": "text",
            "n": "count",
            "size": ["w", "h"],
            "inputs": {"image": "pictures[]", "reference": "pictures[]", "style": ["style_1", "style_2"]},
            "values": {"hd": {"true": "ultra"}},
            "fixed": {"scheduler": "K_EULER", "refine": None},
        },
    )
    roles = [Role.IMAGE, Role.REFERENCE, Role.STYLE, Role.STYLE, Role.CONTROL]
    members: dict[str, Any] = {
        "n": 2,
        "size": "640x480",
        "parameters": {"steps": 9, "hd": True},
        "extras": {"loras": ["x"]},
    }
    assert await asked(order("acme/paint", *roles, **members), card) == {
        "text": "a sun",
        "count": 2,
        "w": 640,
        "h": 480,
        "num_steps": 9,
        "hd": "ultra",
        "loras": ["x"],
        "pictures": [ADDRESS, ADDRESS],
        "style_1": ADDRESS,
        "style_2": ADDRESS,
        "control": ADDRESS,
        "scheduler": "K_EULER",
        "refine": None,
    }


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"name": "paint"}, "owner/name"),
        ({"name": "acme/paint:latest"}, "64 hexadecimal"),
        ({"name": "../paint"}, "owner/name"),
        ({"name": f"acme/paint:{VERSION}", "options": {"deployment": True}}, "no version"),
        ({"options": {"promt": "text"}}, "promt"),
        ({"options": {"mask": "grey"}}, "mask"),
        ({"options": {"wait": 0}}, "1 to 59"),
        ({"options": {"wait": 60}}, "1 to 59"),
        ({"max_n": 2, "options": {"n": ""}}, r"options\.n "),
        ({"aspect_ratios": ["1:1"], "options": {"aspect_ratio": ""}}, "aspect_ratio"),
        ({"sizes": ["64x64"]}, r"options\.size "),
        ({"options": {"with_size": {"a": 1}}}, r"options\.size "),
        ({"sizes": ["64x64"], "options": {"size": {"32x32": {"a": 1}}}}, "no others: 64x64"),
        ({"size_rule": {}, "options": {"size": {}}}, r"options\.size "),
        ({"options": {"values": {"hd": {"a": "b"}}}}, "no parameter hd"),
        ({"options": {"inputs": {"image": "picture"}}}, "takes no image"),
        ({"options": {"shaped_by": ["image"]}}, "takes no image"),
        ({"inputs": {"image": {"max": 2}}}, r"name\[\]"),
        ({"inputs": {"image": {"max": 3}}, "options": {"inputs": {"image": ["a", "b"]}}}, "takes 2 of 3"),
        ({"inputs": {"image": {"max": 2}}, "options": {"inputs": {"image": ["a[]", "b"]}}}, "takes 2 of 2"),
        ({"inputs": {"image": {}}, "options": {"inputs": {"image": []}}}, "takes 0 of 1"),
        ({"options": {"fixed": {"prompt": "a moon"}}}, "input prompt"),
        ({"extras": ["image"], "inputs": {"image": {}}}, "input image"),
        ({"inputs": {"image": {}, "mask": {}}, "options": {"inputs": {"mask": "image"}}}, "input image"),
        ({"inputs": {"image": {}}, "options": {"inputs": {"image": "prompt[]"}}}, "input prompt"),
    ],
)
def test_options_that_do_not_fit_are_found_at_once(members: dict[str, Any], words: str) -> None:
    """What a model offers and its options have no input for is said when the provider is built, with the member."""
    with pytest.raises(CardError, match=words):
        REGISTRY.build("replicate", own(**members), secrets={"api_key": KEY})


def test_a_model_in_heliograph_toml_is_offered(tmp_path: Path) -> None:
    """A table in the file makes any model of Replicate a model here."""
    file = tmp_path / "heliograph.toml"
    file.write_text(
        f"""
        [providers.replicate.models."acme/paint:{VERSION}"]
        public = "paint"
        kind = "image"
        operations = ["generation"]
        sizes = ["512x512"]
        billed_on_failure = true
        price = {{ as_of = 2026-11-21, rows = [{{ usd = "0.01" }}] }}
        options = {{ size = ["width", "height"], fixed = {{ refine = "no_refiner" }} }}
        """
    )
    catalog = open_catalog(load({"REPLICATE_API_TOKEN": KEY}, file))
    assert catalog.model("paint").routes[0].card.name == f"acme/paint:{VERSION}"


async def test_a_small_picture_goes_along_and_a_large_one_is_uploaded_before() -> None:
    """What is too large for the order is uploaded first, by a call that costs nothing; the order names its address."""
    large = DATA + bytes(256 * 1024)
    upload, create = await sent(order("black-forest-labs/flux-kontext-pro", Role.IMAGE, data=large))
    assert (upload.url.path, form_of(upload)) == ("/v1/files", {"content": None})
    assert large in upload.content
    assert json.loads(create.content)["input"]["input_image"] == "https://api.replicate.com/v1/files/1"
    inputs = await asked(order("black-forest-labs/flux-kontext-pro", Role.IMAGE))
    assert inputs == {"prompt": "a sun", "input_image": ADDRESS}


async def test_several_orders_share_an_upload() -> None:
    """Two films from one picture are one upload and two orders."""
    seen = await sent(order(KLING, Role.FIRST_FRAME, data=bytes(300_000), n=2))
    assert [one.url.path.rpartition("/")[2] for one in seen] == ["files", "predictions", "predictions"]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (httpx.Response(500), Unavailable),
        (httpx.Response(413, json={"detail": "too large"}), Refused),
        (httpx.Response(201, json={"urls": {}}), Broken),
        (httpx.Response(201, json={"id": "f"}), Broken),
    ],
)
async def test_without_its_upload_nothing_is_ordered(answer: httpx.Response, wanted: type[ProviderError]) -> None:
    """When an upload fails no order is sent, so that it may be sent elsewhere."""
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return answer

    async with replicate(reply) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.submit(order(KLING, Role.FIRST_FRAME, data=bytes(300_000)))
    assert type(caught.value) is wanted
    assert seen == ["/v1/files"]


@pytest.mark.parametrize(
    ("kind", "changed", "kept"), [("white", 255, 0), ("black", 0, 255), ("transparent", (0, 0, 0, 0), (9, 9, 9, 255))]
)
async def test_a_mask_is_painted_as_the_model_reads_it(kind: str, changed: Any, kept: Any) -> None:
    """What is transparent in ours is white or black in the model's, or left as it is."""
    mask, file = Image.new("RGBA", (2, 1), (9, 9, 9, 255)), io.BytesIO()
    mask.putpixel((0, 0), (0, 0, 0, 0))
    mask.save(file, "PNG")
    card = own(inputs={"mask": {}}, options={"mask": kind})
    address = (await asked(order("acme/paint", Role.MASK, data=file.getvalue()), card))["mask"]
    painted = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert (painted.getpixel((0, 0)), painted.getpixel((1, 0))) == (changed, kept)


async def test_more_than_one_call_makes_is_fanned_out() -> None:
    """Six pictures are two orders with seeds that differ, looked at under one job."""
    bodies = [json.loads(one.content)["input"] for one in await sent(order(n=6, parameters={"seed": 7}))]
    assert sorted((one["num_outputs"], one["seed"]) for one in bodies) == [(2, 8), (4, 7)]


@pytest.mark.parametrize(
    ("members", "progress", "note"),
    [
        ({"status": "starting"}, None, "starting"),
        ({"status": "queued"}, None, "queued"),
        ({"status": "warming"}, None, "warming"),
        ({"status": 7}, None, "7"),
        ({"status": None}, None, None),
        ({"status": "processing", "logs": " 7%|#\n 43%|####\n"}, 0.43, "processing"),
        ({"status": "processing", "logs": "999%|"}, 1.0, "processing"),
        ({"status": "processing", "logs": None, "output": [FILE]}, None, "processing"),
        ({"status": "processing", "logs": 5}, None, "processing"),
    ],
)
async def test_a_running_prediction_is_looked_at_once(
    members: dict[str, Any], progress: float | None, note: str | None
) -> None:
    """It tells the percentage that the model printed last; a status that nobody knows yet is one of running work."""
    assert await polled(**members) == Pending(JOB, poll_after=CARD.poll_after, progress=progress, note=note)


async def test_a_film_is_looked_at_less_often() -> None:
    """What takes minutes is asked for every five seconds."""
    pending = await polled(model=VEO, status="processing")
    assert isinstance(pending, Pending)
    assert pending.poll_after == 5.0


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (FILE, [FILE]),
        ([FILE, FILE], [FILE]),
        ([f"{FILE}?1", None, 7, "", f"{FILE}?2"], [f"{FILE}?1", f"{FILE}?2"]),
        ({"image": FILE, "by": "https://acme.test/about"}, [FILE]),
        (["https://evilreplicate.delivery/a.png", FILE], [FILE]),
        ({"files": [{"url": [FILE]}, {"deep": {"er": f"{FILE}?2"}}]}, [FILE, f"{FILE}?2"]),
        (["https://store.acme.test/a.png", "a sun, see https://acme.test"], ["https://store.acme.test/a.png"]),
        (["https://", "https://[", "https://store.acme.test/a.png"], ["https://store.acme.test/a.png"]),
        (["http://replicate.delivery/a.png", "https://[", "https://", "ftp://x", FILE], [FILE]),
        ("https://a.replicate.delivery.evil.test/x.png", ["https://a.replicate.delivery.evil.test/x.png"]),
    ],
)
async def test_files_are_found_in_any_shape_of_output(output: Any, urls: list[str]) -> None:
    """Addresses count at any depth, once each and in order; Replicate's own before what else an answer names."""
    done = await polled(status="succeeded", output=output)
    assert isinstance(done, Done)
    assert [one.url for one in done.outputs] == urls


async def test_deep_output_does_no_harm() -> None:
    """An output nested a few hundred deep is read like any other."""
    output: Any = FILE
    for _ in range(400):
        output = [output]
    done = await polled(status="succeeded", output=output)
    assert isinstance(done, Done)
    assert len(done.outputs) == 1


async def test_bytes_in_an_output_are_an_output() -> None:
    """An address that holds the bytes themselves is delivered as bytes, and one that is spoilt is left out."""
    done = await polled(status="succeeded", output=[ADDRESS, "data:image/png;base64,%%%", "data:,x", FILE])
    assert isinstance(done, Done)
    assert done.outputs == (Output("image/png", data=DATA), Output("image/webp", url=FILE))


async def test_fewer_than_asked_for_are_delivered() -> None:
    """What came is delivered, also when an error stands beside it, or the status is one that is new."""
    for status, error in (("succeeded", "one was unsafe"), ("partial", None)):
        done = await polled(output=[FILE], status=status, error=error, completed_at="2026-11-21T09:00:00Z")
        assert isinstance(done, Done)
        assert len(done.outputs) == 1


@pytest.mark.parametrize(
    ("members", "wanted", "code"),
    [
        ({"status": "failed", "error": "Your prompt was flagged"}, Blocked, "content_policy_violation"),
        ({"status": "failed", "error": "rejected (E005)"}, Blocked, "E005"),
        ({"status": "failed", "error": "NSFW content detected, please retry"}, Blocked, "content_policy_violation"),
        ({"status": "failed", "error": {"detail": "unsafe: nsfw"}}, Blocked, "content_policy_violation"),
        ({"status": "succeeded", "output": [], "logs": "NSFW content detected"}, Blocked, "content_policy_violation"),
        ({"status": "succeeded", "output": "", "error": "moderated"}, Blocked, "content_policy_violation"),
        ({"status": "failed", "error": "Service is unavailable due to high demand. (E003)"}, Lost, "E003"),
        ({"status": "failed", "error": "Service is temporarily unavailable. (E004)"}, Lost, "E004"),
        ({"status": "failed", "error": "Prediction interrupted; please retry (code: PA)"}, Lost, None),
        ({"status": "failed", "error": "Director: unexpected error handling prediction (E9828)"}, Lost, "E9828"),
        ({"status": "failed", "error": "Client error '429 Too Many Requests'"}, Lost, None),
        ({"status": "aborted"}, Lost, "aborted"),
        ({"status": "canceled"}, Broken, "canceled"),
        ({"status": "failed", "error": "CUDA out of memory (E1001)"}, Broken, "E1001"),
        ({"status": "failed", "error": "safety_tolerance must be at most 6"}, Broken, None),
        ({"status": "failed", "error": "the key is case-sensitive"}, Broken, None),
        ({"status": "failed", "error": "insufficient credit at the partner"}, Broken, None),
        ({"status": "failed", "error": None}, Broken, "no_output"),
        ({"status": "failed", "error": ["x"], "output": [FILE]}, Broken, "no_output"),
        ({"status": "succeeded", "output": None}, Broken, "no_output"),
        ({"status": "succeeded", "output": {"text": "a sun"}}, Broken, "no_output"),
        ({"status": "succeeded", "data_removed": True}, Broken, "data_removed"),
        ({"status": "evicted", "completed_at": "2026-11-21T09:00:00Z"}, Broken, "no_output"),
    ],
)
async def test_a_prediction_that_came_to_nothing_is_raised(
    members: dict[str, Any], wanted: type[ProviderError], code: str | None
) -> None:
    """Each way to fail has its class, and none is one that would have the job looked at for ever."""
    with pytest.raises(ProviderError) as caught:
        await polled(**members)
    assert (type(caught.value), caught.value.code) == (wanted, code)


@pytest.mark.parametrize(
    ("card", "members"),
    [
        (own(f"acme/paint:{VERSION}"), {"model": "acme/paint", "version": VERSION}),
        (own("acme/paint", options={"deployment": True}), {"model": "acme/paint"}),
        (own("acme/paint", billed_on_failure=True), {"model": "acme/paint"}),
        (CARD, {"model": "acme/unknown"}),
        (CARD, {"model": None, "version": None}),
    ],
)
async def test_what_may_be_billed_is_not_tried_elsewhere(card: Card, members: dict[str, Any]) -> None:
    """A failure that would pass is final where the time of a failed run may be billed, or nobody knows whether."""
    with pytest.raises(ProviderError) as caught:
        await polled(card, status="failed", error="Prediction interrupted; please retry (code: PA)", **members)
    assert type(caught.value) is Broken


async def test_the_vendors_words_are_cleaned() -> None:
    """Of the reason that a prediction gives, our token and addresses are left out."""
    with pytest.raises(Broken) as caught:
        await polled(status="failed", error=f"KeyError: {KEY}, see https://acme.test/x")
    assert caught.value.message == "KeyError: [removed], see [removed]"


@pytest.mark.parametrize(
    ("status", "body", "headers", "wanted", "wait"),
    [
        (429, {"detail": "Request was throttled. Your rate limit resets in ~30s."}, {}, RateLimited, 30.0),
        (429, {"detail": "Your rate limit resets in ~1.5s."}, {}, RateLimited, 1.5),
        (429, {"detail": "Your rate limit resets in ~9000s."}, {}, RateLimited, 120.0),
        (429, {"detail": "Your rate limit resets in ~30s."}, {"retry-after": "7"}, RateLimited, 7.0),
        (429, {"detail": "Slow down"}, {}, RateLimited, None),
        (402, {"title": "Insufficient credit", "status": 402}, {}, RateLimited, None),
        (402, {"detail": "Payment required", "status": 402}, {}, RateLimited, None),
        (402, {"detail": "You've hit your monthly spend limit"}, {}, RateLimited, None),
        (402, "no JSON", {}, BadCredential, None),
        (403, {"detail": "Forbidden"}, {}, BadCredential, None),
        (422, {"detail": "The prompt was flagged"}, {}, Blocked, None),
        (422, {"detail": "- input.safety_tolerance: must be at most 6"}, {}, Refused, None),
        (503, {"detail": "Service unavailable"}, {}, Unsure, None),
        (504, "late", {}, Unsure, None),
    ],
)
async def test_a_refused_order_says_what_to_do(
    status: int, body: Any, headers: dict[str, str], wanted: type[ProviderError], wait: float | None
) -> None:
    """The class of each refusal, and for how long Replicate wants to be left alone, also when only its words say so."""
    answer = httpx.Response(status, json=body, headers=headers)
    async with replicate(lambda request: answer) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.submit(order())
    assert type(caught.value) is wanted
    assert getattr(caught.value, "retry_after", None) == wait


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"detail": "- input.num_inference_steps: must be <= 4"}, "steps"),
        ({"detail": "invalid", "invalid_fields": [{"field": "input.num_outputs"}]}, "n"),
        ({"detail": "invalid", "invalid_fields": [{"field": "input.image_prompt"}]}, "image_prompt"),
        ({"detail": "invalid", "invalid_fields": ["x"]}, None),
        ({"title": "Input validation failed", "detail": ["x"]}, None),
        ({"errors": ["x"]}, None),
        (["x"], None),
    ],
)
async def test_a_wrong_input_is_named_as_the_caller_knows_it(body: Any, param: str | None) -> None:
    """The model's name of an input becomes ours, where there is one."""
    async with replicate(lambda request: httpx.Response(422, json=body)) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(order())
    assert caught.value.param == param


async def test_a_wrong_width_is_a_wrong_size() -> None:
    """What is wrong with the inputs that make a size is wrong with the size."""
    async with replicate(lambda request: httpx.Response(422, json={"detail": "- input.width: must be <= 1440"})) as pro:
        with pytest.raises(Refused) as caught:
            await pro.submit(order(PRO, size="1024x768"))
    assert caught.value.param == "size"


async def test_a_cancel_that_comes_too_late_says_so() -> None:
    """A refusal to stop is raised, so that nobody takes the job for stopped."""
    async with replicate(lambda request: httpx.Response(422, json={"detail": "already ended"})) as provider:
        with pytest.raises(Refused):
            await provider.cancel(JOB)


class Hearing:
    """The clock, the key that Replicate has now, and how often it was asked for it."""

    def __init__(self) -> None:
        self.now = NOW
        self.key = WEBHOOK_KEY
        self.status = 200
        self.asked = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/v1/webhooks/default/secret")
        await asyncio.sleep(0)
        assert request.headers["authorization"] == f"Bearer {KEY}"
        self.asked += 1
        return httpx.Response(self.status, json={"key": f"whsec_{base64.b64encode(self.key).decode()}"})

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[Provider]:
        """The provider that hears, by this clock."""
        async with replicate(self) as provider:
            provider.http.now = lambda: self.now
            yield provider

    def callback(
        self, key: bytes | None = None, body: bytes = b'{"id":"x"}', headers: Mapping[str, str] | None = None
    ) -> Callback:
        """What Replicate sends now, signed with that key."""
        stamp = str(int(self.now.timestamp()))
        signed = hmac.new(key or self.key, f"msg_1.{stamp}.".encode() + body, hashlib.sha256).digest()
        signature = f"v1,bm90IGl0 v1,{base64.b64encode(signed).decode()}"
        told = {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}
        return Callback(told | dict(headers or {}), body)


async def test_a_callback_of_replicate_is_heard() -> None:
    """Its signature fits, and the key is asked for once for all callbacks, also when they come together."""
    hearing = Hearing()
    async with hearing.provider() as provider:
        await asyncio.gather(*(provider.hear(hearing.callback()) for _ in range(5)))
        assert await provider.hear(hearing.callback(body=b"")) is None
    assert hearing.asked == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,\u00e9"},
        {"webhook-id": "msg_2"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(int(NOW.timestamp()) + 1)},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "-1"},
    ],
)
async def test_a_forged_callback_is_refused(headers: dict[str, str]) -> None:
    """Whatever is changed in what was signed, or missing, the callback is not believed."""
    hearing = Hearing()
    async with hearing.provider() as provider:
        with pytest.raises(Refused):
            await provider.hear(hearing.callback(headers=headers))
        changed = msgspec.structs.replace(hearing.callback(), body=b'{"id":"y"}')
        with pytest.raises(Refused):
            await provider.hear(changed)


@pytest.mark.parametrize(("seconds", "heard"), [(299, True), (301, False), (-299, True), (-301, False)])
async def test_an_old_callback_is_refused(seconds: int, heard: bool) -> None:
    """A callback counts for five minutes, on either side of our clock; for an old one nothing is asked."""
    hearing = Hearing()
    callback = hearing.callback()
    hearing.now += dt.timedelta(seconds=seconds)
    async with hearing.provider() as provider:
        if heard:
            await provider.hear(callback)
        else:
            with pytest.raises(Refused):
                await provider.hear(callback)
    assert hearing.asked == heard


async def test_a_new_key_is_found_and_a_flood_of_forgeries_does_not_ask_for_it() -> None:
    """What does not fit has the key asked for again, once a minute at most; then callbacks with a new key are heard."""
    hearing = Hearing()
    async with hearing.provider() as provider:
        await provider.hear(hearing.callback())
        hearing.key = OTHER_KEY
        for _ in range(3):
            with pytest.raises(Refused):
                await provider.hear(hearing.callback())
        assert hearing.asked == 1
        hearing.now += dt.timedelta(seconds=60)
        await asyncio.gather(*(provider.hear(hearing.callback()) for _ in range(3)))
        assert hearing.asked == 2
        with pytest.raises(Refused):
            await provider.hear(hearing.callback(WEBHOOK_KEY))
    assert hearing.asked == 2


async def test_without_the_key_nothing_is_said_of_a_callback() -> None:
    """While the key is not to be had, a callback is neither believed nor refused, and it is not asked for each time."""
    hearing = Hearing()
    hearing.status = 500
    async with hearing.provider() as provider:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await provider.hear(hearing.callback())
        assert hearing.asked == 1
        hearing.status, hearing.now = 200, hearing.now + dt.timedelta(seconds=60)
        await provider.hear(hearing.callback())


@pytest.mark.parametrize("key", ["whsec_%%%", "whsec_a", 5])
async def test_a_key_that_is_none_is_broken(key: Any) -> None:
    """A key that is not of Standard Webhooks is not taken for one."""
    hearing = Hearing()
    async with replicate(lambda request: httpx.Response(200, json={"key": key})) as provider:
        provider.http.now = lambda: NOW
        with pytest.raises(Broken):
            await provider.hear(hearing.callback())


@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour) -> None:
    """However the connection dies after the order was read, the vendor got it exactly once."""
    async with upstream(behave) as server, replicate(base_url=server.base_url) as provider:
        provider.http.card = msgspec.structs.replace(CARD, timeout=0.3)
        with pytest.raises(Unsure):
            await provider.submit(order())
        assert len(server.requests) == 1


async def test_an_unreachable_vendor_is_unavailable() -> None:
    """An order that never left may be sent elsewhere."""
    async with upstream(answers) as server:
        gone = server.base_url
    async with replicate(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order())


@pytest.mark.parametrize(("code", "wanted"), [(200, None), (401, BadCredential), (502, Unavailable)])
async def test_the_probe_asks_for_the_account(code: int, wanted: type[ProviderError] | None) -> None:
    """The probe is a read: it bills nothing, and a wrong token shows."""
    seen: list[tuple[str, str]] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        return httpx.Response(code, json={"type": "user", "username": "acme"})

    async with replicate(reply) as provider:
        if wanted is None:
            await provider.probe()
        else:
            with pytest.raises(wanted):
                await provider.probe()
    assert seen == [("GET", "/v1/account")]


@pytest.mark.parametrize("model", CARD.models, ids=lambda model: model.name)
async def test_nothing_that_a_card_offers_gets_lost(model: ModelCard) -> None:
    """An order with every parameter and every picture of a model has an input for each of them."""
    prompt = "" if model.options.get("prompt") == "" else "a sun"
    operation = model.operations[-1]
    parameters = {name: some(one) for name, one in model.parameters_for(operation).items()}
    if "output_compression" in parameters:
        parameters["output_format"] = "jpeg"
    wanted = Generation(model.kind, operation, model.name, prompt, parameters=parameters)
    check(wanted, model)
    inputs = tuple(picture(Given(role)) for role in model.inputs)
    asks = await asked(Order(wanted, model.name, "attempt-1", inputs=inputs))
    asks.pop("num_outputs", None)
    assert len(asks) == len(parameters) + len(inputs) + bool(prompt)


def some(parameter: Parameter) -> Any:
    """A value that a parameter takes."""
    if parameter.values:
        return parameter.values[-1]
    return {"boolean": True, "string": "a moon"}.get(parameter.type, parameter.default or parameter.min or 7)


@pytest.mark.parametrize(
    ("model", "members", "price"),
    [
        (SCHNELL, {"n": 6}, 18_000),
        (DEV, {}, 25_000),
        (PRO, {"size": "1440x1440"}, 40_000),
        ("black-forest-labs/flux-kontext-max", {}, 80_000),
        ("ideogram-ai/ideogram-v3-balanced", {"n": 2}, 120_000),
        (VEO, {}, 3_200_000),
        (VEO, {"parameters": {"seconds": 4, "generate_audio": False}}, 800_000),
        ("google/veo-3.1-fast", {"parameters": {"generate_audio": False}}, 800_000),
        ("kwaivgi/kling-v2.1", {"parameters": {"seconds": 10}}, 500_000),
        ("kwaivgi/kling-v2.1", {"parameters": {"mode": "pro"}}, 450_000),
        (KLING, {}, 1_120_000),
        (KLING, {"parameters": {"seconds": 3, "mode": "standard", "generate_audio": True}}, 756_000),
        (KLING, {"parameters": {"mode": "4k"}}, 2_100_000),
        ("bytedance/seedance-2.0", {"parameters": {"resolution": "1080p"}}, 2_250_000),
        ("bytedance/seedance-2.0-fast", {}, 750_000),
        ("wan-video/wan-2.2-i2v-fast", {"n": 2}, 100_000),
        ("wan-video/wan-2.2-i2v-fast", {"parameters": {"resolution": "720p", "interpolate_output": True}}, 145_000),
        ("prunaai/p-video", {"parameters": {"draft": True}}, 25_000),
        ("prunaai/p-video", {"parameters": {"resolution": "1080p", "seconds": 1}}, 40_000),
    ],
)
def test_prices_are_replicates(model: str, members: dict[str, Any], price: int) -> None:
    """Pictures are priced each, films by the second or each, by what decides at Replicate."""
    card = CARD.model(model)
    assert card is not None
    wanted = Generation(card.kind, card.operations[0], model, prompt="-", **members)
    check(wanted, card)
    assert quote(wanted, card, card.price) == price


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        (SCHNELL, {"n": 11}, "n"),
        (SCHNELL, {"size": "1000x1000"}, "size"),
        (SCHNELL, {"parameters": {"steps": 5}}, "steps"),
        (SCHNELL, {"parameters": {"output_format": "jpg"}}, "output_format"),
        (PRO, {"size": "1472x1024"}, "size"),
        ("black-forest-labs/flux-1.1-pro-ultra", {"size": "1024x1024"}, "size"),
        (VEO, {"parameters": {"seconds": 5}}, "seconds"),
        ("kwaivgi/kling-v2.1", {"aspect_ratio": "16:9"}, "aspect_ratio"),
        ("bytedance/seedance-2.0-fast", {"parameters": {"resolution": "1080p"}}, "resolution"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_the_card(model: str, members: dict[str, Any], param: str) -> None:
    """The member that a model cannot honour is named before anything is sent."""
    card = CARD.model(model)
    assert card is not None
    with pytest.raises(GatewayError) as caught:
        check(Generation(card.kind, card.operations[0], model, prompt="-", **members), card)
    assert caught.value.param == param
