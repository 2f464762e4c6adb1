"""What a build installed, as entries of an artifact: everything that varies by machine is gone.

Owner 0:0, one time, hard links in a fixed order; modes as installed, since a build's umask is
fixed. Other owners and capabilities are there only where `files:` of the recipe declares them, and
`checks` refuses set-id, sticky and world-writable bits that it does not. Content is never changed
but for the timestamp inside compressed manuals. What is left out is told (`Change`).
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from buildit.archive.beneath import Root
from buildit.digest import digest_stream
from buildit.errors import BuildError, Interrupted, RecipeError
from buildit.model.config import Limits
from buildit.model.globs import path_matcher
from buildit.model.tree import Entry, Kind, sort_key
from buildit.model.words import size as amount
from buildit.plan.identity import RuleInput
from buildit.recipe.leaf import id_of

_DEEPEST = 256  # directories in each other; unpackers and file systems get on with that
_LONGEST = 3500  # bytes of a path: of the kernel's 4096, engines need some for an image's place

_INDEX = "index of all info pages left out: every package would own it"
_TIMES = "Perl's log of installations left out: it has times"
_DROPPED = (
    (path_matcher("usr/lib*/**/*.la"), "libtool archive left out"),
    (path_matcher("usr/share/info/dir"), _INDEX),
    (path_matcher("usr/lib*/**/perllocal.pod"), _TIMES),
    (path_matcher("usr/lib*/**/.packlist"), "Perl's list of installed files left out"),
)
_LIBTOOL = re.compile(r"usr/lib(?:64|/[^/]+-linux-[^/]+)?/[^/]+\.la")
_GZIPPED_DOCS = tuple(path_matcher(f"usr/share/{one}/**/*.gz") for one in ("man", "doc", "info"))
_XATTRS = ("user.", "system.posix_acl_")  # what a build may set; others are the machine's own
CAPABILITY_XATTR = "security.capability"

_REVISION_2 = 0x02000000  # linux/capability.h: VFS_CAP_REVISION_2
_EFFECTIVE = 0x000001
_CLAUSE = re.compile(r"([a-z_]+(?:,[a-z_]+)*)(?:[=+]([eip]+))?")
_CAPABILITIES = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
    sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time
    sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog
    wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""
_BITS = {f"cap_{name}": 1 << bit for bit, name in enumerate(_CAPABILITIES.split())}
_Inode = tuple[int, int]


_SMALL = 16 << 10
_MOST = 64 << 20
_OVERHEAD = 200  # bytes of a path and an entry in the table


class _Inner(io.RawIOBase):
    """A file as another one, which is closed with it."""

    def __init__(self, inner: io.FileIO | io.BufferedReader) -> None:
        self.inner = inner

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.inner.seek(offset, whence)

    def fileno(self) -> int:
        return self.inner.fileno()

    def close(self) -> None:
        self.inner.close()
        super().close()


@dataclass(frozen=True, slots=True)
class Watched:
    """A tree whose every operation, each read of a file too, ends with `Interrupted` at a stop.

    Every rule looks into every file, so the content of small ones is kept after the first reading:
    of 50 000 small files that spares four of five times to open one.
    """

    tree: Root
    stop: threading.Event
    _small: dict[str, bytes] = field(default_factory=dict)
    _room: list[int] = field(default_factory=lambda: [_MOST])

    def look(self) -> None:
        """Go on, or not.

        Raises:
            Interrupted: `stop` was set.
        """
        if self.stop.is_set():
            raise Interrupted("stopped while what was installed was packed")

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        for found in self.tree.walk():
            self.look()
            yield found

    def readlink(self, path: str) -> str:
        return self.tree.readlink(path)

    def chmod(self, path: str, mode: int) -> None:
        self.tree.chmod(path, mode)

    def open_file(self, path: str) -> BinaryIO:
        self.look()
        known = self._small.get(path)
        if known is not None:
            return io.BytesIO(known)
        return io.BufferedReader(_Heeding(self.tree.open_read(path), path, self))

    def keep(self, path: str, content: bytes) -> None:
        """Remember the whole of a small file."""
        if len(content) <= min(_SMALL, self._room[0]):
            self._room[0] -= len(content) + _OVERHEAD
            self._small[path] = content


class _Heeding(_Inner):
    """A file, as it is; each read looks first."""

    def __init__(self, fd: int, path: str, watched: Watched) -> None:
        super().__init__(io.FileIO(fd, "rb"))
        self._path = path
        self._fresh = True
        self._watched = watched

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = super().seek(offset, whence)
        self._fresh = at == 0
        return at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._watched.look()
        count = self.inner.readinto(buffer)
        if self._fresh and count < len(buffer):  # read(2) is short at the end of a file only
            self._watched.keep(self._path, bytes(buffer[:count]))
        self._fresh = False
        return count


InstalledTree = Root | Watched


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """Something that was installed and is not, or not so, where one would look for it.

    `what` is the same text for all changes of a kind, `keep` what keeps it as it was. `loud` says
    that the author of the recipe may not have meant it; else it is as expected.
    """

    what: str
    path: str
    keep: str = ""
    loud: bool = False


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Normalised:
    """Entries in the order of layers, with the digests of `open_content`, and what was left out.

    `declared` are the paths whose mode a rule gives.
    """

    entries: tuple[Entry, ...]
    changes: tuple[Change, ...]
    declared: frozenset[str] = frozenset()


def normalised(
    tree: InstalledTree,
    rules: Sequence[RuleInput],
    epoch: int,
    *,
    place: str = "",
    claimed: Callable[[str], bool] = lambda _: False,
    limits: Limits = LIMITS,
) -> Normalised:
    """The entries of what a build installed, their times all `epoch` (seconds).

    Every file is read once. Where an owner may not read a file or directory, its mode in the tree
    is widened first, so that root and an ordinary user get the same; the entry has the true one.
    What `claimed` says yes to is never left out. `place` is where the rules stand.

    Raises:
        RecipeError: a rule is malformed.
        BuildError: a device, socket or FIFO, a rule that matches nothing, capabilities on
            something that is no file, or more than `limits` allow.
        OSError: the tree cannot be read.
    """
    parsed = [_Rule.parse(rule, place) for rule in rules]
    used: set[str] = set()
    declared: set[str] = set()
    entries: list[Entry] = []
    changes: list[Change] = []
    read: dict[_Inode, Entry] = {}
    inodes: dict[str, _Inode] = {}
    for path, status in bounded(tree.walk(), limits):
        directory = stat.S_ISDIR(status.st_mode)
        wanted = 0o500 if directory else 0o400
        if (directory or stat.S_ISREG(status.st_mode)) and status.st_mode & wanted != wanted:
            tree.chmod(path, stat.S_IMODE(status.st_mode) | wanted)
        dropped = next((what for matches, what in _DROPPED if matches(path)), "")
        if dropped and not directory and not claimed(path):
            loud = path.endswith(".la") and not _LIBTOOL.fullmatch(path)
            changes.append(Change(dropped, path, "outputs: {runtime: [%s]}", loud))
            continue
        entry = _entry(tree, path, status, epoch, (read, changes))
        if entry.kind is Kind.FILE and status.st_nlink > 1:
            inodes[path] = (status.st_dev, status.st_ino)
        for rule in (rule for rule in parsed if rule.matches(path)):
            used.add(rule.glob)
            declared |= {path} if rule.gives_mode(entry) else set()
            entry = rule.applied(entry)
        entries.append(entry)
    unused = next((rule.glob for rule in parsed if rule.glob not in used), None)
    if unused is not None:
        hint = "correct the path (without a leading slash), or remove the rule"
        raise BuildError(f"`files:` names {unused!r}, which was not installed", hint=hint)
    ordered = sorted(entries, key=sort_key)
    return Normalised(tuple(_linked(ordered, inodes)), tuple(changes), frozenset(declared))


def bounded(
    walked: Iterator[tuple[str, os.stat_result]], limits: Limits
) -> Iterator[tuple[str, os.stat_result]]:
    """The same, up to the first path that is too much; each inode's size counts once."""
    size = 0
    seen: set[_Inode] = set()
    for count, (path, status) in enumerate(walked, start=1):
        if path.count("/") >= _DEEPEST or len(os.fsencode(path)) > _LONGEST:
            text = f"directories were installed {_DEEPEST} deep, or a path of {_LONGEST} bytes"
            hint = "nothing could unpack that everywhere: remove it in the install step"
            raise BuildError(text, place=f"{path[:60]}…", hint=hint)
        if count > limits.installed_files:
            text = f"more than {limits.installed_files} files and directories were installed"
            hint = "install less, or raise `limits: files` in .buildit-config.yaml"
            raise BuildError(text, place=path, hint=hint)
        if stat.S_ISREG(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            size += 0 if inode in seen else status.st_size
            if status.st_nlink > 1:
                seen.add(inode)
        if size >= limits.installed_bytes:
            holes = status.st_size - status.st_blocks * 512
            sparse = f", most of it holes ({amount(holes)})" if holes > status.st_size // 2 else ""
            text = f"{amount(limits.installed_bytes)} or more were installed; "
            text += f"the file that reaches it has {amount(status.st_size)}{sparse}"
            hint = "install less, or raise `limits: installed` in .buildit-config.yaml"
            raise BuildError(text, place=path, hint=hint)
        yield path, status


def open_content(tree: InstalledTree, path: str) -> BinaryIO:
    """The content of a FILE entry, seekable: the bytes whose digest the entry has.

    Raises:
        OSError: the file cannot be opened.
    """
    stream = tree.open_file(path)
    if path.endswith(".gz") and any(matches(path) for matches in _GZIPPED_DOCS):
        head = stream.read(8)
        stream.seek(0)
        if head.startswith(b"\x1f\x8b\x08") and any(head[4:]):
            return io.BufferedReader(_Timeless(cast(io.BufferedReader, stream)))
    return stream


class _Timeless(_Inner):
    """A gzip file with the time in its header zeroed (RFC 1952, 2.3: MTIME is bytes 4 to 7)."""

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        at = self.inner.tell()
        data = self.inner.read(len(buffer))
        buffer[: len(data)] = data
        for offset in range(max(at, 4), min(at + len(data), 8)):
            buffer[offset - at] = 0
        return len(data)


def _entry(
    tree: InstalledTree,
    path: str,
    status: os.stat_result,
    epoch: int,
    found: tuple[dict[_Inode, Entry], list[Change]],
) -> Entry:
    """The entry as it was installed; each inode is read once.

    `found` are the inodes that were read already and the changes so far; both get more.
    """
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, Kind.DIRECTORY, mode, epoch)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, Kind.SYMLINK, 0o777, epoch, target=tree.readlink(path))
    if not stat.S_ISREG(status.st_mode):
        special = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
        kind = special.get(stat.S_IFMT(status.st_mode), "device node")
        hint = "remove it in the install step; make it when the program starts"
        raise BuildError(f"a {kind} was installed", place=path, hint=hint)
    read, changes = found
    inode = (status.st_dev, status.st_ino)
    known = read.get(inode)
    if known is not None:
        return replace(known, path=path)
    with open_content(tree, path) as stream:
        with suppress(OSError):  # a file system without any
            names = [n for n in os.listxattr(stream.fileno()) if n.startswith(_XATTRS)]
            changes += [Change(f"attribute {name} left out", path) for name in names]
        if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, _Timeless):
            changes.append(Change("time of compression zeroed", path))
        digest = digest_stream(stream)
        size = stream.seek(0, os.SEEK_END)
    entry = Entry(path, Kind.FILE, mode, epoch, size=size, digest=digest)
    if status.st_nlink > 1:
        read[inode] = entry
    return entry


