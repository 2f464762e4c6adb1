"""Exact .debs, unpacked over one another into one directory, for the roots of builds.

No maintainer script runs, and neither root, apt nor dpkg is needed. The same .debs give the same
tree, byte for byte, whoever fills it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.deb import read_deb
from buildit.archive.streams import Readable, run_all
from buildit.archive.unpack import unpack_entries
from buildit.digest import Digest
from buildit.errors import Interrupted, StoreError
from buildit.model.plan import DebRef
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.store.disk import Vanished

WORKERS = 2
"""Threads: decoding xz and writing files both leave the interpreter to others."""

_Members = Iterator[tuple[Entry, Readable | None]]
"""The entries of an archive, each with its bytes where it is a file."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A tree that is filled: `blob` says where .debs are, `enters` which of their paths go in, and
    `stop` ends it within one file."""

    tree: Path
    blob: Callable[[Digest], Path]
    enters: Callable[[str], bool]
    stop: threading.Event

    def unpack(
        self,
        debs: Iterable[DebRef],
        more: Callable[[DebRef, Path, list[str]], object] = lambda *_: None,
    ) -> list[tuple[DebRef, list[Entry]]]:
        """Unpack all; what each brought, by its name. `more` is called for each with its path and
        the names of all its files as the .deb has them, after it was unpacked, in any thread.

        On failure something half-made is left in the tree: the caller renames it when it is whole.

        Raises:
            IntegrityError: a .deb is damaged, or two of them have the same file.
            StoreError: a .deb is missing, or the disk is full.
            Vanished: a file that was unpacked is gone.
            Interrupted: `stop` was set.
        """
        # the largest first, so that both threads end at about the same time
        ordered = sorted(debs, key=lambda deb: (-deb.size, deb.digest))
        found = run_all([partial(self._one, deb, more) for deb in ordered], WORKERS)
        pairs = sorted(zip(ordered, found, strict=True), key=lambda pair: pair[0].name)
        self._check((entry.path for _, entries in pairs for entry in entries))
        return pairs

    def _one(self, deb: DebRef, more: Callable[[DebRef, Path, list[str]], object]) -> list[Entry]:
        name = f"{deb.name} {deb.version}"
        found: list[Entry] = []
        names: list[str] = []
        path = self.blob(deb.digest)
        try:
            packed = path.open("rb")
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", place=name) from error
        with packed, Root.open(self.tree) as root:
            members = read_deb(packed, Budget(), name, names.append)
            unpack_entries(self._chosen(members, found), root, name)
        more(deb, path, names)
        return found

    def _chosen(self, members: _Members, found: list[Entry]) -> _Members:
        for entry, content in members:
            if self.stop.is_set():
                raise Interrupted("unpacking was interrupted")
            if self.enters(entry.path):
                found.append(entry)
                yield _normal(entry), content

    def _check(self, placed: Iterable[str]) -> None:
        """Half a minute is time enough for a cleaner of temporary directories to delete a file."""
        for path in placed:
            if not os.path.lexists(self.tree / path):
                what = f"{path} was deleted while the tree was filled"
                hint = "run the same command again: it is filled anew"
                raise Vanished(what, place=str(self.tree), hint=hint)


def _normal(entry: Entry) -> Entry:
    """Modes that depend on nothing but whether it can be run; the same for shared directories."""
    if entry.kind is Kind.DIRECTORY:
        return replace(entry, mode=0o755, mtime=YEAR_1980)
    runs = entry.mode & 0o111
    return replace(entry, mode=0o755 if runs else 0o644)


def set_times(root: Root) -> None:
    """Directories last: each entry made in them changed their time."""
    directories = [path for path, status in root.walk() if stat.S_ISDIR(status.st_mode)]
    root.chmod("", 0o755)
    for path in (*directories, ""):
        root.utime(path, YEAR_1980)
