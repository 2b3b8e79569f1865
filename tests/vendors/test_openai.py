"""OpenAI: what its recordings do not show."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from gateway.core import inputs
from gateway.core.errors import GatewayError
from gateway.core.inputs import Upload
from gateway.core.pricing import most
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Generation,
    Input,
    Kind,
    Operation,
    Order,
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

KEY = "sk-test-0123456789abcdef"
PICTURE = b"\x89PNG not really"
B64 = base64.b64encode(PICTURE).decode()
REGISTRY = Registry.load()
CARD = REGISTRY.cards["openai"]


@asynccontextmanager
async def openai(
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    *,
    base_url: str | None = None,
    secrets: dict[str, str] | None = None,
    timeout: float = 5.0,
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    provider = REGISTRY.build(
        "openai",
        msgspec.structs.replace(CARD, timeout=timeout),
        base_url=base_url,
        secrets={"api_key": KEY} if secrets is None else secrets,
        transport=httpx.MockTransport(handler) if handler else None,
    )
    try:
        yield provider
    finally:
        await provider.http.close()


def order(model: str = "gpt-image-2", inputs: Iterable[Input] = (), **members: Any) -> Order:
    """An order with these members, of a generation unless they say otherwise."""
    asked = {"operation": Operation.GENERATION, "prompt": "a sun", **members}
    return Order(Generation(kind=Kind.IMAGE, model=model, **asked), model, "attempt-1", inputs=tuple(inputs))


def picture(role: Role = Role.IMAGE, data: bytes = PICTURE, media_type: str = "image/png") -> Input:
    """A picture of the caller."""
    return Input(role, media_type, data, 64, 64)


def edit(*inputs: Input, **members: Any) -> Order:
    """An order of an edit."""
    return order(inputs=inputs or [picture()], operation=Operation.EDIT, **members)


async def answered(body: Any, model: str = "gpt-image-2", **members: Any) -> Done:
    """What a submit returns that is answered with this body."""
    async with openai(lambda request: httpx.Response(200, json=body)) as provider:
        result = await provider.submit(order(model, **members))
    assert isinstance(result, Done)
    return result


async def sent(**members: Any) -> dict[str, Any]:
    """The body that a submit sends."""
    bodies: list[dict[str, Any]] = []

    def keep(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"data": [{"b64_json": B64}] * members.get("n", 1)})

    async with openai(keep) as provider:
        await provider.submit(order(**members))
    assert len(bodies) == 1
    return bodies[0]


async def test_only_what_the_caller_gave_is_sent() -> None:
    """No member is invented: model and prompt alone are sent when nothing else was given."""
    assert await sent() == {"model": "gpt-image-2", "prompt": "a sun"}
    assert await sent(model="some/model:v1", prompt="") == {"model": "some/model:v1", "prompt": ""}


async def test_all_that_the_caller_gave_is_sent() -> None:
    """Size, n, parameters and extras travel under their names, also those of models that the card does not know."""
    body = await sent(model="flux", n=3, size="640x480", parameters={"seed": 7}, extras={"loras": [{"name": "x"}]})
    expected = {"n": 3, "size": "640x480", "seed": 7, "loras": [{"name": "x"}]}
    assert body == {"model": "flux", "prompt": "a sun", **expected}


async def test_the_path_is_below_the_base_url() -> None:
    """A compatible upstream gets the calls under its own address, with its own key."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"data": [{"b64_json": B64}]})

    async with openai(keep, base_url="http://images.test:9000/openai/v1") as provider:
        await provider.submit(order())
    assert str(seen[0].url) == "http://images.test:9000/openai/v1/images/generations"
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_the_sdks_environment_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK would take from the environment by itself does not travel to an upstream."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-private: leaked\nauthorization: leaked")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://leaked.test")
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"data": [{"b64_json": B64}]})

    async with openai(keep, secrets={}) as provider:
        await provider.submit(order())
    assert "leaked" not in f"{seen[0].url} {seen[0].headers.raw}"


async def test_bytes_are_decoded() -> None:
    """A base64 picture becomes bytes, with the format that the vendor names."""
    result = await answered({"data": [{"b64_json": B64, "revised_prompt": "the sun"}], "output_format": "webp"})
    output = result.outputs[0]
    assert (output.data, output.url, output.media_type, output.revised_prompt) == (
        PICTURE,
        None,
        "image/webp",
        "the sun",
    )


