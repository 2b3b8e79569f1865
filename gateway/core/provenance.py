"""Provenance: a manifest in what is delivered that says, signed by the operator, that a model made it (C2PA).

A file that its provider has signed is named in ours as what it came from, and the provider's own manifest goes along.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from PIL import Image

from gateway.core.settings import Settings, SettingsError, variable

CERTIFICATE, KEY = "provenance_certificate_file", "provenance_key_file"
INSTALL = 'pip install "heliograph[provenance]"'
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# IPTC's words for what a model made, and for what somebody else made and a model changed.
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE, COMPOSITE = SOURCES + "trainedAlgorithmicMedia", SOURCES + "compositeWithTrainedAlgorithmicMedia"
ORIGINAL = "original"
# Nothing is fetched because a file asks for it, and no small picture is put into a file.
OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


class Unsigned(Exception):
    """No manifest could be written; the message says why. What was to be signed is as good as before."""


class Origin(msgspec.Struct, frozen=True):
    """What a manifest says of a result: by which model, and whether of a picture or film that the caller sent."""

    model: str
    edited: bool = False


class Content(msgspec.Struct, frozen=True):
    """Bytes in memory or in a file, and their media type."""

    source: bytes | Path
    media_type: str


class Identity(msgspec.Struct, frozen=True):
    """As whom is signed: the certificates, the key's own first, the key, both in PEM, and C2PA's word for its kind."""

    certificates: bytes
    key: bytes
    algorithm: str

    def __repr__(self) -> str:
        """The identity without its key."""
        return f"Identity(algorithm={self.algorithm!r})"


class Notary:
    """Writes manifests, in a few threads of its own. `until` is when its certificate ends."""

    def __init__(self, c2pa: Any, identity: Identity, threads: int = 2) -> None:
        self._c2pa = c2pa
        self._identity = identity
        self._types = frozenset(c2pa.Builder.get_supported_mime_types())
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="notary")
        self.until = x509.load_pem_x509_certificate(identity.certificates).not_valid_after_utc

    def knows(self, media_type: str) -> bool:
        """Whether files of that type can have a manifest."""
        return media_type in self._types

    async def sign(self, made: Content, came: Content, origin: Origin, target: Path) -> str:
        """Writes `made` with a manifest to `target`, an empty file, and returns the SHA-256 of that; raises Unsigned.

        `came` is what the provider delivered, which is the same unless it was converted.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.write, made, came, origin, target)

    def write(self, made: Content, came: Content, origin: Origin, target: Path) -> str:
        """As `sign`, and blocking."""
        try:
            # One that has gone, because nobody waits any more, is not made anew.
            with target.open("r+b") as written:
                self._write(made, came, origin, written)
                written.seek(0)
                return hashlib.file_digest(written, "sha256").hexdigest()
        except self._c2pa.C2paError as error:
            raise Unsigned(str(error)) from error

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _write(self, made: Content, came: Content, origin: Origin, written: IO[bytes]) -> None:
        with ExitStack() as stack:
            context = stack.enter_context(self._context())
            signed_before = self._has_manifest(came, context)
            actions = _continued(origin, made is not came) if signed_before else _created(origin)
            builder = stack.enter_context(self._c2pa.Builder(_manifest(actions), context))
            if signed_before:
                ingredient = {"label": ORIGINAL, "relationship": "parentOf"}
                builder.add_ingredient(ingredient, came.media_type, stack.enter_context(_opened(came)))
            builder.sign(made.media_type, stack.enter_context(_opened(made)), written)

    def _context(self) -> Any:
        """What one signature is made with: a signer belongs to a single context."""
        c2pa, own = self._c2pa, self._identity
        info = c2pa.C2paSignerInfo(own.algorithm, own.certificates, own.key, None)
        with c2pa.Settings.from_dict(OFFLINE) as settings:
            return c2pa.Context(settings, c2pa.Signer.from_info(info))

    def _has_manifest(self, content: Content, context: Any) -> bool:
        with _opened(content) as file:
            reader = self._c2pa.Reader.try_create(content.media_type, file, context=context)
        if reader is None:
            return False
        reader.close()
        return True


def open_notary(settings: Settings) -> Notary | None:
    """The notary of these settings, once it has signed something; None where they name no key. Raises SettingsError."""
    certificate_file, key_file = settings.provenance_certificate_file, settings.provenance_key_file
    if certificate_file is None and key_file is None:
        return None
    if certificate_file is None or key_file is None:
        raise SettingsError(f"{variable(CERTIFICATE)} and {variable(KEY)} need each other")
    try:
        import c2pa
    except ImportError as error:
        raise SettingsError(f"{variable(CERTIFICATE)} needs {INSTALL}") from error
    notary = Notary(c2pa, _identity(_read(CERTIFICATE, certificate_file), _read(KEY, key_file)))
    try:
        _try_out(notary)
    except Unsigned as error:
        notary.close()
        raise SettingsError(f"{variable(CERTIFICATE)}: nothing can be signed with it: {error}") from error
    return notary


def _try_out(notary: Notary) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    probe = Content(picture.getvalue(), "image/png")
    with tempfile.NamedTemporaryFile(prefix="heliograph-") as spool:
        notary.write(probe, probe, Origin("none"), Path(spool.name))


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable(setting)}: {path} cannot be read: {error.strerror}") from error


def _identity(certificates: bytes, text: bytes) -> Identity:
    """The identity of two files. That they belong together is checked; raises SettingsError."""
    try:
        first = x509.load_pem_x509_certificate(certificates)
    except ValueError as error:
        raise SettingsError(f"{variable(CERTIFICATE)} must name a file of certificates in PEM") from error
    try:
        key = serialization.load_pem_private_key(text, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{variable(KEY)} must name a file with a private key in PEM, not encrypted") from error
    algorithm = _algorithm(key)
    if algorithm is None:
        raise SettingsError(f"{variable(KEY)} must be a key of P-256, P-384, P-521, Ed25519 or RSA")
    if key.public_key() != first.public_key():
        raise SettingsError(f"{variable(KEY)} is not the key of the first certificate in {variable(CERTIFICATE)}")
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Identity(certificates, key.private_bytes(*plain), algorithm)


def _algorithm(key: PrivateKeyTypes) -> str | None:
    """What C2PA calls signatures of such a key; None for one that it does not know."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return CURVES.get(key.curve.name)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    return "ps256" if isinstance(key, rsa.RSAPrivateKey) else None


def _manifest(actions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "claim_generator_info": [{"name": "Heliograph", "version": version("heliograph")}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _created(origin: Origin) -> list[dict[str, Any]]:
    """What was done to a file that says nothing of itself: the model made it."""
    return [{"action": "c2pa.created", **_made(origin), "softwareAgent": {"name": origin.model}}]


def _continued(origin: Origin, converted: bool) -> list[dict[str, Any]]:
    """What was done to a file of which its provider says already how it was made."""
    opened = {"action": "c2pa.opened", **_made(origin), "parameters": {"ingredientIds": [ORIGINAL]}}
    return [opened, {"action": "c2pa.converted"}] if converted else [opened]


def _made(origin: Origin) -> dict[str, Any]:
    words = f"Made by the model {origin.model}."
    return {"digitalSourceType": COMPOSITE if origin.edited else MADE, "description": words}


def _opened(content: Content) -> IO[bytes]:
    return io.BytesIO(content.source) if isinstance(content.source, bytes) else content.source.open("rb")
