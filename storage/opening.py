"""Opening an object store by its URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from storage.keys import checked
from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import ObjectStore

if TYPE_CHECKING:
    from storage.s3 import Bucket

QUERY = ("endpoint", "region", "addressing", "checksums")
BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")


def open_store(url: str, *, access_key: str | None = None, secret_key: str | None = None) -> ObjectStore:
    """The store behind `memory:`, `file:///folder`, a plain path of a folder, or an `s3:` URL as `bucket_of` reads it.

    Raises ValueError that says what is wrong with the URL, and ObjectError when a folder cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from storage.s3 import S3Store  # who keeps files in a folder starts sooner without

        return S3Store(bucket_of(url, access_key, secret_key))
    if parts.scheme == "" and url:
        return LocalStore(Path(url))
    if parts.scheme not in ("memory", "file"):
        raise ValueError(f"{parts.scheme or repr(url)} is no store; use s3:, file: or memory:")
    _options(parts, ())
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError("file: needs a folder of this machine, as in file:///folder")
    return LocalStore(Path(unquote(parts.path)))


def bucket_of(url: str, access_key: str | None, secret_key: str | None) -> Bucket:
    """The bucket that `s3://bucket/prefix?endpoint=…&region=…&addressing=…&checksums=…` means; raises ValueError."""
    from storage.s3 import Bucket  # who keeps files in a folder starts sooner without

    parts = urlsplit(url)
    if not BUCKET.fullmatch(parts.netloc):
        raise ValueError("s3:// needs a bucket's name, and nothing else before the prefix")
    if (access_key is None) != (secret_key is None):
        raise ValueError("an access key and a secret key belong together: give both, or none")
    prefix = parts.path.strip("/")
    members = {
        **_options(parts, QUERY), "name": parts.netloc, "prefix": prefix and checked(prefix),
        "access_key": access_key, "secret_key": secret_key,
    }  # fmt: skip
    try:
        return msgspec.convert(members, Bucket)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _options(parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    unknown = ", ".join(name for name, _ in pairs if name not in known)
    if unknown:
        raise ValueError(f"{unknown} is not known in the URL of this store; there is {', '.join(known) or 'nothing'}")
    if parts.fragment or len(dict(pairs)) < len(pairs):
        raise ValueError("the URL of a store has no # in it, and says nothing twice")
    return dict(pairs)