async def test_addresses_are_taken() -> None:
    """An upstream that answers with addresses, and with nothing else that OpenAI has, is understood."""
    result = await answered({"data": [{"url": "https://cdn.test/a.png", "b64_json": None}]}, "flux")
    assert (result.outputs[0].url, result.outputs[0].data) == ("https://cdn.test/a.png", None)
    assert (result.cost, result.usage) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": []},
        {"data": [{}]},
        {"data": [{"b64_json": "", "url": ""}]},
        {"data": [{"b64_json": "***"}]},
        {"data": [{"b64_json": 7}]},
        {"data": ["", None, 3]},
        [],
        "ok",
    ],
)
async def test_an_answer_without_pictures_is_broken(body: Any) -> None:
    """An accepted order whose answer has no picture is Broken, for it may be billed."""
    with pytest.raises(Broken):
        await answered(body)


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"b64_json": B64}]},
        {"data": [{"b64_json": B64}, {}]},
        {"data": [None, {"b64_json": "***"}, {"b64_json": f"data:image/png;base64,{B64}"}]},
        {"data": [{"b64_json": "\r\n".join([B64[:20], B64[20:]])}]},
        {"data": [{"b64_json": B64.rstrip("=")}]},
        {"data": [{"b64_json": B64, "revised_prompt": 7}], "usage": [], "output_format": 3},
        {"data": [{"b64_json": B64, "url": 4}], "usage": "much"},
    ],
)
async def test_what_is_paid_for_is_delivered(body: Any) -> None:
    """The pictures that came are delivered, though fewer than ordered, oddly written, or among members of no sense."""
    result = await answered(body, n=2)
    assert [output.data for output in result.outputs] == [base64.b64decode(B64)]
    assert (result.usage, result.cost) == (None, None)


@pytest.mark.parametrize("entry", [{}, None, "x", {"b64_json": 7}, {"b64_json": "***"}])
async def test_an_entry_without_a_picture_does_not_spoil_the_others(entry: Any) -> None:
    """The good entries around a senseless one are delivered in their order, bytes and addresses alike."""
    body = {"data": [{"b64_json": B64}, entry, {"url": "https://cdn.test/b.png"}]}
    result = await answered(body, n=3)
    assert [(one.data, one.url) for one in result.outputs] == [(PICTURE, None), (None, "https://cdn.test/b.png")]


async def test_no_more_pictures_than_ordered_are_delivered() -> None:
    """Pictures beyond the order are left out, so that they are not charged; an empty entry does not count as one."""
    result = await answered({"data": [{}, *({"b64_json": B64, "revised_prompt": one} for one in "abc")]}, n=2)
    assert [one.revised_prompt for one in result.outputs] == ["a", "b"]


@pytest.mark.parametrize("odd", [7, [], {}, False])
async def test_side_members_of_another_type_are_left_out(odd: Any) -> None:
    """A revised prompt or a format that is no text is ignored, and does not travel on."""
    result = await answered({"data": [{"b64_json": B64, "revised_prompt": odd}], "output_format": odd})
    output = result.outputs[0]
    assert (output.data, output.revised_prompt, output.media_type) == (PICTURE, None, None)


EDITED = {"input_tokens_details": {"text_tokens": 18, "image_tokens": 1000}, "total_tokens": 2074}
THOUGHT = {"output_tokens_details": {"text_tokens": 100, "image_tokens": 1056}, "total_tokens": 1174}


def usage(**changes: Any) -> dict[str, Any]:
    """The account of one picture."""
    return {
        "input_tokens": 18,
        "input_tokens_details": {"text_tokens": 18, "image_tokens": 0},
        "output_tokens": 1056,
        "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
        "total_tokens": 1074,
        **changes,
    }


