"""Uploads: pictures that come with a request, from the caller's bytes to what a provider is handed.

A picture is decoded under limits, turned upright, freed from its metadata and written anew before anything else sees
it. It then lies in our store, and the task's row says where: never the bytes themselves.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec

from gateway.core import retrieving
from gateway.core.errors import GatewayError, invalid
from gateway.core.inputs import Upload, assigned
from gateway.core.inspection import NotMedia
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime
from providers.card import InputRule, ModelCard
from providers.contract import Input, Role
from storage.objects import NoSuchObject, ObjectError

log = logging.getLogger(__name__)
CHUNK = 1 << 20
# No model takes as many pictures; what is beyond is refused before any is fetched or decoded.
MOST = 32


class Given(msgspec.Struct, frozen=True):
    """A picture as it came: in a `file` of ours, or as the `text` of a URL, a data URL or the id of our own media.

    `field` is the member of the request that it came in, for what there is to say about it.
    """

    role: Role
    field: str
    file: Path | None = None
    text: str | None = None


@asynccontextmanager
async def received(
    rt: Runtime, caller: Caller, given: Sequence[Given], check: Callable[[Sequence[Upload]], object]
) -> AsyncIterator[tuple[Upload, ...]]:
    """The pictures, checked and written anew, for as long as the block lasts.

    `check` is shown what they say of themselves before any is decoded, and raises what is wrong with that. Raises
    `invalid_image` for a bad one, `storage_unavailable` without room, `payload_too_large` when they are too much
    together, however few bytes came: all of them lie in memory when they are handed to a provider.
    """
    if not given:
        yield ()
        return
    if len(given) > MOST:
        raise invalid(given[MOST].field, f"At most {MOST} pictures are taken.")
    async with _folder() as folder:
        came, seen = _Room(rt.settings.max_upload_bytes, "come"), list[Upload]()
        for number, one in enumerate(given):
            seen.append(await _seen(rt, caller, one, Path(folder, f"{number}.in"), came))
        check(seen)
        goes, uploads = _Room(rt.settings.max_upload_bytes, "are handed on"), list[Upload]()
        for number, found in enumerate(seen):
            uploads.append(await _cleaned(rt, found, Path(folder, f"{number}.out")))
            goes.take(uploads[-1].size, found.field)
        _check_mask(uploads)
        yield tuple(uploads)


class _Room:
    """How many bytes all pictures may have together, as they `come` or are handed on."""

    def __init__(self, most: int, how: str) -> None:
        self.most = self.left = most
        self.how = how

    def take(self, size: int, field: str) -> None:
        """Raises `payload_too_large` when there is no room for so many more."""
        self.left -= size
        if self.left < 0:
            message = f"All pictures, as they {self.how}, have more than {self.most} bytes."
            raise GatewayError("payload_too_large", message, param=field)


@asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="heliograph-")
    except OSError as error:
        raise _no_room() from error
    with folder as name:
        yield Path(name)


@contextmanager
def _judging(field: str) -> Iterator[None]:
    """Says whose fault it is when a picture cannot be had: the caller's, or that of a machine without room."""
    try:
        yield
    except NotMedia as error:
        raise GatewayError("invalid_image", f"{field}: {error}.", param=field) from error
    except (OSError, ObjectError) as error:
        log.warning("a picture could not be read or kept: %s", error)
        raise _no_room() from error


def _no_room() -> GatewayError:
    return GatewayError("storage_unavailable", "The picture cannot be kept just now. Nothing was started.")


async def _seen(rt: Runtime, caller: Caller, given: Given, raw: Path, room: _Room) -> Upload:
    """What a picture says of itself, before it is decoded; its bytes are counted when it is written anew."""
    with _judging(given.field):
        limit = rt.settings.max_upload_bytes if given.role is Role.VIDEO else rt.settings.max_picture_bytes
        source = given.file or await retrieving.retrieve(rt, caller, given.text or "", raw, limit)
        room.take((await asyncio.to_thread(source.stat)).st_size, given.field)
        if given.role is Role.VIDEO:
            return await _film(rt, given, source)
        facts = await rt.inspector.glance(source)
        return Upload(given.role, given.field, str(source), facts.media_type, facts.width, facts.height, 0)


