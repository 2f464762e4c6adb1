"""Tars that may lie: raw blocks, made without the writer under test and without `tarfile`."""

from __future__ import annotations

BLOCK = 512
END = bytes(1024)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    if value >= 0:
        return b"\x80" + value.to_bytes(width - 1, "big")
    return b"\xff" + value.to_bytes(width - 1, "big", signed=True)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    size: bytes | int = 0,
    mode: bytes | int = 0o644,
    uid: bytes | int = 0,
    gid: bytes | int = 0,
    mtime: bytes | int = 1_600_000_000,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    def field(value: bytes | int, width: int) -> bytes:
        return value if isinstance(value, bytes) else octal(value, width)

    before = name[:100].ljust(100, b"\0") + field(mode, 8) + field(uid, 8) + field(gid, 8)
    before += field(size, 12) + field(mtime, 12)
    after = kind + link[:100].ljust(100, b"\0") + magic.ljust(8, b"\0") + bytes(64)
    after += b"0000000\x000000000\0" + prefix.ljust(155, b"\0") + bytes(12)
    total = sum(before) + sum(after) + 8 * 32
    return before + (checksum or b"%06o\0 " % total) + after


def file(name: bytes, data: bytes = b"data\n", **fields: bytes | int) -> bytes:
    fields.setdefault("size", len(data))
    return header(name, **fields) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755) -> bytes:
    return header(name, b"5", mode=mode)


def symlink(name: bytes, text: bytes) -> bytes:
    return header(name, b"2", link=text, mode=0o777)


def hardlink(name: bytes, target: bytes) -> bytes:
    return header(name, b"1", link=target)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %b=%b\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return raw_pax(b"".join(record(key, value) for key, value in records), kind)


def raw_pax(data: bytes, kind: bytes = b"x") -> bytes:
    return header(b"PaxHeaders/x", kind, size=len(data)) + padded(data)


def longname(text: bytes, kind: bytes = b"L") -> bytes:
    magic = b"ustar  \0"
    return header(b"././@LongLink", kind, size=len(text), magic=magic) + padded(text)
