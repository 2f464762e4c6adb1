"""Keys by prefix, and the index of names: for people only, and derived from the statements.

`n/<category>/<name>/<key>.json` names one key, but for .debs of Debian's; an entry may be missing,
empty (it is not synced) or stale, and nothing breaks.

A binhost says of itself as data: `n/<category>/<name>/index.json` has all builds of one name: what
is there, whose statements say so, and what the package's page shows. It is a view of statements and
entries, made anew by each push; nothing is believed because an index says so.
`containers/<dir>/<title>.card.json` is the entry of one version of a container, published beside
its images. Both are read as a stranger's data.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from buildit.codec import CodecError, decode, encode, from_plain, to_plain
from buildit.digest import CHUNK, BuildKey, canonical, is_hex64, key_uuid, uuid_prefix
from buildit.errors import UsageError
from buildit.model.artifact import Artifact
from buildit.store.attest import is_builder
from buildit.store.cas import Store
from buildit.store.disk import key_directory, located, make_directory, remove_tree

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

    def __post_init__(self) -> None:
        f"{self.name}{self.version}{self.platform}".encode()  # a ValueError where it is no text


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
    with suppress(OSError):
        return path.lstat().st_mtime_ns
    return 0


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
    # Keys that were built, or whose failure is remembered.
    places = (store.root / "k" / prefix[:2], store.root / "logs" / "failed")
    names = {name for place in places if place.is_dir() for name in os.listdir(place)}
    keys = sorted(BuildKey(one) for one in names if is_hex64(one) and one.startswith(prefix))
    if not keys:
        raise UsageError("no build in the store has this key", place=text, hint=f"see {listed}")
    if len(keys) > 1:
        what = f"{len(keys)} builds have a key that begins so"
        details = tuple(f"{key_uuid(key)}  {key}" for key in keys[:8])
        raise UsageError(what, place=text, hint="give more digits", details=details)
    return keys[0]


def name_directory(root: Path, name: str) -> Path | None:
    """Where a store or a binhost has what it says of a package's name; None where it cannot."""
    place = name_place(name)
    return None if place is None else root / "n" / place


def name_place(name: str) -> str | None:
    """A package's directory below `n/`, `category/name`; None where its name cannot be one. That of
    a Debian source package is of the category `debian-source`."""
    category, _, rest = name.replace(*_SOURCE).rpartition("/")
    parts = (category or "local", rest)
    return f"{parts[0]}/{rest}" if all(map(is_part, parts)) else None


def name_at(place: str) -> str:
    """The name whose directory below `n/` a place is."""
    return place.removeprefix("local/").replace(_SOURCE[1], _SOURCE[0])


_SOURCE = ("debian-source:", "debian-source/")
"""How names of Debian's source packages begin, and their places."""


def is_part(name: str) -> bool:
    """Whether a category or a package's own name can be a directory."""
    return _PART.fullmatch(name) is not None


def parse_name_entry(content: bytes | None) -> NameEntry | None:
    """Read what `entry` gives; None where it is something else."""
    with suppress(ValueError):
        return decode(NameEntry, content or b"")
    return None


# -- failed builds: log and tree stay in `logs/failed/<key>/` for `buildit log` and `shell`

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
            facts = {name: getattr(failure, name) for name in _TOLD}
            store.disk.write_file("failure", entry / _FACTS, encode(facts))
            with failure.log.open("rb") as source, (entry / _LOG).open("xb") as copy:
                while chunk := source.read(CHUNK):
                    copy.write(chunk)
            if failure.work is not None:
                failure.work.rename(entry / _WORK)
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
    with located(place), suppress(FileNotFoundError):
        place.rename(trash)
        remove_tree(trash)


def _place(store: Store, key: BuildKey) -> Path:
    return store.root / "logs" / "failed" / key


# -- what a binhost says of itself

INDEX_FILE = "index.json"
INDEX_LIMIT = 16 << 20
"""Bytes of an index, and of an entry."""
MOST_BUILDS = 100
"""Builds that an index tells all of; of older ones it has keys and versions."""
LARGEST_INDEX = 1 << 62
"""No file is larger; a hostile document may hold any number."""
_FORM = "1"

_T = TypeVar("_T", bound="NameIndex | PackageEntry | ContainerEntry")