async def _cleaned(rt: Runtime, seen: Upload, clean: Path) -> Upload:
    """The picture written anew. One that we fetched is not needed any more; a film goes on as it came."""
    if seen.role is Role.VIDEO:
        return seen
    with _judging(seen.field):
        facts = await rt.inspector.clean(Path(seen.place), clean)
        await asyncio.to_thread(clean.with_suffix(".in").unlink, missing_ok=True)
    return Upload(
        seen.role, seen.field, str(clean), facts.media_type, facts.width, facts.height, facts.size, facts.transparent
    )


async def _film(rt: Runtime, given: Given, source: Path) -> Upload:
    """A film goes on as it came: to write it anew would cost what makes it worth enhancing."""
    facts = (await rt.inspector.see("video", source)).facts
    size = (await asyncio.to_thread(source.stat)).st_size
    return Upload(
        given.role, given.field, str(source), facts.media_type, facts.width, facts.height, size, seconds=facts.seconds
    )


def _check_mask(uploads: Sequence[Upload]) -> None:
    """A mask says by transparency what is to change, pixel by pixel of the first picture."""
    picture = next((one for one in uploads if one.role is Role.IMAGE), None)
    for mask in (one for one in uploads if one.role is Role.MASK):
        if not mask.transparent:
            message = "mask must have an alpha channel: its transparent pixels are those to change."
            raise GatewayError("invalid_image", message, param=mask.field)
        if picture and (mask.width, mask.height) != (picture.width, picture.height):
            message = (
                f"mask must have the size of the picture, {picture.width}x{picture.height}, "
                f"and has {mask.width}x{mask.height}."
            )
            raise GatewayError("invalid_image", message, param=mask.field)


async def keep(rt: Runtime, task_id: str, uploads: Sequence[Upload]) -> list[Upload]:
    """The same uploads in our store. Raises `storage_unavailable`; nothing is left there then."""
    kept: list[Upload] = []
    try:
        for number, one in enumerate(uploads):
            key = f"inputs/{task_id}/{number}"
            await rt.objects.put(key, _chunks(Path(one.place)), one.media_type)
            kept.append(msgspec.structs.replace(one, place=key))
    except ObjectError as error:
        await drop(rt, kept)
        raise GatewayError("storage_unavailable", "The picture could not be kept. Nothing was started.") from error
    return kept


async def copy(rt: Runtime, task_id: str, uploads: Sequence[Upload]) -> list[Upload]:
    """The uploads of an earlier task once more, for a task that repeats it; raises as `keep` does."""
    copies: list[Upload] = []
    try:
        for number, one in enumerate(uploads):
            key = f"inputs/{task_id}/{number}"
            await rt.objects.put(key, rt.objects.read(one.place), one.media_type)
            copies.append(msgspec.structs.replace(one, place=key))
    except ObjectError as error:
        await drop(rt, copies)
        if isinstance(error, NoSuchObject):
            raise GatewayError("task_not_retryable", "The pictures of the task are gone. Send them anew.") from error
        raise GatewayError("storage_unavailable", "The pictures of the task cannot be read now.") from error
    return copies


async def drop(rt: Runtime, uploads: Sequence[Upload]) -> None:
    """Deletes kept uploads of a task that was not made. What a failing store keeps, the cleaning finds."""
    for one in uploads:
        with suppress(ObjectError):
            await rt.objects.delete(one.place)


async def load(rt: Runtime, uploads: Sequence[Upload], card: ModelCard) -> tuple[Input, ...]:
    """What the provider is handed, in the model's own roles. Raises ObjectError."""
    roles = assigned(card, [one.role for one in uploads])
    return tuple([await _input(rt, one, role, card) for one, role in zip(uploads, roles, strict=True)])


async def _input(rt: Runtime, upload: Upload, role: Role, card: ModelCard) -> Input:
    data = b"".join([chunk async for chunk in rt.objects.read(upload.place)])
    media_type, rule = upload.media_type, card.inputs.get(role)
    if rule is not None and role is not Role.VIDEO and media_type not in rule.media_types:
        media_type = _other_type(rule)
        data = (await rt.inspector.convert(data, media_type)).data
    return Input(role, media_type, data, upload.width, upload.height)


def _other_type(rule: InputRule) -> str:
    """The type that a picture is converted to for a model that does not take its own."""
    return "image/png" if "image/png" in rule.media_types else rule.media_types[0]


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
