"""Garbage: what no root and no running process needs.

Roots are files in `roots/`, each naming what keeps things alive (a lock, an image: its `anchor`)
and the keys, digests and tree names that it keeps. A root whose anchor is gone keeps nothing.
A lease keeps what its process pinned, and everything younger than itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.codec import CodecError, decode, encode
from buildit.digest import BuildKey, Digest, digest_bytes, is_hex64
from buildit.errors import IntegrityError, StoreError
from buildit.model.artifact import Artifact
from buildit.store.artifacts import read_statement, stale_entries, statement_paths
from buildit.store.cas import Store
from buildit.store.durable import located, make_directory
from buildit.store.layout import key_directory
from buildit.store.locks import Waiting, quietly, running
from buildit.store.names import entry_paths
from buildit.store.remove import remove_tree
from buildit.store.trees import SEAL


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


def add_root(store: Store, anchor: Path, names: Iterable[str]) -> None:
    """Keep keys, digests and trees for as long as `anchor` exists; replaces its earlier root.

    Raises:
        StoreError: the disk is full or refuses.
    """
    real = os.path.realpath(anchor)
    path = store.root / "roots" / f"{digest_bytes(os.fsencode(real))}.json"
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
    for path in stale_entries(store):
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
        try:
            changed = path.lstat().st_mtime_ns
        except FileNotFoundError:
            return False
        return changed < horizon and changed <= now

    def unnamed(below: str) -> tuple[Path, ...]:
        directory = store.root / below
        found = sorted(directory.iterdir()) if directory.is_dir() else ()
        return tuple(path for path in found if path.name not in named and is_old(path))

    alive = [root.names for root in roots(store)]
    named = keep.union(*(lease.pins for lease in leases), *alive)
    found = sorted((store.root / "k").glob("??/*"))
    keys = {BuildKey(path.name): path for path in found if is_hex64(path.name)}
    gone = tuple(key for key, path in keys.items() if key not in named and is_old(path))
    marked = named.union(*(_spoken_of(store, key) for key in keys.keys() - {*gone}))
    blobs = sorted(Digest(name) for name in os.listdir(store.blobs) if is_hex64(name))
    blobs = [one for one in blobs if one not in marked and is_old(store.path(one))]
    trees = sorted((store.root / "trees").iterdir())
    return Garbage(
        keys=gone,
        blobs=tuple(blobs),
        trees=tuple(
            path
            for path in trees
            if path.suffix not in (".ok", SEAL) and path.name not in marked and is_old(_aged(path))
        ),
        failures=unnamed("logs/failed"),
        corrupt=unnamed("corrupt"),
        roots=tuple(path for path, root in _roots(store) if not os.path.lexists(root.anchor)),
        size=sum(store.size(digest) or 0 for digest in blobs),
    )


def _aged(tree: Path) -> Path:
    """What bears a tree's age: its mark, or the tree itself where it has none."""
    mark = tree.with_name(f"{tree.name}.ok")
    return mark if mark.exists() else tree


def _spoken_of(store: Store, key: BuildKey) -> Iterator[str]:
    """All names that the statements about a key speak of."""
    for path in statement_paths(store.root, key):
        with suppress(IntegrityError, StoreError):
            yield from _names(read_statement(path, key)[0])


def _names(artifact: Artifact) -> Iterator[str]:
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
            raise StoreError(
                "the root cannot be read, so nothing is collected",
                place=str(path),
                hint=f"remove {path}; the next build of its container writes it again",
            ) from None
        yield path, root
