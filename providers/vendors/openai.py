"""OpenAI's Images API, and every upstream that speaks it.

One call makes the pictures and answers with them: `POST /images/generations`, by the official SDK, which retries
nothing here. The models answer in base64; other upstreams may answer with addresses, so both are taken.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from providers.contract import Broken, Done, Order, Output, Provider

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from providers.card import Card
    from providers.http import Http


class Answer(msgspec.Struct, frozen=True):
    """What the Images API answers. The pictures are paid for: only they are needed, whatever else an upstream says.

    An entry of `data` has `b64_json` or `url`, and perhaps `revised_prompt`.
    """

    data: list[Any]
    output_format: Any = None
    usage: Any = None


class OpenAI(Provider):
    """Image generation at OpenAI or at an upstream with the same API."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        self._client = _client(http)

    async def submit(self, order: Order) -> Done:
        """Sends the order and decodes the pictures, fewer than were ordered too; Broken when there is none."""
        async with self.http.guard(paid=True):
            raw = await self._client.images.with_raw_response.generate(
                prompt=order.generation.prompt,
                model=order.model,
                extra_body=self._members(order),
            )
        answer = self.http.decode(raw.content, Answer)
        outputs = tuple(output for one in answer.data if (output := _output(one, answer.output_format)) is not None)
        if not outputs:
            raise Broken(f"{self.card.title} answered without a picture")
        usage = answer.usage if isinstance(answer.usage, dict) else None
        # An upstream without a count of its own is charged by the picture: none is charged beyond what was ordered.
        outputs = outputs[: order.generation.n]
        return Done(outputs, cost=self._cost(order.model, usage), usage=usage)

    async def probe(self) -> None:
        """Asks for the list of models."""
        async with self.http.guard(paid=False):
            await self._client.models.with_raw_response.list()

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

    def _cost(self, model: str, usage: Mapping[str, Any] | None) -> int | None:
        card = self.card.model(model)
        if card is None or card.usage_price is None or usage is None:
            return None
        return card.usage_price.cost(usage)


def _output(picture: Any, output_format: Any) -> Output | None:
    """The picture of an entry, None when there is none in it."""
    if not isinstance(picture, dict):
        return None
    media_type = f"image/{output_format}" if isinstance(output_format, str) and output_format else None
    revised, url = picture.get("revised_prompt"), picture.get("url")
    words = revised if isinstance(revised, str) else None
    if data := _bytes(picture.get("b64_json")):
        return Output(media_type, data=data, revised_prompt=words)
    if isinstance(url, str) and url:
        return Output(media_type, url=url, revised_prompt=words)
    return None


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
