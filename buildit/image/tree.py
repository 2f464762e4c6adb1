"""The tree that an emitted image holds, as its own bytes say; shares no rule with the emitters.

Hard links are compared by what they share, not by which name the archive happened to call the
file: the bytewise first name of an inode is the file, the others link to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from buildit.archive.contents import root_digest
from buildit.archive.streams import Readable
from buildit.archive.tar.admit import Budget
from buildit.archive.tar.read import read_tar
from buildit.digest import CHUNK, Digest
from buildit.model.tree import Entry, Kind, sort_key

FOREIGN = Budget(ratio=100_000, depth=256)
"""An image may come from a stranger, and layers of zeros compress very well."""

INFLATED = 2 << 30
"""Bytes that an image may have unpacked, however little is stored."""

TIMES = 64
"""How often as large as what is stored the whole may be, beyond that. Text gives 5 to 20."""


def inflated(stored: int, before: int = 0) -> Budget:
    """What a layer or archive of `stored` bytes may become, `before` being spent already: nothing
    else bounds what a stranger's few bytes cost (20 MB gave 20 GiB of zeros)."""
    most = max(INFLATED, TIMES * stored) - before
    return replace(FOREIGN, total_bytes=max(most, stored))


_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


SHOWN = 20
"""Paths of one kind of problem that are told one by one."""


@dataclass(slots=True)
class Tree:
    """A tree that is being laid down, layer over layer, as two kinds of clients do it.

    `places` is what an unpacker leaves (umoci, tar: entry after entry into one directory);
    `overlaid` what an overlay file system shows of layers that were unpacked each for itself
    (podman, docker, containerd). There a directory is as the uppermost layer that holds it, or
    anything beneath it, has it, by defaults where it has no entry (kernel
    Documentation/filesystems/overlayfs, "Merged directories"). "" is the root. Both map paths to
    entries; a hard link's target is `N:path`, the inode that it shares: the file `path` of layer N.
    `problems` are paths that cannot be laid down as written.
    """

    places: dict[str, Entry] = field(default_factory=dict)
    overlaid: dict[str, Entry] = field(default_factory=dict)
    inodes: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    layers: int = 0

    def lay(self, entries: list[Entry]) -> None:
        """Lay one layer over the tree: deletions first, then its entries (OCI layer.md)."""
        opaque, deleted = [], []
        own: dict[str, Entry] = {}
        for entry in entries:
            above, _, name = entry.path.rpartition("/")
            if name == _OPAQUE:
                opaque.append(above)
            elif name.startswith(_WHITEOUT):
                deleted.append(f"{above}/{name[4:]}" if above else name[4:])
            elif (found := self._inode_of(entry, own)) is not None:
                own[entry.path] = found
        implied = _implied([entry.path for entry in entries]) - own.keys()
        self.problems += [
            f"layer {self.layers} deletes {path!r} and brings it: clients differ in what is left"
            for path in deleted
            if path in own or path in implied
        ]
        for view in (self.places, self.overlaid):
            for path in opaque:
                _remove_beneath(view, path)
            for path in deleted:
                view.pop(path, None)
                _remove_beneath(view, path)
        self._check_parents(implied)
        made = {path.rpartition("/")[0] for path in implied - self.places.keys()}
        for path, entry in own.items():
            # GNU tar and umoci make what has no entry when they have set the time of this one.
            late = path in made and entry.kind is Kind.DIRECTORY
            _put(self.places, replace(entry, mtime=0) if late else entry)
        defaults = {path: _default(path) for path in implied}
        for _, entry in sorted({**own, **defaults}.items()):
            _put(self.overlaid, entry)
        self.layers += 1

    def _inode_of(self, entry: Entry, own: dict[str, Entry]) -> Entry | None:
        """The entry as `places` has it; None, and a problem, for a link to nothing."""
        if entry.kind is Kind.FILE:
            self.inodes[f"{self.layers}:{entry.path}"] = entry
            return replace(entry, kind=Kind.HARDLINK, target=f"{self.layers}:{entry.path}")
        if entry.kind is not Kind.HARDLINK:
            return entry
        named = own.get(entry.target)
        if named is None or named.kind is not Kind.HARDLINK:
            self.problems.append(
                f"{entry.path!r} links to {entry.target!r}, which is no file of its layer"
            )
            return None
        return replace(entry, target=named.target)

    def _check_parents(self, parents: set[str]) -> None:
        """A layer goes through what is no directory below it: each client finds another tree."""
        for path in sorted(parents):
            lower = self.places.get(path)
            if lower is not None and lower.kind is not Kind.DIRECTORY:
                self.problems.append(
                    f"layer {self.layers} has entries beneath {path!r}, which is {_what(lower)} of "
                    "a layer below: an unpacker goes through it or fails, an overlay file system "
                    "hides it behind a directory"
                )
                self.places[path] = _default(path)

    def entries(self, *, stacked: bool = True) -> tuple[Entry, ...]:
        """Sorted entries, the root and every parent among them; what nothing brings is 0755, 0:0,
        time 0. Where the two views differ, that is a problem of what is `stacked` as layers."""
        for view in (self.places, self.overlaid):
            for path in {"", *_implied(list(view))} - view.keys():
                view[path] = _default(path)
        # Engines make the root themselves, whatever a layer says of it, at the time of unpacking:
        # 0755 0:0 docker 20.10, 0555 0:0 podman 4.3 (tests/sandbox/test_layer_engines.py). So no
        # time of it is wrong, and everything but the usual 0755 0:0 is lost in one of them.
        self.overlaid[""] = replace(_default(""), mtime=self.places[""].mtime)
        if stacked:
            self.problems += _limited(list(self._differences()))
        leaders: dict[str, str] = {}
        result = []
        for entry in sorted(self.places.values(), key=sort_key):
            if entry.kind is not Kind.HARDLINK:
                result.append(entry)
                continue
            leader = leaders.setdefault(entry.target, entry.path)
            file = replace(self.inodes[entry.target], path=entry.path)
            if leader != entry.path:
                file = replace(file, kind=Kind.HARDLINK, target=leader, size=0, digest=None)
            result.append(file)
        return tuple(result)

    def _differences(self) -> Iterator[str]:
        for path in sorted(self.places.keys() | self.overlaid.keys()):
            first, second = self.places.get(path), self.overlaid.get(path)
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


