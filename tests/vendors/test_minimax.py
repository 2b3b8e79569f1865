"""MiniMax: what its recordings do not show. Those were written after the documentation, not taken from the service."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.core.admission import check, open_catalog
from gateway.core.errors import GatewayError
from gateway.core.pricing import quote
from gateway.core.settings import load
from providers.card import Card
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Callback,
    Done,
    Generation,
    Input,
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
from tests.providers.sockets import Behaviour, answers, answers_half, hangs_up, resets, says_nothing, upstream

KEY = "eyJhbGciOi-test-0123456789abcdef"
REGISTRY = Registry.load()
CARD = REGISTRY.cards["minimax"]
DATA = b"\x89PNG not really"
ADDRESS = f"data:image/png;base64,{b64encode(DATA).decode()}"
CALLBACK = "https://gateway.example/callbacks/8f14e45fceea167a"
OK = {"status_code": 0, "status_msg": "success"}
HAILUO, HAILUO_02, FAST = "MiniMax-Hailuo-2.3", "MiniMax-Hailuo-02", "MiniMax-Hailuo-2.3-Fast"
H3, H3_MAX, H3_REFERENCE, H3_IMAGE = "MiniMax-H3", "MiniMax-H3-Max", "MiniMax-H3/reference", "MiniMax-H3-Image"

Handler = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def minimax(
    handler: Handler | None = None, *, card: Card = CARD, base_url: str | None = None, timeout: float = 5.0
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    transport = httpx.MockTransport(handler) if handler else None
    hasty = msgspec.structs.replace(card, timeout=timeout)
    provider = REGISTRY.build("minimax", hasty, base_url=base_url, secrets={"api_key": KEY}, transport=transport)
    try:
        yield provider
    finally:
        await provider.http.close()


def order(model: str, *roles: Role, callback_url: str | None = None, **members: Any) -> Order:
    """An order of a generation with these members, and with a picture for each role."""
    card = CARD.model(model)
    assert card is not None
    operation = Operation.EDIT if Role.IMAGE in roles else Operation.GENERATION
    wanted = Generation(card.kind, operation, model, **{"prompt": "a sun", **members})
    inputs = tuple(Input(role, "image/png", DATA, 640, 640) for role in roles)
    return Order(wanted, model, "attempt-1", callback_url=callback_url, inputs=inputs)


def taken(request: httpx.Request, number: int = 1) -> httpx.Response:
    """What each of the four APIs answers to an order."""
    if "image" in request.url.path:
        data = (
            [{"url": "https://cdn.test/a"}] if "images" in request.url.path else {"image_urls": ["https://cdn.test/a"]}
        )
        return httpx.Response(200, json={"data": data, "base_resp": OK})
    return httpx.Response(200, json={"task_id": str(number), "base_resp": OK})


async def sent(one: Order) -> list[httpx.Request]:
    """The requests of a submit."""
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return taken(request, len(seen))

    async with minimax(take) as provider:
        await provider.submit(one)
    return seen


async def body(one: Order) -> dict[str, Any]:
    """The one body that a submit sends."""
    (request,) = await sent(one)
    read: dict[str, Any] = json.loads(request.content)
    return read


async def refused(one: Order) -> Refused:
    """The refusal of an order that is not sent."""
    async with minimax(lambda request: pytest.fail("an order was sent")) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(one)
    return caught.value


async def drawn(answer: dict[str, Any], model: str = "image-01", n: int = 1) -> Done:
    """What an order for pictures returns that is answered with this."""
    async with minimax(lambda request: httpx.Response(200, json=answer)) as provider:
        done = await provider.submit(order(model, n=n))
    assert isinstance(done, Done)
    return done


async def failure(answer: httpx.Response, *, poll: str | None = None, model: str = HAILUO) -> ProviderError:
    """The error of an order that is answered with this, or of a look at a job."""
    async with minimax(lambda request: answer) as provider:
        with pytest.raises(ProviderError) as caught:
            await (provider.poll(poll) if poll else provider.submit(order(model)))
    return caught.value


def resp(code: int, message: str = "-") -> httpx.Response:
    """A failure with status 200."""
    return httpx.Response(200, json={"base_resp": {"status_code": code, "status_msg": message}})


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (order("image-01"), {"model": "image-01", "prompt": "a sun"}),
        (
            order("image-01", Role.REFERENCE, aspect_ratio="21:9", parameters={"prompt_optimizer": True}),
            {
                "model": "image-01", "prompt": "a sun", "aspect_ratio": "21:9", "prompt_optimizer": True,
                "subject_reference": [{"type": "character", "image_file": ADDRESS}],
            },
        ),
        (
            order("image-01-live", size="720x1280", extras={"style": {"style_type": "a", "style_weight": 1}}),
            {
                "model": "image-01-live", "prompt": "a sun", "aspect_ratio": "9:16",
                "style": {"style_type": "a", "style_weight": 1},
            },
        ),
        (
            order(H3_IMAGE, Role.IMAGE, Role.IMAGE, size="1024x1024"),
            {
                "model": H3_IMAGE, "prompt": "a sun", "size": "1024x1024", "response_format": "url",
                "images": [{"image_url": ADDRESS}, {"image_url": ADDRESS}],
            },
        ),
        (order(HAILUO), {"model": HAILUO, "prompt": "a sun"}),
        (order(FAST, Role.FIRST_FRAME, prompt=""), {"model": FAST, "first_frame_image": ADDRESS}),
        (
            order(HAILUO_02, Role.FIRST_FRAME, Role.LAST_FRAME, parameters={"seconds": 6, "fast_pretreatment": True}),
            {
                "model": HAILUO_02, "prompt": "a sun", "duration": 6, "fast_pretreatment": True,
                "first_frame_image": ADDRESS, "last_frame_image": ADDRESS,
            },
        ),
        (
            order("S2V-01", Role.REFERENCE),
            {
                "model": "S2V-01", "prompt": "a sun",
                "subject_reference": [{"type": "character", "image": [ADDRESS]}],
            },
        ),
    ],
)  # fmt: skip
async def test_only_what_the_caller_gave_is_sent(one: Order, expected: dict[str, Any]) -> None:
    """Each of the APIs gets the caller's members under its own names, and no others."""
    assert await body(one) == expected


