"""Stability's gRPC API, as engines of one's own speak it: one call, answered by a stream that brings the pictures.

Of `stability-sdk` only the generated stubs are used. Its clients block, wait for a dead server without end, or send a
call up to six times, and leave the credential out where there is no TLS.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import certifi
import grpc
from PIL import Image
from stability_sdk.interfaces.gooseai.engines.engines_pb2 import Engines, ListEnginesRequest
from stability_sdk.interfaces.gooseai.generation import generation_pb2 as wire
from stability_sdk.interfaces.gooseai.generation.generation_pb2_grpc import GenerationServiceStub

from providers.card import CardError
from providers.contract import (
    Broken,
    Done,
    Input,
    Operation,
    Order,
    Output,
    Provider,
    ProviderError,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.fault import Fault
from providers.http import CONNECT_TIMEOUT
from providers.line import MAX_BODY

if TYPE_CHECKING:
    from providers.card import Card, ModelCard
    from providers.http import Http

READY, FAILING = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE
OPTIONS = (
    # By default a call that the server turns away is sent again, unseen.
    ("grpc.enable_retries", 0),
    # Else channels to one address share a connection, which may be about to be dropped.
    ("grpc.use_local_subchannel_pool", 1),
    # Else the proxy counts that the environment names.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.max_send_message_length", MAX_BODY),
    ("grpc.primary_user_agent", "heliograph"),
)
ENGINES = "/gooseai.EnginesService/ListEngines"
PARAMETERS = frozenset({"negative_prompt", "seed", "steps", "cfg_scale", "sampler", "strength"})
"""What the adapter knows how to send."""
STRENGTH, END = 0.5, 0.01
"""Between which parts of the schedule a picture is made anew, where nothing is said: as the SDK's command line does."""
SEEDS = 2**32 - 11
"""How many seeds there are to choose from: further pictures take the numbers that follow, ten at most."""
GOOD = (wire.NULL, wire.STOP)
BLURRED = (wire.ACTION_OBFUSCATE, wire.ACTION_OBFUSCATE_DUPLICATE)
# The words of the implementations in C, Go and Java. Those of our own end begin with CLIENT.
TOO_LARGE = re.compile(r"(?i)(CLIENT: )?.*(?:message larger than max|message exceeds maximum size)")


