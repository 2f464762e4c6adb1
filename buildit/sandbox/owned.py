"""Trees whose files belong to the users of containers, kept from run to run in one directory.

Its mode is 0700: set-id files of the containers' users are for nobody on this machine. Whoever
wrote what is in a tree, as root of a namespace with the same ids it can be removed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import BuilditError, StoreError
from buildit.sandbox.container import removed
from buildit.sandbox.spaces import IdMap, in_namespace
from buildit.store.disk import is_named

_SCRATCH = "tmp-"
_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class OwnedTrees:
    """`NAME.tree/` of each, `.facts` and `.lock` beside it; `tmp-…` of what is at work, each locked
    by its run. `ids` are whose the files are."""

    root: Path
    ids: IdMap

    @classmethod
    def opened(cls, root: Path, ids: IdMap) -> OwnedTrees:
        """Raises StoreError where the directory cannot be made."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
        except OSError as error:
            message = f"nothing can be unpacked: {error.strerror}"
            raise StoreError(message, place=str(root)) from error
        return cls(root, ids)

    @contextmanager
    def tree(
        self, name: str, fill: Callable[[Path], bytes], is_known: Callable[[bytes], bool] = bool
    ) -> Iterator[tuple[Path, bytes]]:
        """The tree of that name, which nobody removes meanwhile, and what is kept beside it. Where
        there is none, or `is_known` does not know what is beside it, `fill` makes `tree` in a
        directory and says what is to be kept."""
        path = self.root / f"{name}.lock"
        while True:
            with path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)  # many runs may have one tree
                kept = self._kept(name, is_known)
                if kept is None:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        # another run fills it and has it by now, for as long as its step runs
                        time.sleep(_PAUSE)
                        continue
                    if is_named(lock.fileno(), path) and self._kept(name, is_known) is None:
                        self._fill(name, fill)
                elif is_named(lock.fileno(), path):  # and not swept before it was locked
                    os.utime(lock.fileno())
                    yield self.root / f"{name}.tree", kept
                    return

    def _kept(self, name: str, is_known: Callable[[bytes], bool]) -> bytes | None:
        with suppress(OSError):
            kept = (self.root / f"{name}.facts").read_bytes()
            if is_known(kept) and (self.root / f"{name}.tree").is_dir():
                return kept
        return None

    def _fill(self, name: str, fill: Callable[[Path], bytes]) -> None:
        with self.scratch() as work:
            self._put(name, work, fill(work))

    def _put(self, name: str, work: Path, facts: bytes) -> None:
        self._remove([f"{name}.tree"])
        (work / "facts").write_bytes(facts)
        # the facts come last: a tree counts with them
        for kind in ("tree", "facts"):
            (work / kind).rename(self.root / f"{name}.{kind}")

    def adopt(self, name: str, work: Path, facts: bytes) -> None:
        """Keep `tree` of a directory under that name, as `tree` would make it; not where there is
        one, or another run is about to make it."""
        path = self.root / f"{name}.lock"
        with path.open("a") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_named(lock.fileno(), path) and self._kept(name, bool) is None:
                self._put(name, work, facts)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory that is removed at the end, or by a later run where this one is killed."""
        path, lock = self._claimed()
        try:
            yield path
        finally:
            self._remove([path.name])
            os.close(lock)

    def _claimed(self) -> tuple[Path, int]:
        while True:
            path = self.root / f"{_SCRATCH}{os.urandom(8).hex()}"
            with suppress(FileNotFoundError):  # swept before it was locked
                path.mkdir(0o755)
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if is_named(lock, path):
                    return path, lock
                os.close(lock)

    def make_layer(self, place: Path) -> None:
        """Make the directories that an overlay writes to, where they are not there."""
        for name in ("upper", "work"):
            path = place / name
            if not path.is_dir():
                path.mkdir(0o755)
                path.chmod(0o755)
                if self.ids.become is not None:
                    os.chown(path, *self.ids.become)

    def sweep(self, most: int, unused: float = float("inf")) -> None:
        """Remove what killed runs left, and all but the `most` trees that were used last, of these
        too those that were not for `unused` seconds. Whoever wants one meanwhile waits for its
        lock, then finds that it is of that name no more."""
        for path in self.root.glob(f"{_SCRATCH}*"):
            with _locked(path) as free:
                if free:
                    self._remove([path.name])
        used = {path: _used(path) for path in self.root.glob("*.lock")}
        ordered, oldest = sorted(used, key=lambda path: -used[path]), time.time() - unused
        for number, path in enumerate(ordered):
            if number < most and used[path] >= oldest:
                continue
            with _locked(path) as free:
                if free:
                    path.with_suffix(".facts").unlink(missing_ok=True)  # a tree counts with them
                    self._remove([f"{path.stem}.tree"])
                    if not path.with_suffix(".tree").exists():
                        path.unlink()

    def _remove(self, names: Sequence[str]) -> None:
        there = [name for name in names if (self.root / name).exists()]
        if not there:
            return
        # what is of other ids, or closed to its owner, only root of such a namespace may remove
        if os.geteuid() == 0:
            removed([str(self.root / name) for name in there])()
        else:
            with suppress(BuilditError):
                in_namespace(self.ids, removed(there), self.root)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock what nobody has, for as long as the body runs; whether it is."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        free = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free = False
        yield free and is_named(lock, path)
    finally:
        os.close(lock)


def _used(lock: Path) -> float:
    with suppress(FileNotFoundError):  # another run sweeps too
        return lock.stat().st_mtime
    return 0.0
