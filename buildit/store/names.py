"""Keys by prefix, and the index of names `n/<category>/<name>/<key>.json`, for people only.

The index is derived from the statements; an entry may be missing, empty (it is not synced) or
stale, and nothing breaks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from buildit.codec import decode, encode
from buildit.digest import BuildKey, is_hex64, key_uuid, uuid_prefix
from buildit.errors import UsageError
from buildit.model.artifact import Artifact
from buildit.store.cas import Store
from buildit.store.layout import key_directory

SHORTEST_PREFIX = 8
_PART = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,127}")
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")


@dataclass(frozen=True, slots=True)
class NameEntry:
    """One key as the index knows it."""

    key: BuildKey
    name: str
    version: str
    platform: str


def entry(artifact: Artifact) -> tuple[str, bytes] | None:
    """Path and content of an artifact's entry; None where its name cannot be a path."""
    directory = name_directory(Path(), artifact.name)
    if directory is None:
        return None
    content = NameEntry(artifact.key, artifact.name, artifact.version, artifact.platform)
    return f"{directory}/{artifact.key}.json", encode(content)


def named(store: Store) -> tuple[NameEntry, ...]:
    """What the index knows and the store still has, by name, version and key."""
    return _known(store, entry_paths(store.root))


def builds_of(store: Store, name: str) -> tuple[NameEntry, ...]:
    """As `named`, of one package; reads its entries only, however many packages there are."""
    return _known(store, _entry_paths_of(store, name), name)


def latest_builds(store: Store, name: str, count: int) -> tuple[NameEntry, ...]:
    """As `builds_of`, of no more than the last `count` that were made, these first; reads no more
    entries than it must, however often the package was built."""
    paths = sorted(_entry_paths_of(store, name), key=lambda path: (changed_at(path), path))
    known = (entry for path in reversed(paths) for entry in _known(store, (path,), name))
    return tuple(islice(known, count))


def _entry_paths_of(store: Store, name: str) -> Iterable[Path]:
    directory = name_directory(store.root, name)
    return () if directory is None else directory.glob("*.json")


def changed_at(path: Path) -> int:
    """When a path was changed last (ns), to tell the newest; 0 where it is gone."""
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0  # removed meanwhile


def _known(store: Store, paths: Iterable[Path], name: str = "") -> tuple[NameEntry, ...]:
    known = []
    for path in paths:
        with suppress(OSError):
            entry = parse_name_entry(path.read_bytes())
            if entry is None or name not in ("", entry.name):
                continue
            if any(key_directory(store.root, entry.key).glob("*.json")):
                known.append(entry)
    return tuple(sorted(known, key=lambda entry: (entry.name, entry.version, entry.key)))


def entry_paths(root: Path) -> Iterator[Path]:
    """The entries of all names; `index.json` beside them is a binhost's view."""
    return (path for path in (root / "n").glob("*/*/*.json") if is_hex64(path.stem))


def find(store: Store, text: str) -> BuildKey:
    """The one key that a whole key, a prefix of at least 8 digits, or a whole UUID names.

    Raises:
        UsageError: too short, not hex, no such key, or several.
    """
    prefix = uuid_prefix(text) if "-" in text else text.lower()
    listed = "`buildit store list`"
    if prefix is None or not _PREFIX.fullmatch(prefix):
        what = "neither a key's first 8 to 64 hex digits nor a whole UUID"
        raise UsageError(what, place=text, hint=f"take one from {listed}")
    keys = _keys(store.root, prefix)
    if not keys:
        what = "no build in the store has this key"
        raise UsageError(what, place=text, hint=f"see {listed}")
    if len(keys) > 1:
        raise UsageError(
            f"{len(keys)} builds have a key that begins so",
            place=text,
            hint="give more digits",
            details=tuple(f"{key_uuid(key)}  {key}" for key in keys[:8]),
        )
    return keys[0]


def _keys(root: Path, prefix: str) -> list[BuildKey]:
    """Keys that were built, or whose failure is remembered."""
    places = (root / "k" / prefix[:2], root / "logs" / "failed")
    names = {name for place in places if place.is_dir() for name in os.listdir(place)}
    return sorted(BuildKey(name) for name in names if is_hex64(name) and name.startswith(prefix))


def name_directory(root: Path, name: str) -> Path | None:
    """Where a store or a binhost has what it says of a package's name; None where it cannot."""
    place = name_place(name)
    return None if place is None else root / "n" / place


def name_place(name: str) -> str | None:
    """A package's directory below `n/`, `category/name`; None where its name cannot be one."""
    category, _, rest = name.rpartition("/")
    parts = (category or "local", rest)
    return f"{parts[0]}/{rest}" if all(map(is_part, parts)) else None


def is_part(name: str) -> bool:
    """Whether a category or a package's own name can be a directory."""
    return _PART.fullmatch(name) is not None


def parse_name_entry(content: bytes | None) -> NameEntry | None:
    """Read what `entry` gives; None where it is something else."""
    try:
        return decode(NameEntry, content or b"")
    except ValueError:
        return None
