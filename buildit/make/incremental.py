"""A directory of the user's is built where it was built before, so that make sees only changes.

What the phases leave among the sources (objects, a configured tree) is kept in the store's cache,
one tree for a package and its directories; what a failed build left is taken from there. The next
build gets it with the files that changed since written anew: to make(1) they are newer than what
was made of them. What nobody changed stays as the last build left it. Where anything else of the
record is another (flags, steps, dependencies, the toolchain) a build begins from the beginning, as
no rule of make would see it; so it does after one that was killed, by Ctrl-C or a limit: a file
that was cut short is newer than what it is made of, and make would take it for whole.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.digest import BuildKey, Digest, canonical, digest_bytes, digest_stream
from buildit.errors import BuildError, IntegrityError
from buildit.make.build_directory import BuildDirectory, PhaseFailed
from buildit.model.plan import Task
from buildit.model.words import counted, some
from buildit.store.cas import Store
from buildit.store.disk import held, host_owner, make_directory, remove_tree
from buildit.store.locks import open_lock, passing, try_lock
from buildit.store.names import find_failure, forget_failure

_SOURCES = "build/src"
_FRESH = "fresh"
"""Where, in the work directory, sources lie that are to be laid into what was kept."""
_ASIDE = "aside"
_UNUSED = 30 * 24 * 3600
"""Seconds that a tree is kept which no build uses."""

_Listing = Mapping[str, str]
"""Of each path of a tree, what it is: `d`, `l` and the target, or the mode and digest of a file."""


@contextmanager
def kept_sources(task: Task, room: BuildDirectory, store: Store) -> Iterator[None]:
    """Run the phases in what an earlier build left, where the task is built from a directory of
    this machine; keep what they leave.

    Raises:
        BuildError: what was left cannot be used; it is forgotten.
        Interrupted: the caller gave up while another build had the tree.
    """
    if not task.directories:
        yield
        return
    name = digest_bytes(canonical([task.name, *task.directories]))[:32]
    kept = _Kept(store, store.cache("incremental") / name, _rest(task.record))
    make_directory(kept.place)
    with passing(kept.place.with_suffix(".lock"), stop=room.stop):
        with Root.open(room.work) as work, work.inner(_SOURCES) as sources:
            listing = _listing(sources)
        room.note("incremental", [kept.take(room, listing)])
        try:
            yield
        except PhaseFailed:
            kept.remember(listing, task.key)  # the whole tree is kept, for `shell`
            raise
        kept.give(room, listing)
    _forget_unused(kept.place)


def _forget_unused(mine: Path) -> None:
    """Remove what no build has used for a month, and none uses now."""
    oldest = time.time() - _UNUSED
    for place in mine.parent.iterdir():
        with suppress(OSError):  # it is another's at this moment
            if place == mine or not place.is_dir() or place.stat().st_mtime >= oldest:
                continue
            lock = place.with_suffix(".lock")
            with held(open_lock(lock)) as fd:
                if try_lock(fd):
                    remove_tree(place)
                    lock.unlink(missing_ok=True)


def _rest(record: str) -> Digest:
    """Of a record, all but what the sources hold when the phases begin."""
    data = json.loads(record)
    return digest_bytes(canonical({**data, "sources": [], "patches": []}))


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of a package's builds, in the directory `place`; `rest` as `_rest` gives it."""

    store: Store
    place: Path
    rest: Digest

    @property
    def _state(self) -> Path:
        return self.place / "state.json"

    @property
    def _tree(self) -> Path:
        return self.place / "src"

    def take(self, room: BuildDirectory, listing: _Listing) -> str:
        """Put the kept tree in the place of the fresh sources, with what changed; say what did."""
        before, tree = self._left()
        # Whatever comes now, what is kept is good for no other build.
        self._state.unlink(missing_ok=True)
        if before is None or tree is None:
            remove_tree(self._tree)
            return "everything is built, as the first time, or because more than files changed"
        os.rename(room.work / _SOURCES, room.work / _FRESH)
        os.rename(tree, room.work / _SOURCES)
        if tree != self._tree:
            forget_failure(self.store, BuildKey(tree.parents[2].name))
        changed = [path for path, what in listing.items() if before.get(path) != what]
        gone = [path for path in before if path not in listing]
        try:
            with Root.open(room.work) as work:
                work.mkdir(_ASIDE)
                _lay(work, changed, gone, listing)
        except (IntegrityError, OSError) as error:
            text = f"what the last build left cannot be used: {error}"
            hint = "run the same command again: it is built from the beginning"
            raise BuildError(text, place=room.label, hint=hint) from error
        names = some(sorted((*changed, *gone)), 10)
        return f"{counted(len(changed) + len(gone), 'file')} changed since the last build: {names}"

    def _left(self) -> tuple[_Listing | None, Path | None]:
        """What the sources were, and the tree that a build left of them, kept or failed."""
        try:
            state = json.loads(self._state.read_bytes())
            if state["rest"] != self.rest:
                return None, None
            listing, failed = dict(state["listing"]), state["failed"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None
        tree = self._tree
        if failed:
            failure = find_failure(self.store, BuildKey(failed))
            tree = failure.work / _SOURCES if failure and failure.work else tree
        return listing, tree if tree.is_dir() and not tree.is_symlink() else None

    def give(self, room: BuildDirectory, listing: _Listing) -> None:
        """Keep what the phases left."""
        with suppress(FileNotFoundError):  # a build may remove everything
            remove_tree(self._tree)
            os.rename(room.work / _SOURCES, self._tree)
            self.remember(listing)

    def remember(self, listing: _Listing, failed: str = "") -> None:
        state = {"rest": self.rest, "listing": dict(listing), "failed": failed}
        self._state.write_bytes(canonical(state))


def _listing(sources: Root) -> dict[str, str]:
    """What each path is, as the sources and patches have it."""
    found = {}
    for path, status in sources.walk():
        if stat.S_ISDIR(status.st_mode):
            found[path] = "d"
        elif stat.S_ISLNK(status.st_mode):
            found[path] = f"l {sources.readlink(path)}"
        else:
            with sources.open_file(path) as stream:
                found[path] = f"{stat.S_IMODE(status.st_mode):o} {digest_stream(stream)}"
    return found


def _lay(work: Root, changed: list[str], gone: list[str], listing: _Listing) -> None:
    """Make the sources in `work` what a listing says, with the files of `_FRESH`.

    Raises:
        IntegrityError, OSError: the build has put a link or something else in a directory's place.
    """
    for path in sorted(gone, reverse=True):
        with suppress(FileNotFoundError):
            place = f"{_SOURCES}/{path}"
            if not stat.S_ISDIR(work.lstat(place).st_mode):
                work.unlink(place)
            elif not work.listdir(place):
                work.rmdir(place)
    owner = host_owner()
    for number, path in enumerate(sorted(changed)):
        place, is_directory = f"{_SOURCES}/{path}", listing[path] == "d"
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(work.lstat(place).st_mode):
                if is_directory:
                    continue
                work.rename(place, f"{_ASIDE}/{number}")
            elif is_directory:
                work.unlink(place)
        if is_directory:
            work.mkdir(place)
            if owner is not None:
                work.chown(place, *owner)
            continue
        work.rename(f"{_FRESH}/{path}", place)
        if not listing[path].startswith("l"):
            with work.open_file(place) as stream:
                os.utime(stream.fileno())
