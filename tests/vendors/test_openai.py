"""OpenAI: what its recordings do not show."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from providers.contract import (
    BadCredential,
    Broken,
    Done,
    Generation,
    Kind,
    Operation,
    Order,
    Provider,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)
from providers.registry import Registry
from tests.providers.sockets import Behaviour, answers, answers_half, hangs_up, resets, says_nothing, upstream

KEY = "sk-test-0123456789abcdef"
PICTURE = b"\x89PNG not really"
B64 = base64.b64encode(PICTURE).decode()
REGISTRY = Registry.load()


@asynccontextmanager
async def openai(
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    *,
    base_url: str | None = None,
    secrets: dict[str, str] | None = None,
    timeout: float = 5.0,
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    card = REGISTRY.cards["openai"]
    hasty = type(card)(**{name: getattr(card, name) for name in card.__struct_fields__} | {"timeout": timeout})
    provider = REGISTRY.build(
        "openai",
        hasty,
        base_url=base_url,
        secrets={"api_key": KEY} if secrets is None else secrets,
        transport=httpx.MockTransport(handler) if handler else None,
    )
    try:
        yield provider
    finally:
        await provider.http.close()


def order(model: str = "gpt-image-2", **members: Any) -> Order:
    """An order of a generation with these members."""
    wanted = Generation(Kind.IMAGE, Operation.GENERATION, model, **{"prompt": "a sun", **members})
    return Order(wanted, model, "attempt-1")


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
        ("gpt-image-1.5", usage(), None),
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
    """Each kind of failure has its class, and none of them is tried again by the SDK."""
    calls: list[httpx.Request] = []

    def fail(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        headers = {"retry-after": "9", "x-should-retry": "true"}
        return httpx.Response(status, json={"error": {"message": f"No, {KEY}.", **error}}, headers=headers)

    async with openai(fail) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.submit(order())
    assert type(caught.value) is wanted
    assert caught.value.message == "No, [removed]."
    assert getattr(caught.value, "retry_after", 9.0) == 9.0
    assert len(calls) == 1


@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour) -> None:
    """However the connection dies after the order was read, the vendor got it exactly once."""
    async with upstream(behave) as server, openai(base_url=server.base_url, timeout=0.3) as provider:
        with pytest.raises(Unsure):
            await provider.submit(order())
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