@dataclass(frozen=True, slots=True)
class _Rule:
    """What paths that match `glob` have beyond 0:0 and the mode that they were installed with.

    `mode` holds permission bits with set-id and sticky; with a wildcard in the glob (not `exact`)
    it is for files only, without one also for a directory. `capabilities` are the attribute's
    bytes. Of several rules for a path the later wins, field by field.
    """

    glob: str
    matches: Callable[[str], bool]
    exact: bool
    mode: int | None
    owner: tuple[int, int] | None
    capabilities: bytes

    @classmethod
    def parse(cls, rule: RuleInput, place: str) -> _Rule:
        """From the texts of a record; empty ones say nothing.

        Raises:
            RecipeError: with what is wrong.
        """
        mode, owner = rule.mode, rule.owner
        if mode and (not set(mode) <= set("01234567") or int(mode, 8) > 0o7777):
            raise RecipeError(f"malformed mode {mode!r}", place=place, hint="write it as 0644")
        uid, _, gid = owner.partition(":")
        if owner and None in (id_of(uid), id_of(gid)):
            hint = "write numbers, as 33:33"
            raise RecipeError(f"malformed owner {owner!r}", place=place, hint=hint)
        return cls(
            rule.path,
            path_matcher(rule.path, place=place),
            not set(rule.path) & set("*?["),
            int(mode, 8) if mode else None,
            (int(uid), int(gid)) if owner else None,
            encoded_capabilities(rule.capabilities, place=place) if rule.capabilities else b"",
        )

    def gives_mode(self, entry: Entry) -> bool:
        """Whether the mode of an entry that it matches is the rule's."""
        kinds = (Kind.FILE, Kind.DIRECTORY) if self.exact else (Kind.FILE,)
        return self.mode is not None and entry.kind in kinds

    def applied(self, entry: Entry) -> Entry:
        """The entry as this rule has it."""
        if self.owner is not None:
            entry = replace(entry, uid=self.owner[0], gid=self.owner[1])
        if self.mode is not None and self.gives_mode(entry):
            entry = replace(entry, mode=self.mode)
        if self.capabilities and (self.exact or entry.kind is Kind.FILE):
            if entry.kind is not Kind.FILE:
                text, hint = f"capabilities on a {entry.kind}", "name a program file"
                raise BuildError(text, place=entry.path, hint=hint)
            entry = replace(entry, xattrs={CAPABILITY_XATTR: self.capabilities})
        return entry


