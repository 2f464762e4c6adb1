"""Header blocks of the canonical tar: ustar wherever it can say it, else a PAX record before it.

Sources: POSIX.1-2024, pax, "ustar Interchange Format" and "pax Extended Header"; the record
`SCHILY.xattr.` as star(5) and every container tool has it. No user or group names, no access or
change times, no process numbers: the same entry gives the same bytes everywhere.
"""

from __future__ import annotations

from buildit.archive.tar.names import path_bytes
from buildit.model.tree import Entry, Kind

BLOCK = 512
END = bytes(2 * BLOCK)
"""POSIX asks for two zero blocks. Padding to GNU tar's 10 KiB records is for tapes; none here."""

_TYPES = {Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.DIRECTORY: b"5"}
_OCTAL7 = 0o7777777
_OCTAL11 = 0o77777777777
_PAX_NAME = b"././@PaxHeader"
_ZERO_DEVICE = b"0000000\0"


def header_blocks(entry: Entry, prefix: bytes) -> bytes:
    """All blocks before an entry's content; `prefix` goes before paths and hard-link targets."""
    name = prefix + path_bytes(entry.path)
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    target = path_bytes(entry.target)
    if entry.kind is Kind.HARDLINK:
        target = prefix + target
    split = _split(name)
    records = [] if split and _fits(entry, target) else _records(entry, name, target)
    block = _block(
        split or (b"", _plain(name)),
        _TYPES[entry.kind],
        numbers=(
            entry.mode,
            entry.uid if entry.uid <= _OCTAL7 else 0,
            entry.gid if entry.gid <= _OCTAL7 else 0,
            entry.size if entry.size <= _OCTAL11 else 0,
            entry.mtime if 0 <= entry.mtime <= _OCTAL11 else 0,
        ),
        target=target if _says(target, 100) else _plain(target),
    )
    return _extended(records) + block if records else block


def _fits(entry: Entry, target: bytes) -> bool:
    """Whether ustar says all of an entry but its path: nearly always, so asked first."""
    return (
        not entry.xattrs
        and entry.uid <= _OCTAL7
        and entry.gid <= _OCTAL7
        and entry.size <= _OCTAL11
        and 0 <= entry.mtime <= _OCTAL11
        and _says(target, 100)
    )


def _records(entry: Entry, name: bytes, target: bytes) -> list[tuple[bytes, bytes]]:
    """What ustar cannot say, sorted by keyword but for the character set, which binds the rest."""
    records = [
        (b"SCHILY.xattr." + key.encode("utf-8", "surrogateescape"), value)
        for key, value in sorted(entry.xattrs.items())
    ]
    for keyword, number, most in (
        (b"gid", entry.gid, _OCTAL7),
        (b"mtime", entry.mtime, _OCTAL11),
        (b"size", entry.size, _OCTAL11),
        (b"uid", entry.uid, _OCTAL7),
    ):
        if not 0 <= number <= most:
            records.append((keyword, b"%d" % number))
    if not _says(target, 100):
        records.append((b"linkpath", target))
    if _split(name) is None:
        records.append((b"path", name))
    records.sort()
    if any(key in (b"path", b"linkpath") and not _utf8(value) for key, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    return records


def _extended(records: list[tuple[bytes, bytes]]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records)
    block = _block((b"", _PAX_NAME), b"x", numbers=(0o644, 0, 0, len(data), 0), target=b"")
    return block + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _block(
    name: tuple[bytes, bytes],
    kind: bytes,
    *,
    numbers: tuple[int, int, int, int, int],
    target: bytes,
) -> bytes:
    mode, uid, gid, size, mtime = numbers
    before = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name[1].ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
    )
    after = b"%b%bustar\x0000%b%b%b%b" % (
        kind,
        target.ljust(100, b"\0"),
        bytes(64),
        _ZERO_DEVICE,
        _ZERO_DEVICE,
        name[0].ljust(167, b"\0"),
    )
    checksum = sum(before) + sum(after) + 8 * 0x20
    return b"%b%06o\0 %b" % (before, checksum, after)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """ustar's (prefix, name) of a path, None where it cannot say the path."""
    if not name.isascii():
        return None
    if len(name) <= 100:
        return b"", name
    # the cut is at a slash, which is in neither part; the name must not be empty
    cut = name.find(b"/", len(name) - 101, len(name) - 1)
    if not 0 < cut <= 155:
        return None
    return name[:cut], name[cut + 1 :]


def _says(text: bytes, room: int) -> bool:
    return len(text) <= room and text.isascii()


def _plain(text: bytes) -> bytes:
    """What a reader without PAX shall see: the first 99 bytes, ASCII only, no slash at the end."""
    return bytes(byte if byte < 0x80 else 0x5F for byte in text[:99]).rstrip(b"/")


def _utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
