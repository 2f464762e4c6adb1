"""The tree that an emitted image holds, as its own bytes say; shares no rule with the emitters but
how layers lie over each other. Of an unpacked root file system too: nothing in it is followed or
executed.

Hard links are compared by what they share, not by which name the archive happened to call the
file: the bytewise first name of an inode is the file, the others link to it.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from buildit.archive.admit import Budget, Remark
from buildit.archive.beneath import Root
from buildit.archive.streams import Readable
from buildit.archive.tar.read import read_tar
from buildit.digest import CHUNK, Digest
from buildit.errors import IntegrityError
from buildit.image import merge
from buildit.image.merge import GENERATED, LayerChange, Member, MergedTree
from buildit.model.tree import Entry, Kind

FOREIGN = Budget(ratio=100_000, depth=256, whiteouts=True)
"""An image may come from a stranger, and layers of zeros compress very well."""

INFLATED = 2 << 30
"""Bytes that an image may have unpacked, however little is stored."""

TIMES = 64
"""How often as large as what is stored the whole may be, beyond that. Text gives 5 to 20."""


def budget_of(stored: int, before: int = 0) -> Budget:
    """What an image of `stored` bytes, or its next layer, may become, `before` being spent already:
    nothing else bounds what a stranger's few bytes cost (20 MB gave 20 GiB of zeros)."""
    return replace(FOREIGN, total_bytes=max(0, max(INFLATED, TIMES * stored) - before))


MOST_SEARCHED = 50_000_000
"""Paths times layers that delete: a few minutes."""

PROBLEMS_SHOWN = 20
"""Paths of one kind of problem that are told one by one."""


@dataclass(slots=True)
class SeenTree:
    """A stack of layers as it is read, laid down as both kinds of clients do it (`image.merge`).

    The root is the entry "". `problems` are what cannot be laid down as written.
    """

    merged: MergedTree = field(default_factory=MergedTree)
    problems: list[str] = field(default_factory=list)

    def lay(self, entries: list[Entry]) -> None:
        """Lay one layer over the tree: deletions first, then its entries (OCI layer.md).

        Raises:
            IntegrityError: all layers together have more paths than one archive may have, or too
                many of them delete.
        """
        number, tree = self.merged.layers, self.merged.tree
        if len(tree) + len(entries) > FOREIGN.entries:
            raise IntegrityError(f"the image has over {FOREIGN.entries} paths")
        change = LayerChange.of(entries)
        change = replace(change, entries=tuple(self._whole(change.entries)))
        above = {
            path: tree.get(path.rpartition("/")[0])
            for path in merge.directories_above(entry.path for entry in change.entries)
        }
        laid = self.merged.lay(change)
        if self.merged.searched > MOST_SEARCHED:
            raise IntegrityError(f"layer {number} is one too many that deletes in so large a tree")
        own = {entry.path for entry in change.entries}
        self.problems += [
            f"layer {number} deletes {path!r} and brings it: clients differ in what is left"
            for path in change.deleted
            if path in own or path in laid.implied
        ]
        self.problems += [
            f"layer {number} has entries beneath {entry.path!r}, which is {_what(entry)} of "
            "a layer below: an unpacker goes through it or fails, an overlay file system "
            "hides it behind a directory"
            for entry in laid.through
        ]
        # What an unpacker makes beneath a setgid directory is setgid and of its group (inode(7)).
        for path in sorted(laid.made):
            for parent in (tree.get(path.rpartition("/")[0]), above.get(path)):
                if parent is not None and parent.entry.mode & stat.S_ISGID:
                    entry = replace(tree[path].entry, mode=0o2755, gid=parent.entry.gid)
                    tree[path] = replace(tree[path], entry=entry)
                    break
        # GNU tar and umoci make what has no entry when they have set the time of this one.
        for path in own & {path.rpartition("/")[0] for path in laid.made}:
            member = tree[path]
            if member.entry.kind is Kind.DIRECTORY:
                tree[path] = replace(member, entry=replace(member.entry, mtime=0))

    def _whole(self, entries: tuple[Entry, ...]) -> Iterator[Entry]:
        """Without links to nothing, which are problems."""
        files: set[str] = set()
        for entry in entries:
            if entry.kind is Kind.HARDLINK and entry.target not in files:
                self.problems.append(
                    f"{entry.path!r} links to {entry.target!r}, which is no file of its layer"
                )
                continue
            if entry.kind in (Kind.FILE, Kind.HARDLINK):
                files.add(entry.path)
            yield entry

    def entries(self, *, stacked: bool = True) -> tuple[Entry, ...]:
        """Sorted entries, the root and every parent among them; what nothing brings is 0755, 0:0,
        time 0. Where clients see two trees, that is a problem of what is `stacked` as layers."""
        self.merged.tree.setdefault("", Member(_default(""), GENERATED, ""))
        if stacked:
            found = list(self._differences())
            more = len(found) - PROBLEMS_SHOWN
            self.problems += found[:PROBLEMS_SHOWN]
            self.problems += [f"and {more} more such paths"] if more > 0 else []
        return tuple(member.entry for member in merge.linked(self.merged.tree))

    def shown(self, path: str) -> Entry | None:
        """What an overlay file system shows at a path.

        Engines make the root themselves, whatever a layer says of it, at the time of unpacking:
        0755 0:0 docker 20.10, 0555 0:0 podman 4.3 (tests/sandbox/test_layer_engines.py). So no time
        of it is wrong, and everything but the usual 0755 0:0 is lost in one of them.
        """
        member = self.merged.tree.get(path)
        if not path and member is not None:
            return replace(_default(""), mtime=member.entry.mtime)
        if member is not None and member.entry.kind is not Kind.DIRECTORY:
            return member.entry
        return self.merged.stated.get(path) or _default(path)

    def _differences(self) -> Iterator[str]:
        for path in sorted(self.merged.tree.keys() | self.merged.stated.keys()):
            member, second = self.merged.tree.get(path), self.shown(path)
            first = None if member is None else member.entry
            if first != second and not path:
                yield (
                    f"'/' is {_what(first)} to an unpacker, and each engine makes its own: "
                    "0755 0:0 in docker, 0555 0:0 in podman"
                )
            elif first != second:
                yield (
                    f"{path!r} is {_what(first)} to an unpacker, "
                    f"and {_what(second)} to an overlay file system"
                )


