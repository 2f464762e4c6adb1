"""Digests, build keys and the one canonical encoding that they are taken over."""

from __future__ import annotations

import hashlib
import json
import re
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, NewType

Digest = NewType("Digest", str)
"""SHA-256 of bytes: 64 lower-case hex digits, without the `sha256:` that OCI JSON puts before."""

BuildKey = NewType("BuildKey", str)
"""SHA-256 of a canonical build record: 64 lower-case hex digits. Never a `Digest` of bytes."""

CHUNK = 1 << 20
_UUID8 = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)
_HEX64 = re.compile(r"[0-9a-f]{64}")


def canonical(value: object) -> bytes:
    """Encode JSON data so that equal data gives equal bytes: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: the value holds NaN or an infinity.
        TypeError: the value is not JSON data.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def digest_bytes(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def digest_stream(stream: BinaryIO | RawIOBase) -> Digest:
    running = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        running.update(chunk)
    return Digest(running.hexdigest())


def digest_file(path: Path) -> Digest:
    with path.open("rb") as stream:
        return digest_stream(stream)


def is_hex64(text: str) -> bool:
    return _HEX64.fullmatch(text) is not None


def parse_digest(text: str) -> Digest:
    """`sha256:<hex>` or bare hex to a digest.

    Raises:
        ValueError: the text is not 64 lower-case hex digits after an optional `sha256:`.
    """
    hexdigits = text.removeprefix("sha256:")
    if not is_hex64(hexdigits):
        raise ValueError(f"not a SHA-256 digest: {text!r}")
    return Digest(hexdigits)


def oci_digest(digest: Digest) -> str:
    """The digest as OCI writes it (image-spec descriptor.md, "Digests")."""
    return f"sha256:{digest}"


def key_uuid(key: BuildKey) -> str:
    """The key's first 122 bits as a version-8 UUID (RFC 9562, 5.8), for people only."""
    bits = int(key, 16) >> (256 - 122)
    a, b, c = bits >> 74, (bits >> 62) & 0xFFF, bits & ((1 << 62) - 1)
    text = f"{(a << 80) | (8 << 76) | (b << 64) | (2 << 62) | c:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def uuid_prefix(text: str) -> str | None:
    """The hex prefix (30 digits; 2 further bits are lost) of the keys that a whole UUID names.

    None where the text is not a version-8 UUID.
    """
    if _UUID8.fullmatch(text) is None:
        return None
    whole = int(text.replace("-", ""), 16)
    a, b, c = whole >> 80, (whole >> 64) & 0xFFF, whole & ((1 << 62) - 1)
    return f"{((a << 74) | (b << 62) | c) >> 2:030x}"