@pytest.mark.parametrize(
    ("roles", "model", "ratio", "items"),
    [
        ([], H3, "16:9", []),
        ([Role.FIRST_FRAME, Role.LAST_FRAME], H3, "adaptive", ["first_frame", "last_frame"]),
        ([Role.REFERENCE, Role.REFERENCE], H3_REFERENCE, "adaptive", ["reference_image", "reference_image"]),
    ],
)
async def test_what_h3_insists_on_is_always_sent(roles: list[Role], model: str, ratio: str, items: list[str]) -> None:
    """Length, resolution and shape are named in every order, as the card says; pictures have their roles."""
    pictures = [{"type": "image_url", "image_url": {"url": ADDRESS}, "role": role} for role in items]
    assert await body(order(model, *roles)) == {
        "model": "MiniMax-H3",
        "content": [{"type": "text", "text": "a sun"}, *pictures],
        "duration": 5,
        "resolution": "768P",
        "ratio": ratio,
    }


async def test_a_shape_of_references_is_kept() -> None:
    """A film of references has the shape that is asked for, and what is asked for goes before the card's defaults."""
    asked = order(H3_REFERENCE, Role.REFERENCE, aspect_ratio="1:1", parameters={"seconds": 15, "resolution": "2K"})
    made = await body(asked)
    assert (made["ratio"], made["duration"], made["resolution"]) == ("1:1", 15, "2K")


@pytest.mark.parametrize("model", [HAILUO, H3])
async def test_the_callback_address_is_handed_over_as_it_is(model: str) -> None:
    """Films take the address at which to tell of them, and have no such member without one."""
    assert (await body(order(model, callback_url=CALLBACK)))["callback_url"] == CALLBACK
    assert "callback_url" not in await body(order(model))


