"""Stability AI: what its recordings do not show. They are written from the vendor's documents, not taken from it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from gateway.core.admission import check
from gateway.core.errors import GatewayError
from gateway.core.pricing import quote
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Generation,
    Input,
    Kind,
    Order,
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
from tests.contracts.test_provider import Given, drawn, form_of, picture
from tests.providers.sockets import Behaviour, answers_half, hangs_up, resets, says_nothing, upstream

KEY = "sk-test-0123456789abcdef"
REGISTRY = Registry.load()
CARD = REGISTRY.cards["stability"]
ROOT = "/v2beta/stable-image/"
JOB = "a6dc6c6e20acda010fe14d71f180658f2896ed9b4ec25aa99a6ff06c796987c4"
MODELS = [model.name for model in CARD.models]
PROMPTLESS = ("edit/erase", "edit/remove-background", "upscale/fast")
WHITE = drawn("RGB", "image/png")

Handler = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def stability(
    handler: Handler | None = None, *, base_url: str | None = None, timeout: float = 5.0
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    hasty = type(CARD)(**{name: getattr(CARD, name) for name in CARD.__struct_fields__} | {"timeout": timeout})
    transport = httpx.MockTransport(handler) if handler else None
    provider = REGISTRY.build("stability", hasty, base_url=base_url, secrets={"api_key": KEY}, transport=transport)
    try:
        yield provider
    finally:
        await provider.http.close()


def order(model: str = "generate/core", *roles: Role, inputs: Sequence[Input] = (), **members: Any) -> Order:
    """An order of a generation with these members, and with a picture for each role."""
    card = CARD.model(model)
    assert card is not None
    prompt = {} if model in PROMPTLESS else {"prompt": "a sun"}
    wanted = Generation(Kind.IMAGE, card.operations[-1], card.public_name, **{**prompt, **members})
    return Order(wanted, model, "attempt-1", inputs=(*inputs, *(picture(Given(role)) for role in roles)))


def made(reason: str | None = "SUCCESS", media_type: str = "image/png") -> httpx.Response:
    """The answer with a picture."""
    headers = {"content-type": media_type, "seed": "7", **({"finish-reason": reason} if reason else {})}
    return httpx.Response(200, headers=headers, content=WHITE)


def fault(status: int, name: str = "bad_request", *errors: str, **headers: str) -> httpx.Response:
    """An error as the vendor words it."""
    return httpx.Response(status, json={"id": "1", "name": name, "errors": list(errors)}, headers=headers)


async def sent(wanted: Order) -> list[httpx.Request]:
    """The requests that a submit makes."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return made()

    async with stability(keep) as provider:
        await provider.submit(wanted)
    return seen


async def form(wanted: Order) -> dict[str, str | None]:
    """The fields of the one form that is sent, None for a file."""
    (request,) = await sent(wanted)
    return form_of(request)


async def answered(wanted: Order, *answers: httpx.Response) -> Pending | Done:
    """What a submit returns whose calls are answered so."""
    left = list(answers)
    async with stability(lambda request: left.pop(0)) as provider:
        return await provider.submit(wanted)