def _default(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


def _what(entry: Entry | None) -> str:
    if entry is None:
        return "absent"
    if entry.kind is Kind.SYMLINK:
        return f"a link to {entry.target!r}"
    if entry.kind is not Kind.DIRECTORY:
        return "a file"
    return f"a directory {entry.mode:04o} {entry.uid}:{entry.gid} of time {entry.mtime}"


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


Hasher = Callable[[], Hash]
"""What takes the digest of each file of an image, in turn; `Kept` keeps the bytes besides."""


class Kept:
    """Keeps the bytes of files as they are read, each as a file named by its digest.

    Of those that are empty there is none. Nothing is kept under a name before all of it is there.
    """

    def __init__(self, directory: Path, owner: tuple[int, int] | None = None) -> None:
        """`owner` (uid, gid) gets the files; the directory is there and empty."""
        self.directory, self._owner = directory, owner

    def __call__(self) -> Hash:
        return _KeptFile(self.directory, self._owner)

    def open(self, digest: Digest, size: int) -> BinaryIO:
        """Raises OSError where nothing of that digest was kept."""
        return (self.directory / digest).open("rb") if size else io.BytesIO()


class _KeptFile:
    def __init__(self, directory: Path, owner: tuple[int, int] | None) -> None:
        self._directory, self._owner = directory, owner
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    def update(self, data: bytes, /) -> None:
        self._hash.update(data)
        if self._file is None:
            self._file = (self._directory / "new").open("wb")
        self._file.write(data)

    def hexdigest(self) -> str:
        digest = self._hash.hexdigest()
        if self._file is not None:
            if self._owner is not None:
                os.fchown(self._file.fileno(), *self._owner)
            self._file.close()
            (self._directory / "new").replace(self._directory / digest)
            self._file = None
        return digest


class Hashed:
    """Takes the digest and the length of what is read through it."""

    __slots__ = ("_hash", "_stream", "size")

    def __init__(self, stream: Readable, hasher: Hasher = hashlib.sha256) -> None:
        self._stream = stream
        self._hash = hasher()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size) or b""
        if chunk:
            self._hash.update(chunk)
        self.size += len(chunk)
        return chunk

    def digest(self) -> str:
        """In hex, of all that the stream has."""
        while self.read(CHUNK):
            pass
        return self._hash.hexdigest()