@pytest.mark.parametrize(
    ("one", "path"),
    [
        (order("image-01"), "/v1/image_generation"),
        (order(H3_IMAGE), "/v1/images/generations"),
        (order(H3_IMAGE, Role.IMAGE), "/v1/images/edits"),
        (order(HAILUO), "/v1/video_generation"),
        (order(H3), "/v2/video_generation"),
        (order(H3_MAX), "/v2/video_generation"),
    ],
)
async def test_each_model_is_asked_where_it_is(one: Order, path: str) -> None:
    """An order is one POST to the API of its model, with the key in its header."""
    (request,) = await sent(one)
    assert (request.method, str(request.url)) == ("POST", f"https://api.minimax.io{path}")
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("one", "param"),
    [
        (order("image-01", size="1024x1024", aspect_ratio="1:1"), "size"),
        (order(H3_IMAGE, size="1024x1024", aspect_ratio="1:1"), "size"),
        (order(H3_IMAGE, size="1024x1024", parameters={"resolution": "1K"}), "size"),
        (order(H3_IMAGE, parameters={"disable_prompt_enhanced": True}), "disable_prompt_enhanced"),
        (order(H3, Role.FIRST_FRAME, aspect_ratio="1:1"), "aspect_ratio"),
    ],
)
async def test_what_excludes_each_other_is_refused_before_anything_is_sent(one: Order, param: str) -> None:
    """What the vendor would leave out in silence is refused here, by the name of the member."""
    assert (await refused(one)).param == param


async def test_prompt_enhancement_may_be_left_out_where_a_shape_is_given() -> None:
    """The vendor's condition for that is met by a shape."""
    made = await body(order(H3_IMAGE, aspect_ratio="3:2", parameters={"disable_prompt_enhanced": True}))
    assert (made["disable_prompt_enhanced"], made["aspect_ratio"]) == (True, "3:2")


async def test_films_are_ordered_one_by_one() -> None:
    """Three films are three orders with seeds that differ, and one job."""
    requests = await sent(order(H3, n=3, parameters={"seed": 7}))
    assert sorted(json.loads(one.content)["seed"] for one in requests) == [7, 8, 9]
    assert len(await sent(order("image-01", n=9))) == 1


async def test_the_films_of_one_order_are_looked_at_together() -> None:
    """Of two tasks the one that went well is delivered, whatever became of the other."""

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
            return taken(request, len(posted))
        if request.url.path.endswith("retrieve"):
            return httpx.Response(200, json={"file": {"download_url": "https://cdn.test/v.mp4"}, "base_resp": OK})
        status = "Success" if request.url.params["task_id"] == "1" else "Fail"
        return httpx.Response(200, json={"status": status, "file_id": 17, "base_resp": OK})

    posted: list[httpx.Request] = []
    async with minimax(reply) as provider:
        pending = await provider.submit(order(HAILUO, n=2))
        assert isinstance(pending, Pending)
        done = await provider.poll(pending.job)
    assert isinstance(done, Done)
    assert [one.url for one in done.outputs] == ["https://cdn.test/v.mp4"]


@pytest.mark.parametrize(
    ("data", "metadata", "n", "delivered"),
    [
        ({"image_urls": ["a", "b"]}, {"success_count": "2", "failed_count": "1"}, 3, 2),
        ({"image_urls": ["a", "", None, 7]}, {"success_count": 1, "failed_count": 3}, 4, 1),
        ({"image_base64": ["QUJD", "!", ""]}, None, 3, 1),
        ({"image_urls": ["a", "b"]}, {}, 1, 1),
    ],
)
async def test_the_pictures_that_were_made_are_delivered(data: Any, metadata: Any, n: int, delivered: int) -> None:
    """Withheld and senseless entries do not spoil the others; nobody gets more than was ordered."""
    done = await drawn({"data": data, "metadata": metadata, "base_resp": OK}, n=n)
    assert len(done.outputs) == delivered
    assert done.usage == (metadata or None)
    assert done.cost is None


@pytest.mark.parametrize("counts", [{"failed_count": "2"}, {"failed_count": 2}])
async def test_pictures_that_are_all_withheld_are_blocked(counts: dict[str, Any]) -> None:
    """A success without a picture is the content filter's work when the vendor counts failures, else nonsense."""
    withheld = httpx.Response(200, json={"data": {"image_urls": []}, "metadata": counts, "base_resp": OK})
    assert isinstance(await failure(withheld, model="image-01"), Blocked)
    for none in ({}, {"failed_count": "0"}, {"failed_count": 0}, {"failed_count": None}):
        nothing = httpx.Response(200, json={"data": {}, "metadata": none, "base_resp": OK})
        assert type(await failure(nothing, model="image-01")) is Broken


