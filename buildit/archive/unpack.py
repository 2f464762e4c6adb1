"""Archives onto the disk, beneath a root, with modes, owners and times that we chose; and upstream
sources: what GNU tar, unzip and the usual compressors read.

The digest of a source is pinned, so its bytes are what upstream published, odd as they may be: what
a tool on the user's machine would get over is got over here too, and told in the build's log. What
could leave the directory is never followed, even of pinned bytes (THREATS.md, C1 to C5).

A failure leaves what was unpacked so far: callers unpack into a scratch directory and rename it
when it is whole.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from buildit.archive.admit import LARGER, OURS, REPACK, Budget, Remark, parent, refused, shown
from buildit.archive.beneath import Root
from buildit.archive.compress import AS_IT_IS, codec, decompressed
from buildit.archive.contents import way
from buildit.archive.streams import Prefixed, Readable, read_up_to
from buildit.archive.tar.read import has_good_sum, read_tar
from buildit.archive.tar.write import BLOCK
from buildit.archive.zipread import is_zip, read_zip
from buildit.digest import CHUNK
from buildit.errors import BuilditError, RecipeError, StoreError
from buildit.model.globs import path_matcher
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.model.words import without_codec

AnyMembers = Iterable[tuple[Entry, Readable | None]]
"""Entries in archive order, each with its bytes where it is a file."""

_HOLE = bytes(CHUNK)  # whole chunks of zeros take no room on the disk
_REASONS = {
    errno.EEXIST: "its path is there already",
    errno.ENOTDIR: "it lies below a file",
    errno.ENAMETOOLONG: "a name too long for the system",
}
_PERMISSIONS = 0o777  # set-id and sticky reach no disk of ours, but in an `exact` tree


def unpack_layer(layer: BinaryIO, into: Root) -> None:
    """Unpack a plain tar of our own, whose digest the caller checks: exact modes, no set-id.

    Owners, attributes and durability are left to the caller.

    Raises:
        IntegrityError: it is no tar that our writer made.
        StoreError: the disk is full or broken.
    """
    unpack_entries(read_tar(layer, OURS, "layer"), into, "layer")


def unpack_entries(members: AnyMembers, into: Root, name: str = "archive") -> None:
    """Unpack entries of any reader with their modes, without set-id, and times.

    Raises:
        IntegrityError: a path is there already, but for directories, or goes through a link.
        StoreError: the disk is full or broken.
    """
    writer = Writer(into, None, name)
    for entry, content in members:
        writer.write(entry, content)
    writer.finish()


@dataclass(slots=True)
class Writer:
    """Writes entries beneath a root; directories get their mode and time when all is in them.

    `owner` (uid, gid) is given to all where it is set. With `remark` an entry replaces what is in
    its place, but for a directory that is not empty, and what an earlier writer left is told of.
    `unsaid` is the time of directories that no entry speaks of. `exact` gives all that entries say
    of themselves: owners, set-id and sticky bits, and the attributes of files.
    """

    into: Root
    owner: tuple[int, int] | None
    name: str
    remark: Remark | None = None
    unsaid: int = 0
    exact: bool = False
    _own: set[str] = field(default_factory=set)
    _directories: dict[str, tuple[int, int] | None] = field(default_factory=lambda: {"": None})
    _owners: dict[str, tuple[int, int]] = field(default_factory=dict)

    def write(self, entry: Entry, content: Readable | None) -> None:
        try:
            self.ensure(parent(entry.path))
            self._place(entry, content)
        except BuilditError as error:
            error.place = error.place or self.name
            raise
        except OSError as error:
            reason = _REASONS.get(error.errno or 0)
            if reason is not None:
                raise refused(self.name, entry.path, reason) from error
            raise self._broken(entry.path, error) from error

    def finish(self) -> None:
        """Set modes and times of directories, the deepest first: a child changes its parent."""
        for path in sorted(self._directories, reverse=True):
            wanted = self._directories[path]
            if wanted is None:
                continue
            try:
                mode, mtime = wanted
                if path in self._owners:
                    self.into.chown(path, *self._owners[path])
                self.into.utime(path, mtime)
                self.into.chmod(path, mode)
            except OSError as error:
                raise self._broken(path, error) from error

    def _place(self, entry: Entry, content: Readable | None) -> None:
        if self.remark is None:
            self._node(entry, content)
            return
        if entry.kind is Kind.DIRECTORY and entry.path not in self._directories:
            self._make_room(entry, self.remark)
        try:
            self._node(entry, content)
        except FileExistsError:  # before a byte of its content was read
            self._make_room(entry, self.remark)
            self._node(entry, content)
        self._own.add(entry.path)

    def _make_room(self, entry: Entry, remark: Remark) -> None:
        """Remove what is in an entry's place; never what a link there leads to."""
        path = entry.path
        try:
            there = self.into.lstat(path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(there.st_mode):
            if entry.kind is Kind.DIRECTORY:
                return
            try:
                self.into.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                reason = "a directory that is not empty is in its place"
                raise refused(self.name, path, reason) from error
            self._directories.pop(path, None)
        else:
            self.into.unlink(path)
        if path not in self._own:
            remark(f"{shown(path)!r} replaces that of an earlier source")

    def _node(self, entry: Entry, content: Readable | None) -> None:
        into, path = self.into, entry.path
        match entry.kind:
            case Kind.DIRECTORY:
                self.ensure(path)
                self._directories[path] = (self._mode(entry), entry.mtime)
                if self.exact:
                    self._owners[path] = (entry.uid, entry.gid)
            case Kind.FILE if content is not None:
                self._file(entry, content)
            case Kind.FILE:
                raise ValueError(f"a file without bytes: {path!r}")
            case Kind.SYMLINK:
                into.symlink(entry.target, path)
                into.utime(path, entry.mtime)
                if (owner := self._owner(entry)) is not None:
                    into.chown(path, *owner)
            case Kind.HARDLINK:
                into.link(entry.target, path)

    def _file(self, entry: Entry, content: Readable) -> None:
        fd = self.into.create(entry.path, entry.mode & _PERMISSIONS)
        try:
            if (owner := self._owner(entry)) is not None:
                os.fchown(fd, *owner)
            end, hole = 0, False
            while part := content.read(CHUNK):
                end += len(part)
                if hole := part == _HOLE:
                    os.lseek(fd, end, os.SEEK_SET)
                    continue
                while part:
                    part = part[os.write(fd, part) :]
            if hole:
                os.ftruncate(fd, end)  # what ends in a hole has its size from here
            if self.exact:  # a change of the owner and a write take set-id and capabilities away
                os.fchmod(fd, self._mode(entry))
                for name, value in entry.xattrs.items():
                    os.setxattr(fd, name, value)
            os.utime(fd, ns=(entry.mtime * 10**9, entry.mtime * 10**9))
        finally:
            os.close(fd)

    def _mode(self, entry: Entry) -> int:
        return entry.mode if self.exact else entry.mode & _PERMISSIONS

    def _owner(self, entry: Entry) -> tuple[int, int] | None:
        return (entry.uid, entry.gid) if self.exact else self.owner

    def ensure(self, path: str) -> None:
        """Make a directory and those above it; one that is there is taken, a link is not."""
        if path in self._directories:
            return
        self.ensure(parent(path))
        try:
            self.into.mkdir(path, 0o700)
        except FileExistsError:
            # a directory of an earlier source stays as that source left it
            self.into.listdir(path)
            there = self.into.lstat(path)
            was = (stat.S_IMODE(there.st_mode), int(there.st_mtime))
            self._directories[path] = was if self.remark is not None else None
            return
        if self.owner is not None:
            self.into.chown(path, *self.owner)
        self._directories[path] = (0o755, self.unsaid)

    def _broken(self, path: str, error: OSError) -> BuilditError:
        full = error.errno == errno.ENOSPC
        way = "free some space" if full else "check the disk and its permissions"
        message = f"cannot write {shown(path)!r}: {error.strerror}"
        return StoreError(message, place=self.name, hint=f"{way}, then run again")


UNPACKER = "1"
"""Raised when the same source would give another tree, or another time: it is in every key."""

OLDEST = YEAR_1980
"""No file counts as older."""
SETTLED = 1793491200
"""2026-11-01: no file gets a later time, as the clock of a build must not be behind its files."""
LATEST = 1830297600
"""2028-01-01: a member whose time is later says nothing of when it was made; it counts as SETTLED.
A rule cannot ask the clock, which would give another result tomorrow; it is dated, and raised with
`UNPACKER`. Members between the two dates keep their say in SOURCE_DATE_EPOCH."""

MANY = 30_000
"""Members that any source may have; more where it has ENTRY bytes for each."""
ENTRY = 64
_MOST_REMARKS = 200
_MAGIC = 6


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`newest` is the newest time inside, in seconds, OLDEST at least; `remarks` what was got
    over, left out or neutralised, one clause each."""

    newest: int
    remarks: tuple[str, ...]


def unpack_source(
    archive: Path,
    into: Root,
    *,
    place: str,
    strip: int,
    exclude: tuple[str, ...] = (),
    single: str = "",
    budget: Budget,
    owner: tuple[int, int] | None,
) -> Unpacked:
    """Unpack an upstream source: tar or zip, plain or compressed, or one file called `single`.

    The first `strip` parts of all paths are left out, which must be the same for all members but
    those that a glob of `exclude` names (as the archive has them). What is neither tar nor zip is
    written as `single`, decompressed and without the codec's suffix; with "" it is an error. Files
    get mode 0644 or 0755, directories 0755, the archive's times by the rule of SETTLED, and `owner`
    (uid, gid) where it is given. What is in the place of a member is replaced, and that is told.

    Raises:
        IntegrityError: the archive is damaged or hostile.
        RecipeError: its members do not have `strip` parts in common.
        BuildError: a limit of the budget is exceeded.
        StoreError: the disk is full or broken.
    """
    remarks = _Remarks()
    most = min(budget.entries, MANY + archive.stat().st_size // ENTRY)
    try:
        with archive.open("rb") as stream:
            limits = replace(budget, entries=most)
            kind, members = open_members(stream, limits, place, remarks.add, single)
            strip = 0 if kind.startswith("file") else strip
            writer = Writer(into, owner, place, remarks.add, OLDEST)
            newest = _write(members, writer, strip, exclude, remarks)
    except BuilditError as error:
        if error.hint in (REPACK, LARGER):
            error.hint = _way(error)
        raise
    return Unpacked(newest, remarks.lines())


def _way(error: BuilditError) -> str:
    """What helps with bytes that are the pinned ones, and yet no archive that can be read."""
    way = f"{AS_IT_IS}, to be unpacked in the prepare step"
    if any(word in error.message for word in ("truncated", "damaged", "checksum", "end mark")):
        return f"is the pinned file whole, and an archive? See `buildit digest URL`; {way}"
    return way


def place_source(
    archive: Path, into: Root, name: str, *, place: str, owner: tuple[int, int] | None
) -> Unpacked:
    """Put a source as it is beneath `into`, with mode 0644.

    Raises:
        IntegrityError: a directory is in its place.
        StoreError: the disk is full or broken.
    """
    remarks = _Remarks()
    writer = Writer(into, owner, place, remarks.add, OLDEST)
    with archive.open("rb") as stream:
        size = archive.stat().st_size
        writer.write(Entry(name, Kind.FILE, 0o644, OLDEST, size=size), stream)
    writer.finish()
    return Unpacked(OLDEST, remarks.lines())


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a source holds: `kind` as `open_members` has it, `top` the directory that all members
    lie in ("" where there is none), `newest` as SOURCE_DATE_EPOCH counts it."""

    kind: str
    members: int
    top: str
    newest: int
    remarks: tuple[str, ...]


def inspect_source(archive: Path, *, place: str, single: str, budget: Budget) -> Inspected:
    """Read a source without unpacking it; arguments as those of `unpack_source`.

    Raises:
        IntegrityError: it cannot be unpacked.
        BuildError: a limit of the budget is exceeded.
    """
    remarks = _Remarks()
    tops: set[str] = set()
    members, newest = 0, OLDEST
    with archive.open("rb") as stream:
        kind, opened = open_members(stream, budget, place, remarks.add, single)
        for entry, content in opened:
            members += 1
            newest = max(newest, told_time(entry.mtime))
            first, below, _ = entry.path.partition("/")
            tops.add(first if below or entry.kind is Kind.DIRECTORY else "")
            while content is not None and content.read(CHUNK):
                pass
    top = tops.pop() if len(tops) == 1 else ""
    return Inspected(kind, members, top, newest, remarks.lines())


def open_members(
    stream: BinaryIO, budget: Budget, place: str, remark: Callable[[str], None], single: str
) -> tuple[str, AnyMembers]:
    """What a source is, told apart by its bytes, and its members: `tar`, `zip` or `file`, which is
    its own one member, and not stripped; `tar, gzip` where it is compressed.

    Raises (also while reading): as `unpack_source`.
    """
    magic = stream.read(_MAGIC)
    stream.seek(0)
    if is_zip(stream):
        return "zip", _scripts(read_zip(stream, budget, place, remark))
    how = codec(magic)
    plain = decompressed(stream, budget, place, remark)
    head = read_up_to(plain, BLOCK)
    whole = Prefixed(head, plain)
    if not single or (len(head) == BLOCK and has_good_sum(head)):
        return f"tar, {how}" if how else "tar", read_tar(whole, budget, place, remark)
    name = without_codec(single) if how else single
    entry = Entry(name, Kind.FILE, 0o644, OLDEST)
    return f"file, {how}" if how else "file", ((entry, whole),)


def _scripts(members: AnyMembers) -> AnyMembers:
    """Files of a zip that has no modes run where they begin as a script does.

    A packer on Windows has no other way to say it, and `./configure` is to run.
    """
    for entry, content in members:
        if content is None or entry.mode:
            yield entry, content
            continue
        head = read_up_to(content, 2)
        mode = 0o755 if head == b"#!" else 0o644
        yield replace(entry, mode=mode), Prefixed(head, content)


def _write(
    members: AnyMembers, writer: Writer, strip: int, exclude: tuple[str, ...], remarks: _Remarks
) -> int:
    """Write all members; their newest time, with those that strip drops."""
    left_out = {glob: path_matcher(glob) for glob in exclude}
    matched: set[str] = set()
    top = Top(strip, writer.name)
    newest = OLDEST
    absent: set[str] = set()
    links: dict[str, Entry] = {}
    for member, content in members:
        if names := [glob for glob, matches in left_out.items() if matches(member.path)]:
            matched.update(names)
            absent.add(member.path)
            continue
        if member.kind is Kind.HARDLINK and member.target in absent:
            reason = f"it is a hard link to {shown(member.target)!r}, which `exclude` names"
            raise refused(writer.name, member.path, reason, "exclude the link too")
        if member.mtime > LATEST:
            remarks.add(f"times after {_day(LATEST)} are taken as {_day(SETTLED)}")
        newest = max(newest, told_time(member.mtime))
        entry = top.without(member)
        if entry is None:
            continue
        writer.write(_normal(entry), content)
        links.pop(entry.path, None)
        if entry.kind is Kind.SYMLINK:
            links[entry.path] = entry
    for glob in dict.fromkeys(exclude):
        if glob not in matched:
            remarks.add(f"exclude: {glob!r} names no member (paths are the archive's, unstripped)")
    for path, link in links.items():
        if way(path, links.get).escapes:
            leads = f"link {shown(path)!r} leads to {shown(link.target)!r}"
            remarks.add(f"{leads}, out of the source: kept")
    writer.finish()
    return newest


class Top:
    """The first `strip` parts of all paths, which must be the same."""

    def __init__(self, strip: int, place: str) -> None:
        self._strip = strip
        self._place = place
        self._parts: list[str] = []
        self._first = ""

    def without(self, entry: Entry) -> Entry | None:
        """The entry without them; None for a directory that is a part of them.

        Raises:
            RecipeError: it lies elsewhere.
        """
        if not self._strip:
            return entry
        *above, name = entry.path.split("/")
        parts = [*above, name] if entry.kind is Kind.DIRECTORY else above
        mine = parts[: self._strip]
        known = self._parts[: len(mine)]
        if mine[: len(known)] != known:
            both = f"{shown(self._first)!r} and {shown(entry.path)!r}"
            raise self._elsewhere(f"{both} do not lie in the same one", 0, "[GLOB]")
        if entry.kind is not Kind.DIRECTORY and len(mine) < self._strip:
            name = shown(entry.path)
            raise self._elsewhere(f"{name!r} does not lie that deep", len(above), f'["{name}"]')
        if len(mine) > len(self._parts):
            self._parts, self._first = mine, entry.path
        path = _rest(entry.path, self._strip)
        if not path:
            return None
        target = _rest(entry.target, self._strip) if entry.kind is Kind.HARDLINK else entry.target
        return replace(entry, path=path, target=target)

    def _elsewhere(self, why: str, fits: int, globs: str) -> RecipeError:
        dropped = "top directory" if self._strip == 1 else f"upper {self._strip} directories"
        hint = f"write `strip: {fits}` for this source, with `directory: NAME` where it shall lie "
        hint += f"in one of its own; or leave such members out: `exclude: {globs}`"
        message = f"`strip: {self._strip}` drops the {dropped} of all members, but {why}"
        return RecipeError(message, place=self._place, hint=hint)


def _rest(path: str, strip: int) -> str:
    return "/".join(path.split("/")[strip:])


def _normal(entry: Entry) -> Entry:
    runs = entry.kind is Kind.DIRECTORY or entry.mode & 0o111
    mtime = min(told_time(entry.mtime), SETTLED)
    return replace(entry, mode=0o755 if runs else 0o644, mtime=mtime)


def told_time(mtime: int) -> int:
    """A member's time as it counts for SOURCE_DATE_EPOCH: see OLDEST and LATEST."""
    return SETTLED if mtime > LATEST else max(mtime, OLDEST)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


class _Remarks:
    """What a reading tells of, each once, and no more than a log can bear."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}
        self._more = 0

    def add(self, text: str) -> None:
        if len(self._said) < _MOST_REMARKS:
            self._said[text] = None
        elif text not in self._said:
            self._more += 1

    def lines(self) -> tuple[str, ...]:
        more = (f"and {self._more} more of this kind",) if self._more else ()
        return (*self._said, *more)
