"""Read an unpacked root file system as a tree; nothing in it is followed or executed."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.digest import digest_stream
from buildit.image.reading import Reading, SeenTree
from buildit.model.tree import Entry, Kind

_CAPABILITY = "security.capability"
_USER = "user."


def read_directory(path: Path) -> Reading:
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
            entry = _entry(root, name, status, names)
            if entry is None:
                problems.append(f"{name!r} is a device, socket or FIFO")
            else:
                entries.append(entry)
    tree.lay(entries)
    whole = tree.entries(stacked=False)
    return Reading("directory", "", whole, (*problems, *tree.problems))


def _entry(
    root: Root, name: str, status: os.stat_result, names: dict[tuple[int, int], str]
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
        digest = digest_stream(stream)
        attributes = {
            key: os.getxattr(stream.fileno(), key)
            for key in sorted(os.listxattr(stream.fileno()))
            if key == _CAPABILITY or key.startswith(_USER)
        }
    return replace(plain, kind=Kind.FILE, size=status.st_size, digest=digest, xattrs=attributes)