async def test_tokens_are_charged_by_the_vendors_count() -> None:
    """H3 Image costs what its usage says; one that does not add up is left to the price of a picture."""
    usage = {"input_tokens": 120, "output_tokens": 8000, "total_tokens": 8120,
             "input_tokens_details": {"text_tokens": 20, "image_tokens": 100}}  # fmt: skip
    made: dict[str, Any] = {"data": [{"url": "a", "b64_json": "QUI="}, {"b64_json": "QUJD"}, {}, "b"], "usage": usage}
    done = await drawn(made, H3_IMAGE, n=4)
    assert done.outputs == (Output(url="a"), Output(data=b"ABC"))
    # 20 x 2.30 + 100 x 1.50 + 8000 x 3.80, in micro-USD.
    assert (done.cost, done.usage) == (30_596, usage)
    assert (await drawn(made | {"usage": usage | {"total_tokens": 9}}, H3_IMAGE)).cost is None
    assert (await drawn(made | {"usage": None}, H3_IMAGE)).cost is None


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (1002, RateLimited), (1039, RateLimited), (2045, RateLimited),
        (1008, RateLimited), (1028, RateLimited), (1030, RateLimited), (2056, RateLimited),
        (1004, BadCredential), (2038, BadCredential), (2049, BadCredential), (2061, BadCredential),
        (1026, Blocked), (1027, Blocked), (2013, Refused), (1042, Refused),
        (1000, Unsure), (1001, Unsure), (1024, Unsure), (1033, Unsure), (9999, Broken),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", [HAILUO, "image-01"])
async def test_a_failure_with_status_200_is_one(code: int, wanted: type[ProviderError], model: str) -> None:
    """Each code means what the card says; what went wrong behind the vendor's door may have been bought."""
    error = await failure(resp(code, "no"), model=model)
    assert type(error) is wanted
    assert (error.message, error.code) == ("no", str(code))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (resp(1000), Unavailable),
        (resp(1001), Unavailable),
        (resp(9999), Unavailable),
        (resp(1002), RateLimited),
        (resp(1004), BadCredential),
        (resp(2013), Broken),
        (resp(1027), Blocked),
        (httpx.Response(502, text="<html>"), Unavailable),
        (httpx.Response(404, json={}), Broken),
    ],
)
@pytest.mark.parametrize("job", ["v1:17", "v2:17"])
async def test_a_look_that_fails_says_nothing_about_the_order(
    answer: httpx.Response, wanted: type[ProviderError], job: str
) -> None:
    """A look is no purchase: what went wrong with it is looked for again, unless the task is unknown."""
    assert type(await failure(answer, poll=job)) is wanted


@pytest.mark.parametrize(
    ("answer", "wanted", "message"),
    [
        ({"status": "Fail", "base_resp": OK}, Broken, "MiniMax gave no reason"),
        ({"status": "fail", "error_message": "odd", "base_resp": OK}, Broken, "odd"),
        ({"status": "Fail", "base_resp": {"status_code": 1002, "status_msg": "busy"}}, Broken, "busy"),
        ({"status": "Fail", "base_resp": {"status_code": 1026, "status_msg": "no"}}, Blocked, "no"),
        ({"status": "Success", "base_resp": OK}, Broken, "MiniMax does not say how its task stands"),
    ],
)
async def test_a_film_that_failed_is_final(answer: Any, wanted: type[ProviderError], message: str) -> None:
    """Whatever the reason of a failed task is called, it is not looked at again."""
    error = await failure(httpx.Response(200, json=answer), poll="v1:17")
    assert (type(error), error.message) == (wanted, message)


@pytest.mark.parametrize(
    ("task", "wanted", "code"),
    [
        ({"status": "failed", "error": {"code": 1027, "message": "no"}}, Blocked, "1027"),
        ({"status": "failed", "error": {"code": "x", "message": "sensitive (1026)"}}, Blocked, "1026"),
        ({"status": "failed", "error": {"code": "rate_limit_error", "message": "busy"}}, Broken, "rate_limit_error"),
        ({"status": "failed"}, Broken, "failed"),
        ({"status": "expired"}, Broken, "expired"),
        ({"status": "succeeded"}, Broken, None),
        ({"status": "succeeded", "content": {"url": ""}}, Broken, None),
        ({}, Broken, None),
        (None, Broken, None),
    ],
)
async def test_an_h3_task_that_failed_is_final(task: Any, wanted: type[ProviderError], code: str | None) -> None:
    """The code of a failed task counts, also the one that stands only in its words."""
    error = await failure(httpx.Response(200, json={"task": task}), poll="v2:17")
    assert (type(error), error.code) == (wanted, code)


