"""Assets: from what a provider returned to bytes that we keep, and the links under which they are served."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import RowMapping, Select, select

from gateway.core import ids, signing
from gateway.core.errors import GatewayError
from gateway.core.formats import Target
from gateway.core.inspection import EXTENSIONS, Facts, NotMedia, Seen
from gateway.core.outbound import Blocked, OutboundError, TooLarge
from gateway.core.provenance import Content, Origin, Unsigned
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS, VIRTUAL_KEYS
from gateway.core.thumbnails import MEDIA_TYPES
from providers.contract import Broken, Output, Provider, Refused
from storage.objects import NoSuchObject, ObjectError, Stored

log = logging.getLogger(__name__)
CHUNK = 1 << 20
# Vendors' links lead through their CDN; each hop is checked like the first.
REDIRECTS = 3
PREFIXES = {"image": "img", "video": "vid"}


class Picture(msgspec.Struct, frozen=True):
    """A small picture that lies beside an asset in the store."""

    media_type: str
    size: int
    sha256: str


class Landed(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one output has come: with a `url` it is still at the vendor, with a `key` it is in our store, checked.

    `flaw` says why it never will be, and `unknown` that the vendor may have made it all the same. Kept as JSON with the
    attempt, so that any worker can go on from here.
    """

    position: int
    url: str | None = None
    key: str | None = None
    media_type: str | None = None
    size: int = 0
    sha256: str = ""
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    fps: float | None = None
    blurhash: str | None = None
    pictures: dict[str, Picture] = {}
    revised_prompt: str | None = None
    flaw: str | None = None
    unknown: bool = False


class File(msgspec.Struct, frozen=True):
    """What is served beside an asset; `name` is what it is called in links."""

    name: str
    object_key: str
    media_type: str
    size: int
    sha256: str


class AssetRecord(msgspec.Struct, frozen=True):
    """An asset as others may see it. `retention_days` is how long its key keeps it, where that differs."""

    id: str
    task_id: str
    key_id: str
    position: int
    kind: str
    object_key: str
    media_type: str
    size: int
    sha256: str
    width: int | None
    height: int | None
    seconds: float | None
    fps: float | None
    blurhash: str | None
    pictures: dict[str, Picture]
    revised_prompt: str | None
    created_at: dt.datetime
    deleted_at: dt.datetime | None
    erased_at: dt.datetime | None = None
    retention_days: int | None = None

    @property
    def name(self) -> str:
        """Its file name in links: the id and the extension of what it really is."""
        return f"{self.id}.{EXTENSIONS.get(self.media_type, 'bin')}"

    def picture(self, name: str) -> File | None:
        """A small picture of it, to be served; None where there is none."""
        found = self.pictures.get(name)
        if found is None:
            return None
        file = f"{self.id}.{name}.{EXTENSIONS[found.media_type]}"
        return File(file, _beside(self.object_key, name), found.media_type, found.size, found.sha256)


Servable = AssetRecord | File


# What `record_of` reads.
RECORDS = select(ASSETS, VIRTUAL_KEYS.c.retention_days).join(VIRTUAL_KEYS, ASSETS.c.key_id == VIRTUAL_KEYS.c.id)


def record_of(row: RowMapping) -> AssetRecord:
    """The record of a row."""
    pictures = msgspec.convert(row["pictures"], dict[str, Picture])
    return AssetRecord(**{**row, "pictures": pictures})


def object_keys(asset: AssetRecord) -> list[str]:
    """Every object that is kept for an asset: its bytes, and the small pictures that were made of them.

    Also those that the store had taken when it said that it failed.
    """
    return [asset.object_key, *(_beside(asset.object_key, name) for name in MEDIA_TYPES)]


def object_key(task_id: str, attempt: int, position: int) -> str:
    """Where an output is kept: the same place whenever the same attempt stores it again."""
    return f"media/{task_id}/{attempt}-{position}"


def _beside(key: str, picture: str) -> str:
    return f"{key}.{picture}"


def expected(outputs: tuple[Output, ...], revised_prompt: str | None = None) -> list[Landed]:
    """What a finished job promises, before any of its bytes are ours; the prompt is ours where it names none."""
    return [
        Landed(position, url=output.url, revised_prompt=output.revised_prompt or revised_prompt)
        for position, output in enumerate(outputs)
    ]


def untold(positions: range) -> list[Landed]:
    """Outputs that the vendor may have made, and of which nobody will learn."""
    return [Landed(position, flaw="nobody knows what became of it", unknown=True) for position in positions]


async def keep(
    rt: Runtime, kind: str, key: str, landed: Landed, data: bytes, origin: Origin, target: Target | None = None
) -> Landed:
    """Checks and stores bytes that came with the vendor's answer, as `target` wants them.

    Raises ObjectError when the store fails, and OSError when our machine cannot look at them now.
    """
    try:
        seen = await rt.inspector.see(kind, data)
    except NotMedia as error:
        return msgspec.structs.replace(landed, url=None, flaw=str(error))
    return await _taken_in(rt, key, landed, data, seen, origin, target)


