"""Opening an object store by its URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import ObjectStore
from storage.s3 import Bucket, S3Store

QUERY = ("endpoint", "region", "addressing", "checksums")


def open_store(url: str, *, access_key: str | None = None, secret_key: str | None = None) -> ObjectStore:
    """The store behind `memory:`, `file:///folder` or `s3://bucket/prefix?endpoint=…&region=…&addressing=…&checksums=…`.

    Raises ValueError that says what is wrong with the URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme != "s3":
        raise ValueError(f"{parts.scheme or url!r} is no kind of store; use s3:, file: or memory:")
    return S3Store(bucket_of(url, access_key, secret_key))


def bucket_of(url: str, access_key: str | None, secret_key: str | None) -> Bucket:
    """The bucket that an `s3:` URL means; raises ValueError."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    unknown = ", ".join(name for name in options if name not in QUERY)
    if unknown or not parts.netloc:
        known = ", ".join(QUERY)
        raise ValueError(f"{unknown} is not known; there are {known}" if unknown else "s3:// needs a bucket's name")
    members = {
        **options, "name": parts.netloc, "prefix": parts.path.strip("/"), "access_key": access_key,
        "secret_key": secret_key,
    }  # fmt: skip
    try:
        return msgspec.convert(members, Bucket)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
