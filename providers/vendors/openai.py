"""OpenAI's Images API, and every upstream that speaks it.

One call makes the pictures and answers with them, by the official SDK, which retries nothing here:
`POST /images/generations`, or `POST /images/edits` when pictures go with the order. `POST /images/variations` is for
upstreams that still have it: OpenAI has retired it, and has shut down its Videos API. The models answer in base64;
other upstreams may answer with addresses, so both are taken. An order with previews is answered by a stream of events.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import httpx
import msgspec

from providers.contract import (
    Broken,
    Done,
    Input,
    Operation,
    Order,
    Output,
    Preview,
    Progress,
    Provider,
    ProviderError,
    RateLimited,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.http import Http, Part

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from providers.card import Card

EVENT_STREAM = "text/event-stream"
PREVIEW, PICTURE = ".partial_image", ".completed"
"""How the types of events end: `image_generation.…`, and `image_edit.…` for an edit."""
MOST_PICTURES = 16
"""How many pictures one edit takes."""
LASTING = frozenset(
    ("slow_down", "insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached",
     "organization_spend_limit_exceeded", "project_spend_limit_exceeded", "organization_usage_limit_exceeded")
)  # fmt: skip
"""Codes of a limit that is not over in a moment."""
LONG_WAIT = 60.0
"""Seconds for which a vendor with such a limit is left alone, when it names no time itself."""

File = tuple[str, bytes, str]
"""A file of a form, as the SDK takes it: name, bytes and media type."""


class Answer(msgspec.Struct, frozen=True):
    """What the Images API answers. The pictures are paid for: only they are needed, whatever else an upstream says.

    An entry of `data` has `b64_json` or `url`, and perhaps `revised_prompt`. In their place there may be an `error`.
    """

    data: Any = None
    output_format: Any = None
    usage: Any = None
    error: Any = None


class OpenAI(Provider):
    """Images of OpenAI, or of an upstream with the same API."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        self._client = _client(http)

    async def submit(self, order: Order) -> Done:
        """Sends the order and decodes the pictures, fewer than were ordered too; Broken when there is none."""
        answers: list[Answer] = []
        unknown = 0
        try:
            async with self.http.guard(paid=True):
                await self._ask(order, answers)
        except ProviderError as error:
            # The pictures that came before a stream broke off are bought.
            if not answers:
                _advise(error)
                raise
            # Whether the others come to be is not.
            unknown = order.generation.n - len(answers) if isinstance(error, Unsure) else 0
        return self._done(order, answers, unknown)

    async def probe(self) -> None:
        """Asks for the list of models."""
        async with self.http.guard(paid=False):
            await self._client.models.with_raw_response.list()

    async def _ask(self, order: Order, answers: list[Answer]) -> None:
        """Makes the one call, and keeps what it brings as soon as it is there."""
        if order.generation.operation is Operation.VARIATION:
            return answers.append(self._read(await self._vary(order)))
        async with aclosing(await self._send(order)) as response:
            if _media_type(response.headers) == EVENT_STREAM:
                return await self._follow(response, order, answers)
            answers.append(self._read(await response.aread()))

    async def _send(self, order: Order) -> httpx.Response:
        """By the SDK. With previews the body of the answer is yet to be read."""
        wanted, images = order.generation, self._images(order)
        members: dict[str, Any] = {"model": order.model, "prompt": wanted.prompt, "extra_body": self._members(order)}
        if wanted.partial_images:
            members |= {"stream": True, "partial_images": wanted.partial_images}
        if masks := order.of(Role.MASK):
            members["mask"] = _file(masks[0], "mask")
        if images:
            members["image"] = images if len(images) > 1 else images[0]
        resource: Any = self._client.images.with_raw_response
        raw = await (resource.edit if images else resource.generate)(**members)
        return cast(httpx.Response, raw.http_response)

    async def _vary(self, order: Order) -> bytes:
        """By hand: the SDK warns of its own method, because OpenAI has retired the endpoint."""
        name, data, media_type = self._images(order)[0]
        members = {"model": order.model, "prompt": order.generation.prompt or None, **self._members(order)}
        texts = [Part(member, _text(value)) for member, value in members.items() if value is not None]
        response = await self.http.send(
            "POST", "/images/variations", paid=True, parts=[*texts, Part("image", data, name, media_type)],
            headers=dict(self._client.auth_headers),
        )  # fmt: skip
        return response.content

    def _images(self, order: Order) -> list[File]:
        """The pictures in the order in which they go, those to be changed first; Refused when they do not fit."""
        operation, pictures = order.generation.operation, (*order.of(Role.IMAGE), *order.of(Role.REFERENCE))
        varied = operation is Operation.VARIATION
        most, roles = (1, (Role.IMAGE,)) if varied else (MOST_PICTURES, (Role.IMAGE, Role.REFERENCE, Role.MASK))
        strange = next((one.role for one in order.inputs if one.role not in roles), None)
        if strange is not None:
            raise Refused(f"{self.card.title} takes no {strange} for this {operation}", param=strange)
        if len(pictures) > most:
            raise Refused(f"{self.card.title} takes at most {most} pictures for this {operation}", param="image")
        if not pictures and (order.inputs or operation is not Operation.GENERATION):
            raise Refused(f"{self.card.title} needs a picture for this {operation}", param="image")
        return [_file(one, f"image-{place}") for place, one in enumerate(pictures, 1)]

    def _members(self, order: Order) -> dict[str, Any]:
        """The members that the caller gave, and no others: an upstream may refuse those that it does not know."""
        wanted, card = order.generation, self.card.model(order.model)
        members = card.renamed(wanted.parameters) if card else dict(wanted.parameters)
        members.update(wanted.extras)
        if wanted.n != 1:
            members["n"] = wanted.n
        if wanted.size is not None:
            members["size"] = wanted.size
        return members

    async def _follow(self, response: httpx.Response, order: Order, answers: list[Answer]) -> None:
        """Reports the previews of a stream and keeps its pictures, until there are as many as were ordered."""
        wanted, seen = order.generation, 0
        steps = wanted.n * (wanted.partial_images + 1)
        try:
            async with aclosing(self._events(response)) as events:
                async for event in events:
                    kind = str(event.get("type"))
                    if kind.endswith(PREVIEW) and (data := _bytes(event.get("b64_json"))):
                        preview = Preview(_format(event.get("output_format")) or "image/png", data, seen)
                        seen += 1
                        await order.report(Progress(min(seen, steps - 1) / steps, preview=preview))
                    elif kind.endswith(PICTURE):
                        answers.append(Answer([event], event.get("output_format"), _counted(event.get("usage"))))
                        if len(answers) == wanted.n:
                            return
        except (RateLimited, Unavailable) as error:
            if not seen:
                raise
            # It had begun: to send the order elsewhere could buy it twice.
            raise Broken(error.message, code=error.code) from error
        if len(answers) < wanted.n:
            raise Unsure(f"{self.card.title} ended its answer before the picture came")

    async def _events(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream. One that is an error is raised, as what the vendor says of it."""
        from openai import APIError, AsyncStream

        try:
            async for event in AsyncStream(cast_to=object, response=cast(Any, response), client=self._client):
                if isinstance(event, dict) and event.get("type") == "error":
                    raise self._failure(event)
                if isinstance(event, dict):
                    yield event
        except APIError as error:
            if error.body is None:
                raise  # The connection was lost.
            raise self._failure(error.body) from error
        except (ValueError, RecursionError) as error:
            raise Broken(f"{self.card.title} answered something that we do not understand") from error

    def _read(self, content: bytes) -> Answer:
        answer = self.http.decode(content, Answer)
        if answer.error and not answer.data:
            raise self._failure(answer.error)
        return answer

    def _done(self, order: Order, answers: Sequence[Answer], unknown: int) -> Done:
        """What the answers have brought: one, or one for each picture of a stream; of some nobody may know."""
        outputs = tuple(
            output
            for answer in answers
            if isinstance(answer.data, list)
            for one in answer.data
            if (output := _output(one, answer.output_format)) is not None
        )
        if not outputs:
            raise Broken(f"{self.card.title} answered without a picture")
        # Whether the counts of several events are to be added is not known.
        usage = answers[0].usage if len(answers) == 1 and isinstance(answers[0].usage, dict) else None
        # An upstream without a count of its own is charged by the picture: none is charged beyond what was ordered.
        outputs = outputs[: order.generation.n]
        return Done(outputs, cost=self._cost(order.model, usage), usage=usage, unknown=unknown)

    def _cost(self, model: str, usage: Mapping[str, Any] | None) -> int | None:
        card = self.card.model(model)
        if card is None or card.usage_price is None or usage is None:
            return None
        return card.usage_price.cost(usage)

    def _failure(self, error: Any) -> ProviderError:
        """The contract error for an error that came with status 200."""
        return self.http.failure(self.http.fault({"error": error}))


def _advise(error: ProviderError) -> None:
    """Says how long to wait where the vendor has a lasting limit and does not say it."""
    if isinstance(error, RateLimited) and error.retry_after is None and error.code in LASTING:
        error.retry_after = LONG_WAIT


def _file(picture: Input, name: str) -> File:
    return f"{name}.{picture.media_type.removeprefix('image/')}", picture.data, picture.media_type


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _output(picture: Any, output_format: Any) -> Output | None:
    """The picture of an entry, None when there is none in it."""
    if not isinstance(picture, dict):
        return None
    media_type = _format(output_format)
    revised, url = picture.get("revised_prompt"), picture.get("url")
    words = revised if isinstance(revised, str) else None
    if data := _bytes(picture.get("b64_json")):
        return Output(media_type, data=data, revised_prompt=words)
    if isinstance(url, str) and url:
        return Output(media_type, url=url, revised_prompt=words)
    return None


def _format(output_format: Any) -> str | None:
    """The media type that an answer names, as `png`; None when it names none."""
    return f"image/{output_format}" if isinstance(output_format, str) and output_format else None


def _counted(usage: Any) -> Any:
    """The usage of an event, with the detail that answers have and events leave out: all output is of the picture."""
    if not isinstance(usage, dict) or usage.get("output_tokens_details") is not None:
        return usage
    return {**usage, "output_tokens_details": {"image_tokens": usage.get("output_tokens")}}


def _bytes(text: Any) -> bytes | None:
    """What base64 stands for, also in lines, as a data URL or without its padding; None when it is none."""
    if not isinstance(text, str):
        return None
    plain = "".join(text.split())
    if plain[:5].lower() == "data:":
        plain = plain.partition(",")[2]
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return None


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _client(http: Http) -> AsyncOpenAI:
    """The SDK on our connections. It is imported only here because that takes more than a second."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(
        # An upstream of one's own may need no key, but the SDK insists on one.
        api_key=http.secrets.get("api_key", "none"),
        base_url=http.base_url,
        max_retries=0,
        # Typed for the successor of httpx; the SDK takes httpx as well.
        http_client=cast(Any, http.client),
    )
    # The SDK takes these from the environment, and would send them to whichever upstream the address names.
    client.organization = client.project = client.admin_api_key = None
    client._custom_headers = {}
    return client
