"""What becomes of orders and looks at a vendor that misbehaves: of every vendor in the registry, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache

import msgspec
import pytest

from gateway.core.cleaning import cleaned
from providers.contract import Broken, Done, Pending, Progress, Provider, ProviderError, Refused, Unsure
from providers.http import Http
from tests.contracts.test_provider import (
    FAILURES,
    REGISTRY,
    VENDORS,
    Recording,
    Response,
    build,
    check_done,
    check_pending,
    kind,
    over_http,
    perform,
    recording,
    secrets,
)
from tests.providers.sockets import Behaviour, answers, hangs_up, upstream
from tests.vendors.misbehaving import (
    IMMENSE,
    ODDITIES,
    PROMPT,
    SLOW,
    Change,
    Misbehaviour,
    bounded_memory,
    elsewhere,
    points,
    replaced,
    says,
    texts,
    whole,
)

BODY = 2**20
"""Bytes of an answer that these tests bear."""
CONNECTING, ANSWERING = 0.5, 0.1
"""Seconds that those who are slow are given."""
REDIRECTS = [
    *((status, "http://{there}/v1/orders?x=1") for status in (301, 302, 303, 307, 308)),
    *((307, location) for location in ("//{there}/", "\\\\{there}/", "http://key@{there}/", "http://[::1", "//", "/")),
]

Call = Callable[[Provider], Awaitable[object]]
Classes = tuple[type[ProviderError], ...]


def files(vendor: str, *kinds: str) -> list[Recording]:
    """The vendor's recordings of these kinds, the plainest first."""
    found = [file for file in (VENDORS / vendor).glob("*.json") if kind(file) in kinds]
    return [recording(vendor, file) for file in sorted(found, key=lambda file: (len(file.name), file.name))]


looking = [name for name in over_http() if files(name, "poll_pending")]
watching = [name for name in looking if REGISTRY.cards[name].watches]


def named(one: object) -> str | None:
    """The name of a misbehaviour among a test's parameters."""
    return one.name if isinstance(one, Misbehaviour) else None


@cache
def adapter(vendor: str) -> type[Provider]:
    """The vendor's class."""
    return type(build(vendor))


@asynccontextmanager
async def dealing(
    vendor: str, base_url: str, *, timeout: float = 10.0, connect_timeout: float = 10.0
) -> AsyncIterator[Provider]:
    """The vendor's provider, at that address. It knows its own card, for it may hold the times in there to be sound."""
    card = REGISTRY.cards[vendor]
    hasty = msgspec.structs.replace(card, timeout=timeout)
    http = Http(hasty, base_url=base_url, secrets=secrets(card), connect_timeout=connect_timeout, max_body=BODY)
    try:
        yield adapter(vendor)(card, http)
    finally:
        await http.close()


async def submit(provider: Provider) -> Pending | Done | None:
    """Sends the vendor's own order, which is one call."""
    return await perform(provider, "submit", files(provider.card.name, "submit")[0])


async def look(provider: Provider) -> Pending | Done | None:
    """Looks at the vendor's own job."""
    return await perform(provider, "poll", files(provider.card.name, "poll_pending")[0])


async def poll(provider: Provider, pending: Pending) -> None:
    """Looks at a job, and does not mind what is not found."""
    with suppress(ProviderError):
        await provider.poll(pending.job)


def job(vendor: str) -> str:
    """The vendor's own job."""
    return files(vendor, "poll_pending")[0].job or ""


async def fails(call: Call, vendor: str, behave: Behaviour, expected: Classes, **times: float) -> int:
    """Fails unless the call raises one of those errors, without a secret in it; returns how often it was sent."""
    async with upstream(behave) as server, dealing(vendor, server.base_url, **times) as provider:
        with pytest.raises(ProviderError) as caught:
            await call(provider)
        assert isinstance(caught.value, expected), f"{type(caught.value).__name__}: {caught.value.message}"
        check_words(provider, caught.value)
    return len(server.requests)


def check_words(provider: Provider, error: ProviderError) -> None:
    """Fails when an error tells a secret."""
    told = f"{error!r} {error} {error.message} {error.code} {error.param}"
    assert not any(secret in told for secret in provider.http.secrets.values())


def check_result(result: Pending | Done | None) -> None:
    """Fails unless it is as the contract says, and fit to be kept."""
    assert isinstance(result, Pending | Done)
    if isinstance(result, Pending):
        check_pending(result)
    else:
        check_done(result, 0)
    kept = cleaned(result)
    assert msgspec.json.encode(kept)
    assert not isinstance(kept, Pending) or "\0" not in kept.job


def answer(response: Response, change: Change) -> Behaviour:
    """A recorded answer, with the texts and numbers of its JSON changed."""
    made = response.made() if response.json is msgspec.UNSET else None
    body = msgspec.json.encode(replaced(response.json, change)) if made is None else made.content
    headers = dict(response.headers) if made is None else dict(made.headers)
    media_type = headers.pop("content-type", "application/json")
    headers.pop("content-length", None)
    return says(whole(body, response.status, *(f"{name}: {value}" for name, value in headers.items()),
                      media_type=media_type))  # fmt: skip


@pytest.mark.parametrize("misbehaviour", PROMPT, ids=named)
@pytest.mark.parametrize("vendor", over_http())
async def test_an_order_that_was_read_is_not_sent_again(vendor: str, misbehaviour: Misbehaviour) -> None:
    """Whatever the answer to an order is like, it was sent once, and its error does not let it be bought twice."""
    assert await fails(submit, vendor, misbehaviour.behave, misbehaviour.paid) == 1


