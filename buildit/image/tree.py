"""The tree that an emitted image holds, as its own bytes say; shares no rule with the emitters.

Hard links are compared by what they share, not by which name the archive happened to call the
file: the bytewise first name of an inode is the file, the others link to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from buildit.archive.admit import Budget
from buildit.archive.contents import root_digest
from buildit.archive.streams import Readable
from buildit.archive.tarread import read_tar
from buildit.digest import CHUNK, Digest
from buildit.model.tree import Entry, Kind, sort_key

FOREIGN = Budget(ratio=100_000, depth=256)
"""Images may be anybody's, and layers of zeros compress very well."""

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(slots=True)
class Tree:
    """A tree that is being laid down, layer over layer.

    `places` maps paths to entries; a hard link's target is `N:path`, the inode that it shares:
    the file `path` of layer N. `problems` are paths that cannot be laid down as written.
    """

    places: dict[str, Entry] = field(default_factory=dict)
    inodes: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    layers: int = 0

    def lay(self, entries: list[Entry]) -> None:
        """Lay one layer over the tree: deletions first, then its entries (OCI layer.md)."""
        for entry in entries:
            above, _, name = entry.path.rpartition("/")
            if name == _OPAQUE:
                self._remove_beneath(above)
            elif name.startswith(_WHITEOUT):
                self._remove(f"{above}/{name[4:]}" if above else name[4:])
        for entry in entries:
            if not entry.path.rpartition("/")[2].startswith(_WHITEOUT):
                self._put(entry)
        self.layers += 1

    def _put(self, entry: Entry) -> None:
        lower = self.places.get(entry.path)
        directories = [each is Kind.DIRECTORY for each in (lower and lower.kind, entry.kind)]
        if lower is not None and directories == [True, False]:
            self._remove(entry.path)
        if entry.kind is Kind.FILE:
            self.inodes[f"{self.layers}:{entry.path}"] = entry
            entry = replace(entry, kind=Kind.HARDLINK, target=f"{self.layers}:{entry.path}")
        elif entry.kind is Kind.HARDLINK:
            shared = self._inode(entry.target)
            if shared is None:
                self.problems.append(f"{entry.path!r} links to {entry.target!r}, which is no file")
                return
            entry = replace(entry, target=shared)
        self.places[entry.path] = entry

    def _inode(self, path: str) -> str | None:
        named = self.places.get(path)
        return named.target if named is not None and named.kind is Kind.HARDLINK else None

    def _remove(self, path: str) -> None:
        self.places.pop(path, None)
        self._remove_beneath(path)

    def _remove_beneath(self, path: str) -> None:
        prefix = f"{path}/" if path else ""
        for below in [place for place in self.places if place.startswith(prefix)]:
            del self.places[below]

    def entries(self) -> tuple[Entry, ...]:
        """Sorted entries with every parent; a parent that nothing brings is 0755, 0:0, time 0."""
        self._complete()
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

    def _complete(self) -> None:
        for path in list(self.places):
            above = path.rpartition("/")[0]
            while above and self.places.get(above) is None:
                self.places[above] = Entry(above, Kind.DIRECTORY, 0o755)
                above = above.rpartition("/")[0]
            if above and self.places[above].kind is not Kind.DIRECTORY:
                self.problems.append(f"{path!r} lies beneath {above!r}, which is no directory")


def read_entries(plain: Readable, name: str) -> Iterator[tuple[Entry, bytes]]:
    """The entries of a plain tar, files with their digests; and the content of small files.

    Content is given up to 1 MiB, else empty. `name` is the place of errors.

    Raises:
        IntegrityError, BuildError: as `archive.tarread.read_tar`.
    """
    for entry, window in read_tar(plain, FOREIGN, name):
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
    ID (`sha512-…`), or empty. `entries` are of the whole tree; None where it could not be read.
    """

    format: str
    identifier: str
    entries: tuple[Entry, ...] | None
    problems: tuple[str, ...]

    def root(self) -> Digest | None:
        return root_digest(self.entries) if self.entries is not None else None

    def by_path(self) -> Mapping[str, Entry]:
        return {entry.path: entry for entry in self.entries or ()}
