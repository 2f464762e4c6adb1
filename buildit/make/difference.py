"""What a command left in the upper directory of an overlay, as the change that a layer is. Pure.

Of the kernel's marks (Documentation/filesystems/overlayfs): a character device 0:0, or an empty
file with `user.overlay.whiteout`, is what was deleted; a directory with `user.overlay.opaque` hides
all that lies beneath it. Whiteouts may be hard links of one inode. A file that was only opened for
writing is there too, and so is every directory above a change: what is as it was below is no part
of the change, but where something lies in it.

Normalised, so that two runs give one layer:

- a time later than the epoch is the epoch, and a directory that was there keeps its own;
- `DROPPED`, logs and caches that say when they were written, stay out;
- `EMPTIED`, which must differ on every machine, have no content.

Owners, modes and set-id bits are as the command left them. Sockets, FIFOs and attributes of the
machine stay out, and are told of.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildit.archive.admit import shown
from buildit.digest import Digest
from buildit.errors import BuildError
from buildit.image.merge import LayerChange
from buildit.model.globs import path_matcher
from buildit.model.tree import Entry, Kind, sort_key

DIFFERENCE = "2"
"""Version of these rules; in the key of what runs."""

_DROPPED = """
    var/log/dpkg.log var/log/alternatives.log var/log/bootstrap.log var/log/apt/**
    var/cache/ldconfig/aux-cache var/cache/apt/** var/lib/apt/lists/**
    etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/subuid- etc/subgid- etc/.pwd.lock
    root/.cache/pip/** root/.npm/_logs/** root/.npm/_cacache/**
"""
DROPPED = tuple(map(path_matcher, _DROPPED.split()))
EMPTIED = frozenset({"etc/machine-id"})
"""An empty one is filled at the first start, machine-id(5)."""

_NEVER_TWICE = """
    etc/ssh/ssh_host_*_key etc/ssh/ssh_host_*_key.pub
    etc/ssl/private/ssl-cert-snakeoil.key etc/ssl/certs/ssl-cert-snakeoil.pem
    var/lib/postgresql/*/*/** var/lib/mysql/**
"""
NEVER_TWICE = tuple(map(path_matcher, _NEVER_TWICE.split()))
"""Keys and databases that maintainer scripts make, which are others each time."""

OVERLAY = "user.overlay."
_NESTED = "user.overlay.overlay."
OPAQUE, _WHITEOUT = f"{OVERLAY}opaque", f"{OVERLAY}whiteout"
_KNOWN = frozenset(
    OVERLAY + one for one in ("opaque", "whiteout", "origin", "impure", "uuid", "nlink")
)
_KEPT = ("user.", "security.capability")
LAYERED = (*_KEPT, "system.posix_acl")
"""How attributes begin that say something in a tree of layers; others are the machine's."""
_MARK = ".wh."
_NO_MARK = "names that begin with .wh. delete files in image layers"


@dataclass(frozen=True, slots=True)
class UpperEntry:
    """One path of an upper directory as lstat(2), readlink(2) and listxattr(2) say it, seen from
    inside: `status_mode` has the type too, `mtime` whole seconds, rounded down; `inode` tells files
    apart; `device` is of a device alone."""

    path: str
    status_mode: int
    mtime: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    inode: int = 0
    links: int = 1
    device: int = 0
    target: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """The change, files without digests but where they had to be read; `emptied` are those whose
    content is not what was left; `remarks` are what a user should know."""

    change: LayerChange
    emptied: frozenset[str] = frozenset()
    remarks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Over:
    """What a command ran over: what the merged tree `below` has at a path, and `points`, paths that
    were made to mount something there. `alone`: everybody inside was root, so that an owner says
    nothing. `lent` is what was shown besides, and is in no layer unless it was changed."""

    below: Callable[[str], Entry | None]
    points: frozenset[str] = frozenset()
    alone: bool = False
    lent: Mapping[str, Entry] = field(default_factory=dict)


def difference(
    uppers: Sequence[UpperEntry], over: Over, epoch: int, digest: Callable[[str], Digest]
) -> Difference:
    """What the uppers of an upper directory change; `digest` reads a file of it.

    Raises:
        BuildError: a name, an attribute or a device is there that a layer would take for something
            else.
    """
    return _Reader(over, epoch, digest).read(uppers)


@dataclass(slots=True)
class _Reader:
    over: Over
    epoch: int
    digest: Callable[[str], Digest]
    entries: dict[str, Entry] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    opaque: dict[str, None] = field(default_factory=dict)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    emptied: set[str] = field(default_factory=set)

    def read(self, uppers: Sequence[UpperEntry]) -> Difference:
        unlike_below: dict[str, bool] = {}
        inodes: dict[int, list[str]] = {}
        for upper in uppers:
            _refuse(upper)
            if _is_whiteout(upper):
                if self._below(upper.path) is not None:
                    self.deleted.append(upper.path)
                continue
            if not stat.S_ISDIR(upper.status_mode) and any(m(upper.path) for m in DROPPED):
                continue
            entry = self._entry(upper)
            if entry is None:
                continue
            self.entries[upper.path] = entry
            unlike_below[upper.path] = not self._as_below(entry)
            if entry.kind is Kind.FILE and upper.links > 1 and upper.path not in self.emptied:
                inodes.setdefault(upper.inode, []).append(upper.path)
        self._link(inodes, unlike_below)
        self._leave_out(unlike_below)
        entries = tuple(sorted(self.entries.values(), key=sort_key))
        change = LayerChange(entries, tuple(self.deleted), tuple(self.opaque))
        emptied = frozenset(self.emptied & self.entries.keys())
        told = (*self.remarks, *_told(entries, self.over.below))
        return Difference(change, emptied, told)

    def _below(self, path: str) -> Entry | None:
        """What is to be seen of the tree below at a path, as far as it was read."""
        gone = any(above in self.opaque for above in _above(path))
        return None if gone else self.over.below(path)

    def _entry(self, upper: UpperEntry) -> Entry | None:
        path, kind = upper.path, stat.S_IFMT(upper.status_mode)
        mode, below = stat.S_IMODE(upper.status_mode), self._below(path)
        owner = upper.uid, upper.gid
        mtime = min(upper.mtime, self.epoch)
        if kind == stat.S_IFDIR:
            was = below if below and below.kind is Kind.DIRECTORY else None
            if was is not None and upper.xattrs.get(OPAQUE) == b"y":
                self.opaque[path] = was = None
            mtime = mtime if was is None else was.mtime
            owner = self._owner(owner, was)
            return Entry(path, Kind.DIRECTORY, mode, mtime, *owner, xattrs=self._attributes(upper))
        owner = self._owner(owner, below)
        if kind == stat.S_IFLNK:
            return Entry(path, Kind.SYMLINK, 0o777, mtime, *owner, target=upper.target)
        if kind == stat.S_IFREG:
            size = upper.size
            if path in EMPTIED and size:
                self.emptied.add(path)
                self.remarks.append(("emptied, as it must differ on every machine", path))
                size = 0
            return Entry(
                path, Kind.FILE, mode, mtime, *owner, size=size, xattrs=self._attributes(upper)
            )
        what = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a FIFO"}.get(kind)
        if what is None:  # there is no way to make one inside
            raise _wrong(path, "a device was made", "leave it to who starts the container")
        self.remarks.append((f"{what} stays out: its program makes it", path))
        return None

    def _owner(self, owner: tuple[int, int], below: Entry | None) -> tuple[int, int]:
        """Where everybody is root, what was there belongs to whom it belonged before."""
        if self.over.alone and below is not None and owner == (0, 0):
            return below.uid, below.gid
        return owner

    def _attributes(self, upper: UpperEntry) -> dict[str, bytes]:
        kept = {}
        for name, value in sorted(upper.xattrs.items()):
            if name.startswith(OVERLAY):
                continue
            if name.startswith(_KEPT):
                kept[name] = value
            elif name.startswith(LAYERED):
                self.remarks.append(("access control lists stay out", upper.path))
        return kept

    def _as_below(self, entry: Entry) -> bool:
        """Whether the tree below has the same; a file is read only where all else is alike."""
        path = entry.path
        if path in self.over.points and self.over.below(path) is None:
            return True
        was = self._below(path) or self.over.lent.get(path)
        if was is None or path in self.opaque or path in self.emptied:
            return False
        if entry.kind is not Kind.FILE:
            return was == entry
        if replace(was, digest=None) != entry:
            return False
        self.entries[path] = read = replace(entry, digest=self.digest(path))
        return read == was

    def _link(self, inodes: Mapping[int, list[str]], unlike_below: dict[str, bool]) -> None:
        """Names of one inode as hard links of the first; where one of them is new, all count."""
        for paths in inodes.values():
            first, *others = sorted(paths, key=lambda path: sort_key(self.entries[path]))
            if not others:
                continue
            if any(unlike_below[path] for path in paths):
                unlike_below |= dict.fromkeys(paths, True)
            for path in others:
                if unlike_below[path]:
                    entry = replace(self.entries[path], kind=Kind.HARDLINK, target=first)
                    self.entries[path] = replace(entry, size=0, digest=None, xattrs={})

    def _leave_out(self, unlike_below: Mapping[str, bool]) -> None:
        """Of what is as below, only directories stay that hold something."""
        holding = {above for path in (*self.deleted, *self.opaque) for above in _above(path)}
        for path, differs in unlike_below.items():
            if differs:
                holding.update(_above(path))
        for path, differs in unlike_below.items():
            if not differs and path not in holding:
                del self.entries[path]


def _above(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _is_whiteout(upper: UpperEntry) -> bool:
    return (stat.S_ISCHR(upper.status_mode) and upper.device == 0) or _WHITEOUT in upper.xattrs


def _refuse(upper: UpperEntry) -> None:
    """Raises BuildError where a layer, or an overlay of layers, would read something else."""
    if posixpath.basename(upper.path).startswith(_MARK):
        raise _wrong(upper.path, _NO_MARK, "give the file another name")
    for name in upper.xattrs:
        if name.startswith(_NESTED) or (name.startswith(OVERLAY) and name not in _KNOWN):
            told = name.replace(_NESTED, OVERLAY)
            message = f"the attribute {shown(told)} was set, which overlay file systems go by"
            raise _wrong(upper.path, message, "do without it: no image can carry it")


def _wrong(path: str, message: str, hint: str) -> BuildError:
    return BuildError(f"/{shown(path)}: {message}", hint=hint)


_SET_ID = "set-id bits are kept"


def _told(
    entries: Iterable[Entry], below: Callable[[str], Entry | None]
) -> Iterator[tuple[str, str]]:
    """What a user should know of what the layer has."""
    for entry in entries:
        was = below(entry.path)
        new = was is None or was.mode != entry.mode
        if entry.kind is Kind.FILE and entry.mode & 0o6000 and new:
            yield _SET_ID, f"{entry.path} ({entry.mode:04o})"
        if entry.kind is Kind.FILE and any(matches(entry.path) for matches in NEVER_TWICE):
            yield "not reproducible: another one each time", entry.path


KEY_HEAD = 4096


def holds_private_key(head: bytes) -> bool:
    """Whether the first `KEY_HEAD` bytes of a file have a private key (RFC 7468; OpenSSH's
    PROTOCOL.key)."""
    return b"-----BEGIN " in head and b"PRIVATE KEY-----" in head


ANSWERS = frozenset(f"var/cache/debconf/config.dat{old}" for old in ("", "-old"))
MOST_ANSWERS = 16 << 20
"""Where debconf keeps what was asked, and how many bytes of that are looked through."""

_TEMPORARY = re.compile(rb"^ *\w+ = /tmp/", re.MULTILINE)


def names_temporary(answers: bytes) -> bool:
    """Whether what debconf keeps (debconf-devel(7), SUBST) names a file that was made for a while,
    as ucf(1) asks with one of a name by chance."""
    return _TEMPORARY.search(answers) is not None
