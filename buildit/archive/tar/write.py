"""The one canonical tar writer: the same entries give the same bytes, on any machine.

Entries come in the bytewise order of their paths, each path once. What a layer cannot hold
(whiteout names, unsafe paths, a hard link before its file) is refused, never skipped.

Header blocks are ustar wherever it can say it, else a PAX record comes before them. Sources:
POSIX.1-2024, pax, "ustar Interchange Format" and "pax Extended Header"; the record `SCHILY.xattr.`
as star(5) and every container tool has it. No user or group names, no access or change times, no
process numbers: the same entry gives the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing

from buildit.archive.admit import member_path, parent, path_bytes, shown
from buildit.archive.streams import Content, Writable, write_all
from buildit.digest import CHUNK, Digest
from buildit.errors import BuildError
from buildit.model.tree import Entry, Kind, sort_key

BLOCK = 512
END = bytes(2 * BLOCK)
"""POSIX asks for two zero blocks. Padding to GNU tar's 10 KiB records is for tapes; none here."""

_TYPES = {Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.DIRECTORY: b"5"}
_OCTAL7 = 0o7777777
_OCTAL11 = 0o77777777777
_PAX_NAME = b"././@PaxHeader"
_ZERO_DEVICES = b"0000000\0" * 2
_MOST_ID = (1 << 32) - 2  # -1 means "unchanged" to chown(2)
_WHITEOUT = b".wh."  # OCI image-spec layer.md, "Whiteouts"


def write_tar(
    entries: Iterable[Entry],
    content: Callable[[Entry], Content],
    out: Writable,
    *,
    prefix: str = "",
    whiteouts: bool = False,
) -> tuple[Entry, ...]:
    """Write entries as one tar; return them with the digests of the contents that were written.

    `content` opens a file's bytes (closed here); it is asked for files only. `prefix`, such as
    `rootfs/`, goes before paths and hard-link targets; no entry is made for it. With `whiteouts`,
    empty files whose names begin with `.wh.` are meant.

    Raises:
        BuildError: an entry is out of order or unfit for a layer, or a file's bytes are not of the
            size or digest that its entry gives.
    """
    writer = TarWriter(out, prefix=prefix, whiteouts=whiteouts)
    written = []
    for entry in entries:
        if entry.kind is not Kind.FILE:
            writer.add(entry)
            written.append(entry)
            continue
        with closing(content(entry)) as source:
            digest = writer.add_file(entry, source)
        written.append(entry if entry.digest else _with_digest(entry, digest))
    writer.finish()
    return tuple(written)


