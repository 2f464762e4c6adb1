"""Entries and bytes for tests of the archive room, and what other tools make of them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from buildit.archive.admit import OURS
from buildit.archive.tar.read import read_tar
from buildit.archive.tar.write import write_tar
from buildit.digest import Digest, digest_bytes
from buildit.model.tree import Entry, Kind, sort_key


def file(path: str, data: bytes = b"", mode: int = 0o644, mtime: int = 7) -> tuple[Entry, bytes]:
    entry = Entry(path, Kind.FILE, mode, mtime, size=len(data), digest=digest_bytes(data))
    return entry, data


def directory(path: str, mode: int = 0o755) -> tuple[Entry, bytes]:
    return Entry(path, Kind.DIRECTORY, mode, 7), b""


def symlink(path: str, target: str) -> tuple[Entry, bytes]:
    return Entry(path, Kind.SYMLINK, 0o777, 7, target=target), b""


def hardlink(path: str, target: str) -> tuple[Entry, bytes]:
    return Entry(path, Kind.HARDLINK, 0o644, 7, target=target), b""


def packed(nodes: Iterable[tuple[Entry, bytes]], prefix: str = "") -> bytes:
    """A tar of nodes in any order."""
    found = sorted(nodes, key=lambda node: sort_key(node[0]))
    data: Mapping[str, bytes] = {entry.path: content for entry, content in found}
    out = io.BytesIO()
    write_tar(
        (entry for entry, _ in found),
        lambda entry: io.BytesIO(data[entry.path]),
        out,
        prefix=prefix,
    )
    return out.getvalue()


def listed(tar: bytes) -> list[tuple[Entry, bytes]]:
    return [
        (entry, content.read() if content is not None else b"")
        for entry, content in read_tar(io.BytesIO(tar), OURS)
    ]


def undigested(entry: Entry) -> Entry:
    return Entry(
        entry.path,
        entry.kind,
        entry.mode,
        entry.mtime,
        entry.uid,
        entry.gid,
        entry.size,
        entry.target,
        None,
        entry.xattrs,
    )


Node = tuple[str, str, int, int, str | Digest]


def on_disk(top: Path) -> list[Node]:
    """(path, kind, mode, mtime, link text or digest) of all below a directory."""
    nodes: list[Node] = []
    for above, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(above, name)
            status = os.lstat(path)
            where = os.path.relpath(path, os.fsencode(top)).decode("utf-8", "surrogateescape")
            mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
            if stat.S_ISLNK(status.st_mode):
                nodes.append((where, "symlink", 0, mtime, os.fsdecode(os.readlink(path))))
            elif stat.S_ISDIR(status.st_mode):
                nodes.append((where, "directory", mode, mtime, ""))
            else:
                data = Path(os.fsdecode(path)).read_bytes()
                nodes.append((where, "file", mode, mtime, digest_bytes(data)))
    return sorted(nodes)