@pytest.mark.parametrize(
    ("wanted", "path", "fields"),
    [
        (order(), "generate/core", {"prompt": "a sun"}),
        (order(prompt=""), "generate/core", {"prompt": ""}),
        (order("generate/ultra", aspect_ratio="9:21"), "generate/ultra", {"prompt": "a sun", "aspect_ratio": "9:21"}),
        (
            order("generate/ultra", Role.IMAGE, parameters={"strength": 0.5}),
            "generate/ultra",
            {"prompt": "a sun", "strength": "0.5", "image": None},
        ),
        (
            order("sd3.5-flash", parameters={"cfg_scale": 1.5, "negative_prompt": "rain"}),
            "generate/sd3",
            {"prompt": "a sun", "model": "sd3.5-flash", "cfg_scale": "1.5", "negative_prompt": "rain"},
        ),
        (
            order("sd3.5-large", Role.IMAGE, parameters={"strength": 1}),
            "generate/sd3",
            {"prompt": "a sun", "model": "sd3.5-large", "mode": "image-to-image", "strength": "1", "image": None},
        ),
        (order("edit/erase", Role.IMAGE, Role.MASK), "edit/erase", {"image": None, "mask": None}),
        (
            order("edit/inpaint", Role.IMAGE, Role.MASK, parameters={"grow_mask": 9}),
            "edit/inpaint",
            {"prompt": "a sun", "grow_mask": "9", "image": None, "mask": None},
        ),
        (
            order("edit/outpaint", Role.IMAGE, prompt="", parameters={"left": 200, "creativity": 0.25}),
            "edit/outpaint",
            {"left": "200", "creativity": "0.25", "image": None},
        ),
        (
            order("edit/search-and-replace", Role.IMAGE, parameters={"search_prompt": "moon"}),
            "edit/search-and-replace",
            {"prompt": "a sun", "search_prompt": "moon", "image": None},
        ),
        (
            order("edit/search-and-recolor", Role.IMAGE, parameters={"select_prompt": "moon"}),
            "edit/search-and-recolor",
            {"prompt": "a sun", "select_prompt": "moon", "image": None},
        ),
        (
            order("edit/remove-background", Role.IMAGE, parameters={"output_format": "webp"}),
            "edit/remove-background",
            {"output_format": "webp", "image": None},
        ),
        (order("upscale/fast", Role.IMAGE), "upscale/fast", {"image": None}),
        (
            order("upscale/conservative", Role.IMAGE, parameters={"creativity": 0.2}),
            "upscale/conservative",
            {"prompt": "a sun", "creativity": "0.2", "image": None},
        ),
        (order("control/sketch", Role.CONTROL), "control/sketch", {"prompt": "a sun", "image": None}),
        (
            order("control/structure", Role.CONTROL, parameters={"control_strength": 0}),
            "control/structure",
            {"prompt": "a sun", "control_strength": "0", "image": None},
        ),
        (
            order("control/style", Role.STYLE, size="1024x1536", parameters={"fidelity": 0.9}),
            "control/style",
            {"prompt": "a sun", "aspect_ratio": "2:3", "fidelity": "0.9", "image": None},
        ),
        (
            order("control/style-transfer", Role.IMAGE, Role.STYLE, prompt=""),
            "control/style-transfer",
            {"init_image": None, "style_image": None},
        ),
    ],
)
async def test_each_model_is_asked_in_its_own_words(wanted: Order, path: str, fields: dict[str, str | None]) -> None:
    """Endpoint and fields are those of the vendor, and nothing is sent that the caller did not give."""
    (request,) = await sent(wanted)
    assert (request.method, request.url.path) == ("POST", ROOT + path)
    assert form_of(request) == fields


@pytest.mark.parametrize("model", MODELS)
async def test_every_call_is_a_form_that_asks_for_a_picture(model: str) -> None:
    """Each model of the card is sent a multipart form, also without a file, and its answer is wanted as bytes."""
    card = CARD.model(model)
    assert card is not None
    needed = [role for role, rule in card.inputs.items() if rule.min]
    (request,) = await sent(order(model, *needed))
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert request.headers["accept"] == "image/*"
    assert request.headers["authorization"] == f"Bearer {KEY}"


async def test_a_file_travels_as_it_is() -> None:
    """An image is sent byte for byte, with a name and its media type."""
    (request,) = await sent(order("upscale/fast", inputs=[picture(Given(Role.IMAGE, "image/webp"))]))
    assert drawn("RGB", "image/webp") in request.content
    assert b'name="image"; filename="image.webp"\r\nContent-Type: image/webp' in request.content


