"""The full verification, in which every object is read, every fault listed and the corrupt set
aside; and garbage: what no root and no running process needs.

Roots are files in `roots/`, each naming what keeps things alive (a lock, an image: its `anchor`)
and the keys, digests and tree names that it keeps. A root whose anchor is gone keeps nothing.
A lease keeps what its process pinned, and everything younger than itself.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildit.codec import CodecError, decode, encode
from buildit.digest import BuildKey, Digest, digest_bytes, digest_file, is_hex64
from buildit.errors import IntegrityError, StoreError
from buildit.store import artifacts, disk
from buildit.store.cas import Store, set_aside
from buildit.store.disk import key_directory, located, make_directory, remove_tree
from buildit.store.locks import Waiting, exclusive, quietly, reclaim, running
from buildit.store.names import changed_at, entry_paths
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
    for name in disk.STORE_DIRECTORIES:
        if not (store.root / name).is_dir():
            make_directory(store.root / name)
            yield _fault(store, store.root / name, "missing", Remedy.REPAIRED)
    for name, content in disk.CONSTANT_FILES.items():
        path = store.root / name
        if not path.is_file() or path.read_bytes() != content:
            disk.put_constant(store.root, store.disk, name, content)
            yield _fault(store, path, "missing or changed", Remedy.REPAIRED)


def _check_blob(store: Store, path: Path) -> Iterator[Fault]:
    try:
        status = path.lstat()
    except FileNotFoundError:  # collected meanwhile
        return
    try:
        if not is_hex64(path.name):
            reason = "its name is no SHA-256"
        elif not stat.S_ISREG(status.st_mode):
            reason = "it is not a regular file"
        elif (digest := digest_file(path)) != path.name:
            reason = f"its {status.st_size} bytes have SHA-256 {digest}"
        else:
            reason = ""
    except FileNotFoundError:
        return
    except OSError as error:
        yield _aside(store, path, f"it cannot be read: {error.strerror}")
        return
    if reason:
        yield _aside(store, path, reason)
    elif stat.S_IMODE(status.st_mode) != disk.READ_ONLY:
        path.chmod(disk.READ_ONLY)
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
    if artifacts.split_statement_name(path.name) is None:
        yield _aside(store, path, "its name is no builder's")
        return
    try:
        artifact, _ = artifacts.read_statement(path, BuildKey(key))
    except (IntegrityError, StoreError) as error:
        beside = artifacts.signature_path(path)
        if beside.exists():
            yield _aside(store, beside, "its statement is corrupt")
        yield _aside(store, path, error.message)
        return
    reason = artifacts.incomplete(store, artifact)
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


@dataclass(frozen=True, slots=True)
class GarbageRoot:
    """What `anchor` (an absolute path) keeps alive while it exists."""

    anchor: Path
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection removes; `size` is in bytes of blobs. `roots` have lost their anchor."""

    keys: tuple[BuildKey, ...] = ()
    blobs: tuple[Digest, ...] = ()
    trees: tuple[Path, ...] = ()
    failures: tuple[Path, ...] = ()
    corrupt: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    size: int = 0


def add_root(store: Store, anchor: Path, names: Iterable[str], part: str = "") -> None:
    """Keep keys, digests and trees for as long as `anchor` exists; replaces its earlier root, or
    that of the same `part` of it, such as a stage.

    Raises:
        StoreError: the disk is full or refuses.
    """
    real = os.path.realpath(anchor)
    whole = os.fsencode(f"{real}\0{part}" if part else real)
    path = store.root / "roots" / f"{digest_bytes(whole)}.json"
    # Text of any bytes: undecodable ones are kept as surrogates, which JSON escapes.
    content = encode(GarbageRoot(Path(real), frozenset(names)))
    with located(path):
        make_directory(path.parent)
        if path.exists() and path.read_bytes() == content:
            return
        store.put_file("root", path, content)


def roots(store: Store) -> tuple[GarbageRoot, ...]:
    """The roots whose anchor still exists.

    Raises:
        StoreError: a root cannot be read; nothing may be collected then.
    """
    return tuple(root for _, root in _roots(store) if os.path.lexists(root.anchor))


def garbage(store: Store, keep: Collection[str] = ()) -> Garbage:
    """What `collect` would remove now; nothing is changed.

    Raises:
        StoreError: a root or the store cannot be read.
    """
    with located(store.root):
        return _find(store, frozenset(keep))


def collect(store: Store, keep: Collection[str] = (), waiting: Waiting = quietly) -> Garbage:
    """Remove what neither roots, `keep` nor running processes need; returns what it was.

    Statements go before their blobs, so that a collection that is cut short leaves misses, never
    a statement that promises what is gone.

    Raises:
        StoreError: a root cannot be read, or the file system refuses.
    """
    lease = store.lease()
    with located(store.root):
        with store.collecting(waiting):
            found = _find(store, frozenset(keep))
            trash = lease.entry("trash")
            trash.mkdir()
            _sweep(store, found, trash)
        # Whole trees go slowly; by now nobody can see them, so nobody waits for it.
        remove_tree(trash)
    return found


