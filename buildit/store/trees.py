"""Unpacked layers and merged trees: derived, read-only, each filled once and then shared.

Their files are not synced one by one. A tree counts only with its mark `trees/<name>.ok`, written
after the rename, which names the boot that filled it: within one boot the page cache is what was
written, after a crash or power loss the boot differs and the tree is filled again. A tree that is
used again a minute later, when the kernel has written it back anyway, is synced and marked as
settled for all boots.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.store.build_owner import hand_over
from buildit.store.durable import DIRECTORY, Disk, make_directory, syncfs
from buildit.store.lease import Lease
from buildit.store.locks import passing
from buildit.store.remove import remove_tree

SETTLED = b"settled"
ROOT_MTIME = 315532800
"""1980-01-01, DESIGN 2.4's default epoch: the time of a tree's own root, the same everywhere."""

_SETTLE_AFTER = 60.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True, slots=True)
class Trees:
    """The directory `trees/` of one store."""

    root: Path
    disk: Disk

    def get(self, name: str, lease: Callable[[], Lease], fill: Callable[[Path], None]) -> Path:
        """The tree of that name; `fill` is given an empty directory where there is none yet.

        Several threads or processes that want one tree wait for the first.
        """
        if not _NAME.fullmatch(name) or name.endswith(".ok"):
            raise ValueError(f"not a tree's name: {name!r}")
        path = self.root / "trees" / name
        if self.is_whole(path):
            self._settle(path, lease)
            return path
        with self._lock(name):
            if not self.is_whole(path):
                self._fill(path, lease(), fill)
        return path

    def is_whole(self, path: Path) -> bool:
        mark = _read_mark(path)
        return mark != b"" and mark in (boot(), SETTLED) and path.is_dir()

    def set_aside(self, path: Path, lease: Lease) -> Path | None:
        """Take a tree out of use; returns where it waits to be removed, None where there is none.

        The mark goes first, so that no crash leaves a half tree that counts.
        """
        _mark(path).unlink(missing_ok=True)
        trash = lease.entry("trash")
        try:
            path.rename(trash)
        except FileNotFoundError:
            return None
        return trash

    def drop_partial(self, path: Path, lease: Callable[[], Lease]) -> bool:
        """Remove a tree that was not filled to its end; False where it is whole."""
        with self._lock(path.name):
            if self.is_whole(path):
                return False
            self._drop(path, lease())
        return True

    def _lock(self, name: str) -> AbstractContextManager[None]:
        make_directory(self.root / "locks")
        return passing(self.root / "locks" / f"tree-{name}")

    def _drop(self, path: Path, lease: Lease) -> None:
        trash = self.set_aside(path, lease)
        if trash is not None:
            remove_tree(trash)

    def _fill(self, path: Path, lease: Lease, fill: Callable[[Path], None]) -> None:
        self._drop(path, lease)
        work = lease.entry("tree")
        work.mkdir()
        try:
            self.disk.faults.reach("tree-fill")
            fill(work)
            work.chmod(DIRECTORY)
            hand_over(work)
            os.utime(work, (ROOT_MTIME, ROOT_MTIME))
            self.disk.faults.reach("tree-publish")
            work.rename(path)
        except BaseException:
            with suppress(OSError):
                remove_tree(work)
            raise
        if not boot():
            _sync_file_system(path)
        self._write_mark(path, boot() or SETTLED, lease)

    def _settle(self, path: Path, lease: Callable[[], Lease]) -> None:
        with suppress(OSError):
            old = time.time() - _mark(path).stat().st_mtime > _SETTLE_AFTER
            if old and _read_mark(path) != SETTLED:
                _sync_file_system(path)
                self._write_mark(path, SETTLED, lease())

    def _write_mark(self, path: Path, content: bytes, lease: Lease) -> None:
        """Not synced: it comes after its tree was, or counts for no longer than this boot."""
        self.disk.put_derived("mark", _mark(path), content, lease.entry("mark"))


def boot() -> bytes:
    """What tells this boot of the machine from all others; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


def _sync_file_system(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _read_mark(path: Path) -> bytes:
    try:
        return _mark(path).read_bytes()
    except OSError:
        return b""