async def test_a_mask_is_turned() -> None:
    """What is transparent in our mask is white in the vendor's, what is opaque is black, and half stays half."""
    mask = Image.new("RGBA", (3, 1), (255, 255, 255, 255))
    mask.putpixel((0, 0), (9, 9, 9, 0))
    mask.putpixel((1, 0), (9, 9, 9, 128))
    file = io.BytesIO()
    mask.save(file, "PNG")
    given = Input(Role.MASK, "image/png", file.getvalue(), 3, 1)
    (request,) = await sent(order("edit/inpaint", Role.IMAGE, inputs=[given]))
    at = request.content.index(b"\x89PNG", request.content.index(b'name="mask"'))
    turned = Image.open(io.BytesIO(request.content[at:]))
    assert (turned.mode, turned.size) == ("L", (3, 1))
    assert [turned.getpixel((x, 0)) for x in range(3)] == [255, 127, 0]


async def test_the_picture_is_delivered() -> None:
    """The body is the picture, its type is that of the answer, and the price is the card's."""
    done = await answered(order(), made(media_type="image/webp; charset=binary"))
    assert isinstance(done, Done)
    assert [(one.data, one.url, one.media_type) for one in done.outputs] == [(WHITE, None, "image/webp")]
    assert (done.cost, done.usage) == (None, None)


async def test_a_picture_without_a_reason_is_delivered() -> None:
    """What is paid for is not thrown away because a header is missing."""
    assert isinstance(await answered(order(), made(reason=None)), Done)


@pytest.mark.parametrize(("reason", "wanted"), [("CONTENT_FILTERED", Blocked), ("ERROR", Broken)])
async def test_a_picture_with_another_reason_is_withheld(reason: str, wanted: type[ProviderError]) -> None:
    """A blurred picture with status 200 is no success."""
    with pytest.raises(wanted) as caught:
        await answered(order(), made(reason))
    assert type(caught.value) is wanted
    assert caught.value.code == reason


@pytest.mark.parametrize(("given", "seeds"), [({"seed": 7}, ["7", "8", "9"]), ({}, [None, None, None])])
async def test_several_pictures_are_several_calls(given: dict[str, Any], seeds: list[str | None]) -> None:
    """Three pictures are three calls with seeds that differ: those that follow the caller's, or any."""
    forms = [form_of(one) for one in await sent(order(n=3, parameters=given))]
    assert sorted((one.get("seed") for one in forms), key=str) == seeds
    assert all(one["prompt"] == "a sun" and "n" not in one for one in forms)


async def test_a_filtered_picture_does_not_take_the_others_along() -> None:
    """Of three pictures one is filtered and one call fails: the third is delivered."""
    done = await answered(order(n=3), made("CONTENT_FILTERED"), made(), fault(400))
    assert isinstance(done, Done)
    assert len(done.outputs) == 1


@pytest.mark.parametrize("model", MODELS)
def test_seeds_stay_in_the_vendors_range(model: str) -> None:
    """The last seed of the largest order is one that the vendor takes, and none of them means any."""
    card = CARD.model(model)
    assert card is not None
    seed = card.parameters.get("seed")
    assert seed is None or (seed.min == 1 and seed.max is not None and seed.max + card.max_n - 1 <= 4294967294)


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ("1024x1024", "1:1"),
        ("1536x1024", "3:2"),
        ("1024x1536", "2:3"),
        ("1792x1024", "16:9"),
        ("1024x1792", "9:16"),
    ],
)
async def test_a_size_is_taken_for_its_shape(size: str, ratio: str) -> None:
    """Each size on the card goes out as the ratio that is nearest to it."""
    assert await form(order("generate/ultra", size=size)) == {"prompt": "a sun", "aspect_ratio": ratio}