async def test_a_film_is_described_as_the_vendor_does() -> None:
    """The size of an older film, and length and usage of a newer one, are passed on; nonsense in them is not."""
    replies = {
        "/v1/query/video_generation": {
            "status": "SUCCESS", "file_id": 17, "video_width": 1366, "video_height": 768, "base_resp": OK,
        },
        "/v1/files/retrieve": {"file": {"download_url": "https://cdn.test/v.mp4"}, "base_resp": OK},
        "/v2/query/video_generation/17": {
            "task": {"status": "succeeded", "content": {"url": "https://cdn.test/w.mp4"}, "duration": 5,
                     "usage": {"total_seconds": 5}},
        },
        "/v2/query/video_generation/18": {
            "task": {"status": "succeeded", "content": {"url": "https://cdn.test/x.mp4"}, "duration": "5", "usage": 1},
        },
    }  # fmt: skip
    async with minimax(lambda request: httpx.Response(200, json=replies[request.url.path])) as provider:
        assert await provider.poll("v1:17") == Done(
            (Output("video/mp4", url="https://cdn.test/v.mp4", width=1366, height=768),)
        )
        assert await provider.poll("v2:17") == Done(
            (Output("video/mp4", url="https://cdn.test/w.mp4", seconds=5.0),), usage={"total_seconds": 5}
        )
        assert await provider.poll("v2:18") == Done((Output("video/mp4", url="https://cdn.test/x.mp4"),))


async def test_the_vendors_words_are_read_and_cleaned() -> None:
    """A refusal names the size when it is about that, and never our key or an address."""
    error = await failure(resp(2013, f"invalid params, width of {KEY}, see https://x.test/y"))
    assert (error.message, error.param) == ("invalid params, width of [removed], see [removed]", "size")
    assert (await failure(resp(2013, "invalid params, prompt"))).param is None
    assert (await failure(resp(1026, "sensitive at any size"))).param is None


@pytest.mark.parametrize(
    ("status", "answer", "wanted", "code"),
    [
        (400, {"error": {"message": "bad", "type": "bad_request_error"}}, Refused, "bad_request_error"),
        (400, {"error": {"message": "bad", "type": "invalid_request_error", "code": "x"}}, Refused, "x"),
        (400, {"base_resp": {"status_code": 1026, "status_msg": "no"}}, Blocked, "1026"),
        (402, {"error": {"message": "(1008)", "type": "?"}}, RateLimited, "1008"),
        (402, {"error": {"message": "no", "type": "insufficient_balance_error"}}, RateLimited,
         "insufficient_balance_error"),
        (422, {"error": {"message": "sensitive", "type": "unprocessable_entity_error"}}, Blocked,
         "unprocessable_entity_error"),
        (422, {"error": {"message": "odd (2013)", "type": "unprocessable_entity_error"}}, Refused, "2013"),
        (500, {"error": {"message": "no", "type": "server_error"}}, Unsure, "server_error"),
        (500, {"base_resp": "x"}, Unsure, None),
        (500, {"base_resp": {"status_code": 0, "status_msg": "success"}}, Unsure, None),
        (504, "late", Unsure, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", [H3, H3_IMAGE])
async def test_a_failure_with_a_status_is_read_in_any_of_its_shapes(
    status: int, answer: Any, wanted: type[ProviderError], code: str | None, model: str
) -> None:
    """The newer APIs have a status, and the older ones' code in their words; which shape H3 Image has is not known."""
    error = await failure(httpx.Response(status, json=answer), model=model)
    assert (type(error), error.code) == (wanted, code)


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ({"challenge": "1a3cs1j-601a"}, {"challenge": "1a3cs1j-601a"}),
        ({"task_id": "17", "status": "processing", "base_resp": OK}, None),
        ({"task_id": "17", "status": "success", "file_id": "18", "base_resp": OK}, None),
        ({"task": {"id": "17", "status": "succeeded"}}, None),
    ],
)
async def test_a_callback_is_heard(told: Any, answer: Any) -> None:
    """A challenge is answered with itself, and word of a task with nothing."""
    async with minimax(lambda request: pytest.fail("a callback made a call")) as provider:
        assert await provider.hear(Callback({}, json.dumps(told).encode())) == answer


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[" * 100_000, b"[]", b"7", b"{}", b'{"challenge": {"a": 1}}', b'{"a":1}']
)
async def test_what_is_no_callback_is_refused(text: bytes) -> None:
    """There is no signature to check, but what has neither a challenge nor a task is not the vendor's."""
    async with minimax(lambda request: pytest.fail("a callback made a call")) as provider:
        with pytest.raises(Refused):
            await provider.hear(Callback({}, text))


@pytest.mark.parametrize(
    ("job", "status", "calls"),
    [
        ("v1:17", None, []),
        ("v2:17", "running", ["GET"]),
        ("v2:17", "succeeded", ["GET"]),
        ("v2:17", "queued", ["GET", "DELETE"]),
    ],
)
async def test_only_a_task_that_waits_is_taken_out(job: str, status: str | None, calls: list[str]) -> None:
    """A film that is being made, or is done, is not deleted, and nobody takes it for stopped."""
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return httpx.Response(200, json={"task": {"status": status}})

    async with minimax(reply) as provider:
        if status == "queued":
            await provider.cancel(job)
        else:
            with pytest.raises(Refused):
                await provider.cancel(job)
    assert seen == calls


@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
@pytest.mark.parametrize("model", ["image-01", H3_IMAGE, HAILUO, H3])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour, model: str) -> None:
    """However the connection dies after the order was read, the vendor got it exactly once."""
    async with upstream(behave) as server, minimax(base_url=server.base_url, timeout=0.3) as provider:
        with pytest.raises(Unsure):
            await provider.submit(order(model))
        assert len(server.requests) == 1


