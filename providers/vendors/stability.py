"""Stability AI's REST API (v2beta): an endpoint for each service, and one picture for each call.

The vendor's name of a model is the path of its endpoint, such as `edit/inpaint`; only the Stable Diffusion models share
one. Each call is a multipart form, also without a file. It is answered with the picture, or by two slow endpoints with
a job whose result is the picture.
"""

from __future__ import annotations

import asyncio
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
from PIL import Image, ImageOps

from providers.contract import Blocked, Broken, Done, Input, Order, Output, Pending, RateLimited, Refused, Role
from providers.fanout import FanOut
from providers.fault import Fault, read_fault
from providers.http import Part

if TYPE_CHECKING:
    from providers.card import Card, ModelCard
    from providers.http import Http

SUCCESS = "SUCCESS"
STILL_RUNNING = 202
LOCKOUT = 60.0
"""Seconds for which the vendor takes nothing more from a key that was too fast; it sends no Retry-After."""
FIELDS: Mapping[Role, str] = {
    Role.IMAGE: "image", Role.MASK: "mask", Role.CONTROL: "image", Role.STYLE: "image",
}  # fmt: skip
FIELD_NAME = re.compile(r"([a-z_]+): ")


class Form(NamedTuple):
    """What an endpoint calls the prompt, None where it takes none, and the inputs by their roles."""

    prompt: str | None = "prompt"
    inputs: Mapping[Role, str] = FIELDS


USUAL = Form()
FORMS: Mapping[str, Form] = {
    "edit/erase": Form(prompt=None),
    "edit/remove-background": Form(prompt=None),
    "upscale/fast": Form(prompt=None),
    "edit/replace-background-and-relight": Form(
        "background_prompt",
        {Role.IMAGE: "subject_image", Role.REFERENCE: "background_reference", Role.STYLE: "light_reference"},
    ),
    "control/style-transfer": Form(inputs={Role.IMAGE: "init_image", Role.STYLE: "style_image"}),
}


class Job(msgspec.Struct, frozen=True):
    """What a slow endpoint answers."""

    id: Annotated[str, msgspec.Meta(min_length=1)]


class Balance(msgspec.Struct, frozen=True):
    """What is left on the account."""

    credits: float