async def fetch(
    rt: Runtime, provider: Provider, kind: str, key: str, landed: Landed, origin: Origin, target: Target | None = None
) -> Landed:
    """Copies an output from the vendor's URL, checks and stores it, as `target` wants it.

    Raises OutboundError, ProviderError or OSError (our disk, or time) when it may be fetched later, ObjectError when
    the store fails.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix="heliograph-") as spool:
            async for chunk in _download(rt, provider, landed.url or ""):
                await asyncio.to_thread(spool.write, chunk)
            await asyncio.to_thread(spool.flush)
            seen = await rt.inspector.see(kind, Path(spool.name))
            return await _taken_in(rt, key, landed, Path(spool.name), seen, origin, target)
    except (NotMedia, Blocked, TooLarge, Refused, Broken) as error:
        return msgspec.structs.replace(landed, url=None, flaw=str(error))
    except OutboundError as error:
        if not _for_good(error):
            raise
        return msgspec.structs.replace(landed, url=None, flaw=str(error))


async def _taken_in(
    rt: Runtime, key: str, landed: Landed, source: bytes | Path, came: Seen, origin: Origin, target: Target | None
) -> Landed:
    """The output as it lies in our store now, and the small pictures of it beside it."""
    seen, made = await _converted(rt, source, came, target)
    before = Content(source, came.facts.media_type)
    after = before if made is None else Content(made, seen.facts.media_type)
    key, stored = await _stored(rt, key, after, before, origin)
    return msgspec.structs.replace(
        landed, url=None, key=key, size=stored.size, sha256=stored.sha256, blurhash=seen.blurhash,
        pictures=await _put_beside(rt, key, seen.pictures), **msgspec.structs.asdict(seen.facts),
    )  # fmt: skip


async def _stored(rt: Runtime, key: str, made: Content, came: Content, origin: Origin) -> tuple[str, Stored]:
    """Stores the output, signed where that can be; where it lies then.

    No two signatures are the same. A signed file lies under its own digest, so that who stores the output again,
    because it lost its turn without knowing, changes no byte of what another has recorded.
    """
    if rt.notary is None or not rt.notary.knows(made.media_type):
        return key, await _put(rt, key, made)
    with tempfile.NamedTemporaryFile(prefix="heliograph-") as spool:
        try:
            digest = await rt.notary.sign(made, came, origin, Path(spool.name))
        except Unsigned as error:
            log.error("%s is kept unsigned: %s", key, error)
            return key, await _put(rt, key, made)
        key = f"{key}-{digest}"
        return key, await _put(rt, key, Content(Path(spool.name), made.media_type))


async def _put(rt: Runtime, key: str, content: Content) -> Stored:
    data = content.source if isinstance(content.source, bytes) else _chunks(content.source)
    return await rt.objects.put(key, data, content.media_type)


async def _put_beside(rt: Runtime, key: str, pictures: Mapping[str, bytes]) -> dict[str, Picture]:
    """Stores the small pictures. One that the store does not take is left out: nothing that was bought waits for it."""
    kept = {}
    for name, data in pictures.items():
        try:
            stored = await rt.objects.put(_beside(key, name), data, MEDIA_TYPES[name])
        except ObjectError as error:
            log.warning("%s was not stored beside %s: %s", name, key, error)
        else:
            kept[name] = Picture(MEDIA_TYPES[name], stored.size, stored.sha256)
    return kept


async def _converted(rt: Runtime, source: bytes | Path, seen: Seen, target: Target | None) -> tuple[Seen, bytes | None]:
    """The picture as it is wanted: what it measures then, and its bytes, None where those that came stay.

    They also stay where they cannot become that: what is bought is delivered all the same.
    """
    if target is None or (seen.facts.media_type == target.media_type and not target.anew):
        return seen, None
    quality = {} if target.quality is None else {"quality": target.quality}
    try:
        made = await rt.inspector.convert(source, target.media_type, **quality)
    except NotMedia as error:
        log.warning("a picture of %s could not become %s: %s", seen.facts.media_type, target.media_type, error)
        return seen, None
    facts = Facts(target.media_type, made.width, made.height)
    return msgspec.structs.replace(seen, facts=facts), made.data


def _for_good(error: OutboundError) -> bool:
    """Whether the vendor's server says that there is nothing at that URL, rather than that it has trouble."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in (408, 425, 429)


async def _download(rt: Runtime, provider: Provider, url: str) -> AsyncIterator[bytes]:
    limit, seconds = rt.settings.max_output_bytes, provider.card.timeout
    if provider.card.private_outputs:
        async with asyncio.timeout(seconds):
            async for chunk in _at_most(limit, provider.read(Output(url=url))):
                yield chunk
        return
    hosts = provider.card.output_hosts
    async with rt.outbound.fetch(url, limit=limit, timeout=seconds, hosts=hosts, redirects=REDIRECTS) as body:
        async for chunk in body:
            yield chunk