class TarWriter:
    """One tar, entry by entry, for archives whose entries come from several places."""

    def __init__(self, out: Writable, *, prefix: str = "", whiteouts: bool = False) -> None:
        if prefix and (not prefix.endswith("/") or member_path(path_bytes(prefix)) != prefix[:-1]):
            raise ValueError(f"not a directory prefix: {prefix!r}")
        self._out = out
        self._prefix = path_bytes(prefix)
        self._whiteouts = whiteouts
        self._buffer = memoryview(bytearray(CHUNK))
        self._used = 0
        self._probe = memoryview(bytearray(1))
        self._last = b""
        self._leaf = b""
        self._files: set[str] = set()

    def add(self, entry: Entry) -> None:
        """Write a directory, link or hard link.

        Raises:
            BuildError: it is out of order or unfit for a layer.
        """
        if entry.kind is Kind.FILE:
            raise ValueError(f"a file's bytes are missing: {entry.path!r}")
        self._check(entry)
        self._put(header_blocks(entry, self._prefix))

    def add_root(self, mode: int, mtime: int) -> None:
        """Write the tree itself, 0:0, as GNU tar names it: `./`; before everything else.

        Raises:
            BuildError: another entry was written before.
        """
        if self._last or self._prefix:
            raise BuildError("cannot pack: the root of a tree comes first", place="./")
        self._put(header_blocks(Entry(".", Kind.DIRECTORY, mode, mtime), b""))

    def add_file(self, entry: Entry, content: Content) -> Digest:
        """Write a file, exactly `entry.size` bytes of `content`; return their digest.

        Raises:
            BuildError: it is out of order or unfit for a layer, or the bytes are not of the size
                or digest that the entry gives.
        """
        if entry.kind is not Kind.FILE:
            raise ValueError(f"not a file: {entry.path!r}")
        self._check(entry)
        self._files.add(entry.path)
        self._put(header_blocks(entry, self._prefix))
        digest = self._copy(entry, content)
        if entry.digest is not None and digest != entry.digest:
            raise _changed(entry, f"its digest is {digest}, expected {entry.digest}")
        self._put(bytes(-entry.size % BLOCK))
        return digest

    def finish(self) -> None:
        """Write the end of the archive; `out` stays open."""
        self._put(END)
        self._flush()

    def _copy(self, entry: Entry, content: Content) -> Digest:
        sha = hashlib.sha256()
        remaining = entry.size
        while remaining:
            if self._used == CHUNK:
                self._flush()
            room = self._buffer[self._used : self._used + min(remaining, CHUNK - self._used)]
            got = content.readinto(room)
            if not got:
                raise _changed(entry, f"{remaining} of its {entry.size} bytes are missing")
            sha.update(room[:got])
            self._used += got
            remaining -= got
        if content.readinto(self._probe):
            raise _changed(entry, f"it is longer than its {entry.size} bytes")
        return Digest(sha.hexdigest())

    def _put(self, data: bytes) -> None:
        if self._used + len(data) > CHUNK:
            self._flush()
        if len(data) > CHUNK:
            write_all(self._out, data)
            return
        self._buffer[self._used : self._used + len(data)] = data
        self._used += len(data)

    def _flush(self) -> None:
        if self._used:
            write_all(self._out, bytes(self._buffer[: self._used]))
            self._used = 0

    def _check(self, entry: Entry) -> None:
        """Refuse what a layer cannot hold, and what would make its bytes ambiguous."""
        key, raw = sort_key(entry), path_bytes(entry.path)
        if key <= self._last:
            what = "appears twice" if key == self._last else "is out of order"
            raise _unfit(entry, f"the path {what}")
        _check_values(entry, raw, whiteouts=self._whiteouts)
        # in this order what lies below a path follows it at once
        if self._leaf and raw.startswith(self._leaf + b"/"):
            above = shown(self._leaf.decode("utf-8", "replace"))
            raise _unfit(entry, f"it lies below {above!r}")
        if entry.kind is Kind.HARDLINK and entry.target not in self._files:
            reason = f"its hard link's target {shown(entry.target)!r} is no earlier file"
            raise _unfit(entry, reason)
        self._leaf = b"" if entry.kind is Kind.DIRECTORY else raw
        self._last = key


def _with_digest(entry: Entry, digest: Digest) -> Entry:
    """`dataclasses.replace` takes 20 us, a third of what a small file costs in all."""
    of, owner = entry, (entry.uid, entry.gid)
    return Entry(of.path, of.kind, of.mode, of.mtime, *owner, of.size, of.target, digest, of.xattrs)


def _check_name(entry: Entry, raw: bytes, *, whiteouts: bool) -> None:
    rooted = b"/%b/" % raw
    if b"/." not in rooted and b"//" not in rooted and b"\0" not in raw:
        return  # nearly always
    try:
        plain = member_path(raw) == entry.path and not raw.endswith(b"/")
    except ValueError as error:
        raise _unfit(entry, str(error)) from error
    if not plain:
        raise _unfit(entry, "its path is not in plain form")
    above = b"/" + raw.rpartition(b"/")[0]
    meant = whiteouts and entry.kind is Kind.FILE and not entry.size
    if b"/" + _WHITEOUT in (above if meant else rooted):
        raise _unfit(entry, "its name begins with '.wh.', which means a deletion in a layer")


