"""What the pages of a binhost show: plain values, read from what lies there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from buildit.digest import BuildKey
from buildit.site.card import Card, CardPackage


@dataclass(frozen=True, slots=True)
class Site:
    """`title` is the binhost's name; `url` where the root is served (https), empty where it is
    not: then the pages have no discovery tags. `pubkeys` says that there is a `pubkeys.asc`."""

    title: str
    url: str = ""
    pubkeys: bool = False

    @property
    def prefix(self) -> str:
        """The root as a name for discovery: host and path, without the port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or ''}{parts.path}".rstrip("/")

    @property
    def place(self) -> str:
        """The root as `--discover` and `download-path` take it: with the port."""
        parts = urlsplit(self.url)
        return f"{parts.netloc}{parts.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class SpecFile:
    """A published file of a container: its path beside the card, SHA-256 and bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Container:
    """A directory of `containers/`: the newest of its cards, newest first, the titles of those
    that are `older` and not read, and the names of the files beside them.

    `published` are the files of a card's list (spec and images), by the card's title.
    """

    directory: str
    cards: tuple[Card, ...]
    files: frozenset[str]
    older: tuple[str, ...] = ()
    published: Mapping[str, tuple[SpecFile, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of a build: whose, in which file, and whether its outputs are those of the first
    statement. An empty `signature` is that of an unsigned one; `restated` is the key of the build
    that the outputs were taken from (early cut-off)."""

    builder: str
    statement: str
    signature: str
    same: bool = True
    restated: BuildKey | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """An output: bytes of the plain layer, and of its shortest compressed form (0 for none)."""

    name: str
    size: int
    packed: int
    digest: str


@dataclass(frozen=True, slots=True)
class Build:
    """A published build. `details` are its flags, patches and libraries where a card has them;
    `inside` are the containers that have it: directory and title."""

    key: BuildKey
    version: str
    platform: str
    parts: tuple[Part, ...]
    claims: tuple[Claim, ...]
    details: CardPackage | None = None
    inside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A package of the index: its directory below `n/`, its name, and its versions, newest
    first."""

    directory: str
    name: str
    versions: tuple[str, ...]
