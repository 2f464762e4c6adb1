"""Failed builds: their log and tree stay in `logs/failed/<key>/` for `buildit log` and `shell`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from buildit.codec import CodecError, decode, encode
from buildit.digest import CHUNK, BuildKey, is_hex64
from buildit.store.cas import Store
from buildit.store.durable import located, make_directory
from buildit.store.names import changed_at
from buildit.store.remove import remove_tree

_FACTS = "failure.json"
_LOG = "log"
_WORK = "work"
_TOLD = ("name", "version", "phase", "message")
"""What is written of a failure beside its log, in the order of its fields."""


@dataclass(frozen=True, slots=True)
class FailedBuild:
    """A build that failed: what and where, and what is left of it.

    `log` and `work` are paths in the store; `work` is None where no tree was kept.
    """

    key: BuildKey
    name: str
    version: str
    phase: str
    message: str
    log: Path
    work: Path | None


def keep_failure(store: Store, failure: FailedBuild) -> FailedBuild:
    """Take over the log (copied) and the scratch directory (moved) of a failed build.

    It replaces an earlier failure of the same key. Returns the failure with its new paths.

    Raises:
        StoreError: the disk is full or refuses; the scratch directory is not of this store.
    """
    place = _place(store, failure.key)
    entry = store.lease().entry("failure")
    with located(place):
        entry.mkdir(mode=0o755)
        try:
            _fill(store, entry, failure)
            make_directory(place.parent)
            forget_failure(store, failure.key)
            store.disk.faults.reach("failure-move")
            entry.rename(place)
        except BaseException:
            remove_tree(entry)
            raise
    kept = find_failure(store, failure.key)
    assert kept is not None  # noqa: S101 it was written three lines above
    return kept


def find_failure(store: Store, key: BuildKey) -> FailedBuild | None:
    """The last failure of a key, None where none is remembered (or its facts are garbled)."""
    place = _place(store, key)
    try:
        facts = decode(dict[str, str], (place / _FACTS).read_bytes())
        name, version, phase, message = (facts[one] for one in _TOLD)
    except (OSError, CodecError, KeyError):
        return None
    work = place / _WORK if (place / _WORK).is_dir() else None
    return FailedBuild(key, name, version, phase, message, place / _LOG, work)


def failures(store: Store) -> tuple[FailedBuild, ...]:
    """The failed builds, the last one first."""
    directory = store.root / "logs" / "failed"
    names = os.listdir(directory) if directory.is_dir() else []
    found = [find_failure(store, BuildKey(name)) for name in names if is_hex64(name)]
    kept = [failure for failure in found if failure is not None]
    return tuple(sorted(kept, key=lambda one: (changed_at(one.log), one.key), reverse=True))


def forget_failure(store: Store, key: BuildKey) -> None:
    """Remove what is kept of a failed build, if anything."""
    place = _place(store, key)
    trash = store.lease().entry("trash")
    with located(place):
        try:
            place.rename(trash)
        except FileNotFoundError:
            return
        remove_tree(trash)


def _place(store: Store, key: BuildKey) -> Path:
    return store.root / "logs" / "failed" / key


def _fill(store: Store, entry: Path, failure: FailedBuild) -> None:
    facts = {name: getattr(failure, name) for name in _TOLD}
    store.disk.write_file("failure", entry / _FACTS, encode(facts))
    with failure.log.open("rb") as source, (entry / _LOG).open("xb") as copy:
        while chunk := source.read(CHUNK):
            copy.write(chunk)
    if failure.work is not None:
        failure.work.rename(entry / _WORK)
