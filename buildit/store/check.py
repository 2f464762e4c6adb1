"""The full verification: every object is read, every fault listed, and the corrupt set aside."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildit.digest import BuildKey, Digest, digest_file, is_hex64
from buildit.errors import IntegrityError, StoreError
from buildit.store.artifacts import incomplete, read_statement, signature_path, split_statement_name
from buildit.store.cas import Store, set_aside
from buildit.store.durable import READ_ONLY, located, make_directory
from buildit.store.layout import CONSTANT_FILES, STORE_DIRECTORIES, put_constant
from buildit.store.locks import exclusive, reclaim
from buildit.store.trees import SEAL


class Remedy(StrEnum):
    """What was done about a fault."""

    SET_ASIDE = "set aside"
    REPAIRED = "repaired"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a path below the store's root, why, and what was done."""

    path: str
    reason: str
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What a verification read: counts, bytes of blobs, and all faults in order of path."""

    blobs: int
    statements: int
    size: int
    faults: tuple[Fault, ...]


def check_store(store: Store) -> StoreCheck:
    """Read everything. Corrupt objects go to corrupt/, so that they are fetched or built anew.

    Raises:
        StoreError: the file system refuses.
    """
    with located(store.root):
        reclaim(store.root)
        faults = list(_check_layout(store))
        blobs = sorted(store.blobs.iterdir())
        for path in blobs:
            faults.extend(_check_blob(store, path))
        statements = sorted((store.root / "k").glob("*/*/*"))
        for path in statements:
            faults.extend(_check_statement(store, path))
        faults.extend(_check_trees(store))
    return StoreCheck(
        blobs=len(blobs),
        statements=sum(path.suffix == ".json" for path in statements),
        size=sum(store.size(Digest(path.name)) or 0 for path in blobs),
        faults=tuple(sorted(faults, key=lambda fault: fault.path)),
    )


def _fault(store: Store, path: Path, reason: str, remedy: Remedy) -> Fault:
    return Fault(os.fspath(path.relative_to(store.root)), reason, remedy)


def _aside(store: Store, path: Path, reason: str) -> Fault:
    set_aside(path, store)
    return _fault(store, path, reason, Remedy.SET_ASIDE)


def _check_layout(store: Store) -> Iterator[Fault]:
    for name in STORE_DIRECTORIES:
        if not (store.root / name).is_dir():
            make_directory(store.root / name)
            yield _fault(store, store.root / name, "missing", Remedy.REPAIRED)
    for name, content in CONSTANT_FILES.items():
        path = store.root / name
        if not path.is_file() or path.read_bytes() != content:
            put_constant(store.root, store.disk, name, content)
            yield _fault(store, path, "missing or changed", Remedy.REPAIRED)


def _check_blob(store: Store, path: Path) -> Iterator[Fault]:
    try:
        status = path.lstat()
    except FileNotFoundError:  # collected meanwhile
        return
    if not is_hex64(path.name):
        yield _aside(store, path, "its name is no SHA-256")
        return
    if not stat.S_ISREG(status.st_mode):
        yield _aside(store, path, "it is not a regular file")
        return
    try:
        digest = digest_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        yield _aside(store, path, f"it cannot be read: {error.strerror}")
        return
    if digest != path.name:
        yield _aside(store, path, f"its {status.st_size} bytes have SHA-256 {digest}")
    elif stat.S_IMODE(status.st_mode) != READ_ONLY:
        path.chmod(READ_ONLY)
        mode = stat.S_IMODE(status.st_mode)
        yield _fault(store, path, f"its mode was {mode:04o}, not 0444", Remedy.REPAIRED)
    elif status.st_nlink != 1:
        reason = f"it has {status.st_nlink} hard links: whoever has one may change it"
        yield _fault(store, path, reason, Remedy.REPORTED)


def _check_statement(store: Store, path: Path) -> Iterator[Fault]:
    if not os.path.lexists(path):  # set aside with its statement, or collected meanwhile
        return
    key = path.parent.name
    if not is_hex64(key) or path.parent.parent.name != key[:2]:
        yield _fault(store, path, "it lies under no key", Remedy.REPORTED)
        return
    if path.name.endswith((".json.sig", ".json.from", ".json.pack")):
        yield from _check_beside(store, path)
        return
    if split_statement_name(path.name) is None:
        yield _aside(store, path, "its name is no builder's")
        return
    try:
        artifact, _ = read_statement(path, BuildKey(key))
    except (IntegrityError, StoreError) as error:
        beside = signature_path(path)
        if beside.exists():
            yield _aside(store, beside, "its statement is corrupt")
        yield _aside(store, path, error.message)
        return
    reason = incomplete(store, artifact)
    if reason is not None:
        yield _fault(store, path, f"{artifact.name}: {reason}", Remedy.REPORTED)


def _check_beside(store: Store, path: Path) -> Iterator[Fault]:
    """A signature or an origin comes before its statement; where a commit was cut short in between
    it is left over, which is no damage."""
    statement = path.with_suffix("")
    if statement.exists():
        return
    with exclusive(store.root / "locks" / "statements"):
        if path.exists() and not statement.exists():
            path.unlink()
            reason = "it was left by a commit that was cut short before its statement"
            yield _fault(store, path, reason, Remedy.REPAIRED)


def _check_trees(store: Store) -> Iterator[Fault]:
    """Trees are derived, so one that is not right is removed and nothing is lost."""
    for path in sorted((store.root / "trees").iterdir()):
        whole = path.with_suffix("") if path.suffix in (".ok", SEAL) else path
        if path != whole:
            # Both went with their tree, where it was dropped a moment ago.
            if path.exists() and not whole.exists():
                path.unlink(missing_ok=True)
                if path.suffix == ".ok":
                    yield _fault(store, path, "it marks no tree", Remedy.REPAIRED)
        elif reason := store.trees.drop_wrong(path, store.lease):
            yield _fault(store, path, reason, Remedy.REPAIRED)