async def test_a_size_and_a_ratio_are_not_weighed() -> None:
    """Who asks for both is refused before anything is sent."""
    with pytest.raises(Refused) as caught:
        await answered(order(size="1024x1024", aspect_ratio="1:1"))
    assert caught.value.param == "size"


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        ("edit/inpaint", {"size": "1024x1024"}, "size"),
        ("generate/core", {"size": "1000x1000"}, "size"),
        ("control/sketch", {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("generate/core", {"parameters": {"strength": 0.5}}, "strength"),
        ("generate/core", {"parameters": {"seed": 0}}, "seed"),
        ("edit/erase", {"parameters": {"grow_mask": 21}}, "grow_mask"),
        ("upscale/creative", {"n": 2}, "n"),
    ],
)
def test_the_card_refuses_what_a_model_cannot_do(model: str, members: dict[str, Any], param: str) -> None:
    """Sizes, ratios, parameters and numbers that the vendor would not honour never reach it."""
    card = CARD.model(model)
    assert card is not None
    with pytest.raises(GatewayError) as caught:
        check(order(model, **members).generation, card)
    assert caught.value.param == param


@pytest.mark.parametrize("model", PROMPTLESS)
async def test_a_prompt_is_not_dropped(model: str) -> None:
    """Where the vendor takes no prompt, one is refused rather than ignored."""
    with pytest.raises(Refused) as caught:
        await answered(order(model, Role.IMAGE, prompt="a sun"))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("model", "credits"),
    [("generate/ultra", 80), ("generate/core", 30), ("sd3.5-large", 65), ("sd3.5-large-turbo", 40),
     ("sd3.5-medium", 35), ("sd3.5-flash", 25), ("edit/erase", 50), ("edit/inpaint", 50), ("edit/outpaint", 40),
     ("edit/search-and-replace", 50), ("edit/search-and-recolor", 50), ("edit/remove-background", 50),
     ("edit/replace-background-and-relight", 80), ("upscale/fast", 20), ("upscale/conservative", 400),
     ("upscale/creative", 600), ("control/sketch", 50), ("control/structure", 50), ("control/style", 50),
     ("control/style-transfer", 80)],
)  # fmt: skip
def test_the_price_is_the_credits(model: str, credits: int) -> None:
    """A picture costs the vendor's credits at a cent each; here they are in tenths of one."""
    card = CARD.model(model)
    assert card is not None
    assert quote(order(model).generation, card, card.price) == credits * 1000


@pytest.mark.parametrize(
    ("answer", "wanted", "wait"),
    [
        (fault(429, "rate_limit_exceeded", "too fast"), RateLimited, 60.0),
        (fault(429, "rate_limit_exceeded", "too fast", **{"retry-after": "9"}), RateLimited, 9.0),
        (httpx.Response(429, text="too fast"), RateLimited, 60.0),
        (fault(402, "payment_required", "no credits"), RateLimited, 60.0),
        (fault(500, "internal_error", "oops"), Unavailable, None),
        (fault(500, "", "oops"), Unsure, None),
        (httpx.Response(504, text="<html>"), Unsure, None),
        (fault(403, "forbidden", "no"), BadCredential, None),
        (fault(422, "unprocessable_entity", "no"), Refused, None),
        (httpx.Response(400, json=["no"]), Refused, None),
        (httpx.Response(302, headers={"location": "https://elsewhere.test"}), Broken, None),
    ],
)
async def test_errors_are_told_apart(answer: httpx.Response, wanted: type[ProviderError], wait: float | None) -> None:
    """Each failure has its class, and who was too fast stays away for the vendor's minute."""
    with pytest.raises(ProviderError) as caught:
        await answered(order(), answer)
    assert type(caught.value) is wanted
    assert getattr(caught.value, "retry_after", None) == wait


async def test_the_vendors_words_go_out_clean() -> None:
    """All reasons are passed on, with the field of the first, and without key and address."""
    with pytest.raises(Refused) as caught:
        await answered(
            order(), fault(400, "bad_request", "seed: is too large", f"ask {KEY} at https://stability.test/x")
        )
    error = caught.value
    assert (error.message, error.code, error.param) == (
        "seed: is too large; ask [removed] at [removed]", "bad_request", "seed",
    )  # fmt: skip


