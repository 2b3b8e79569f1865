"""An object store in an S3 bucket, by boto3 in a bounded pool of threads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from storage.keys import checked
from storage.objects import Found, NoSuchObject, ObjectError, ObjectStore, Stored

T = TypeVar("T")
CHUNK = 1 << 18
IN_MEMORY = 4 << 20
CONNECT_SECONDS, READ_SECONDS = 3, 20
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class Bucket(msgspec.Struct, frozen=True):
    """Where the bucket is and how to get in. Without keys, boto3 asks the usual AWS places."""

    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    addressing: Literal["auto", "path", "virtual"] = "auto"
    # `when_required` is for stores that do not know the newer checksums.
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    access_key: str | None = None
    secret_key: str | None = None

    def __repr__(self) -> str:
        """Without the keys."""
        return f"Bucket({self.name!r}, {self.prefix!r}, {self.endpoint!r})"


class S3Store(ObjectStore):
    """Keeps objects in a bucket, below the prefix. A list asks for a `page` of objects at a time.

    A server that says nothing for so many `seconds` is asked once more, and is then down.
    """

    def __init__(self, bucket: Bucket, threads: int = 16, page: int = 1000, seconds: float = READ_SECONDS) -> None:
        self.bucket = bucket
        self._page = page
        self._prefix = f"{bucket.prefix.strip('/')}/" if bucket.prefix else ""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="s3")
        config = Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=seconds,
            max_pool_connections=threads,
            retries={"mode": "standard", "total_max_attempts": 2},
            request_checksum_calculation=bucket.checksums,
            response_checksum_validation=bucket.checksums,
            s3={"addressing_style": bucket.addressing},
        )
        self._s3 = boto3.Session().client(
            "s3",
            endpoint_url=bucket.endpoint,
            region_name=bucket.region,
            aws_access_key_id=bucket.access_key,
            aws_secret_access_key=bucket.secret_key,
            config=config,
        )

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], media_type: str) -> Stored:
        """Sends the bytes with their SHA-256, so that the store refuses what arrives otherwise."""
        name = self._name(key)
        if isinstance(data, bytes):
            return await self._run(partial(self._put_whole, name, data, media_type))
        with _Spool() as spool:
            async for chunk in data:
                await self._run(partial(spool.write, chunk))
            return await self._run(partial(self._put_spool, name, spool, media_type))

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yields the object in chunks as they arrive."""
        name = self._name(key)
        if end is not None and end <= start:
            if await self.find(key) is None:
                raise NoSuchObject("there is no such object")
            return
        # The whole is asked for without a range: only then are the bytes held against their checksum.
        part: Any = {} if (start, end) == (0, None) else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        try:
            answer = await self._run(partial(self._s3.get_object, Bucket=self.bucket.name, Key=name, **part))
        except _PastTheEnd:
            return
        body = answer["Body"]
        try:
            while chunk := await self._run(partial(body.read, CHUNK)):
                yield chunk
        finally:
            body.close()

    async def find(self, key: str) -> Found | None:
        """Asks for the object's head."""
        name = self._name(key)
        try:
            head = await self._run(partial(self._s3.head_object, Bucket=self.bucket.name, Key=name))
        except NoSuchObject:
            # A HEAD that fails does not say whether it was the object that is missing, or the whole bucket.
            await self._run(partial(self._s3.list_objects_v2, Bucket=self.bucket.name, Prefix=name, MaxKeys=1))
            return None
        return Found(key, head["ContentLength"], head.get("ContentType", ""), head["LastModified"])

    async def delete(self, key: str) -> None:
        """Removes the object."""
        name = self._name(key)
        await self._run(partial(self._s3.delete_object, Bucket=self.bucket.name, Key=name))

    async def list(self, prefix: str = "") -> AsyncIterator[Found]:
        """Every object below the prefix, a page at a time. S3 does not list media types: they are empty."""
        wanted: dict[str, Any] = {"Bucket": self.bucket.name, "Prefix": self._prefix + prefix, "MaxKeys": self._page}
        while True:
            page = await self._run(partial(self._s3.list_objects_v2, **wanted))
            for entry in page.get("Contents", ()):
                # There are servers that tidy the prefix up like a path, and then list what does not begin with it.
                if entry["Key"].startswith(wanted["Prefix"]):
                    yield Found(entry["Key"][len(self._prefix) :], entry["Size"], "", entry["LastModified"])
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def link(self, key: str, media_type: str, seconds: int) -> str | None:
        """A presigned GET: computed here, without asking the store."""
        wanted = {"Bucket": self.bucket.name, "Key": self._name(key), "ResponseContentType": media_type}
        with _translated():
            return self._s3.generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds)

    async def close(self) -> None:
        """Lets threads and connections go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._s3.close()

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)

    async def _run(self, work: Callable[[], T]) -> T:
        with _translated():
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _put_whole(self, name: str, data: bytes, media_type: str) -> Stored:
        return self._put(name, data, len(data), media_type, hashlib.sha256(data))

    def _put_spool(self, name: str, spool: _Spool, media_type: str) -> Stored:
        spool.file.seek(0)
        return self._put(name, spool.file, spool.size, media_type, spool.hashed)

    def _put(self, name: str, body: Any, size: int, media_type: str, hashed: hashlib._Hash) -> Stored:
        self._s3.put_object(
            Bucket=self.bucket.name, Key=name, Body=body, ContentType=media_type,
            ChecksumSHA256=base64.b64encode(hashed.digest()).decode(),
        )  # fmt: skip
        return Stored(size, hashed.hexdigest())


class _Spool:
    """A stream that is being collected, on disk once it is long, with its size and digest so far."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed at the end of this one's own block
        self.size, self.hashed = 0, hashlib.sha256()

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.hashed.update(chunk)
        self.size += len(chunk)


class _PastTheEnd(ObjectError):
    """The range begins behind the last byte: there is nothing to read."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _refusal(error) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise ObjectError(f"the object store could not be reached: {type(error).__name__}") from error


def _refusal(error: ClientError) -> ObjectError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in MISSING:
        return NoSuchObject("there is no such object")
    if code in ("InvalidRange", "416"):
        return _PastTheEnd("the range begins behind the end of the object")
    return ObjectError(f"the object store refused: {code}")
