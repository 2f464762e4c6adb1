"""SSH's wire encoding (RFC 4251, 5), its public keys and their signatures.

Ed25519 (RFC 8709), ECDSA on the NIST curves (RFC 5656), RSA with SHA-2 (RFC 8332); nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildit.errors import IntegrityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

LEAST_RSA_BITS = 2048
ED25519 = "ssh-ed25519"
RSA = "ssh-rsa"
CURVES: Mapping[str, str] = {
    "ecdsa-sha2-nistp256": "nistp256",
    "ecdsa-sha2-nistp384": "nistp384",
    "ecdsa-sha2-nistp521": "nistp521",
}
KEY_TYPES = (ED25519, RSA, *CURVES)


def pack(*fields: bytes) -> bytes:
    """Each field behind its length (RFC 4251, 5: string)."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def mpint(value: int) -> bytes:
    """RFC 4251, 5: mpint of a number that is not negative, without its length."""
    return value.to_bytes((value.bit_length() + 8) // 8, "big") if value else b""


@dataclass(slots=True)
class Wire:
    """Reads fields from the front.

    Raises:
        IntegrityError: from every method, where the bytes end too early.
    """

    rest: bytes

    def take(self, length: int) -> bytes:
        if length > len(self.rest):
            raise IntegrityError("SSH signature or key is cut off")
        head, self.rest = self.rest[:length], self.rest[length:]
        return head

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def text(self) -> str:
        try:
            return self.string().decode("ascii")
        except UnicodeDecodeError as error:
            raise IntegrityError("SSH signature or key has a name that is not ASCII") from error

    def number(self) -> int:
        field = self.string()
        if field[:1] and field[0] & 0x80:
            raise IntegrityError("SSH key or signature with a negative number")
        return int.from_bytes(field, "big")

    def end(self) -> None:
        if self.rest:
            raise IntegrityError(f"{len(self.rest)} bytes too many in an SSH signature or key")


def parse_public(line: str) -> bytes:
    """The wire form of an OpenSSH public key: `type base64 [comment]`.

    Raises:
        IntegrityError: it is no such line, or of a type that is not supported.
    """
    fields = line.split()
    if len(fields) < 2:
        raise IntegrityError(
            "not an OpenSSH public key", hint="it is one line: ssh-ed25519 AAAA… whose"
        )
    try:
        public = base64.b64decode(fields[1], validate=True)
    except ValueError as error:  # binascii.Error too; a letter that is not ASCII is the plain one
        raise IntegrityError(f"not an OpenSSH public key: {error}") from error
    if key_type(public) != fields[0]:
        raise IntegrityError(f"OpenSSH public key says {fields[0]} but holds {key_type(public)}")
    return public


def public_line(public: bytes) -> str:
    """The `type base64` line of a public key in wire form."""
    return f"{key_type(public)} {base64.b64encode(public).decode()}"


def key_type(public: bytes) -> str:
    """The type of a public key in wire form.

    Raises:
        IntegrityError: it is not a supported type.
    """
    name = Wire(public).text()
    if name not in KEY_TYPES:
        raise IntegrityError(
            f"SSH key type {name!r} is not supported", hint=f"use {ED25519}: ssh-keygen -t ed25519"
        )
    return name


def check(public: bytes, signature: bytes, data: bytes) -> None:
    """Verify one signature, both in wire form.

    Raises:
        IntegrityError: it does not verify, is malformed, or of another algorithm than the key's.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    kind = key_type(public)
    wire = Wire(signature)
    algorithm, value = wire.text(), wire.string()
    wire.end()
    allowed = ("rsa-sha2-512", "rsa-sha2-256") if kind == RSA else (kind,)
    if algorithm not in allowed:
        raise IntegrityError(f"SSH signature algorithm {algorithm!r} does not fit a {kind} key")
    try:
        _CHECKS.get(kind, _check_ecdsa)(public, algorithm, value, data)
    except InvalidSignature as error:
        raise IntegrityError(
            "bad SSH signature: the bytes are not those that were signed"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityError(f"SSH key cannot be used: {error}") from error


def _check_ed25519(public: bytes, algorithm: str, value: bytes, data: bytes) -> None:  # noqa: ARG001
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    wire = Wire(public)
    wire.string()
    point = wire.string()
    wire.end()
    Ed25519PublicKey.from_public_bytes(point).verify(value, data)


def _check_rsa(public: bytes, algorithm: str, value: bytes, data: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    wire = Wire(public)
    wire.string()
    exponent, modulus = wire.number(), wire.number()
    wire.end()
    if modulus.bit_length() < LEAST_RSA_BITS:
        raise IntegrityError(f"RSA key of {modulus.bit_length()} bits: {LEAST_RSA_BITS} is least")
    digest = hashes.SHA512() if algorithm == "rsa-sha2-512" else hashes.SHA256()
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    # RFC 8332, 3: signatures may come without leading zero bytes
    padded = value.rjust((modulus.bit_length() + 7) // 8, b"\0")
    key.verify(padded, data, padding.PKCS1v15(), digest)


def _check_ecdsa(public: bytes, algorithm: str, value: bytes, data: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    wire = Wire(public)
    wire.string()
    name, point = wire.text(), wire.string()
    wire.end()
    if name != CURVES[algorithm]:
        raise IntegrityError(f"ECDSA key on {name!r} calls itself {algorithm}")
    curve, digest = _curve(name)
    pair = Wire(value)
    r, s = pair.number(), pair.number()
    pair.end()
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))


def _curve(name: str) -> tuple[ec.EllipticCurve, HashAlgorithm]:
    """The curve and its hash (RFC 5656, 6.2.1)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if name == "nistp256":
        return ec.SECP256R1(), hashes.SHA256()
    if name == "nistp384":
        return ec.SECP384R1(), hashes.SHA384()
    return ec.SECP521R1(), hashes.SHA512()


_CHECKS = {ED25519: _check_ed25519, RSA: _check_rsa}