@pytest.mark.parametrize(
    ("model", "account", "cost"),
    [
        ("gpt-image-2", usage(), 18 * 5 + 1056 * 30),
        ("gpt-image-2.5-flare", usage(), 18 * 5 + 1056 * 30),
        ("gpt-image-2", usage(output_tokens_details=None), None),
        ("gpt-image-2", usage(total_tokens=1100), None),
        ("gpt-image-2", usage(**EDITED), 18 * 5 + 1000 * 8 + 1056 * 30),
        ("gpt-image-1.5", usage(), 18 * 5 + 1056 * 32),
        ("gpt-image-1.5", usage(**THOUGHT), 18 * 5 + 1056 * 32 + 100 * 10),
        ("gpt-image-2", usage(**THOUGHT), None),
        ("gpt-image-1-mini", usage(**EDITED), 18 * 2 + 1000 * 5 // 2 + 1056 * 8),
        ("unknown", usage(), None),
        ("gpt-image-2", None, None),
    ],
)
async def test_the_cost_is_the_vendors_count_at_the_cards_price(
    model: str, account: dict[str, Any] | None, cost: int | None
) -> None:
    """Tokens times price in micro-USD; nothing where the price or a part of the count is not known."""
    result = await answered({"data": [{"b64_json": B64}], "usage": account}, model)
    assert (result.cost, result.usage) == (cost, account)


@pytest.mark.parametrize(
    ("status", "error", "wanted"),
    [
        (429, {"type": "tokens", "code": "rate_limit_exceeded"}, RateLimited),
        (429, {"type": "insufficient_quota", "code": "credit_balance_exhausted"}, RateLimited),
        (429, {"type": "rate_limit_error", "code": "slow_down"}, RateLimited),
        (400, {"type": "invalid_request_error", "code": "billing_hard_limit_reached"}, RateLimited),
        (403, {"type": "invalid_request_error", "code": None}, BadCredential),
        (503, {"type": "service_unavailable_error", "code": "server_is_overloaded"}, Unavailable),
        (500, {"type": "server_error", "code": None}, Unsure),
        (400, {"type": "invalid_request_error", "code": "invalid_value"}, Refused),
        (307, {"type": None, "code": None}, Broken),
    ],
)
async def test_errors_are_told_apart_by_code(status: int, error: dict[str, Any], wanted: type[ProviderError]) -> None:
    """Each has its class, and the SDK tries none again; what a server in trouble says of itself is for the log."""
    calls: list[httpx.Request] = []

    def fail(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        headers = {"retry-after": "9", "x-should-retry": "true"}
        return httpx.Response(status, json={"error": {"message": f"No, {KEY}.", **error}}, headers=headers)

    async with openai(fail) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.submit(order())
    assert type(caught.value) is wanted
    if status < 500:
        assert (caught.value.message, caught.value.detail) == ("No, [removed].", None)
    else:
        assert caught.value.message == f"OpenAI answered with status {status}"
        assert "No" not in (caught.value.detail or "")
    assert getattr(caught.value, "retry_after", 9.0) == 9.0
    assert len(calls) == 1


ORDERS = {
    "generation": order(),
    "edit": edit(),
    "stream": order(partial_images=2),
    "edit stream": edit(partial_images=1),
}


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour, kind: str) -> None:
    """However the connection dies after the order was read, the vendor got it exactly once."""
    async with upstream(behave) as server, openai(base_url=server.base_url, timeout=0.3) as provider:
        with pytest.raises(Unsure):
            await provider.submit(ORDERS[kind])
        assert len(server.requests) == 1


async def test_an_order_on_a_dying_connection_is_not_sent_again() -> None:
    """A kept connection that dies under the order makes it unsure too."""
    async with upstream(answers, hangs_up, answers) as server, openai(base_url=server.base_url) as provider:
        await provider.probe()
        with pytest.raises(Unsure):
            await provider.submit(order())
        assert len(server.requests) == 2


async def test_an_unreachable_vendor_is_unavailable() -> None:
    """An order that never left may be sent elsewhere."""
    async with upstream(answers) as server:
        gone = server.base_url
    async with openai(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order())


async def test_the_probe_asks_for_models() -> None:
    """The probe is a read: it bills nothing, and a wrong key shows."""
    seen: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(401, json={"error": {"message": "no", "code": "invalid_api_key"}})

    async with openai(refuse) as provider:
        with pytest.raises(BadCredential):
            await provider.probe()
    assert [(one.method, one.url.path) for one in seen] == [("GET", "/v1/models")]


async def form(ordered: Order) -> tuple[str, list[tuple[str, str | None, str, bytes]]]:
    """The path to which an order is sent as a form, and of each of its fields name, file name, media type and data."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"data": [{"b64_json": B64}] * ordered.generation.n})

    async with openai(keep) as provider:
        await provider.submit(ordered)
    (request,) = seen
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    fields = []
    for part in email.message_from_bytes(head + request.content, policy=email.policy.HTTP).iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        fields.append((name, part.get_filename(), part.get_content_type(), bytes(part.get_payload(decode=True))))
    return request.url.path, fields


async def test_one_picture_is_edited() -> None:
    """An edit is a form of the prompt, the model and the picture with its bytes and kind, and of nothing unasked."""
    path, fields = await form(edit(picture(media_type="image/webp")))
    assert path == "/v1/images/edits"
    assert sorted(fields) == [
        ("image", "image-1.webp", "image/webp", PICTURE),
        ("model", None, "text/plain", b"gpt-image-2"),
        ("prompt", None, "text/plain", b"a sun"),
    ]


async def test_the_pictures_to_change_go_first() -> None:
    """Images go before references, each in the caller's order, and the mask goes apart."""
    inputs = [
        picture(Role.REFERENCE, b"r1"), picture(Role.MASK, b"m"), picture(Role.IMAGE, b"i1"),
        picture(Role.REFERENCE, b"r2"), picture(Role.IMAGE, b"i2", "image/jpeg"),
    ]  # fmt: skip
    _, fields = await form(edit(*inputs))
    assert [data for name, _, _, data in fields if name == "image[]"] == [b"i1", b"i2", b"r1", b"r2"]
    assert [(name, kind, data) for name, _, kind, data in fields if name == "mask"] == [("mask", "image/png", b"m")]


async def test_members_of_an_edit_are_fields() -> None:
    """What else the caller gave goes along as text, whatever its type."""
    given = {"input_fidelity": "high", "output_compression": 80, "loop": True}
    _, fields = await form(edit(n=2, size="1024x1024", parameters=given, extras={"safety_identifier": "user-7"}))
    assert {name: data.decode() for name, file, _, data in fields if file is None} == {
        "model": "gpt-image-2", "prompt": "a sun", "n": "2", "size": "1024x1024", "input_fidelity": "high",
        "output_compression": "80", "loop": "true", "safety_identifier": "user-7",
    }  # fmt: skip


async def test_a_generation_with_pictures_is_an_edit() -> None:
    """The endpoint for generations takes no pictures, so that those that go along are sent to the other one."""
    path, _ = await form(order(inputs=[picture(Role.REFERENCE)]))
    assert path == "/v1/images/edits"


async def test_a_variation_is_sent_where_an_upstream_still_makes_them() -> None:
    """A variation is a form of the model, the picture and what was given, with the credential and without a prompt."""
    ordered = order("varied", [picture()], operation=Operation.VARIATION, prompt="", n=2, size="512x512")
    path, fields = await form(ordered)
    assert path == "/v1/images/variations"
    assert sorted((name, data) for name, _, _, data in fields) == [
        ("image", PICTURE), ("model", b"varied"), ("n", b"2"), ("size", b"512x512"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ordered", "param"),
    [
        (order(operation=Operation.EDIT), "image"),
        (order(operation=Operation.VARIATION), "image"),
        (edit(picture(Role.MASK)), "image"),
        (edit(picture(), picture(Role.STYLE)), "style"),
        (edit(*[picture()] * 10, *[picture(Role.REFERENCE)] * 7), "image"),
        (order(inputs=[picture(), picture()], operation=Operation.VARIATION), "image"),
        (order(inputs=[picture(), picture(Role.MASK)], operation=Operation.VARIATION), "mask"),
    ],
)
async def test_pictures_that_do_not_fit_are_refused_unsent(ordered: Order, param: str) -> None:
    """Pictures that are missing, too many or of a role that the API has not are refused, and nothing is sent."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")

    async with openai(fail) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(ordered)
    assert caught.value.param == param


def event(kind: str, data: bytes = PICTURE, **members: Any) -> dict[str, Any]:
    """An event with a picture."""
    return {"type": f"image_generation.{kind}", "b64_json": base64.b64encode(data).decode(), **members}


def stream(*events: Any, end: str = "") -> bytes:
    """The body of a stream; a text among the events goes into it as it is."""
    texts = (one if isinstance(one, str) else f"data: {json.dumps(one)}\n\n" for one in events)
    return ("".join(texts) + end).encode()


def streaming(*events: Any, end: str = "") -> Callable[[httpx.Request], httpx.Response]:
    """Answers with a stream of these events."""
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return lambda request: httpx.Response(200, headers=headers, content=stream(*events, end=end))


async def followed(handler: Callable[[httpx.Request], httpx.Response], ordered: Order) -> tuple[Done, list[Progress]]:
    """What an order returns, and what it reports on the way."""
    reports: list[Progress] = []

    async def report(progress: Progress) -> None:
        reports.append(progress)

    async with openai(handler) as provider:
        result = await provider.submit(msgspec.structs.replace(ordered, report=report))
    assert isinstance(result, Done)
    return result, reports


ACCOUNT = usage(output_tokens=1256, total_tokens=1274)
del ACCOUNT["output_tokens_details"]


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n", "data: not ours"])
async def test_previews_are_reported_and_the_picture_is_delivered(end: str) -> None:
    """Each partial image is reported when it comes, and the final event is the result, whatever comes after it."""
    previews = [
        event("partial_image", b"one", partial_image_index=0, output_format="jpeg"),
        ": still here\n\n",
        event("partial_image", b"two", partial_image_index=1),
    ]
    final = event("completed", revised_prompt="the sun", output_format="jpeg", usage=ACCOUNT)
    result, reports = await followed(streaming(*previews, final, end=end), order(partial_images=2))
    (output,) = result.outputs
    assert (output.data, output.media_type, output.revised_prompt) == (PICTURE, "image/jpeg", "the sun")
    seen = [(one.preview.data, one.preview.media_type, one.preview.index) for one in reports if one.preview]
    assert seen == [(b"one", "image/jpeg", 0), (b"two", "image/png", 1)]
    assert [one.fraction for one in reports] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]


async def test_a_streams_count_is_priced() -> None:
    """The account of a final event says nothing of its output but the number, which is all of the picture."""
    final = event("completed", usage=ACCOUNT)
    result, _ = await followed(streaming(final), order(partial_images=2))
    assert result.cost == 18 * 5 + 1256 * 30
    assert result.usage == {**ACCOUNT, "output_tokens_details": {"image_tokens": 1256}}
    silent, _ = await followed(streaming(event("completed", usage="much")), order(partial_images=2))
    assert (silent.cost, silent.usage) == (None, None)


async def test_an_edit_is_streamed() -> None:
    """The events of an edit have names of their own, and are read like the others."""
    final = event("completed") | {"type": "image_edit.completed"}
    preview = event("partial_image", b"one") | {"type": "image_edit.partial_image"}
    result, reports = await followed(streaming(preview, final), edit(partial_images=1))
    assert [one.data for one in result.outputs] == [PICTURE]
    assert [one.preview and one.preview.data for one in reports] == [b"one"]


async def test_a_stream_is_asked_for_with_its_previews_alone() -> None:
    """Without previews nothing is said of streams, which an upstream may not know; with them the two members are."""
    assert (await sent(partial_images=2)).items() >= {"stream": True, "partial_images": 2}.items()
    assert not {"stream", "partial_images"} & set(await sent(partial_images=0))


async def test_an_upstream_that_does_not_stream_is_understood() -> None:
    """A stream that was answered as a whole brings its pictures all the same."""
    whole = {"data": [{"b64_json": B64}], "usage": usage()}
    result, reports = await followed(lambda request: httpx.Response(200, json=whole), order(partial_images=3))
    assert [one.data for one in result.outputs] == [PICTURE]
    assert (result.cost, reports) == (18 * 5 + 1056 * 30, [])


async def test_a_stream_that_nobody_asked_for_is_understood() -> None:
    """An upstream that always streams has its pictures delivered too."""
    result, _ = await followed(streaming(event("partial_image"), event("completed")), order())
    assert [one.data for one in result.outputs] == [PICTURE]


async def test_more_previews_than_asked_for_do_not_finish_the_order() -> None:
    """However many previews come, the order counts as done only with its picture."""
    events = [event("partial_image")] * 3
    _, reports = await followed(streaming(*events, event("completed")), order(partial_images=1))
    assert [one.fraction for one in reports] == [0.5, 0.5, 0.5]


async def test_previews_that_nobody_can_see_are_left_out() -> None:
    """A preview without a readable picture, and events of other kinds, are passed over."""
    odd = [event("partial_image") | {"b64_json": "***"}, {"type": "keepalive"}, [], "data: 7\n\n"]
    result, reports = await followed(streaming(*odd, event("completed")), order(partial_images=2))
    assert (len(result.outputs), reports) == (1, [])


async def test_several_pictures_of_a_stream_are_delivered() -> None:
    """Where an upstream streams several pictures each is delivered, and their previews are counted through."""
    events = [event("partial_image", b"p1"), event("completed", b"one", usage=ACCOUNT), event("partial_image", b"p2"),
              event("partial_image", b"p3"), event("completed", b"two", usage=ACCOUNT)]  # fmt: skip
    result, reports = await followed(streaming(*events), order(n=2, partial_images=1))
    assert [one.data for one in result.outputs] == [b"one", b"two"]
    assert [one.preview and one.preview.index for one in reports] == [0, 1, 2]
    assert [one.fraction for one in reports] == [0.25, 0.5, 0.75]
    assert (result.cost, result.usage) == (None, None)


FAILED = {"type": "error", "error": {"message": "No.", "type": "server_error", "code": None}}


@pytest.mark.parametrize(
    ("end", "unknown"), [(stream(FAILED).decode(), 0), ("data: {\n\n", 0), ("", 1), ("data: [DONE]\n\n", 1)]
)
async def test_the_pictures_before_a_stream_broke_off_are_delivered(end: str, unknown: int) -> None:
    """One of two pictures came and then a failure, nonsense, or nothing: what was bought is delivered.

    Where nobody said that the other one failed, it is told that nobody knows of it.
    """
    result, _ = await followed(streaming(event("completed"), end=end), order(n=2, partial_images=1))
    assert ([one.data for one in result.outputs], result.unknown) == ([PICTURE], unknown)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        ({"code": "moderation_blocked", "type": "image_generation_user_error"}, Blocked),
        ({"code": None, "type": "image_generation_user_error"}, Refused),
        ({"code": "rate_limit_exceeded", "type": "tokens"}, RateLimited),
        ({"code": "server_is_overloaded", "type": "service_unavailable_error"}, Unavailable),
        ({"code": None, "type": "server_error"}, Broken),
        ({}, Broken),
        ("It failed.", Broken),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_error_that_comes_with_success_is_told_apart_by_code(
    error: Any, wanted: type[ProviderError], streamed: bool
) -> None:
    """An error in a stream, or as an answer of status 200, has the class of its code; nothing else is known of it."""
    body = {"error": {"message": f"No, {KEY}.", **error} if isinstance(error, dict) else error}
    handler = streaming({"type": "error", **body}) if streamed else lambda request: httpx.Response(200, json=body)
    async with openai(handler) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.submit(order(partial_images=2 if streamed else 0))
    assert type(caught.value) is wanted
    assert KEY not in caught.value.message


async def test_an_error_event_of_the_other_shape_is_read() -> None:
    """Where the event is the error itself, its code counts as well."""
    refusal = {"type": "error", "code": "moderation_blocked", "message": "No."}
    async with openai(streaming(refusal)) as provider:
        with pytest.raises(Blocked, match="No"):
            await provider.submit(order(partial_images=2))


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_is_overloaded"])
async def test_what_had_begun_is_not_sent_elsewhere(code: str) -> None:
    """A vendor that showed a preview had taken the order: that it has no room afterwards does not free it."""
    full = {"type": "error", "error": {"message": "No.", "code": code}}
    async with openai(streaming(event("partial_image"), full)) as provider:
        with pytest.raises(Broken) as caught:
            await provider.submit(order(partial_images=2))
    assert caught.value.code == code


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n", ": goodbye\n\n"])
async def test_a_stream_that_ends_without_the_picture_is_unsure(end: str) -> None:
    """Nobody has said that the order failed: it may be made, and billed, after the stream was closed."""
    async with openai(streaming(event("partial_image"), end=end)) as provider:
        with pytest.raises(Unsure):
            await provider.submit(order(partial_images=2))


@pytest.mark.parametrize("text", ["data: {\n\n", 'data: "\ud800\n\n', "data: " + "[" * 100_000 + "\n\n"])
async def test_a_senseless_stream_is_broken(text: str) -> None:
    """An event that is no JSON breaks the order as a senseless answer does."""
    content = text.encode("utf-8", "surrogatepass")
    headers = {"content-type": "text/event-stream"}
    async with openai(lambda request: httpx.Response(200, headers=headers, content=content)) as provider:
        with pytest.raises(Broken):
            await provider.submit(order(partial_images=2))


def streams(*events: Any, then: Behaviour) -> Behaviour:
    """Sends these events, in chunks that never come to their end, and then behaves like another."""

    async def behave(writer: asyncio.StreamWriter) -> bool:
        body = stream(*events)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + f"{len(body):x}\r\n".encode() + body + b"\r\n")
        await writer.drain()
        return await then(writer)

    return behave


@pytest.mark.parametrize("then", [hangs_up, resets, says_nothing])
async def test_a_stream_that_is_cut_is_unsure_and_not_asked_for_again(then: Behaviour) -> None:
    """When the connection dies between two events the preview was seen, and the order was sent exactly once."""
    reports: list[Progress] = []

    async def report(progress: Progress) -> None:
        reports.append(progress)

    behave = streams(event("partial_image"), then=then)
    async with upstream(behave) as server, openai(base_url=server.base_url, timeout=1.0) as provider:
        with pytest.raises(Unsure):
            await provider.submit(msgspec.structs.replace(order(partial_images=2), report=report))
        assert len(server.requests) == 1
    # A reset may overtake what was sent before it.
    assert len(reports) == 1 or then is resets


@pytest.mark.parametrize("then", [hangs_up, says_nothing])
async def test_one_of_two_pictures_survives_the_cut(then: Behaviour) -> None:
    """A picture that came is delivered when the connection dies, or falls silent, before the next one."""
    behave = streams(event("completed"), then=then)
    async with upstream(behave) as server, openai(base_url=server.base_url, timeout=1.0) as provider:
        result = await provider.submit(order(n=2, partial_images=1))
    assert isinstance(result, Done)
    assert [one.data for one in result.outputs] == [PICTURE]


async def test_nothing_is_awaited_after_the_last_picture() -> None:
    """An upstream that leaves its stream open after the picture holds nobody up."""
    behave = streams(event("completed"), then=says_nothing)
    async with upstream(behave) as server, openai(base_url=server.base_url, timeout=60.0) as provider:
        async with asyncio.timeout(10.0):
            result = await provider.submit(order(partial_images=1))
    assert isinstance(result, Done)


async def test_a_failure_to_report_is_nobody_elses() -> None:
    """What goes wrong where the previews go to is raised as it is: it is no failure of the vendor."""

    async def report(progress: Progress) -> None:
        raise ValueError("the turn was lost")

    async with openai(streaming(event("partial_image"), event("completed"))) as provider:
        with pytest.raises(ValueError, match="the turn was lost"):
            await provider.submit(msgspec.structs.replace(order(partial_images=1), report=report))


@pytest.mark.parametrize(
    ("code", "headers", "wanted"),
    [
        ("slow_down", {}, 60.0),
        ("insufficient_quota", {}, 60.0),
        ("slow_down", {"retry-after": "9"}, 9.0),
        ("insufficient_quota", {"retry-after-ms": "1500"}, 1.5),
        ("rate_limit_exceeded", {}, None),
        ("something_else", {}, None),
    ],
)
@pytest.mark.parametrize("kind", ORDERS)
async def test_a_lasting_limit_is_given_time(
    code: str, headers: dict[str, str], wanted: float | None, kind: str
) -> None:
    """Who asks to slow down, or has no quota left, is left alone for a minute unless it names its own time."""
    body = {"error": {"message": "No.", "type": "rate_limit_error", "code": code}}
    async with openai(lambda request: httpx.Response(429, json=body, headers=headers)) as provider:
        with pytest.raises(RateLimited) as caught:
            await provider.submit(ORDERS[kind])
    assert (caught.value.code, caught.value.retry_after) == (code, wanted)


FACTORS = {
    "gpt-image-2": {"low": 16, "medium": 48, "high": 96},
    "gpt-image-2.5": {"low": 16, "medium": 24, "high": 48, "xhigh": 64, "max": 96},
    "gpt-image-2.6": {"low": 32, "medium": 48, "high": 48, "xhigh": 64, "max": 96},
}
"""Patches along the long edge of a picture; those of 2.6 at low and medium are what they are at most."""
MOST_TOKENS = {"gpt-image-2": 23_719, "gpt-image-1.5": 6240, "gpt-image-1-mini": 6240}
"""Tokens of the dearest picture of a model."""


def tokens(factor: int, width: int, height: int) -> int:
    """Output tokens of a picture, by the calculator of the vendor's guide."""
    short = math.floor(factor * min(width, height) / max(width, height) + 0.5)
    return math.ceil(factor * short * (2_000_000 + width * height) / 4_000_000)


@pytest.mark.parametrize("model", [one for one in CARD.models if one.size_rule], ids=lambda one: one.name)
def test_prices_are_those_of_the_tokens(model: Any) -> None:
    """Each price on the card is what the tokens of that size and quality cost; the one for any size is the dearest."""
    rule, factors = model.size_rule, FACTORS[model.name[:13] if "2." in model.name else model.name[:11]]
    edges = range(rule.min_edge, rule.max_edge + 1, rule.multiple_of)
    allowed = [
        (w, h) for w in edges for h in edges
        if rule.min_pixels <= w * h <= rule.max_pixels and max(w, h) <= rule.max_ratio * min(w, h)
    ]  # fmt: skip
    dearest = {quality: max(tokens(factor, *size) for size in allowed) for quality, factor in factors.items()}
    for row in model.price.rows:
        quality, size = row.when["quality"], row.when.get("size")
        count = tokens(factors[quality], *map(int, size.split("x"))) if size else dearest[quality]
        assert float(row.usd) == pytest.approx(count * 30e-6)
    assert {row.when["quality"] for row in model.price.rows if "size" not in row.when} == set(factors)


# What third parties have measured: model, prompt's tokens, pictures, of them the tokens of text and of pictures.
MEASURED = [
    ("gpt-image-2", 13, 0, 19, 0),
    ("gpt-image-2", 13, 3, 19, 3 * 1536),
    ("gpt-image-1.5", 13, 1, 35, 194),
    ("gpt-image-1.5", 13, 2, 50, 2 * 194),
    ("gpt-image-1.5", 12, 1, 57, 65 + 3 * 129 + 6144),
    ("gpt-image-1.5", 13, 2, 94, 2 * (65 + 3 * 129 + 6144)),
    ("gpt-image-1-mini", 13, 1, 45, 194),
]


@pytest.mark.parametrize(("name", "said", "pictures", "text", "image"), MEASURED)
@pytest.mark.parametrize(("n", "previews"), [(1, 0), (1, 3), (4, 0)])
def test_what_is_held_covers_what_is_billed(
    name: str, said: int, pictures: int, text: int, image: int, n: int, previews: int
) -> None:
    """Bills as they were seen, with the most that a picture has, are covered. No prompt has fewer bytes than tokens."""
    model = CARD.model(name)
    assert model is not None
    assert model.usage_price is not None
    made = MOST_TOKENS[name] + 100 * previews
    usage = {
        "input_tokens_details": {"text_tokens": n * text, "image_tokens": n * image},
        "output_tokens_details": {"image_tokens": n * made}, "total_tokens": n * (text + image + made),
    }  # fmt: skip
    wanted = Generation(Kind.IMAGE, Operation.EDIT, name, prompt="-", n=n, partial_images=previews)
    held = most(wanted, model, model.price, model.usage_price, prompt=said, inputs=pictures)
    billed = model.usage_price.cost(usage)
    assert held is not None
    assert billed is not None
    assert billed <= held


@pytest.mark.parametrize("model", CARD.models, ids=lambda one: one.name)
def test_every_model_is_whole(model: Any) -> None:
    """Each model is alive, edits, previews, and has a price for every quality and size, and one for its tokens."""
    assert model.retires is None or model.retires > CARD.checked_on
    assert set(model.operations) == {Operation.GENERATION, Operation.EDIT}
    assert (model.partial_images, model.inputs[Role.IMAGE].max, model.inputs[Role.MASK].max) == (3, 16, 1)
    priced = {(row.when["quality"], row.when.get("size")) for row in model.price.rows}
    qualities = set(model.parameters["quality"].values) - {"auto"}
    assert priced >= {(quality, size) for quality in qualities for size in model.sizes}
    assert "output_tokens_details.image_tokens" in model.usage_price.per_million


@pytest.mark.parametrize(("size", "taken"), [(4_000_000, True), (4_000_001, False)])
def test_a_mask_has_at_most_four_megabytes(size: int, taken: bool) -> None:
    """What OpenAI documents is known before an order is sent, for every model that takes masks."""
    wanted = Generation(Kind.IMAGE, Operation.EDIT, "a model", "a sun")
    for card in (one for one in CARD.models if Role.MASK in one.inputs):
        picture = Upload(Role.IMAGE, "image", "place", "image/png", 64, 48, 100)
        mask = Upload(Role.MASK, "mask", "place", "image/png", 64, 48, size, transparent=True)
        if taken:
            inputs.check(wanted, card, [picture, mask])
            continue
        with pytest.raises(GatewayError, match="at most 4000000 are taken") as caught:
            inputs.check(wanted, card, [picture, mask])
        assert (caught.value.code, caught.value.param) == ("invalid_image", "mask")
