"""Throw-away OpenPGP keys and signatures (RFC 9580, v4, EdDSA legacy), so that tests need no gpg.

Everything a test wants to be wrong can be made wrong: times, hashes, revocation.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from buildit.trust.openpgp import crc24

EDDSA = 22
SHA1, SHA256 = 2, 8
BORN = 1_700_000_000
_OID = bytes.fromhex("2b06010401da470f01")
_HASHES = {SHA1: hashlib.sha1, SHA256: hashlib.sha256}


def armor(kind: str, packets: bytes) -> bytes:
    body = base64.encodebytes(packets).decode()
    check = base64.b64encode(crc24(packets).to_bytes(3, "big")).decode()
    return f"-----BEGIN PGP {kind}-----\n\n{body}={check}\n-----END PGP {kind}-----\n".encode()


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def _mpi(data: bytes) -> bytes:
    number = int.from_bytes(data, "big")
    length = (number.bit_length() + 7) // 8
    return number.bit_length().to_bytes(2, "big") + number.to_bytes(length, "big")


def _subpacket(kind: int, body: bytes) -> bytes:
    return bytes([len(body) + 1, kind]) + body


@dataclass(frozen=True, slots=True)
class Key:
    """A key made from `seed`; `lifetime` in seconds after BORN, 0 for ever."""

    seed: int = 1
    lifetime: int = 0
    revoked: bool = False

    @property
    def _secret(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % self.seed).digest())

    @property
    def _body(self) -> bytes:
        point = self._secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        head = b"\x04" + BORN.to_bytes(4, "big") + bytes([EDDSA, len(_OID)]) + _OID
        return head + _mpi(b"\x40" + point)

    @property
    def _hashed_body(self) -> bytes:
        return b"\x99" + len(self._body).to_bytes(2, "big") + self._body

    @property
    def fingerprint(self) -> str:
        return hashlib.sha1(self._hashed_body).hexdigest().upper()

    def _sign(self, kind: int, data: bytes, at: int, algorithm: int, extra: bytes = b"") -> bytes:
        hashed = _subpacket(2, at.to_bytes(4, "big")) + extra
        hashed += _subpacket(33, b"\x04" + bytes.fromhex(self.fingerprint))
        head = bytes([4, kind, EDDSA, algorithm]) + len(hashed).to_bytes(2, "big") + hashed
        trailer = b"\x04\xff" + len(head).to_bytes(4, "big")
        digest = _HASHES[algorithm](data + head + trailer).digest()
        value = self._secret.sign(digest)
        issuer = _subpacket(16, bytes.fromhex(self.fingerprint)[-8:])
        tail = len(issuer).to_bytes(2, "big") + issuer + digest[:2]
        return _packet(2, head + tail + _mpi(value[:32]) + _mpi(value[32:]))

    @property
    def packets(self) -> bytes:
        name = b"Throw Away <throw@away.example>"
        extra = _subpacket(27, b"\x03")
        if self.lifetime:
            extra += _subpacket(9, self.lifetime.to_bytes(4, "big"))
        data = self._hashed_body + b"\xb4" + len(name).to_bytes(4, "big") + name
        revocation = b""
        if self.revoked:
            because = _subpacket(29, b"\x02compromised")
            revocation = self._sign(0x20, self._hashed_body, BORN + 1, SHA256, because)
        certificate = self._sign(0x13, data, BORN, SHA256, extra)
        return _packet(6, self._body) + revocation + _packet(13, name) + certificate

    @property
    def armored(self) -> bytes:
        return armor("PUBLIC KEY BLOCK", self.packets)

    def detached(self, data: bytes, *, at: int = BORN + 60, algorithm: int = SHA256) -> bytes:
        return self._sign(0x00, data, at, algorithm)


def clearsigned(text: str, *keys: Key, at: int = BORN + 60, algorithm: int = SHA256) -> bytes:
    """RFC 9580, 7: the text, dash-escaped, and one signature of each key."""
    lines = text.removesuffix("\n").split("\n")
    canonical = "\r\n".join(line.rstrip(" \t") for line in lines).encode()
    packets = b"".join(key._sign(0x01, canonical, at, algorithm) for key in keys)
    escaped = "\n".join(f"- {line}" if line.startswith("-") else line for line in lines)
    names = {SHA1: "SHA1", SHA256: "SHA256"}
    head = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: {names[algorithm]}\n\n{escaped}\n"
    return head.encode() + armor("SIGNATURE", packets)