def _sweep(store: Store, found: Garbage, trash: Path) -> None:
    reach = store.disk.faults.reach
    for path in found.roots:
        path.unlink(missing_ok=True)
    for key in found.keys:
        reach("collect-remove")
        directory = key_directory(store.root, key)
        directory.rename(trash / f"key-{key}")
        with suppress(OSError):
            directory.parent.rmdir()
    for path in entry_paths(store.root):
        if not key_directory(store.root, BuildKey(path.stem)).exists():
            path.unlink(missing_ok=True)
    for path in artifacts.stale_entries(store):
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
            path.parent.parent.rmdir()
    for digest in found.blobs:
        reach("collect-remove")
        store.path(digest).unlink(missing_ok=True)
    for path in found.trees:
        reach("collect-remove")
        if aside := store.trees.set_aside(path, store.lease()):
            aside.rename(trash / f"tree-{path.name}")
    for path in (*found.failures, *found.corrupt):
        path.rename(trash / f"{path.parent.name}-{path.name}")


def _find(store: Store, keep: frozenset[str]) -> Garbage:
    own = store.lease().name
    leases = running(store.root)
    now = time.time_ns()
    horizon = min((lease.since for lease in leases if lease.name != own), default=now + 1)
    if horizon > now + 1:
        # A process that began in the future: the clock went back, so ages say nothing.
        horizon = 0

    def is_old(path: Path) -> bool:
        with suppress(FileNotFoundError):
            changed = path.lstat().st_mtime_ns
            return changed < horizon and changed <= now
        return False

    def unnamed(below: str) -> tuple[Path, ...]:
        directory = store.root / below
        found = sorted(directory.iterdir()) if directory.is_dir() else ()
        return tuple(path for path in found if path.name not in named and is_old(path))

    named = keep.union(*(one.pins for one in leases), *(one.names for one in roots(store)))
    found = sorted((store.root / "k").glob("??/*"))
    keys = {BuildKey(path.name): path for path in found if is_hex64(path.name)}
    gone = tuple(key for key, path in keys.items() if key not in named and is_old(path))
    marked = named.union(*(_spoken_of(store, key) for key in keys.keys() - {*gone}))
    blobs = sorted(Digest(name) for name in os.listdir(store.blobs) if is_hex64(name))
    blobs = [one for one in blobs if one not in marked and is_old(store.path(one))]
    return Garbage(
        keys=gone,
        blobs=tuple(blobs),
        trees=tuple(
            path
            for path in sorted((store.root / "trees").iterdir())
            if path.suffix not in (".ok", SEAL) and path.name not in marked and is_old(_aged(path))
        ),
        failures=unnamed("logs/failed"),
        corrupt=unnamed("corrupt"),
        roots=tuple(path for path, root in _roots(store) if not os.path.lexists(root.anchor)),
        size=sum(store.size(digest) or 0 for digest in blobs),
    )


def prune_trees(store: Store, prefix: str, most: int, unused: float) -> tuple[str, ...]:
    """Remove trees whose names begin with `prefix` but for the `most` that were used last, and
    those that were not used for `unused` seconds; never one that a living process pinned before it
    looked for it. Which went. A tree that is needed again is filled again.

    Raises:
        StoreError: the file system refuses.
    """
    with located(store.root):
        places = (store.root / "trees").glob(f"{prefix}-*.ok")
        used = {path.with_suffix(""): changed_at(path) for path in places}
        newest = sorted(used, key=lambda path: (-used[path], path))
        oldest = time.time_ns() - int(unused * 1e9)
        doomed = [path for path in newest if path in newest[most:] or used[path] < oldest]
        if not doomed:
            return ()
        with store.collecting():
            pinned = frozenset().union(*(lease.pins for lease in running(store.root)))
            gone = [path for path in doomed if path.name not in pinned]
            aside = [store.trees.set_aside(path, store.lease()) for path in gone]
        for path in filter(None, aside):
            remove_tree(path)
    return tuple(path.name for path in gone)


def _aged(tree: Path) -> Path:
    """What bears a tree's age: its mark, or the tree itself where it has none."""
    mark = tree.with_name(f"{tree.name}.ok")
    return mark if mark.exists() else tree


def _spoken_of(store: Store, key: BuildKey) -> Iterator[str]:
    """All names that the statements about a key speak of."""
    for path in artifacts.statement_paths(store.root, key):
        with suppress(IntegrityError, StoreError):
            artifact, _ = artifacts.read_statement(path, key)
            yield from filter(None, (artifact.record, artifact.log))
            yield from (digest for _, digest in artifact.materials)
            for output in artifact.outputs.values():
                yield from (output.diff_id, output.contents)
                yield from (encoding.digest for encoding in output.encodings)


def _roots(store: Store) -> Iterator[tuple[Path, GarbageRoot]]:
    for path in sorted((store.root / "roots").glob("*.json")):
        try:
            root = decode(GarbageRoot, path.read_bytes())
        except (OSError, CodecError):
            # What it keeps is unknown, so nothing may go.
            what = "the root cannot be read, so nothing is collected"
            hint = f"remove {path}; the next build of its container writes it again"
            raise StoreError(what, place=str(path), hint=hint) from None
        yield path, root