@pytest.mark.parametrize("vendor", over_http())
async def test_an_order_on_a_dying_connection_is_not_sent_again(vendor: str) -> None:
    """A kept connection that dies under an order makes it unsure: nobody below sends it over a new one."""
    async with upstream(answers, hangs_up, answers) as server, dealing(vendor, server.base_url) as provider:
        with suppress(ProviderError):
            await provider.probe()
        with pytest.raises(Unsure):
            await submit(provider)
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("misbehaviour", PROMPT, ids=named)
@pytest.mark.parametrize("vendor", looking)
async def test_a_look_is_never_unsure(vendor: str, misbehaviour: Misbehaviour) -> None:
    """A look costs nothing, so what goes wrong with it is known: it can be repeated, or the answer is nonsense."""
    await fails(look, vendor, misbehaviour.behave, misbehaviour.unpaid)


@pytest.mark.parametrize("vendor", over_http())
async def test_an_order_that_nobody_read_may_have_been_read(vendor: str) -> None:
    """Of a connection that is closed before the order was read nobody here can tell, so it is not sent again."""
    async with elsewhere() as vendors, dealing(vendor, vendors.base_url) as provider:
        with pytest.raises(Unsure):
            await submit(provider)
    assert vendors.connections == 1


@pytest.mark.parametrize("misbehaviour", IMMENSE, ids=named)
@pytest.mark.parametrize("vendor", over_http())
async def test_memory_is_bounded(vendor: str, misbehaviour: Misbehaviour) -> None:
    """Answers without end, and small ones that unpack to gigabytes, are broken off before they fill the memory."""
    with bounded_memory():
        assert await fails(submit, vendor, misbehaviour.behave, misbehaviour.paid) == 1
        if vendor in looking:
            await fails(look, vendor, misbehaviour.behave, misbehaviour.unpaid)


@pytest.mark.parametrize("vendor", over_http())
async def test_time_is_bounded(vendor: str) -> None:
    """However a vendor keeps a call waiting, it ends in the time that card and connection have, and fills no memory."""
    times = {"timeout": ANSWERING, "connect_timeout": CONNECTING}
    calls = [fails(submit, vendor, one.behave, one.paid, **times) for one in SLOW]
    if vendor in looking:
        calls += [fails(look, vendor, one.behave, one.unpaid, **times) for one in SLOW]
    start = time.monotonic()
    with bounded_memory():
        await asyncio.gather(*calls)
    assert time.monotonic() - start < 10 * (CONNECTING + ANSWERING)


@pytest.mark.parametrize(("status", "location"), REDIRECTS)
@pytest.mark.parametrize("vendor", over_http())
async def test_redirects_are_not_followed(vendor: str, status: int, location: str) -> None:
    """Neither order nor credential goes to where a redirect points, whether that is another host or the same one."""
    async with elsewhere() as other:
        redirect = points(location.format(there=other.base_url.removeprefix("http://")), status)
        assert await fails(submit, vendor, redirect, (Broken, Unsure)) == 1
        if vendor in looking:
            assert await fails(look, vendor, redirect, (ProviderError,)) == 1
    assert other.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("vendor", watching)
async def test_who_watches_is_not_redirected(vendor: str, status: int) -> None:
    """A stream or socket of progress stays at the vendor as well."""

    async def report(progress: Progress) -> None:
        raise AssertionError("a redirect is no progress")

    async with (
        elsewhere() as other,
        upstream(points(other.base_url, status)) as server,
        dealing(vendor, server.base_url) as provider,
    ):
        with suppress(ProviderError):
            await provider.watch(job(vendor), report)
    assert server.requests
    assert other.connections == 0


@pytest.mark.parametrize("vendor", looking)
async def test_a_job_is_looked_at_where_the_vendor_is(vendor: str) -> None:
    """An answer that names another host to ask for the job takes the credential nowhere."""
    sent = files(vendor, "submit")[0].exchanges[-1].response
    async with elsewhere() as other:
        away = texts(lambda text: f"{other.base_url}/{text.partition('://')[2]}" if "://" in text else text)
        async with upstream(answer(sent, away)) as server, dealing(vendor, server.base_url) as provider:
            result = await submit(provider)
            assert isinstance(result, Pending)
            await poll(provider, result)
            with suppress(ProviderError):
                await provider.cancel(result.job)
    assert len(server.requests) > 1
    assert other.connections == 0


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("vendor", over_http())
async def test_odd_answers_are_understood_or_broken(vendor: str, oddity: str) -> None:
    """A vendor's own answer with other texts and numbers is a result to be kept, or nonsense: nothing stumbles."""
    for what in ("submit", "poll_pending", "poll_done"):
        for read in files(vendor, what)[:1]:
            answers = [answer(one.response, ODDITIES[oddity]) for one in read.exchanges]
            async with upstream(*answers) as server, dealing(vendor, server.base_url) as provider:
                # Of an order never what would have it sent again: the vendor has it.
                with suppress(*((Broken, Refused) if what == "submit" else (ProviderError,))):
                    result = await perform(provider, what, read)
                    check_result(result)
                    if what == "submit" and isinstance(result, Pending):
                        await poll(provider, result)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("vendor", over_http())
async def test_a_credential_that_is_echoed_is_not_told(vendor: str, failure: str) -> None:
    """In whatever member of its errors a vendor repeats our credential, it is not in what the caller is told."""
    told = " and ".join(secrets(REGISTRY.cards[vendor]).values())
    for read in files(vendor, failure):
        *before, last = (one.response for one in read.exchanges)
        for change in (texts(lambda text: f"{text}: {told}"), texts(lambda text: told)):
            answers = [*(answer(one, lambda value: value) for one in before), answer(last, change)]
            async with upstream(*answers) as server, dealing(vendor, server.base_url) as provider:
                try:
                    await perform(provider, "poll" if read.job else "submit", read)
                except ProviderError as error:
                    check_words(provider, error)
