"""What a binhost says of itself as data: the index of a package's name, and a container's entry.

`n/<category>/<name>/index.json` has all builds of one name: what is there, whose statements say so,
and what the package's page shows. It is a view of statements and entries, made anew by each push;
nothing is believed because an index says so. `containers/<dir>/<title>.card.json` is the entry of
one version of a container, published beside its images. Both are read as a stranger's data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar

from buildit.codec import from_plain, to_plain
from buildit.digest import BuildKey, canonical, is_hex64
from buildit.store.attest import is_builder
from buildit.store.names import name_place

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
        json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair, no depth
        if type(found) is not dict or found.pop("format", None) != _FORM:
            return None
        return from_plain(kind, found)
    except (ValueError, RecursionError):
        return None


def index_of(content: bytes | None, name: str) -> NameIndex | None:
    """The index of a name, out of its `index.json`; None where it is none, or another name's."""
    found = parse_index(NameIndex, content)
    return found if found is not None and found.name == name else None
