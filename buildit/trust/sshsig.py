"""SSH signatures of files (OpenSSH's PROTOCOL.sshsig), as `ssh-keygen -Y sign` and `verify` do.

The key inside a signature says who claims to have signed; only the allowed-signers list says whom
to believe. `verify` returns the match or raises: an error is never a pass.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from buildit.errors import IntegrityError
from buildit.store import attest
from buildit.trust.allowed_signers import AllowedSigner
from buildit.trust.sshkeys import SigningKey
from buildit.trust.sshwire import Wire, check, pack

NAMESPACE = "buildit-attestation-v1"
MAX_SIGNATURE = 1 << 16
"""Longest signature file in characters."""

_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR = re.compile(rf"{_BEGIN}\n([A-Za-z0-9+/=\n]+)\n{_END}\n?")
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: the principals of the line that allows it, and the key in wire form."""

    principals: str
    public: bytes

    @property
    def builder(self) -> str:
        return builder_name(self.public)


def builder_name(public: bytes) -> str:
    """A builder's name in the store: SHA-256 of its SSH public key's wire form, in hex."""
    return hashlib.sha256(public).hexdigest()


def fingerprint(public: bytes) -> str:
    """As ssh-keygen -l prints it: SHA256 and unpadded base64 of the wire form."""
    return attest.fingerprint(builder_name(public))


def sign(data: bytes, key: SigningKey, namespace: str = NAMESPACE) -> str:
    """Sign; the armored text of a `.sig` file.

    Raises:
        UsageError: the key cannot be used.
        ValueError: the namespace is empty.
    """
    if not namespace:
        raise ValueError("PROTOCOL.sshsig: the namespace must not be empty")
    signature = key.sign(_signed(data, namespace.encode(), "sha512"))
    fields = pack(key.public, namespace.encode(), b"", b"sha512", signature)
    text = base64.b64encode(_MAGIC + _VERSION.to_bytes(4, "big") + fields).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def verify(
    data: bytes,
    signature: str,
    allowed: Sequence[AllowedSigner],
    namespace: str,
    at: int,
) -> Signer:
    """Who of `allowed` signed `data` for `namespace`; `at` is now, in seconds since 1970.

    Raises:
        IntegrityError: the signature is malformed, of other bytes or for another namespace, or its
            key is not allowed, not for this namespace, or not at this time.
    """
    public, stated, hashed, value = _parse(signature)
    if stated != namespace:
        raise IntegrityError(f"SSH signature is for {stated!r}, not for {namespace!r}")
    # first whether we would believe this key at all, then whether it did sign
    line = _allowed_line(public, allowed, namespace, at)
    check(public, value, _signed(data, namespace.encode(), hashed))
    return Signer(line.principals, public)


def claimed_key(data: bytes, signature: str, namespace: str) -> bytes | None:
    """The public key that did sign `data`, whether anybody believes it or not; None where none did.

    For messages only: a signature that holds says nothing about whom to trust.
    """
    try:
        public, stated, hashed, value = _parse(signature)
        if stated != namespace:
            return None
        check(public, value, _signed(data, namespace.encode(), hashed))
    except IntegrityError:
        return None
    return public


def _allowed_line(
    public: bytes, allowed: Sequence[AllowedSigner], namespace: str, at: int
) -> AllowedSigner:
    lines = [line for line in allowed if line.public == public]
    if not lines:
        raise IntegrityError(
            f"signed by a key that is not trusted (builder {builder_name(public)[:12]})",
            hint="add its public key to the allowed-signers file if you trust it",
        )
    covering = [line for line in lines if line.covers(namespace)]
    if not covering:
        raise IntegrityError(f"the signer's key is not allowed for {namespace!r}")
    for line in covering:
        if line.counts_at(at):
            return line
    raise IntegrityError("the signer's key is not valid at this time")


def _parse(signature: str) -> tuple[bytes, str, str, bytes]:
    """Public key, namespace, hash and inner signature."""
    armor = _ARMOR.fullmatch(signature.replace("\r\n", "\n")[: MAX_SIGNATURE + 1])
    if armor is None or len(signature) > MAX_SIGNATURE:
        raise IntegrityError("not an SSH signature")
    try:
        packed = base64.b64decode(armor[1].replace("\n", ""), validate=True)
    except binascii.Error as error:
        raise IntegrityError(f"damaged SSH signature: {error}") from error
    wire = Wire(packed)
    if wire.take(len(_MAGIC)) != _MAGIC or wire.uint32() != _VERSION:
        raise IntegrityError("not an SSH signature of version 1")
    public, namespace = wire.string(), wire.text()
    wire.string()  # reserved: verifiers ignore it, and it is signed as empty
    hashed, value = wire.text(), wire.string()
    wire.end()
    if hashed not in _HASHES:
        raise IntegrityError(f"SSH signature with hash {hashed!r}; sha256 and sha512 are known")
    return public, namespace, hashed, value


def _signed(data: bytes, namespace: bytes, hashed: str) -> bytes:
    return _MAGIC + pack(namespace, b"", hashed.encode(), _HASHES[hashed](data).digest())
