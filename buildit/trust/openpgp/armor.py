"""OpenPGP ASCII armor (RFC 9580, 6.2) and the outer shape of clear-signed text (7); pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from buildit.errors import IntegrityError

_BLOCK = re.compile(
    rb"^-----BEGIN PGP ([A-Z ]+)-----[ \t]*\n(.*?)^-----END PGP \1-----[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_HEADER = re.compile(rb"[A-Za-z][A-Za-z-]*: ?[^\n]*")
_CLEAR_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIG_BEGIN = b"-----BEGIN PGP SIGNATURE-----"
_SIG_END = b"-----END PGP SIGNATURE-----"


def crc24(data: bytes) -> int:
    """The checksum of an armored block (RFC 9580, 6.1.1)."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def dearmor(data: bytes, block: str) -> bytes:
    """The packets of a file that is armored or already binary; several blocks are joined.

    `block` is what must be inside, such as `PUBLIC KEY BLOCK` or `SIGNATURE`.

    Raises:
        IntegrityError: another kind of block, damaged base64 or a wrong checksum, no packets.
    """
    if data[:1] and data[0] & 0x80:  # RFC 9580, 4.2: the first bit of every packet is one
        return data
    text = data.replace(b"\r\n", b"\n")
    packets = b"".join(_packets(match, block) for match in _BLOCK.finditer(text))
    if not packets:
        raise IntegrityError(f"no OpenPGP {block.lower()} in {len(data)} bytes of key or signature")
    return packets


def _packets(match: re.Match[bytes], block: str) -> bytes:
    kind = match[1].decode()
    if kind != block:
        raise IntegrityError(f"OpenPGP {kind.lower()} where a {block.lower()} is due")
    lines = [line.rstrip() for line in match[2].split(b"\n")]
    body = list(_after_headers(lines))
    checksum = b""
    if body and len(body[-1]) == 5 and body[-1].startswith(b"="):
        checksum = body.pop()[1:]
    try:
        packets = base64.b64decode(b"".join(body), validate=True)
        stated = int.from_bytes(base64.b64decode(checksum, validate=True), "big")
    except binascii.Error as error:
        raise IntegrityError(f"damaged armor of an OpenPGP {block.lower()}: {error}") from error
    if checksum and stated != crc24(packets):
        raise IntegrityError(f"damaged armor of an OpenPGP {block.lower()}: wrong checksum")
    return packets


def _after_headers(lines: list[bytes]) -> Iterator[bytes]:
    blank = lines.index(b"") if b"" in lines else -1
    if blank > 0 and not all(_HEADER.fullmatch(line) for line in lines[:blank]):
        raise IntegrityError("damaged armor: something else stands where headers are due")
    yield from (line for line in lines[blank + 1 :] if line)


def check_clearsigned(message: bytes) -> None:
    """Refuse whatever two readers could read differently (CVE-2016-1252): one message, whole.

    Raises:
        IntegrityError: not exactly one clear-signed message with nothing before or behind it.
    """
    lines = [line.rstrip(b" \t\r") for line in message.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    marks = [at for at, line in enumerate(lines) if line.startswith(b"-----")]
    expected = [_CLEAR_BEGIN, _SIG_BEGIN, _SIG_END]
    if [lines[at] for at in marks] != expected or marks[0] != 0 or marks[2] != len(lines) - 1:
        raise IntegrityError("not one whole clear-signed OpenPGP message")
    blank = lines.index(b"") if b"" in lines[: marks[1]] else 0
    if not blank or not all(line.startswith(b"Hash: ") for line in lines[1:blank]):
        raise IntegrityError("clear-signed message with a header other than Hash")
    if any(line.startswith(b"-") and line[:2] != b"- " for line in lines[blank : marks[1]]):
        raise IntegrityError("clear-signed message with a line that is not dash-escaped")
