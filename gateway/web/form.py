"""Forms: a multipart body as a stream, its files in a temporary folder, its texts in the shape of a JSON body.

A file's name and declared type are the client's fancy: neither is used for anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from gateway.core.errors import GatewayError, invalid, shown

log = logging.getLogger(__name__)
MOST_PARTS, MOST_TEXT = 100, 262_144
LONGEST_BOUNDARY = 70
PLAIN = ("7bit", "8bit", "binary")
FIELD = re.compile(r"(?P<name>[A-Za-z0-9_]{1,64})(?:\[(?P<member>[^\[\]]{0,64})\])?")


class File(msgspec.Struct, frozen=True):
    """A file of a form, where it lies now, and the digest of its bytes."""

    field: str
    path: Path
    digest: str


class Form(msgspec.Struct, frozen=True):
    """A form: `texts` as JSON would have it, except that numbers are text still; `files` in their order."""

    texts: dict[str, Any]
    files: list[File]

    @property
    def fingerprint(self) -> bytes:
        """What tells it from another form, whatever boundary or file names a client makes up each time."""
        files = [(one.field, one.digest) for one in self.files]
        return msgspec.json.encode([self.texts, files], order="sorted")


def is_form(request: Request[Any, Any, Any]) -> bool:
    """Whether the body says that it is a multipart form."""
    kind: str = parse_options_header(request.headers.get("content-type", ""))[0]
    return kind == "multipart/form-data"


@asynccontextmanager
async def read_form(request: Request[Any, Any, Any], max_file_bytes: int) -> AsyncIterator[Form]:
    """The form of the body, for as long as the block lasts: then its files are gone.

    Raises GatewayError: `invalid_multipart`, `payload_too_large`, `invalid_parameter`, `invalid_request`, or
    `storage_unavailable` when there is no room for its files.
    """
    with _folder() as folder:
        reader = _Reader(Path(folder), max_file_bytes)
        try:
            with PushMultipartParser(
                _boundary(request), max_segment_count=MOST_PARTS, max_segment_size=max_file_bytes, strict=True
            ) as parser:
                async for chunk in _framed(request.stream(), _boundary(request).encode()):
                    for event in parser.parse(chunk):
                        await reader.take(event)
        except ParserLimitReached as error:
            message = (
                f"A form has at most {MOST_PARTS} parts, with short headers and at most {max_file_bytes} bytes each."
            )
            raise GatewayError("payload_too_large", message) from error
        except MultipartError as error:
            raise GatewayError("invalid_multipart", f"The form cannot be read: {error}.") from error
        except InternalServerException as error:
            raise GatewayError("invalid_request", "The connection ended before the request body did.") from error
        except OSError as error:
            raise _no_room(error) from error
        finally:
            reader.close()
        yield Form(reader.texts, reader.files)


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="heliograph-")
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> GatewayError:
    log.warning("the files of a form could not be kept: %s", error)
    return GatewayError("storage_unavailable", "There is no room for the files just now. Nothing was started.")


async def _framed(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[bytes]:
    """The chunks of a body, none of them empty, that begins and ends with its boundary and not with something else."""
    opening, closing = b"--" + boundary, b"--" + boundary + b"--"
    head, tail, begun = b"", b"", False
    async for chunk in chunks:
        tail = (tail + chunk)[-len(closing) - 2 :]
        if begun and chunk:
            yield chunk
        elif not begun:
            head += chunk
            if not opening.startswith(head[: len(opening)]):
                break
            if begun := len(head) >= len(opening):
                yield head
    if not begun or not tail.removesuffix(b"\r\n").endswith(closing):
        raise GatewayError("invalid_multipart", "The form must begin with its boundary, and end with it.")


def _boundary(request: Request[Any, Any, Any]) -> str:
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get("boundary", "")
    if not boundary or len(boundary) > LONGEST_BOUNDARY or not boundary.isascii():
        raise GatewayError("invalid_multipart", f"A form needs a boundary, of at most {LONGEST_BOUNDARY} characters.")
    return str(boundary)


class _Reader:
    """Takes what the parser finds, part by part."""

    def __init__(self, folder: Path, max_file_bytes: int) -> None:
        self.folder = folder
        self.max_file_bytes = max_file_bytes
        self.texts: dict[str, Any] = {}
        self.files: list[File] = []
        self._part: MultipartSegment | None = None
        self._text = bytearray()
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    async def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """A part begins, goes on, or ends."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._file is not None:
            self._digest.update(event)
            await asyncio.to_thread(self._file.write, event)
        else:
            self._text += event
            if len(self._text) > MOST_TEXT:
                raise GatewayError("payload_too_large", f"A text of the form has more than {MOST_TEXT} bytes.")

    def close(self) -> None:
        """Closes the file of a part that never ended."""
        if self._file is not None:
            # What is still to be written may find no room, as the rest did.
            with suppress(OSError):
                self._file.close()

    def _begin(self, part: MultipartSegment) -> None:
        if not FIELD.fullmatch(part.name or ""):
            raise GatewayError("invalid_multipart", f"{shown(part.name or '')} is no name of a form field.")
        if part.header("Content-Transfer-Encoding", "binary").lower() not in PLAIN:
            raise GatewayError("invalid_multipart", "The parts of a form must not be encoded further.")
        self._part, self._text = part, bytearray()
        if part.filename is not None:
            self._file, self._digest = (self.folder / f"{len(self.files)}").open("wb"), hashlib.sha256()
        elif (part.charset or "utf-8").lower().replace("_", "-") not in ("utf-8", "us-ascii"):
            raise GatewayError("invalid_multipart", "The texts of a form must be in UTF-8.")

    def _end(self) -> None:
        assert self._part is not None  # noqa: S101 - the parser ends only what began
        found = FIELD.fullmatch(self._part.name or "")
        assert found is not None  # noqa: S101 - looked at when the part began
        if self._file is None:
            return self._add(found["name"], found["member"], _decoded(found["name"], bytes(self._text)))
        path = Path(self._file.name)
        self._file.close()
        self._file = None
        self.files.append(File(found["name"], path, self._digest.hexdigest()))

    def _add(self, name: str, member: str | None, text: str) -> None:
        """`name[]` is one of a list, `name[member]` is one of an object."""
        known = self.texts.get(name)
        if member == "" and isinstance(known, list | None):
            self.texts[name] = [*(known or []), text]
        elif member and isinstance(known, dict | None) and member not in (known or {}):
            self.texts[name] = {**(known or {}), member: text}
        elif member is None and known is None:
            self.texts[name] = text
        else:
            raise invalid(name, f"{name} is given twice.")


def _decoded(name: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise invalid(name, f"{name} is not in UTF-8.") from error
    if "\0" in text:
        raise invalid(name, f"{name} holds the character NUL, which is not taken.")
    return text