def read_entries(
    plain: Readable, name: str, hasher: Hasher = hashlib.sha256, nodes: Remark | None = None
) -> Iterator[tuple[Entry, bytes]]:
    """The entries of a plain tar, files with their digests; and the content of small files.

    The root is an entry "" where the tar has one. Content is given up to 1 MiB, else empty. `name`
    is the place of errors, `nodes` as of `read_tar`.

    Raises:
        IntegrityError, BuildError: as `archive.tar.read.read_tar`.
    """
    for entry, window in read_tar(plain, FOREIGN, name, root=True, nodes=nodes):
        if window is None:
            yield entry, b""
            continue
        hashed = Hashed(window, hasher)
        kept = hashed.read(CHUNK) if entry.size <= CHUNK else b""
        yield replace(entry, digest=Digest(hashed.digest())), kept


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one image gave.

    `format` is oci, aci or directory, `platform` what it is for (`linux/arm64`), where it is one of
    several in one image. `identifier` is the manifest digest (`sha256:…`), the image
    ID (`sha512-…`), or empty. `entries` are of the whole tree, its root "" first; None where
    it could not be read. `start` is the document that says how it starts, as its format has it
    (`image.launch` reads it), empty where there is none.
    """

    format: str
    identifier: str
    entries: tuple[Entry, ...] | None
    problems: tuple[str, ...]
    start: bytes = b""
    platform: str = ""


def read_directory(path: Path, hasher: Hasher = hashlib.sha256) -> Reading:
    """Read all of a directory; files must be readable, so it is best done as root.

    Attributes compared are capabilities and `user.*`: the others belong to the host (labels).

    Raises:
        OSError: something cannot be read.
        IntegrityError: the tree changed meanwhile.
    """
    tree = SeenTree()
    problems: list[str] = []
    names: dict[tuple[int, int], str] = {}
    entries: list[Entry] = []
    with Root.open(path) as root:
        for name, status in (("", root.lstat("")), *root.walk()):
            entry = _entry(root, name, status, names, hasher)
            if entry is None:
                problems.append(f"{name!r} is a device, socket or FIFO")
            else:
                entries.append(entry)
    tree.lay(entries)
    whole = tree.entries(stacked=False)
    return Reading("directory", "", whole, (*problems, *tree.problems))


def _entry(
    root: Root, name: str, status: os.stat_result, names: dict[tuple[int, int], str], hasher: Hasher
) -> Entry | None:
    plain = Entry(
        name,
        Kind.DIRECTORY,
        stat.S_IMODE(status.st_mode),
        mtime=status.st_mtime_ns // 10**9,
        uid=status.st_uid,
        gid=status.st_gid,
    )
    if stat.S_ISDIR(status.st_mode):
        return plain
    if stat.S_ISLNK(status.st_mode):
        return replace(plain, kind=Kind.SYMLINK, target=root.readlink(name))
    if not stat.S_ISREG(status.st_mode):
        return None
    first = names.setdefault((status.st_dev, status.st_ino), name)
    if first != name:
        return replace(plain, kind=Kind.HARDLINK, target=first)
    with open(root.open_read(name), "rb") as stream:
        digest = Digest(Hashed(stream, hasher).digest())
        attributes = {
            key: os.getxattr(stream.fileno(), key)
            for key in sorted(os.listxattr(stream.fileno()))
            if key == "security.capability" or key.startswith("user.")
        }
    return replace(plain, kind=Kind.FILE, size=status.st_size, digest=digest, xattrs=attributes)
