"""Unpacked layers and merged trees: derived, read-only, each filled once and then shared.

Their files are not synced one by one. A tree counts only with its mark `trees/<name>.ok`, written
after the rename, which names the boot that filled it: within one boot the page cache is what was
written, after a crash or power loss the boot differs and the tree is filled again. A tree that is
used again a minute later, when the kernel has written it back anyway, is synced and marked as
settled for all boots.

Beside it `trees/<name>.seal` says what was filled in: one digest over names, types, modes, sizes,
times and link targets, compared once in a run before a build sees the tree, and one over the bytes
too, for `buildit store verify`. A tree that differs is dropped and filled again.

What an unpacked tree was when it was filled: two digests, kept in a file beside it.

The first covers what lstat(2) and readlink(2) say of each entry, and costs a walk; the second the
bytes of the files as well. Owners are left out: a tree that is filled goes to the build user.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from buildit.digest import is_hex64
from buildit.errors import StoreError
from buildit.model.tree import YEAR_1980
from buildit.store import disk as steps
from buildit.store.disk import Disk, make_directory, remove_tree, sync_file_system
from buildit.store.locks import Lease, passing

SEAL = ".seal"


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
    for path, mode, line in _lines(tree):
        looks.update(line)
        whole.update(line)
        if stat.S_ISREG(mode):
            whole.update(_content(path).encode())
    return Seal(looks.hexdigest(), whole.hexdigest())


def look(tree: Path) -> str:
    """The first half of the seal.

    Raises:
        OSError: it cannot be walked.
    """
    looks = hashlib.sha256()
    for _, _, line in _lines(tree):
        looks.update(line)
    return looks.hexdigest()


def read_seal(tree: Path) -> Seal | None:
    """The seal beside a tree; None where there is none, or what lies there is none."""
    words = _read(_sealed(tree)).decode("ascii", "replace").split()
    return Seal(*words) if len(words) == 2 and all(map(is_hex64, words)) else None


def _lines(tree: Path) -> Iterator[tuple[str, int, bytes]]:
    """Each entry with its mode, in order, with one unambiguous line about it."""
    pending = [""]
    top = os.fspath(tree)
    while pending:
        below = pending.pop()
        with steps.listed(f"{top}/{below}") as listing:
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
            yield entry.path, status.st_mode, os.fsencode(line)


def _content(path: str) -> str:
    """The digest of a regular file's bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        return "unreadable"  # a mode that forbids its owner to read; nobody else may write either
    with open(fd, "rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_SETTLED = b"settled"
ROOT_MTIME = YEAR_1980
"""DESIGN 2.4's default epoch: the time of a tree's own root, the same everywhere."""

_SETTLE_AFTER = 60.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True, slots=True)
class Trees:
    """The directory `trees/` of one store. `_sound` are those held against their seal already."""

    root: Path
    disk: Disk
    _sound: set[str] = field(default_factory=set, compare=False)

    def get(self, name: str, lease: Callable[[], Lease], fill: Callable[[Path], None]) -> Path:
        """The tree of that name; `fill` is given an empty directory where there is none yet.

        Several threads or processes that want one tree wait for the first.
        """
        if not _NAME.fullmatch(name) or name.endswith((".ok", SEAL)):
            raise ValueError(f"not a tree's name: {name!r}")
        path = self.root / "trees" / name
        if self.is_sound(path) and os.path.lexists(_sealed(path)):
            self._settle(path, lease)
            return path
        with self._lock(name):
            if not self.is_sound(path):
                self._fill(path, lease(), fill)
                self._sound.add(name)
            elif not os.path.lexists(_sealed(path)):
                # Filled before there were seals, or copied without: from now on it stays as it is.
                self._keep(_sealed(path), seal(path).text(), lease())
        return path

    def is_whole(self, path: Path) -> bool:
        """Whether it was filled to its end: what its mark says."""
        mark = _read(_mark(path))
        return mark != b"" and mark in (boot(), _SETTLED) and path.is_dir()

    def is_sound(self, path: Path) -> bool:
        """Whether it is whole and still what was filled in; its files are looked at once. One
        without a seal counts: it is sealed when it is used."""
        if not self.is_whole(path):
            self._sound.discard(path.name)
            return False
        if path.name not in self._sound:
            if os.path.lexists(_sealed(path)) and not self.is_as_sealed(path):
                return False
            self._sound.add(path.name)
        return True

    def is_as_sealed(self, path: Path, *, whole: bool = False) -> bool:
        """Hold a tree against its seal now, by all but the bytes of its files, or by these too."""
        kept = read_seal(path)
        with suppress(OSError):
            return kept is not None and (seal(path) == kept if whole else look(path) == kept.looks)
        return False

    def touch(self, path: Path) -> None:
        """Say that a tree was used now: its mark bears its age."""
        with suppress(OSError):
            os.utime(_mark(path))

    def set_aside(self, path: Path, lease: Lease) -> Path | None:
        """Take a tree out of use; returns where it waits to be removed, None where there is none.

        The mark goes first, so that no crash leaves a half tree that counts.
        """
        self._sound.discard(path.name)
        _mark(path).unlink(missing_ok=True)
        _sealed(path).unlink(missing_ok=True)
        trash = lease.entry("trash")
        with suppress(FileNotFoundError):
            path.rename(trash)
            return trash
        return None

    def drop_wrong(self, path: Path, lease: Callable[[], Lease]) -> str:
        """Remove a tree that was not filled to its end, or whose bytes are not those that were
        filled in; why it was removed, empty where it is right."""
        with self._lock(path.name):
            if not self.is_whole(path):
                reason = "it was not filled to its end"
            elif not self.is_as_sealed(path, whole=True):
                reason = "its files are not those that were unpacked; it is filled again on use"
            else:
                return ""
            self._drop(path, lease())
        return reason

    def _lock(self, name: str) -> AbstractContextManager[None]:
        make_directory(self.root / "locks")
        return passing(self.root / "locks" / f"tree-{name}")

    def _drop(self, path: Path, lease: Lease) -> None:
        if trash := self.set_aside(path, lease):
            remove_tree(trash)

    def _fill(self, path: Path, lease: Lease, fill: Callable[[Path], None]) -> None:
        self._drop(path, lease)
        make_directory(path.parent)
        work = lease.entry("tree")
        work.mkdir()
        try:
            self.disk.faults.reach("tree-fill")
            fill(work)
            work.chmod(steps.DIRECTORY_MODE)
            steps.hand_over(work)
            os.utime(work, (ROOT_MTIME, ROOT_MTIME))
            sealed = seal(work)
            self.disk.faults.reach("tree-publish")
            work.rename(path)
        except BaseException as error:
            gone = any(isinstance(one, FileNotFoundError) for one in (error, error.__cause__))
            gone = gone or not (work.is_dir() or os.path.lexists(path))
            with suppress(OSError):
                remove_tree(work)
            if gone and isinstance(error, OSError | StoreError):
                what = "a tree was deleted while it was filled"
                hint = "run the same command again: it is filled anew"
                raise steps.Vanished(what, place=str(path), hint=hint) from error
            raise
        self._keep(_sealed(path), sealed.text(), lease)
        if not boot():
            sync_file_system(path)
        self._keep(_mark(path), boot() or _SETTLED, lease)

    def _settle(self, path: Path, lease: Callable[[], Lease]) -> None:
        with suppress(OSError):
            old = time.time() - _mark(path).stat().st_mtime > _SETTLE_AFTER
            if old and _read(_mark(path)) != _SETTLED:
                sync_file_system(path)
                self._keep(_mark(path), _SETTLED, lease())

    def _keep(self, path: Path, content: bytes, lease: Lease) -> None:
        """A seal, before the mark, so that a tree that counts has one; or a mark, which comes after
        its tree was synced, or counts for no longer than this boot. So neither is synced."""
        self.disk.replace_file("mark", path, content, lease.entry("mark"), sync=False)


def boot() -> bytes:
    """What tells this boot of the machine from all others; empty where the kernel does not say."""
    return _read(Path("/proc/sys/kernel/random/boot_id")).strip()


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _sealed(path: Path) -> Path:
    return path.with_name(f"{path.name}{SEAL}")


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""
