"""The one tar reader: V7, ustar, PAX and GNU; strict, unless its caller listens to remarks.

A strict reading tells of one path once, knows one size per member, and reads to the end of the
stream, so that no two readers can see two archives in the same bytes (CVE-2025-62518 and its kin):
so layers, images and .debs are read. A source, whose digest the recipe pins, is read as GNU tar
reads it, and what that got over is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from buildit.archive.admit import Budget, Gate, Remark, link_text, member_path, over, refused, shown
from buildit.archive.streams import Members, Readable, Window, read_up_to
from buildit.archive.tar import pax
from buildit.archive.tar.pax import Said, checked_size, number
from buildit.archive.tar.write import BLOCK
from buildit.digest import CHUNK
from buildit.model.tree import Entry, Kind

_ZEROS = bytes(BLOCK)
_MOST_RECORDS = 1 << 20  # bytes of one extended header; attributes are at most 64 KiB each
_MOST_OCTAL = 0o77777777777  # what libarchive leaves in a header whose size is a PAX record
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # "contiguous": POSIX lets a reader take it as a file
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
}
_LEFT_OUT = {b"3": "it is a character device", b"4": "it is a block device", b"6": "it is a FIFO"}
_REFUSED = _LEFT_OUT | {
    b"S": "it is a sparse file, which is not supported",
    b"M": "it continues another volume",
    b"V": "it is a volume label, not a file",
}
_OF_ALL = (b"comment", b"mtime", b"uid", b"gid", b"uname", b"gname", b"charset", b"hdrcharset")
"""What a lenient reading lets a global header set for all members that follow."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A member as its headers give it: `stored` bytes follow them, with `zeros` put in its place.

    `left_out` says why the member enters no tree; its bytes follow all the same.
    """

    entry: Entry
    stored: int
    zeros: pax.Map | None = None
    left_out: str = ""


def read_tar(
    stream: Readable,
    budget: Budget,
    name: str = "archive",
    remark: Remark | None = None,
    *,
    root: bool = False,
    nodes: Remark | None = None,
) -> Members:
    """The members of a plain tar, each with its bytes where it is a file.

    A member's bytes are readable until the next member is asked for. Entries have normal paths
    (`./a/` is `a`; the root itself is "" with `root`, else left out), no digests, modes as in the
    archive, and hard links that name an earlier file; one that names an earlier symbolic link
    becomes a symbolic link too. `name` is the place that errors give.

    With `remark` (see `Remark`) a path may come again, and the later member counts; devices and
    FIFOs are left out; absolute names begin at the root; sparse files are read; the end is the
    first zero block, whatever follows, or where the bytes end.

    With `nodes` a reading is strict but for devices and FIFOs: they are left out, and told.

    Raises:
        IntegrityError: the archive is truncated, damaged, ambiguous, or holds what is refused.
        BuildError: a limit of the budget is exceeded.
    """
    gate = Gate(budget, name, remark)
    told = remark or nodes
    absent: set[str] = set()
    total = 0
    for header, said in _Headers(stream, budget, name, remark):
        found = _found(header, said, stream, name, remark, skips=told is not None)
        entry = found.entry
        total += max(entry.size, found.stored)
        if total > budget.total_bytes:
            raise over(name, "total_bytes", budget.total_bytes, f"at {shown(entry.path)!r}")
        gone = found.left_out
        if entry.kind is Kind.HARDLINK and entry.target in absent:
            gone = f"it is a hard link to {shown(entry.target)!r}, which is left out"
        if gone and told is not None:
            absent.add(entry.path)
            told(f"member {shown(entry.path)!r} is left out: {gone}")
        stored = Window(stream, found.stored, name, entry.path)
        if not entry.path or gone:
            gate.count(".")
            if root and not gone:
                yield entry, None
        else:
            entry = _admitted(gate, entry)
            absent.discard(entry.path)
            content = stored
            if found.zeros is not None:
                content = Window(pax.Expanded(stored, found.zeros), entry.size, name, entry.path)
            yield entry, content if entry.kind is Kind.FILE else None
            content.drain()
        stored.drain()
        padding = -found.stored % BLOCK
        if padding and len(read_up_to(stream, padding)) < padding:
            raise refused(name, entry.path, "the archive is truncated after it")


def _admitted(gate: Gate, entry: Entry) -> Entry:
    """GNU tar stores a second name of a symbolic link as a hard link to it."""
    path = gate.through_links(entry.path)
    entry = replace(entry, path=path) if path != entry.path else entry
    if entry.kind is Kind.HARDLINK:
        text = gate.link_texts.get(entry.target)
        if text is not None:
            entry = replace(entry, kind=Kind.SYMLINK, target=text, xattrs={})
    gate.admit(entry)
    return entry


class _Headers:
    """The members' own headers in turn, each with what the headers before it said.

    The caller reads the member's bytes from the same stream before it asks for the next one.
    """

    def __init__(self, stream: Readable, budget: Budget, name: str, remark: Remark | None) -> None:
        self._stream = stream
        self._budget = budget
        self._name = name
        self._remark = remark
        self._mtime: int | None = None

    def __iter__(self) -> Iterator[tuple[bytes, Said]]:
        first = True
        while True:
            try:
                found = self._next(first=first)
            except ValueError as error:
                raise refused(self._name, None, str(error)) from error
            if found is None:
                return
            yield found
            first = False

    def _next(self, *, first: bool) -> tuple[bytes, Said] | None:
        """None at the end. ValueError says what is wrong."""
        said = Said(mtime=self._mtime)
        globals_seen = 0
        while True:
            header = self._block(first=first)
            if header in (_ZEROS, b""):
                if said.kinds:
                    raise ValueError("the archive ends after a header for a member to come")
                if header:
                    self._check_end()
                return None
            if not has_good_sum(header):
                raise ValueError("a tar header's checksum is wrong: no tar, or a damaged one")
            first = False
            kind = header[156:157]
            if kind == b"g":
                globals_seen += 1
                if self._remark is None and (said.kinds or globals_seen > 1):
                    raise ValueError("a global PAX header is out of place")
                self._global(self._description(header, _MOST_RECORDS))
                said = said if said.kinds else Said(mtime=self._mtime)
            elif kind in (b"x", b"L", b"K", b"X"):
                most = _MOST_RECORDS if kind in (b"x", b"X") else self._budget.path_bytes + 1
                said = self._described(said, kind, self._description(header, most))
            elif kind == b"V" and self._remark is not None:
                continue  # GNU's label of the volume, which names no file
            else:
                return header, said

    def _block(self, *, first: bool) -> bytes:
        block = read_up_to(self._stream, BLOCK)
        if len(block) == BLOCK:
            return block
        if block.strip(b"\0"):
            raise ValueError("the archive is truncated inside a header")
        if self._remark is None or first:
            raise ValueError("it has no end mark")
        self._remark("the archive has no end mark")
        return b""

    def _check_end(self) -> None:
        """After the first zero block: a second one, then nothing but zeros to the end.

        GNU tar reads no further than the first zero block, and so does a lenient reading; the
        stream is read to its end all the same, since that is what checks a compressed one.
        """
        second = read_up_to(self._stream, BLOCK)
        if second != _ZEROS:
            if self._remark is None and len(second) < BLOCK:
                raise ValueError("it has no end mark: a single zero block")
            if self._remark is None:
                raise ValueError("bytes follow a single zero block")
            self._remark("the archive ends with a lone zero block")
        zeros = not second.strip(b"\0")
        while rest := self._stream.read(CHUNK):
            zeros = zeros and rest.count(0) == len(rest)
            if not zeros and self._remark is None:
                raise ValueError("bytes follow the end of the archive")
        if not zeros and self._remark is not None:
            self._remark("bytes follow the end of the archive; as tar does, they are not read")

    def _described(self, said: Said, kind: bytes, data: bytes) -> Said:
        lenient = self._remark is not None
        kind = kind.lower() if kind == b"X" else kind
        if kind in said.kinds and not lenient:
            raise ValueError("two headers describe the same member")
        kinds = said.kinds + kind
        if kind == b"x":
            said = replace(said, mtime=self._mtime, kinds=kinds)
            records = pax.header_records(data, lenient=lenient)
            return pax.with_records(said, records, lenient=lenient)
        if not data.endswith(b"\0") or b"\0" in data[:-1] or len(data) < 2:
            raise ValueError("a GNU long name is not one text that ends in NUL")
        if kind == b"L":
            return replace(said, long_name=data[:-1], kinds=kinds)
        return replace(said, long_link=data[:-1], kinds=kinds)

    def _global(self, data: bytes) -> None:
        """Refuse records that change all members; git writes the commit as a comment."""
        lenient = self._remark is not None
        records = pax.header_records(data, lenient=lenient)
        for key in records:
            if key not in (_OF_ALL if lenient else (b"comment",)):
                raise ValueError(f"a global PAX header sets {ascii(key)[1:]} for all members")
        if b"mtime" in records:
            self._mtime = pax.seconds(records[b"mtime"], lenient)

    def _description(self, header: bytes, most: int) -> bytes:
        size = checked_size(number(header[124:136]))
        if size > most:
            if header[156:157] in (b"x", b"X", b"g"):
                raise ValueError(f"a PAX header of {size} bytes is beyond {most}")
            raise over(self._name, "path_bytes", most - 1, f"a GNU long name of {size} bytes")
        padded = size + -size % BLOCK
        data = read_up_to(self._stream, padded)
        if len(data) < padded:
            raise ValueError("the archive is truncated inside a header")
        return data[:size]


def _found(
    header: bytes, said: Said, stream: Readable, name: str, remark: Remark | None, *, skips: bool
) -> _Found:
    """One member; its path is "" where it is the root. `skips` is whether devices are left out.

    Raises:
        IntegrityError: with the member's name as far as it is known.
    """
    for record, gnu, what in (
        (said.path, said.long_name, "name the same member"),
        (said.linkpath, said.long_link, "give the same member's link"),
    ):
        if record is not None and gnu is not None:
            raise refused(name, None, f"PAX and GNU headers {what}")
    raw = said.path if said.path is not None else said.long_name
    if raw is None:
        raw = _text(header[:100])
        # only POSIX has a prefix there; GNU's magic `ustar  ` has times in its place
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
        raw = prefix + b"/" + raw if prefix else raw
    try:
        if skips and header[156:157] in _LEFT_OUT:
            return _left_out(header, said, raw, remark)
        return _entry(header, said, raw, stream, remark)
    except ValueError as error:
        text = raw.decode("utf-8", "surrogateescape")
        raise refused(name, text or None, str(error)) from error


def _entry(block: bytes, said: Said, raw: bytes, stream: Readable, remark: Remark | None) -> _Found:
    """With a listener a member is taken as GNU tar takes it; owners are nothing's matter then, as
    no source keeps them."""
    flag = block[156:157]
    if remark is not None:
        raw = _relative(said.sparse.get(b"name", raw), "member names", remark)
    kind = _kind(block, said, raw, remark)
    path = member_path(raw)
    if not path and kind is not Kind.DIRECTORY:
        raise ValueError("it replaces the root of the tree")
    # POSIX and GNU: the size of a link or directory announces no bytes, but for GNU's list of names
    announces = kind is Kind.FILE or flag == b"D"
    stored = _size(block, said) if announces or remark is None else 0
    if stored and not announces:
        raise ValueError(f"it is a {kind} and yet has {stored} bytes of content")
    mtime, uid, gid = number(block[136:148]), 0, 0
    if remark is None:
        mtime = pax.checked_time(mtime)
        # where a PAX record gives an owner, libarchive leaves what it likes in the block
        uid = pax.checked_id(number(block[108:116])) if said.uid is None else said.uid
        gid = pax.checked_id(number(block[116:124])) if said.gid is None else said.gid
    zeros, taken = None, 0
    if kind is Kind.FILE:
        zeros, taken = pax.sparse_map(block, said.sparse, stream, stored)
    entry = Entry(
        path=path,
        kind=kind,
        mode=number(block[100:108]) & 0o7777,
        mtime=mtime if said.mtime is None else said.mtime,
        uid=uid,
        gid=gid,
        size=(zeros.size if zeros else stored) if kind is Kind.FILE else 0,
        target=_target(block, said, kind, remark),
        xattrs=said.xattrs,
    )
    return _Found(entry, stored - taken, zeros)


def _left_out(block: bytes, said: Said, raw: bytes, remark: Remark | None) -> _Found:
    """A device or FIFO, which enters no tree."""
    if remark is not None:
        raw = _relative(said.sparse.get(b"name", raw), "member names", remark)
    size = checked_size(number(block[124:136]))
    entry = Entry(member_path(raw), Kind.FILE, 0, 0)
    return _Found(entry, size, None, _LEFT_OUT[block[156:157]])


def _relative(raw: bytes, what: str, remark: Remark) -> bytes:
    if not raw.startswith(b"/"):
        return raw
    remark(f"{what} begin with '/', which is left out, as tar does")
    return raw.lstrip(b"/") or b"."


def _kind(header: bytes, said: Said, raw: bytes, remark: Remark | None) -> Kind:
    flag = header[156:157]
    kind = _KINDS.get(flag)
    if kind is None:
        if remark is None or flag == b"M":
            raise ValueError(_REFUSED.get(flag, f"its type {ascii(flag)[1:]} is not known"))
        kind = Kind.DIRECTORY if flag == b"D" else Kind.FILE
        if flag not in (b"D", b"S"):
            name = shown(member_path(raw))
            remark(f"member {name!r} has the type {ascii(flag)[1:]}: it is taken as a file")
    if kind is Kind.FILE and raw.endswith(b"/"):
        # as tars before ustar have directories
        if flag != b"\0" if remark is None else flag == b"0" and _size(header, said):
            raise ValueError("it is a file whose name ends in a slash")
        return Kind.DIRECTORY
    return kind


def _size(header: bytes, said: Said) -> int:
    stated = checked_size(number(header[124:136]))
    if said.size is None:
        return stated
    if stated not in (0, _MOST_OCTAL, said.size):
        raise ValueError(f"its header says {stated} bytes, its PAX record {said.size}")
    return said.size


def _target(header: bytes, said: Said, kind: Kind, remark: Remark | None) -> str:
    if kind in (Kind.FILE, Kind.DIRECTORY):
        if remark is None and (said.linkpath is not None or said.long_link is not None):
            raise ValueError(f"it is a {kind} and yet has a link target")
        return ""
    raw = said.linkpath or said.long_link or _text(header[157:257])
    if kind is Kind.SYMLINK:
        return link_text(raw)
    if remark is not None:
        raw = _relative(raw, "hard links' targets", remark)
    try:
        target = member_path(raw)
    except ValueError as error:
        raise ValueError(f"its hard link's target is unsafe: {error}") from error
    if not target:
        raise ValueError("it is a hard link to the root")
    return target


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.partition(b"\0")[0]


def has_good_sum(header: bytes) -> bool:
    """Whether a block is a tar's header: no other file begins so.

    POSIX: the sum of all bytes, taken with the checksum's own eight bytes as spaces; some old tars
    took the bytes as signed.
    """
    try:
        stated = number(header[148:156])
    except ValueError:
        return False
    others = header[:148] + header[156:]
    total = sum(others) + 8 * 0x20
    return stated == total or stated == total - 256 * sum(byte > 127 for byte in others)