def _check_values(entry: Entry, raw: bytes, *, whiteouts: bool) -> None:
    _check_name(entry, raw, whiteouts=whiteouts)
    if not 0 <= entry.mode <= 0o7777:
        raise _unfit(entry, f"its mode is {entry.mode:o}")
    if not (0 <= entry.uid <= _MOST_ID and 0 <= entry.gid <= _MOST_ID):
        raise _unfit(entry, f"its owner is {entry.uid}:{entry.gid}")
    if entry.size < 0 or (entry.size and entry.kind is not Kind.FILE):
        raise _unfit(entry, f"its size is {entry.size}")
    linking = entry.kind in (Kind.SYMLINK, Kind.HARDLINK)
    if linking != bool(entry.target) or "\0" in entry.target:
        raise _unfit(entry, f"its link target is {shown(entry.target)!r}")
    for name in entry.xattrs:
        if not name or "=" in name or "\0" in name:
            raise _unfit(entry, f"its attribute {shown(name)!r} cannot be named in a PAX header")


def _unfit(entry: Entry, reason: str) -> BuildError:
    where = shown(parent(entry.path)) or "the top of the tree"
    hint = f"change what the build leaves in {where}"
    return BuildError(f"cannot pack: {reason}", place=shown(entry.path), hint=hint)


def _changed(entry: Entry, reason: str) -> BuildError:
    message = f"the file changed while it was packed: {reason}"
    hint = "check that nothing still writes to the tree, then build again"
    return BuildError(message, place=shown(entry.path), hint=hint)


def header_blocks(entry: Entry, prefix: bytes) -> bytes:
    """All blocks before an entry's content; `prefix` goes before paths and hard-link targets."""
    name = prefix + path_bytes(entry.path)
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    target = path_bytes(entry.target)
    if entry.kind is Kind.HARDLINK:
        target = prefix + target
    split, linked = _split(name), len(target) <= 100 and target.isascii()
    uid, gid, size, mtime = entry.uid, entry.gid, entry.size, entry.mtime
    fits = uid <= _OCTAL7 and gid <= _OCTAL7 and size <= _OCTAL11 and 0 <= mtime <= _OCTAL11
    if split and linked and fits and not entry.xattrs:  # ustar says it all: nearly always
        return _block(split, _TYPES[entry.kind], (entry.mode, uid, gid, size, mtime), target)
    records = [(b"SCHILY.xattr." + path_bytes(key), value) for key, value in entry.xattrs.items()]
    numbers = {b"uid": uid, b"gid": gid, b"size": size, b"mtime": mtime}
    for keyword, value in numbers.items():
        if not 0 <= value <= (_OCTAL7 if keyword in (b"uid", b"gid") else _OCTAL11):
            records.append((keyword, b"%d" % value))
            numbers[keyword] = 0
    records += [] if linked else [(b"linkpath", target)]
    records += [] if split else [(b"path", name)]
    split, target = split or (b"", _plain(name)), target if linked else _plain(target)
    block = _block(split, _TYPES[entry.kind], (entry.mode, *numbers.values()), target)
    return _extended(sorted(records)) + block


def _extended(records: list[tuple[bytes, bytes]]) -> bytes:
    """What ustar cannot say, sorted by keyword but for the character set, which binds the rest."""
    if any(key in (b"path", b"linkpath") and not _utf8(value) for key, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    data = b"".join(_record(key, value) for key, value in records)
    block = _block((b"", _PAX_NAME), b"x", (0o644, 0, 0, len(data), 0), b"")
    return block + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _block(name: tuple[bytes, bytes], kind: bytes, meta: tuple[int, ...], target: bytes) -> bytes:
    """`name` is prefix and name, `meta` are mode, uid, gid, size and mtime."""
    before = name[1].ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % meta
    linked = kind + target.ljust(100, b"\0")
    after = b"%bustar\x0000%b%b%b" % (linked, bytes(64), _ZERO_DEVICES, name[0].ljust(167, b"\0"))
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


def _plain(text: bytes) -> bytes:
    """What a reader without PAX shall see: the first 99 bytes, ASCII only, no slash at the end."""
    return bytes(byte if byte < 0x80 else 0x5F for byte in text[:99]).rstrip(b"/")


def _utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