class StabilityGrpc(Provider):
    """One server that speaks Stability's gRPC API, in clear at an http address and over TLS at an https one."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        self._target, self._tls = _target(card, http.base_url)
        for model in card.models:
            sent = {*model.renamed(dict.fromkeys(model.parameters)), *model.extras}
            if strange := sent - PARAMETERS:
                known = ", ".join(sorted(PARAMETERS))
                raise CardError(f"{card.name}, model {model.name}: no parameter {min(strange)}; there are {known}")

    async def submit(self, order: Order) -> Done:
        """Sends the order and reads the stream to its end. Pictures that came before it broke are delivered."""
        request = await asyncio.to_thread(self._request, order)
        if request.ByteSize() > MAX_BODY:
            raise Refused(f"{self.card.title} is sent no more than {MAX_BODY} bytes", param="image")
        artifacts: list[Any] = []
        async with self._connection(paid=True) as channel:
            call = GenerationServiceStub(channel).Generate(request, **self._terms())
            try:
                async for answer in self._answers(call):
                    artifacts.extend(answer.artifacts)
            except grpc.aio.AioRpcError:
                if not _good(artifacts):
                    raise
        return self._read(artifacts)

    async def probe(self) -> None:
        """Asks for the list of engines. A server that has no such service answers, which is as much as can be had."""
        async with self._connection(paid=False) as channel:
            # The SDK's stub of this service cannot be imported: it misses its own message types.
            ask = channel.unary_unary(ENGINES, ListEnginesRequest.SerializeToString, Engines.FromString)
            try:
                await ask(ListEnginesRequest(), **self._terms())
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise

    @asynccontextmanager
    async def _connection(self, *, paid: bool) -> AsyncIterator[Any]:
        """A connection for one call. What goes wrong inside is raised as a contract error.

        The call begins once the connection stands, so that nothing was sent when there is none.
        """
        credentials = await asyncio.to_thread(_authorities) if self._tls else None
        channel = (
            grpc.aio.secure_channel(self._target, credentials, options=OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(self._target, options=OPTIONS)
        )
        try:
            async with self.http.guard(paid=paid), channel:
                await self._connected(channel)
                yield channel
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, paid=paid) from error

    async def _connected(self, channel: Any) -> None:
        """Waits for the connection; Unavailable when it cannot be made at once, for gRPC itself would try again."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                while (state := channel.get_state(try_to_connect=True)) is not READY:
                    if state is FAILING:
                        raise Unavailable(f"{self.card.title} could not be reached")
                    await channel.wait_for_state_change(state)
        except TimeoutError as error:
            raise Unavailable(f"{self.card.title} could not be reached") from error

    def _terms(self) -> dict[str, Any]:
        """What goes with a call: how long it may take, and the credential if there is one."""
        key = self.http.secrets.get("api_key")
        return {"timeout": self.card.timeout, "metadata": (("authorization", f"Bearer {key}"),) if key else ()}

    async def _answers(self, call: Any) -> AsyncIterator[Any]:
        """The answers, bounded together; some bring nothing, and only keep the connection alive."""
        size = 0
        async for answer in call:
            # So gRPC gives a message that it cannot decode.
            if answer is None:
                raise Broken(f"{self.card.title} answered something that we do not understand")
            size += answer.ByteSize()
            if size > MAX_BODY:
                raise Broken(f"{self.card.title} answered with more than {MAX_BODY} bytes")
            yield answer

    def _read(self, artifacts: Sequence[Any]) -> Done:
        """The pictures. A blurred one is none; where only the classifier tells, nobody knows which of them it is."""
        if pictures := _good(artifacts):
            outputs = tuple(Output(one.mime or None, data=one.binary) for one in pictures)
            return Done(outputs, usage={"seeds": [one.seed for one in pictures]})
        if any(one.finish_reason == wire.FILTER or _is_blurring(one) for one in artifacts):
            raise self.http.failure(Fault(f"{self.card.title} withheld the picture: FILTER", ("FILTER",)))
        failed = [one for one in artifacts if one.finish_reason in (wire.ERROR, wire.LENGTH)]
        if failed:
            raise self.http.failure(Fault(_words(failed[0].text), (wire.FinishReason.Name(failed[0].finish_reason),)))
        raise Broken(f"{self.card.title} answered without a picture")

    def _failure(self, error: Any, *, paid: bool) -> ProviderError:
        """The contract error of a status: by the card's table, and Unsure where that does not have it.

        Only what the table has is worded by the server: of the others it may tell its exceptions.
        """
        code, details = error.code().name, error.details() or ""
        if large := TOO_LARGE.match(details):
            return (
                Broken(f"{self.card.title} answered with more than {MAX_BODY} bytes", code=code)
                if large[1]
                else Refused(f"{self.card.title} takes no order that is so large", code=code)
            )
        clear = code in self.card.errors
        words = _words(details) if clear else f"{self.card.title} gave no clear answer: {code}"
        failure = self.http.failure(Fault(words, (code,)), "unsure")
        if isinstance(failure, Unsure) and not paid:
            return Unavailable(failure.message, code=code)
        return failure

    def _request(self, order: Order) -> Any:
        card = self.card.model(order.model)
        if card is None:
            raise Refused(f"{self.card.title} has no such model", param="model")
        given = card.renamed(order.generation.parameters)
        return wire.Request(
            engine_id=order.model,
            request_id=order.idempotency_key,
            prompt=list(_prompts(order, given)),
            image=_image(order, card, given),
        )