def encoded_capabilities(clauses: Sequence[str], *, place: str) -> bytes:
    """`security.capability`, 20 bytes, from clauses such as `cap_net_bind_service=ep`.

    As capabilities(7) has it (vfs_cap_data). A clause without flags means `=ep`. The kernel knows
    one effective bit for all.

    Raises:
        RecipeError: an unknown capability, or flags that the attribute cannot hold.
    """
    sets = dict.fromkeys("pie", 0)
    for clause in clauses:
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            hint = "write cap_net_bind_service=ep"
            raise RecipeError(f"malformed capabilities {clause!r}", place=place, hint=hint)
        names, flags = match[1].split(","), match[2] or "ep"
        unknown = next((name for name in names if name not in _BITS), None)
        if unknown is not None:
            hint = "capabilities(7) lists them"
            raise RecipeError(f"unknown capability {unknown!r}", place=place, hint=hint)
        for flag in flags:
            sets[flag] |= sum({_BITS[name] for name in names})
    permitted, inheritable, effective = sets.values()
    if effective not in (0, permitted | inheritable):
        text = f"capabilities {' '.join(clauses)!r} are effective in part only"
        hint = "the kernel keeps one effective bit: give all of them `e`, or none"
        raise RecipeError(text, place=place, hint=hint)
    words = (permitted, inheritable, permitted >> 32, inheritable >> 32)
    first = _REVISION_2 | (_EFFECTIVE if effective else 0)
    return struct.pack("<IIIII", first, *(word & 0xFFFFFFFF for word in words))


def _linked(ordered: Sequence[Entry], inodes: Mapping[str, _Inode]) -> Iterator[Entry]:
    """Names of one inode as hard links: the bytewise first is the file.

    Names that rules made different stay files of their own.
    """
    firsts: dict[tuple[object, ...], str] = {}
    for entry in ordered:
        # what is no file with several names is like itself alone
        inode = inodes.get(entry.path, entry.path)
        alike = (inode, entry.mode, entry.uid, entry.gid, *entry.xattrs.items())
        first = firsts.setdefault(alike, entry.path)
        if first != entry.path:
            entry = replace(entry, kind=Kind.HARDLINK, size=0, digest=None, target=first, xattrs={})
        yield entry
