"""What an unpacked tree was when it was filled: two digests, kept in a file beside it.

The first covers what lstat(2) and readlink(2) say of each entry, and costs a walk; the second the
bytes of the files as well. Owners are left out: a tree that is filled goes to the build user.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import is_hex64
from buildit.store.remove import listed

SEAL = ".seal"
_UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Seal:
    """SHA-256 in hex: over what the entries look like, and over that and all bytes."""

    looks: str
    bytes_: str

    def text(self) -> bytes:
        return f"{self.looks} {self.bytes_}\n".encode()


def seal(tree: Path) -> Seal:
    """Look at a tree and read all of it.

    Raises:
        OSError: it cannot be walked.
    """
    looks, whole = hashlib.sha256(), hashlib.sha256()
    for path, line in _lines(tree):
        looks.update(line)
        whole.update(line)
        whole.update(_content(tree, path, line).encode())
    return Seal(looks.hexdigest(), whole.hexdigest())


def look(tree: Path) -> str:
    """The first half of the seal.

    Raises:
        OSError: it cannot be walked.
    """
    looks = hashlib.sha256()
    for _, line in _lines(tree):
        looks.update(line)
    return looks.hexdigest()


def read_seal(tree: Path) -> Seal | None:
    """The seal beside a tree; None where there is none, or what lies there is none."""
    try:
        text = tree.with_name(f"{tree.name}{SEAL}").read_bytes()
    except OSError:
        return None
    words = text.decode("ascii", "replace").split()
    return Seal(*words) if len(words) == 2 and all(map(is_hex64, words)) else None


def _lines(tree: Path) -> Iterator[tuple[str, bytes]]:
    """Each entry by its path below the tree, in order, with one unambiguous line about it."""
    pending = [""]
    top = os.fspath(tree)
    while pending:
        below = pending.pop()
        with listed(f"{top}/{below}") as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            path = f"{below}{entry.name}"
            status = entry.stat(follow_symlinks=False)
            target, size = "", status.st_size
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{path}/")
                size = 0  # the file system's own affair
            elif stat.S_ISLNK(status.st_mode):
                target = os.readlink(entry.path)
            line = f"{path}\0{status.st_mode:o} {size} {status.st_mtime_ns} {target}\0"
            yield path, line.encode("utf-8", "surrogateescape")


def _content(tree: Path, path: str, line: bytes) -> str:
    """The digest of a regular file's bytes; empty for anything else."""
    mode = int(line[len(os.fsencode(path)) + 1 :].partition(b" ")[0], 8)
    if not stat.S_ISREG(mode):
        return ""
    try:
        fd = os.open(f"{tree}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        return _UNREADABLE  # a mode that forbids its owner to read; nobody else may write either
    with open(fd, "rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