@pytest.mark.parametrize("status", [200, 202])
async def test_a_slow_endpoint_answers_with_a_job(status: int) -> None:
    """The job is what is looked at next, no sooner than the vendor wants it."""
    wanted = order("upscale/creative", Role.IMAGE)
    assert await answered(wanted, httpx.Response(status, json={"id": JOB})) == Pending(JOB, poll_after=10.0)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (fault(404, "not_found", "id: has expired"), Broken),
        (fault(400, "bad_request", "id: is invalid"), Broken),
        (fault(403, "content_moderation", "no"), Blocked),
        (fault(500, "internal_error", "oops"), Unavailable),
        (httpx.Response(502, text="<html>"), Unavailable),
        (fault(429, "rate_limit_exceeded", "too fast"), RateLimited),
        (httpx.Response(200, json={"id": JOB}), Broken),
        (httpx.Response(200, headers={"content-type": "image/png"}), Broken),
    ],
)
async def test_a_look_is_one_call(answer: httpx.Response, wanted: type[ProviderError]) -> None:
    """A look asks once, and a job that is gone is a failed one; what says nothing of the job leaves it as it is."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with stability(keep) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.poll(JOB)
    assert type(caught.value) is wanted
    assert [(one.method, one.url.path) for one in seen] == [("GET", f"/v2beta/results/{JOB}")]


async def test_a_job_still_runs_whatever_the_body_says() -> None:
    """The status alone keeps a job alive, so that an odd body does not lose what is paid for."""
    async with stability(lambda request: httpx.Response(202, text="...")) as provider:
        assert await provider.poll(JOB) == Pending(JOB, poll_after=10.0)


async def test_a_job_does_not_leave_its_path() -> None:
    """An odd job of the vendor cannot make the key go to another address."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return made()

    async with stability(keep) as provider:
        await provider.poll("../../v1/user?x=1")
    assert seen[0].url.raw_path == b"/v2beta/results/..%2F..%2Fv1%2Fuser%3Fx%3D1"


@pytest.mark.parametrize("model", ["generate/core", "upscale/creative"])
@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour, model: str) -> None:
    """However the connection dies after the order was read, the vendor got it exactly once."""
    wanted = order(model, *([Role.IMAGE] if model != "generate/core" else []))
    async with upstream(behave) as server, stability(base_url=server.base_url, timeout=0.3) as provider:
        with pytest.raises(Unsure):
            await provider.submit(wanted)
        assert len(server.requests) == 1


async def test_an_order_on_a_dying_connection_is_not_sent_again() -> None:
    """A kept connection that dies under the order makes it unsure too."""
    async with upstream(balance, hangs_up, balance) as server, stability(base_url=server.base_url) as provider:
        await provider.probe()
        with pytest.raises(Unsure):
            await provider.submit(order())
        assert len(server.requests) == 2


async def test_an_unreachable_vendor_is_unavailable() -> None:
    """An order that never left may be sent elsewhere."""
    async with upstream(hangs_up) as server:
        gone = server.base_url
    async with stability(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order())


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (httpx.Response(200, json={"credits": 12.5}), None),
        (fault(401, "unauthorized", "authorization: invalid or missing header value"), BadCredential),
        (httpx.Response(401, json={"id": "1", "name": "unauthorized", "message": "no"}), BadCredential),
        (httpx.Response(200, text="<html>"), Broken),
    ],
)
async def test_the_probe_asks_for_the_balance(answer: httpx.Response, wanted: type[ProviderError] | None) -> None:
    """The probe is a read: it bills nothing, and a wrong key or address shows."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with stability(keep) as provider:
        (found,) = await asyncio.gather(provider.probe(), return_exceptions=True)
    assert (type(found) if found else None) is wanted
    assert [(one.method, one.url.path) for one in seen] == [("GET", "/v1/user/balance")]


async def balance(writer: asyncio.StreamWriter) -> bool:
    """Answers with a balance, and keeps the connection."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"credits":1}')
    await writer.drain()
    return True
