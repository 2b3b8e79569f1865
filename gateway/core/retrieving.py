"""Retrieving: the bytes behind what a caller names instead of sending: a URL, a data URL, or media of its own."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterable
from pathlib import Path

from gateway.core import assets, ids
from gateway.core.assets import Servable
from gateway.core.inspection import NotMedia
from gateway.core.keys import Caller
from gateway.core.outbound import OutboundError
from gateway.core.runtime import Runtime
from storage.objects import NoSuchObject

DATA_URL = re.compile(r"data:[\w/+.-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)
LINK = re.compile(r"/media/(?P<name>[\w.]+)\?exp=(?P<expires>\d+)&sig=(?P<signature>[\w-]+)\Z", re.ASCII)
REDIRECTS = 3


async def retrieve(rt: Runtime, caller: Caller, text: str, target: Path, limit: int) -> Path:
    """Writes the bytes, at most so many, to `target` and returns it.

    Raises NotMedia when they cannot be had, `media_not_found` for media that the caller does not have.
    """
    if found := DATA_URL.match(text):
        await asyncio.to_thread(target.write_bytes, _decoded(text[found.end() :], limit))
    elif file := await _own(rt, caller, text):
        await _write(rt.objects.read(file.object_key), target)
    elif text.lower().startswith(("http://", "https://")):
        await _download(rt, text, target, limit)
    else:
        raise NotMedia("it must be an http(s) URL, a data URL in base64, or the id of media of yours")
    return target


async def _own(rt: Runtime, caller: Caller, text: str) -> Servable | None:
    """The media of ours that the text names: by its id, or by a signed link, which we would not have to ask over.

    A link gives what it would serve, and no more: whoever has that of a thumbnail has not got the picture.
    """
    if ids.is_id(text, *assets.PREFIXES.values()):
        return await assets.get(rt, text, caller.key_id)
    found = LINK.search(text)
    if found is None or not assets.link_is_valid(rt, found["name"], found["expires"], found["signature"]):
        return None
    return assets.file_of(await assets.get(rt, found["name"].partition(".")[0], None), found["name"])


def _decoded(text: str, limit: int) -> bytes:
    """Base64 of either alphabet, with or without line breaks and padding."""
    plain = re.sub(r"\s+", "", text).translate(str.maketrans("-_", "+/")).rstrip("=")
    if len(plain) > limit * 4 // 3 + 4:
        raise NotMedia(f"it has more than {limit} bytes")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotMedia("the base64 of its data URL is not valid") from error


async def _download(rt: Runtime, url: str, target: Path, limit: int) -> None:
    try:
        seconds = rt.settings.fetch_seconds
        async with rt.outbound.fetch(url, limit=limit, timeout=seconds, redirects=REDIRECTS) as body:
            await _write(body, target)
    except OutboundError as error:
        raise NotMedia(f"its URL could not be fetched: {error.message}") from error


async def _write(chunks: AsyncIterable[bytes], target: Path) -> None:
    try:
        with target.open("wb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
    except NoSuchObject as error:
        raise NotMedia("its bytes are gone") from error