def _implied(paths: list[str]) -> set[str]:
    """The directories above paths, the root among them."""
    found = {""}
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def _put(view: dict[str, Entry], entry: Entry) -> None:
    lower = view.get(entry.path)
    directories = [each is Kind.DIRECTORY for each in (lower and lower.kind, entry.kind)]
    if directories == [True, False]:
        _remove_beneath(view, entry.path)
    view[entry.path] = entry


def _remove_beneath(view: dict[str, Entry], path: str) -> None:
    prefix = f"{path}/" if path else ""
    for below in [place for place in view if place and place.startswith(prefix)]:
        del view[below]


def _what(entry: Entry | None) -> str:
    if entry is None:
        return "absent"
    if entry.kind is Kind.SYMLINK:
        return f"a link to {entry.target!r}"
    if entry.kind is not Kind.DIRECTORY:
        return "a file"
    return f"a directory {entry.mode:04o} {entry.uid}:{entry.gid} of time {entry.mtime}"


def _limited(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more} more such paths"] if more > 0 else lines


def read_entries(plain: Readable, name: str) -> Iterator[tuple[Entry, bytes]]:
    """The entries of a plain tar, files with their digests; and the content of small files.

    The root is an entry "" where the tar has one. Content is given up to 1 MiB, else empty. `name`
    is the place of errors.

    Raises:
        IntegrityError, BuildError: as `archive.tarread.read_tar`.
    """
    for entry, window in read_tar(plain, FOREIGN, name, root=True):
        if window is None:
            yield entry, b""
            continue
        digest = hashlib.sha256()
        kept = b""
        while chunk := window.read(CHUNK):
            digest.update(chunk)
            kept = chunk if entry.size <= CHUNK else b""
        yield replace(entry, digest=Digest(digest.hexdigest())), kept


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one image gave.

    `format` is oci, aci or directory. `identifier` is the manifest digest (`sha256:…`), the image
    ID (`sha512-…`), or empty. `entries` are of the whole tree, its root "" first; None where
    it could not be read.
    """

    format: str
    identifier: str
    entries: tuple[Entry, ...] | None
    problems: tuple[str, ...]

    def root(self) -> Digest | None:
        return root_digest(self.entries) if self.entries is not None else None

    def count(self) -> int:
        """How many paths there are, without the root."""
        return max(0, len(self.entries or ()) - 1)

    def by_path(self) -> Mapping[str, Entry]:
        return {entry.path: entry for entry in self.entries or ()}