async def test_an_unreachable_vendor_is_unavailable() -> None:
    """An order that never left may be sent elsewhere."""
    async with upstream(answers) as server:
        gone = server.base_url
    async with minimax(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order(HAILUO))


def test_both_clouds_can_be_used_at_once(tmp_path: Path) -> None:
    """The vendor's own variable moves the one provider to the mainland; a second one has its own key and address."""
    text = """
        [providers.minimax-cn]
        vendor = "minimax"
        base_url = "https://api.minimaxi.com"
        credentials_env = { api_key = "MINIMAX_CN_KEY" }
        only_models = ["image-01"]
    """
    (tmp_path / "heliograph.toml").write_text(text)
    keys = {"MINIMAX_API_KEY": "global", "MINIMAX_CN_KEY": "mainland"}
    both = open_catalog(load(keys, tmp_path / "heliograph.toml")).providers
    assert {
        name: (both[name].http.base_url, both[name].http.secrets["api_key"]) for name in ("minimax", "minimax-cn")
    } == {
        "minimax": ("https://api.minimax.io", "global"),
        "minimax-cn": ("https://api.minimaxi.com", "mainland"),
    }
    moved = {"MINIMAX_API_KEY": "k", "MINIMAX_API_HOST": "https://api.minimaxi.com/"}
    assert open_catalog(load(moved, Path("/dev/null"))).providers["minimax"].http.base_url == "https://api.minimaxi.com"


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (httpx.Response(200, json={"items": [], "total": 0}), None),
        (resp(1004), BadCredential),
        (httpx.Response(401, json={"error": {"type": "authorized_error", "message": "(1004)"}}), BadCredential),
        (httpx.Response(502), Unavailable),
    ],
)
async def test_the_probe_asks_for_the_list_of_tasks(answer: httpx.Response, wanted: type[ProviderError] | None) -> None:
    """The probe is a read: it bills nothing, and a wrong key shows."""
    seen: list[tuple[str, str]] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        return answer

    async with minimax(reply) as provider:
        if wanted is None:
            await provider.probe()
        else:
            with pytest.raises(wanted):
                await provider.probe()
    assert seen == [("GET", "/v2/query/video_generation")]