def _target(card: Card, base_url: str) -> tuple[str, bool]:
    """Where to connect, and whether by TLS."""
    parts = urlsplit(base_url)
    if not parts.hostname or parts.path or parts.query or parts.username:
        raise CardError(f"{card.name}: its address must be http://host:port or https://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    tls = parts.scheme == "https"
    return f"dns:///{host}:{parts.port or (443 if tls else 80)}", tls


def _authorities() -> Any:
    """The authorities of the system and those of Mozilla: gRPC of itself asks only its own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    roots = "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True)))
    return grpc.ssl_channel_credentials(roots.encode())


def _prompts(order: Order, given: Mapping[str, Any]) -> Iterator[Any]:
    """The texts, that of what is not wanted with a negative weight, and the pictures."""
    if order.generation.prompt or not order.inputs:
        yield wire.Prompt(text=order.generation.prompt)
    if negative := given.get("negative_prompt"):
        yield wire.Prompt(text=negative, parameters=wire.PromptParameters(weight=-1))
    for one in order.of(Role.IMAGE):
        yield wire.Prompt(artifact=wire.Artifact(type=wire.ARTIFACT_IMAGE, mime="image/png", binary=_png(one)))
    for one in order.of(Role.MASK):
        yield wire.Prompt(artifact=wire.Artifact(type=wire.ARTIFACT_MASK, mime="image/png", binary=_mask(one)))


def _image(order: Order, card: ModelCard, given: Mapping[str, Any]) -> Any:
    """How the pictures are to be made. What is None is not sent."""
    width, height = _size(order, card)
    sampler = given.get("sampler")
    seed = given.get("seed") or int.from_bytes(hashlib.sha256(order.idempotency_key.encode()).digest()) % SEEDS + 1
    step = wire.StepParameter(
        sampler=wire.SamplerParameters(cfg_scale=given.get("cfg_scale")),
        schedule=_schedule(order, given.get("strength")),
    )
    return wire.ImageParameters(
        width=width,
        height=height,
        samples=order.generation.n,
        seed=[seed],
        steps=given.get("steps"),
        transform=sampler and wire.TransformType(diffusion=f"SAMPLER_{sampler.upper()}"),
        parameters=[step],
    )


def _size(order: Order, card: ModelCard) -> tuple[int, int] | tuple[None, None]:
    """Width and height in pixels: as asked, else as the picture has them; how much is scaled up is the engine's own."""
    wanted, pictures = order.generation, order.of(Role.IMAGE)
    if wanted.size in (None, "auto") and pictures:
        upscale = wanted.operation is Operation.UPSCALE
        return (None, None) if upscale else (pictures[0].width, pictures[0].height)
    text = card.default_size if wanted.size in (None, "auto") else wanted.size
    if text is None:
        return None, None
    width, _, height = text.partition("x")
    return int(width), int(height)


def _schedule(order: Order, strength: float | None) -> Any:
    """How much of a picture is made anew; without a picture, a schedule washes out what is made."""
    if not order.of(Role.IMAGE):
        if strength is not None:
            raise Refused("strength is for a picture that is changed", param="strength")
        return None
    if strength is None and (order.of(Role.MASK) or order.generation.operation is Operation.UPSCALE):
        return None
    return wire.ScheduleParameters(start=STRENGTH if strength is None else strength, end=END)


def _png(picture: Input) -> bytes:
    """The picture as a PNG, which is all that the SDK ever sends."""
    if picture.media_type == "image/png":
        return picture.data
    return _saved(Image.open(io.BytesIO(picture.data)))


def _mask(mask: Input) -> bytes:
    """The mask as the API has it: black where ours is transparent, which is where it changes; white stays."""
    return _saved(Image.open(io.BytesIO(mask.data)).convert("RGBA").getchannel("A"))


def _saved(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _good(artifacts: Sequence[Any]) -> list[Any]:
    """The pictures that are what was ordered."""
    if any(map(_is_blurring, artifacts)):
        return []
    pictures = (one for one in artifacts if one.type == wire.ARTIFACT_IMAGE)
    return [one for one in pictures if one.finish_reason in GOOD and one.binary]


def _is_blurring(artifact: Any) -> bool:
    """Whether it is the classifier's word that it has blurred what was made."""
    return artifact.type == wire.ARTIFACT_CLASSIFICATIONS and artifact.classifier.realized_action in BLURRED


def _words(details: str) -> str | None:
    """What a server says, unless it is the trace of an exception."""
    return None if "Traceback" in details else details