@dataclass(frozen=True, slots=True)
class PackageEntry:
    """A package of a container. `inside` says that the images have its files; otherwise it was
    only needed to build. `size` is in bytes of its plain runtime layer. `flags` are as a lock has
    them (`+ssl`, `-selinux`); `notes` are the descriptions of `patches`, in the same order, or
    none. `deb` is the SHA-256 of the .deb where it is a Debian package."""

    key: BuildKey
    name: str
    version: str
    flags: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()
    inside: bool = True
    size: int = 0
    libraries: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    description: str = ""
    deb: str = ""

    def __post_init__(self) -> None:
        if self.notes and len(self.notes) != len(self.patches):
            raise ValueError("there is not a note for each patch")
        if self.deb and not is_hex64(self.deb):
            raise ValueError("its .deb is no SHA-256")
        _check_sizes(self.size)

    @property
    def versioned(self) -> str:
        return f"{self.name}-{self.version}"


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A published image. An OCI layout is a directory and has no `digest` of its own;
    `identifier` is what the format's tools call the image (`model.image.Emission`)."""

    file: str
    format: str
    size: int
    digest: str
    identifier: str = ""

    def __post_init__(self) -> None:
        _check_sizes(self.size)


@dataclass(frozen=True, slots=True)
class ContainerEntry:
    """One version of a container for one platform."""

    name: str
    version: str
    os: str
    arch: str
    author: str
    packages: tuple[PackageEntry, ...] = ()
    images: tuple[ImageEntry, ...] = ()

    @property
    def platform(self) -> str:
        return f"{self.os}/{self.arch}"

    @property
    def title(self) -> str:
        """What the names of its files begin with, in its directory."""
        return f"{self.name}-{self.version}-{self.os}-{self.arch}".rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement of a build: whose, in which file, and whether its outputs are those of the first
    statement. An empty `signature` is that of an unsigned one; `restated` is the key of the build
    that the outputs were taken from (early cut-off)."""

    builder: str
    statement: str
    signature: str
    same: bool = True
    restated: BuildKey | None = None


@dataclass(frozen=True, slots=True)
class IndexedOutput:
    """An output: bytes of the plain layer, and of its shortest compressed form (0 for none)."""

    name: str
    size: int
    packed: int
    digest: str

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.packed)


@dataclass(frozen=True, slots=True)
class IndexedBuild:
    """A published build. `details` are its flags, patches and libraries where a container's entry
    has them; `inside` are the containers that have it: directory and title."""

    key: BuildKey
    version: str
    platform: str
    outputs: tuple[IndexedOutput, ...]
    attestations: tuple[Attestation, ...]
    details: PackageEntry | None = None
    inside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NameIndex:
    """All builds of one name: `builds` newest version first, no more than `MOST_BUILDS`, and key
    and version of those that are `older`."""

    name: str
    builds: tuple[IndexedBuild, ...] = ()
    older: tuple[tuple[BuildKey, str], ...] = ()

    @property
    def directory(self) -> str:
        """Where it lies below `n/`."""
        return name_place(self.name) or ""

    @property
    def category(self) -> str:
        return self.directory.partition("/")[0]

    @property
    def description(self) -> str:
        """That of the newest build of which one is known."""
        known = (one.details.description for one in self.builds if one.details is not None)
        return next(filter(None, known), "")

    @property
    def keys(self) -> tuple[BuildKey, ...]:
        """Newest version first."""
        return (*(one.key for one in self.builds), *(key for key, _ in self.older))

    @property
    def versions(self) -> tuple[str, ...]:
        """Newest first."""
        found = (*(one.version for one in self.builds), *(version for _, version in self.older))
        return tuple(dict.fromkeys(found))

    def builders_of(self, key: BuildKey) -> tuple[str, ...]:
        """Whose statements of a build are there, as far as the index tells."""
        found = (said.builder for one in self.builds if one.key == key for said in one.attestations)
        return tuple(dict.fromkeys(name for name in found if is_builder(name)))


def _check_sizes(*sizes: int) -> None:
    if not all(0 <= size < LARGEST_INDEX for size in sizes):
        raise ValueError("it has no size that a file can have")


def index_bytes(value: NameIndex | PackageEntry | ContainerEntry) -> bytes:
    """An index or an entry as it is published: canonical JSON."""
    return canonical({"format": _FORM, **to_plain(value)})


def parse_index(kind: type[_T], content: bytes | None) -> _T | None:
    """Read what `index_bytes` wrote; None where it is something else, of another form, or too
    large to be read."""
    if content is None or len(content) > INDEX_LIMIT:
        return None
    try:
        found = json.loads(content)
        if type(found) is not dict or found.pop("format", None) != _FORM:
            return None
        if kind is NameIndex:
            # A build that is no text is left out, whoever wrote it there; the others are read.
            found["builds"] = [one for one in found["builds"] if _is_text(one)]
        return from_plain(kind, found) if _is_text(found) else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _is_text(data: object) -> bool:
    """Whether JSON data can be written as UTF-8: no half of a surrogate pair is in it."""
    try:
        return bool(json.dumps(data, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


def index_of(content: bytes | None, name: str) -> NameIndex | None:
    """The index of a name, out of its `index.json`; None where it is none, or another name's."""
    found = parse_index(NameIndex, content)
    return found if found is not None and found.name == name else None
