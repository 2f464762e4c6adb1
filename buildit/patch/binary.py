"""git's binary changes: base85 and deflate undone, deltas checked and applied.

The format is git's own (gitformat-pack(5), "Deltified representation"; the text form is what
`git diff --binary` writes). Whatever level git's zlib had, the content is the same: we write it
back as stored blocks of deflate, which has one spelling only.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator

MAX_CONTENT = 32 << 20
"""The most bytes that the binary changes of one patch may have once they are inflated."""
MAX_RESULT = 256 << 20
"""The most bytes that a delta may make, and that a file may have that a patch touches."""

_ROW = 52  # bytes of one line; its first letter says how many: A-Z are 1-26, a-z 27-52
_BLOCK = 65535  # RFC 1951, 3.2.4: the most bytes of a stored block


class Malformed(ValueError):  # noqa: N818 - what the bytes are
    """The bytes are no binary change of git's; the text says why."""


def inflated_rows(rows: list[bytes], size: int) -> bytes:
    """The `size` bytes that lines of base85 hold, deflated.

    Raises:
        Malformed: a letter, a length, the deflated stream or the size is wrong.
    """
    packed = b"".join(map(_row, rows))
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise Malformed("its deflated bytes are damaged") from error
    if len(data) != size or not stream.eof or stream.unused_data:
        raise Malformed(f"it does not inflate to the {size} bytes that it claims")
    return data


def _row(row: bytes) -> bytes:
    letter = row[0]
    count = letter - 64 if 65 <= letter <= 90 else letter - 70
    groups = -(-count // 4)
    if not 1 <= count <= _ROW or len(row) != 1 + 5 * groups:
        raise Malformed("a line of its base85 has another length than its first letter says")
    try:
        return base64.b85decode(row[1:])[:count]
    except ValueError as error:
        raise Malformed("its base85 is malformed") from error


def rows(data: bytes) -> Iterator[bytes]:
    """The lines, each with its newline, that `inflated` reads `data` from."""
    packed = _stored(data)
    for at in range(0, len(packed), _ROW):
        row = packed[at : at + _ROW]
        letter = len(row) + (64 if len(row) <= 26 else 70)
        # b85encode drops what its own padding added; git wants whole groups
        yield b"%c%s\n" % (letter, base64.b85encode(row, pad=True))


def _stored(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks."""
    parts = [b"\x78\x01"]
    for at in range(0, len(data) or 1, _BLOCK):
        block = data[at : at + _BLOCK]
        last = at + _BLOCK >= len(data)
        size = len(block).to_bytes(2, "little")
        parts += [b"\x01" if last else b"\x00", size, bytes(byte ^ 0xFF for byte in size), block]
    parts.append(zlib.adler32(data).to_bytes(4, "big"))
    return b"".join(parts)


def delta_sizes(delta: bytes) -> tuple[int, int]:
    """How many bytes a delta goes from and to; everything in it is checked.

    Raises:
        Malformed: it is cut off, copies from beyond its source, or does not add up.
    """
    source, made, _ = _walked(delta, None)
    return source, made


def delta_result(delta: bytes, source: bytes) -> bytes:
    """What a delta makes of `source`.

    Raises:
        Malformed: as `delta_sizes`, or the source has another size than the delta says.
    """
    return b"".join(_walked(delta, source)[2])


def _walked(delta: bytes, source: bytes | None) -> tuple[int, int, list[bytes]]:
    size, at = _number(delta, 0)
    target, at = _number(delta, at)
    if target > MAX_RESULT:
        raise Malformed(f"it makes more than {MAX_RESULT >> 20} MiB")
    if source is not None and len(source) != size:
        raise Malformed(f"it is of a file of {size} bytes, which has {len(source)} here")
    parts: list[bytes] = []
    made = 0
    while at < len(delta):
        code = delta[at]
        at += 1
        if code & 0x80:
            begin, length, at = _copied(delta, at, code)
            if begin + length > size:
                raise Malformed("it copies from beyond its source")
            if source is not None:
                parts.append(source[begin : begin + length])
        else:
            length = code
            if not length or at + length > len(delta):
                raise Malformed("it is cut off")
            if source is not None:
                parts.append(delta[at : at + length])
            at += length
        made += length
        if made > target:
            raise Malformed("it makes more than it claims")
    if made != target:
        raise Malformed("it makes less than it claims")
    return size, target, parts


def _copied(delta: bytes, at: int, code: int) -> tuple[int, int, int]:
    """Begin and length of a copy: bits 0-3 say which bytes of the one follow, 4-6 of the other."""
    values = [0, 0]
    for bit in range(7):
        if code & (1 << bit):
            if at >= len(delta):
                raise Malformed("it is cut off")
            which, shift = (0, bit) if bit < 4 else (1, bit - 4)
            values[which] |= delta[at] << (8 * shift)
            at += 1
    return values[0], values[1] or 0x10000, at


def _number(delta: bytes, at: int) -> tuple[int, int]:
    """A size, seven bits a byte, lowest first."""
    value = shift = 0
    while at < len(delta) and shift < 63:
        byte = delta[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            return value, at
    raise Malformed("it is cut off")


def is_object(named: str, content: bytes) -> bool:
    """Whether `content` is the blob that `named` names: a whole object name or its beginning.

    git names a blob by SHA-1 or, where the name has 64 digits, SHA-256 of `blob SIZE\\0` and the
    bytes (gitformat-loose(5)); an absent file has zeros for a name.
    """
    framed = b"blob %d\0" % len(content) + content
    if len(named) > 40:
        return hashlib.sha256(framed).hexdigest().startswith(named)
    sha1 = hashlib.sha1(framed, usedforsecurity=False).hexdigest()
    return sha1.startswith(named) or hashlib.sha256(framed).hexdigest().startswith(named)


def is_absent(named: str) -> bool:
    """Whether an object name stands for a file that is not there."""
    return not named.strip("0")
