"""The root of every build: exact .debs, unpacked over one another, and a few fix-ups.

No maintainer script runs, and neither root, apt nor dpkg is needed. What is left out and what is
added is listed in `debian.fixups`. The same .debs give the same tree, byte for byte, whoever fills
it: `debian.fixups.toolchain_identity` is its name.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.deb import read_deb
from buildit.archive.streams import Members, run_all
from buildit.archive.unpack import unpack_entries
from buildit.debian.fixups import TREE_DIRECTORIES, TREE_FILES, enters_tree, links
from buildit.digest import Digest
from buildit.errors import IntegrityError, Interrupted, StoreError
from buildit.model.plan import DebRef, Toolchain
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.store.disk import Vanished

WORKERS = 2
"""Threads: decoding xz and writing files both leave the interpreter to others."""
OWNERS = "usr/share/buildit/owners"
"""In the tree: what each .deb brought, `path<tab>name` a line, sorted; a directory's path ends in a
slash, a link's line in a third word, its text. Of a shared directory the first .deb by name."""

Owned = tuple[str, Entry]
"""What one path of a filled tree is, as far as a closure asks: its .deb's name, and the entry's
kind and, of a link, its text."""
Owners = dict[str, Owned]


def fill(
    tree: Path,
    toolchain: Toolchain,
    blob: Callable[[Digest], Path],
    stop: threading.Event | None = None,
) -> None:
    """Compose the tree of a toolchain in the empty directory `tree`; `blob` says where .debs are.

    It takes half a minute; `stop` ends it within one file. On failure something half-made is left
    in `tree`: the caller renames it when it is whole.

    Raises:
        IntegrityError: a .deb is damaged, or two of them have the same file.
        StoreError: a .deb is missing, or the disk is full.
        Interrupted: `stop` was set.
    """
    stop = threading.Event() if stop is None else stop
    # the largest first, so that both threads end at about the same time
    debs = sorted(toolchain.debs, key=lambda deb: (-deb.size, deb.digest))
    works = [partial(_unpack, tree, deb, blob(deb.digest), stop) for deb in debs]
    unpacked = zip(debs, run_all(works, WORKERS), strict=True)
    owners: Owners = {}
    for deb, found in sorted(unpacked, key=lambda pair: pair[0].name):
        for entry in found:
            owners.setdefault(entry.path, (deb.name, entry))
    _check_placed(tree, owners)
    with Root.open(tree) as root:
        _fix(root, owners)
        _set_times(root)


def read_owners(tree: Path) -> Mapping[str, Owned]:
    """What each .deb brought to a filled tree, by path without slashes at its ends.

    Raises:
        StoreError: the tree has no such list.
    """
    try:
        text = (tree / OWNERS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        hint = "remove the tree: it is made again"
        raise StoreError("is no toolchain's tree", place=str(tree), hint=hint) from error
    return dict(map(_owned, text.splitlines()))


def _owned(line: str) -> tuple[str, Owned]:
    path, name, *target = line.split("\t", 2)
    kind = Kind.DIRECTORY if path.endswith("/") else Kind.SYMLINK if target else Kind.FILE
    path = path.rstrip("/")
    return path, (name, Entry(path, kind, 0o777, target="".join(target)))


def _line(owned: Owned) -> str:
    name, entry = owned
    slash = "/" if entry.kind is Kind.DIRECTORY else ""
    target = f"\t{entry.target}" if entry.kind is Kind.SYMLINK else ""
    return f"{entry.path}{slash}\t{name}{target}\n"


def _check_placed(tree: Path, placed: Iterable[str]) -> None:
    """Half a minute is time enough for a cleaner of temporary directories to delete a file.

    Raises:
        Vanished: a file that was unpacked is gone.
    """
    for path in placed:
        if not os.path.lexists(tree / path):
            what = f"{path} was deleted while the tree was filled"
            hint = "run the same command again: it is filled anew"
            raise Vanished(what, place=str(tree), hint=hint)


def _unpack(tree: Path, deb: DebRef, path: Path, stop: threading.Event) -> list[Entry]:
    """Unpack one .deb; what it brought."""
    name = f"{deb.name} {deb.version}"
    found: list[Entry] = []
    try:
        packed = path.open("rb")
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", place=name) from error
    with packed, Root.open(tree) as root:
        unpack_entries(_chosen(read_deb(packed, Budget(), name), found, stop), root, name)
    return found


def _chosen(members: Members, found: list[Entry], stop: threading.Event) -> Members:
    for entry, content in members:
        if stop.is_set():
            raise Interrupted("unpacking was interrupted")
        if enters_tree(entry.path):
            found.append(entry)
            yield _normal(entry), content


def _normal(entry: Entry) -> Entry:
    """Modes that depend on nothing but whether it can be run; the same for shared directories."""
    if entry.kind is Kind.DIRECTORY:
        return replace(entry, mode=0o755, mtime=YEAR_1980)
    runs = entry.mode & 0o111
    return replace(entry, mode=0o755 if runs else 0o644)


def _fix(root: Root, owners: Owners) -> None:
    directories = (Entry(path, Kind.DIRECTORY, 0o755, YEAR_1980) for path in TREE_DIRECTORIES)
    unpack_entries(((entry, None) for entry in directories), root)
    present = {f"usr/{name}" for name in root.listdir("usr")}
    present |= {f"usr/bin/{name}" for name in root.listdir("usr/bin")}
    for link in links(present):
        try:
            root.symlink(link.target, link.path)
        except FileExistsError as error:
            what = f"a package has {link.path!r} where a link to {link.target!r} is due"
            raise IntegrityError(what) from error
        root.utime(link.path, link.mtime)
        owner = owners.get(f"usr/bin/{link.target}")
        if owner is not None and link.path.startswith("usr/bin/"):
            owners[link.path] = (owner[0], link)
    files = {**TREE_FILES, OWNERS: "".join(_line(owners[path]) for path in sorted(owners))}
    for path, text in files.items():
        content = io.BytesIO(text.encode("utf-8", "surrogateescape"))
        unpack_entries([(Entry(path, Kind.FILE, 0o644, YEAR_1980), content)], root)


def _set_times(root: Root) -> None:
    """Directories last: each entry made in them changed their time."""
    directories = [path for path, status in root.walk() if stat.S_ISDIR(status.st_mode)]
    root.chmod("", 0o755)
    for path in (*directories, ""):
        root.utime(path, YEAR_1980)