@pytest.mark.parametrize(
    ("model", "members", "price"),
    [
        ("image-01", {"n": 9}, 31_500),
        ("image-01-live", {}, None),
        (H3_IMAGE, {}, 90_000),
        (H3_IMAGE, {"size": "1024x1024", "n": 10}, 300_000),
        (H3_IMAGE, {"size": "4096x4096"}, 90_000),
        (f"{H3_IMAGE}-Highspeed", {"parameters": {"resolution": "2K"}}, 60_000),
        (HAILUO, {}, 280_000),
        (HAILUO, {"parameters": {"seconds": 10}, "n": 2}, 1_120_000),
        (HAILUO, {"parameters": {"resolution": "1080P"}}, 490_000),
        (HAILUO, {"parameters": {"resolution": "1080P", "seconds": 10}}, None),
        (FAST, {"parameters": {"resolution": "768P", "seconds": 10}}, 320_000),
        (HAILUO_02, {"parameters": {"resolution": "512P"}}, 100_000),
        ("S2V-01", {}, None),
        (H3, {}, 400_000),
        (H3, {"parameters": {"resolution": "2K", "seconds": 15}}, 1_950_000),
        (H3_REFERENCE, {"n": 4}, 1_600_000),
        (H3_MAX, {"parameters": {"resolution": "480P"}}, 250_000),
    ],
)
def test_prices_are_minimaxs(model: str, members: dict[str, Any], price: int | None) -> None:
    """Films cost by resolution and length; what is not made, or has no known price, has none."""
    card = CARD.model(model)
    assert card is not None
    wanted = Generation(card.kind, Operation.GENERATION, model, prompt="-", **members)
    check(wanted, card)
    assert quote(wanted, card, card.price) == price


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        ("image-01", {"n": 10}, "n"),
        ("image-01", {"size": "1020x1024"}, "size"),
        ("image-01", {"size": "2056x1024"}, "size"),
        ("image-01", {"prompt": "a" * 1501}, "prompt"),
        ("image-01", {"aspect_ratio": "9:21"}, "aspect_ratio"),
        ("image-01-live", {"size": "1344x576"}, "size"),
        (H3_IMAGE, {"size": "8192x1024"}, "size"),
        (H3_IMAGE, {"parameters": {"resolution": "8K"}}, "resolution"),
        (HAILUO, {"parameters": {"seconds": 7}}, "seconds"),
        (HAILUO, {"parameters": {"resolution": "512P"}}, "resolution"),
        (HAILUO, {"parameters": {"seed": 7}}, "seed"),
        (HAILUO, {"aspect_ratio": "16:9"}, "aspect_ratio"),
        ("S2V-01", {"parameters": {"seconds": 6}}, "seconds"),
        ("T2V-01", {"parameters": {"resolution": "1080P"}}, "resolution"),
        (H3, {"parameters": {"seconds": 4}}, "seconds"),
        (H3, {"parameters": {"seconds": 16}}, "seconds"),
        (H3, {"parameters": {"prompt_optimizer": True}}, "prompt_optimizer"),
        (H3, {"aspect_ratio": "adaptive"}, "aspect_ratio"),
        (H3_MAX, {"parameters": {"resolution": "2K"}}, "resolution"),
        (H3_MAX, {"parameters": {"aigc_watermark": True}}, "aigc_watermark"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_the_card(model: str, members: dict[str, Any], param: str) -> None:
    """The member that a model cannot honour is named before anything is sent."""
    card = CARD.model(model)
    assert card is not None
    with pytest.raises(GatewayError) as caught:
        check(Generation(card.kind, Operation.GENERATION, model, **{"prompt": "-", **members}), card)
    assert caught.value.param == param


def test_what_goes_in_is_stated_on_the_card() -> None:
    """Which pictures a model needs or takes can be told from the card alone, frames and references apart."""
    taken = {model.name: {role: (rule.min, rule.max) for role, rule in model.inputs.items()} for model in CARD.models}
    assert taken["image-01"] == taken["image-01-live"] == {Role.REFERENCE: (0, 1)}
    assert taken[H3_IMAGE] == {Role.IMAGE: (0, 16)}
    assert taken[HAILUO] == {Role.FIRST_FRAME: (0, 1)}
    assert taken[FAST] == taken["I2V-01"] == taken["I2V-01-live"] == {Role.FIRST_FRAME: (1, 1)}
    assert taken[HAILUO_02] == taken[H3] == taken[H3_MAX] == {Role.FIRST_FRAME: (0, 1), Role.LAST_FRAME: (0, 1)}
    assert taken["S2V-01"] == {Role.REFERENCE: (1, 1)}
    assert taken[H3_REFERENCE] == {Role.REFERENCE: (1, 5)}
    assert taken["T2V-01"] == {}
