"""Certificates to sign results with: an authority made in the test, and what it has issued to us."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PLAIN = serialization.NoEncryption()


def p256() -> Key:
    """A key as most certificates for this purpose have it."""
    return ec.generate_private_key(ec.SECP256R1())


def issued(folder: Path, key: Key | None = None, *, days: int = 30) -> dict[str, str]:
    """The settings that name a certificate for this key, and the key. With `days` below zero it has ended."""
    key = key or p256()
    authority = ec.generate_private_key(ec.SECP256R1())
    chain = [_certificate("us", key, authority, days), _certificate("authority", authority, authority, 90)]
    files = {"certificate": folder / "chain.pem", "key": folder / "key.pem"}
    files["certificate"].write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
    files["key"].write_bytes(pem(key))
    return {f"provenance_{name}_file": str(file) for name, file in files.items()}


def pem(key: Key, encryption: serialization.KeySerializationEncryption = PLAIN) -> bytes:
    """The key as a file has it."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _certificate(name: str, key: Key, authority: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    now, is_authority = dt.datetime.now(dt.UTC), key is authority
    building = (
        x509.CertificateBuilder(_name("authority"), _name(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
    )  # fmt: skip
    if not is_authority:
        building = building.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return building.sign(authority, hashes.SHA256())


def _name(common: str) -> x509.Name:
    # Signatures are shown by the organisation.
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