async def _at_most(limit: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > limit:
            raise TooLarge(f"the file is larger than {limit} bytes")
        yield chunk


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


def rows_of(rt: Runtime, task: Mapping[str, Any], landed: list[Landed]) -> list[dict[str, Any]]:
    """The asset rows of what has landed whole, in order."""
    now = rt.now()
    return [
        {
            "id": ids.new(PREFIXES[task["kind"]], now), "task_id": task["id"], "key_id": task["key_id"],
            "position": position, "kind": task["kind"], "object_key": one.key, "media_type": one.media_type,
            "size": one.size, "sha256": one.sha256, "width": one.width, "height": one.height, "seconds": one.seconds,
            "fps": one.fps, "blurhash": one.blurhash, "pictures": msgspec.to_builtins(one.pictures),
            "revised_prompt": one.revised_prompt, "created_at": now,
        }
        for position, one in enumerate(landed)
    ]  # fmt: skip


async def get(rt: Runtime, asset_id: str, key_id: str | None) -> AssetRecord:
    """One asset, of that key unless `key_id` is None; raises `media_not_found`."""
    if ids.is_id(asset_id, *PREFIXES.values()):
        statement = RECORDS.where(ASSETS.c.id == asset_id, ASSETS.c.deleted_at.is_(None))
        if key_id is not None:
            statement = statement.where(ASSETS.c.key_id == key_id)
        async with rt.db.read() as connection:
            row = (await connection.execute(statement)).mappings().first()
        if row is not None:
            return record_of(row)
    raise GatewayError("media_not_found", "There is no such media.")


async def listing(
    rt: Runtime, key_id: str, *, kind: str | None, after: str | None, limit: int, descending: bool
) -> tuple[list[AssetRecord], bool]:
    """A page of a key's assets by their age, and whether more follow. `after` is the last id of the page before."""
    found: list[Any] = []
    async with rt.db.read() as connection:
        for one in (kind,) if kind else PREFIXES:
            rows = await connection.execute(_page(key_id, one, after and _age(after), limit, descending=descending))
            found += rows.mappings()
    found.sort(key=lambda row: _age(row["id"]), reverse=descending)
    return [record_of(row) for row in found[:limit]], len(found) > limit


def _page(key_id: str, kind: str, after: str | None, limit: int, *, descending: bool) -> Select[Any]:
    column = ASSETS.c.id
    statement = RECORDS.where(ASSETS.c.key_id == key_id, ASSETS.c.deleted_at.is_(None), ASSETS.c.kind == kind)
    if after is not None:
        last = f"{PREFIXES[kind]}_{after}"
        statement = statement.where(column < last if descending else column > last)
    return statement.order_by(column.desc() if descending else column).limit(limit + 1)


def _age(id: str) -> str:
    """The part of an id by which it is older or younger than another one, of whatever kind."""
    return id.partition("_")[2]


async def whole(rt: Runtime, asset: AssetRecord) -> bytes:
    """All bytes of an asset; raises `media_not_found` when they are gone."""
    try:
        return b"".join([chunk async for chunk in rt.objects.read(asset.object_key)])
    except NoSuchObject as error:
        raise GatewayError("media_not_found", "There is no such media.") from error


def file_of(asset: AssetRecord, name: str) -> Servable:
    """The asset or the small picture that is called so in links; raises `media_not_found`."""
    for file in (asset, *(asset.picture(one) for one in asset.pictures)):
        if file is not None and file.name == name:
            return file
    raise GatewayError("media_not_found", "There is no such media.")


def link(rt: Runtime, file: Servable, base: str) -> str:
    """The URL under which the file can be fetched without a key, as the settings want it.

    `base` is the address that the client called, used when no public one is set.
    """
    settings = rt.settings
    if settings.media_links == "public":
        return f"{(settings.media_public_url or '').rstrip('/')}/{file.object_key}"
    if settings.media_links == "presigned":
        presigned = rt.objects.link(file.object_key, file.media_type, settings.link_seconds)
        if presigned is not None:
            return presigned
    expires = int(rt.now().timestamp()) + settings.link_seconds
    signature = signing.sign(rt.secrets.links, f"{file.name} {expires}")
    return f"{(settings.public_url or base).rstrip('/')}/media/{file.name}?exp={expires}&sig={signature}"


def link_is_valid(rt: Runtime, name: str, expires: str, signature: str) -> bool:
    """Whether a signed link to the file `name` is ours and not over."""
    if not (expires.isascii() and expires.isdigit()) or len(expires) > 12 or not signature.isascii():
        return False
    if int(expires) < rt.now().timestamp():
        return False
    return signing.verify(rt.secrets.links, f"{name} {expires}", signature)
