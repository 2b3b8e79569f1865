"""OpenAI's Images API, and every upstream that speaks it.

One call makes the pictures and answers with them: `POST /images/generations`, by the official SDK, which retries
nothing here. The models answer in base64; other upstreams may answer with addresses, so both are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from providers.contract import Broken, Done, Order, Output, Provider

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from providers.card import Card
    from providers.http import Http


class Picture(msgspec.Struct, frozen=True):
    """One entry of `data`; the base64 text becomes bytes as it is read."""

    b64_json: bytes | None = None
    url: str | None = None
    revised_prompt: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What the Images API answers; an upstream may leave out all but `data`."""

    data: list[Picture]
    output_format: str | None = None
    usage: dict[str, Any] | None = None


class OpenAI(Provider):
    """Image generation at OpenAI or at an upstream with the same API."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        self._client = _client(http)

    async def submit(self, order: Order) -> Done:
        """Sends the order and decodes the pictures; Broken when fewer come back than were ordered."""
        async with self.http.guard(paid=True):
            raw = await self._client.images.with_raw_response.generate(
                prompt=order.generation.prompt,
                model=order.model,
                extra_body=self._members(order),
            )
        answer = self.http.decode(raw.content, Answer)
        if len(answer.data) < order.generation.n:
            raise Broken(f"{self.card.title} made {len(answer.data)} pictures instead of {order.generation.n}")
        return Done(
            tuple(self._output(picture, answer.output_format) for picture in answer.data),
            cost=self._cost(order.model, answer.usage),
            usage=answer.usage,
        )

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

    def _output(self, picture: Picture, output_format: str | None) -> Output:
        media_type = f"image/{output_format}" if output_format else None
        if picture.b64_json:
            return Output(media_type, data=picture.b64_json, revised_prompt=picture.revised_prompt)
        if picture.url:
            return Output(media_type, url=picture.url, revised_prompt=picture.revised_prompt)
        raise Broken(f"{self.card.title} answered without a picture")

    def _cost(self, model: str, usage: Mapping[str, Any] | None) -> int | None:
        card = self.card.model(model)
        if card is None or card.usage_price is None or usage is None:
            return None
        return card.usage_price.cost(usage)


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