class Stability(FanOut):
    """Stability AI's image services."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        http.fault = read

    async def submit(self, order: Order) -> Pending | Done:
        """Sends the order in as many calls as it has pictures, its mask turned into the vendor's kind."""
        inputs = [await asyncio.to_thread(_turned, one) if one.role is Role.MASK else one for one in order.inputs]
        return await super().submit(msgspec.structs.replace(order, inputs=tuple(inputs)))

    async def submit_one(self, order: Order) -> Pending | Done:
        """Sends the order for one picture."""
        path = f"/v2beta/stable-image/{_endpoint(order.model)}"
        response = await self._send("POST", path, paid=True, parts=self._parts(order))
        if _media_type(response).startswith("image/"):
            return self._read(response)
        return Pending(self.http.decode(response.content, Job).id, poll_after=self.card.poll_after)

    async def poll_one(self, job: str) -> Pending | Done:
        """Looks at a job once. One that is not there any more, which is said as a refusal, is Broken."""
        try:
            response = await self._send("GET", f"/v2beta/results/{quote(job, safe='')}", paid=False)
        except Refused as refusal:
            if isinstance(refusal, Blocked):
                raise
            raise Broken(refusal.message, code=refusal.code) from refusal
        if response.status_code == STILL_RUNNING:
            return Pending(job, poll_after=self.card.poll_after)
        return self._read(response)

    async def probe(self) -> None:
        """Asks for the balance."""
        await self.http.request("GET", "/v1/user/balance", Balance, paid=False, headers=self._headers())

    def _read(self, response: httpx.Response) -> Done:
        """The picture. What the filter has found comes as one too, blurred and with status 200: it is not delivered."""
        reason = response.headers.get("finish-reason", SUCCESS)
        if reason != SUCCESS:
            raise self.http.failure(Fault(f"{self.card.title} withheld the picture: {reason}", (reason,)))
        media_type = _media_type(response)
        if not media_type.startswith("image/") or not response.content:
            raise Broken(f"{self.card.title} answered without a picture")
        return Done((Output(media_type, data=response.content),))

    def _parts(self, order: Order) -> list[Part]:
        form = FORMS.get(order.model, USUAL)
        files = [
            Part(form.inputs[one.role], one.data, f"{one.role}.{one.media_type.removeprefix('image/')}", one.media_type)
            for one in order.inputs
        ]
        return [*(Part(name, _text(value)) for name, value in self._members(order, form).items()), *files]

    def _members(self, order: Order, form: Form) -> dict[str, Any]:
        """The members that the caller gave, and what tells the Stable Diffusion models apart."""
        wanted, card = order.generation, self.card.model(order.model)
        if card is None:
            raise Refused(f"{self.card.title} has no such model", param="model")
        members = card.renamed(wanted.parameters)
        if wanted.prompt and form.prompt is None:
            raise Refused(f"{card.title} takes no prompt", param="prompt")
        # Without an input the prompt goes along even when it is empty: a form needs a field to be one.
        if form.prompt is not None and (wanted.prompt or not order.inputs):
            members[form.prompt] = wanted.prompt
        if ratio := _aspect_ratio(order, card):
            members["aspect_ratio"] = ratio
        if _endpoint(order.model) != order.model:
            members["model"] = order.model
            members |= {"mode": "image-to-image"} if order.inputs else {}
        return members

    async def _send(self, method: str, path: str, *, paid: bool, parts: Sequence[Part] = ()) -> httpx.Response:
        headers = self._headers() | {"accept": "image/*"}
        try:
            return await self.http.send(method, path, paid=paid, parts=parts, headers=headers)
        except RateLimited as limit:
            if limit.retry_after is None:
                limit.retry_after = LOCKOUT
            raise

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.http.secrets['api_key']}"}


def read(body: Any) -> Fault:
    """Reads `{"id", "name", "errors": ["field: what is wrong"]}`, and the older shape with a `message`."""
    if not isinstance(body, dict):
        return read_fault(body)
    name, errors = body.get("name"), body.get("errors")
    texts = [one for one in errors if isinstance(one, str)] if isinstance(errors, list) else []
    field = FIELD_NAME.match(texts[0]) if texts else None
    return Fault(
        message="; ".join(texts) or read_fault(body).message,
        codes=(name,) if isinstance(name, str) and name else (),
        param=field[1] if field else None,
    )


def _endpoint(model: str) -> str:
    return model if "/" in model else "generate/sd3"


def _aspect_ratio(order: Order, card: ModelCard) -> str | None:
    """The ratio that was asked for, or the offered one that is nearest to the size: sizes are not the vendor's."""
    size, ratio = order.generation.size, order.generation.aspect_ratio
    if size is None:
        return ratio
    if ratio is not None:
        raise Refused("size and aspect_ratio exclude each other", param="size")
    asked = _shape(size, "x")
    return min(card.aspect_ratios, key=lambda one: abs(asked - _shape(one, ":")))


def _shape(text: str, mark: str) -> float:
    """The logarithm of width to height, so that 2:3 is as far from 1:1 as 3:2 is."""
    width, _, height = text.partition(mark)
    return math.log(int(width) / int(height))


def _turned(mask: Input) -> Input:
    """The mask as the vendor reads it: white where ours is transparent, black where it is opaque."""
    alpha = Image.open(io.BytesIO(mask.data)).convert("RGBA").getchannel("A")
    file = io.BytesIO()
    ImageOps.invert(alpha).save(file, "PNG")
    return msgspec.structs.replace(mask, media_type="image/png", data=file.getvalue())


def _media_type(response: httpx.Response) -> str:
    stated: str = response.headers.get("content-type", "")
    return stated.partition(";")[0].strip().lower()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
