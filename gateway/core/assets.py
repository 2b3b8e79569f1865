"""Assets: from what a provider returned to bytes that we keep, and the links under which they are served."""

from __future__ import annotations

import asyncio
import datetime as dt
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
from sqlalchemy import RowMapping, select, update

from gateway.core import ids, signing
from gateway.core.errors import GatewayError
from gateway.core.inspection import EXTENSIONS, NotMedia
from gateway.core.outbound import Blocked, OutboundError, TooLarge
from gateway.core.runtime import Runtime
from gateway.core.tables import ASSETS
from providers.contract import Output, Provider
from storage.objects import NoSuchObject

CHUNK = 1 << 20
# Vendors' links lead through their CDN; each hop is checked like the first.
REDIRECTS = 3
PREFIXES = {"image": "img", "video": "vid"}


class Landed(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one output has come: with a `url` it is still at the vendor, with a `key` it is in our store, checked.

    `flaw` says why it never will be. Kept as JSON with the attempt, so that any worker can go on from here.
    """

    position: int
    url: str | None = None
    key: str | None = None
    media_type: str | None = None
    size: int = 0
    sha256: str = ""
    width: int | None = None
    height: int | None = None
    revised_prompt: str | None = None
    flaw: str | None = None


class AssetRecord(msgspec.Struct, frozen=True):
    """An asset as others may see it."""

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
    revised_prompt: str | None
    created_at: dt.datetime
    deleted_at: dt.datetime | None

    @property
    def name(self) -> str:
        """Its file name in links: the id and the extension of what it really is."""
        return f"{self.id}.{EXTENSIONS.get(self.media_type, 'bin')}"


def record_of(row: RowMapping) -> AssetRecord:
    """The record of a row."""
    return AssetRecord(**row)


def object_key(task_id: str, attempt: int, position: int) -> str:
    """Where an output is kept: the same place whenever the same attempt stores it again."""
    return f"media/{task_id}/{attempt}-{position}"


def expected(outputs: tuple[Output, ...]) -> list[Landed]:
    """What a finished job promises, before any of its bytes are ours."""
    return [
        Landed(position, url=output.url, revised_prompt=output.revised_prompt)
        for position, output in enumerate(outputs)
    ]


async def keep(rt: Runtime, key: str, landed: Landed, data: bytes) -> Landed:
    """Checks and stores bytes that came with the vendor's answer. Raises ObjectError when the store fails."""
    try:
        facts = await rt.inspector.image(data)
    except NotMedia as error:
        return msgspec.structs.replace(landed, url=None, flaw=str(error))
    stored = await rt.objects.put(key, data, facts.media_type)
    return msgspec.structs.replace(
        landed, url=None, key=key, media_type=facts.media_type, width=facts.width, height=facts.height,
        size=stored.size, sha256=stored.sha256,
    )  # fmt: skip


async def fetch(rt: Runtime, provider: Provider, key: str, landed: Landed) -> Landed:
    """Copies an output from the vendor's URL, checks and stores it.

    Raises OutboundError, ProviderError or OSError (our disk, or time) when it may be fetched later, ObjectError when
    the store fails.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix="heliograph-") as spool:
            async for chunk in _download(rt, provider, landed.url or ""):
                await asyncio.to_thread(spool.write, chunk)
            await asyncio.to_thread(spool.flush)
            facts = await rt.inspector.image(Path(spool.name))
            stored = await rt.objects.put(key, _chunks(spool), facts.media_type)
    except (NotMedia, Blocked, TooLarge) as error:
        return msgspec.structs.replace(landed, url=None, flaw=str(error))
    except OutboundError as error:
        if not _for_good(error):
            raise
        return msgspec.structs.replace(landed, url=None, flaw=str(error))
    return msgspec.structs.replace(
        landed, url=None, key=key, media_type=facts.media_type, width=facts.width, height=facts.height,
        size=stored.size, sha256=stored.sha256,
    )  # fmt: skip


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


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    file.seek(0)
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


def rows_of(rt: Runtime, task: Mapping[str, Any], landed: list[Landed]) -> list[dict[str, Any]]:
    """The asset rows of what has landed whole, in order."""
    now = rt.now()
    return [
        {
            "id": ids.new(PREFIXES[task["kind"]], now), "task_id": task["id"], "key_id": task["key_id"],
            "position": position, "kind": task["kind"], "object_key": one.key, "media_type": one.media_type,
            "size": one.size, "sha256": one.sha256, "width": one.width, "height": one.height,
            "revised_prompt": one.revised_prompt, "created_at": now,
        }
        for position, one in enumerate(landed)
    ]  # fmt: skip


async def get(rt: Runtime, asset_id: str, key_id: str | None) -> AssetRecord:
    """One asset, of that key unless `key_id` is None; raises `media_not_found`."""
    if ids.is_id(asset_id, *PREFIXES.values()):
        statement = select(ASSETS).where(ASSETS.c.id == asset_id, ASSETS.c.deleted_at.is_(None))
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
    """A page of a key's assets, and whether more follow. `after` is the last id of the page before."""
    column = ASSETS.c.id
    statement = select(ASSETS).where(ASSETS.c.key_id == key_id, ASSETS.c.deleted_at.is_(None))
    if kind is not None:
        statement = statement.where(ASSETS.c.kind == kind)
    if after is not None:
        statement = statement.where(column < after if descending else column > after)
    statement = statement.order_by(column.desc() if descending else column).limit(limit + 1)
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).mappings().all()
    return [record_of(row) for row in rows[:limit]], len(rows) > limit


async def delete(rt: Runtime, asset: AssetRecord) -> None:
    """Deletes an asset: its bytes first, so that a store that fails leaves something to repeat; then it is nowhere."""
    await rt.objects.delete(asset.object_key)
    statement = update(ASSETS).where(ASSETS.c.id == asset.id).values(deleted_at=rt.now(), revised_prompt=None)
    async with rt.db.write() as connection:
        await connection.execute(statement)


async def whole(rt: Runtime, asset: AssetRecord) -> bytes:
    """All bytes of an asset; raises `media_not_found` when they are gone."""
    try:
        return b"".join([chunk async for chunk in rt.objects.read(asset.object_key)])
    except NoSuchObject as error:
        raise GatewayError("media_not_found", "There is no such media.") from error


def link(rt: Runtime, asset: AssetRecord, base: str) -> str:
    """The URL under which the asset can be fetched without a key, as the settings want it.

    `base` is the address that the client called, used when no public one is set.
    """
    settings = rt.settings
    if settings.media_links == "public":
        return f"{(settings.media_public_url or '').rstrip('/')}/{asset.object_key}"
    if settings.media_links == "presigned":
        presigned = rt.objects.link(asset.object_key, asset.media_type, settings.link_seconds)
        if presigned is not None:
            return presigned
    expires = int(rt.now().timestamp()) + settings.link_seconds
    signature = signing.sign(rt.secrets.links, f"{asset.name} {expires}")
    return f"{(settings.public_url or base).rstrip('/')}/media/{asset.name}?exp={expires}&sig={signature}"


def link_is_valid(rt: Runtime, name: str, expires: str, signature: str) -> bool:
    """Whether a signed link to the file `name` is ours and not over."""
    if not (expires.isascii() and expires.isdigit()) or len(expires) > 12 or not signature.isascii():
        return False
    if int(expires) < rt.now().timestamp():
        return False
    return signing.verify(rt.secrets.links, f"{name} {expires}", signature)
