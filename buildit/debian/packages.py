"""Binary packages of Debian's archive, as its Packages indices have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from buildit.debian.index import Fields, OpenIndex, Table
from buildit.debian.relations import debian_key, parse_relations
from buildit.digest import Digest, is_hex64

DEB_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~%:/@-]*\.deb")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One binary package of one suite. Relations as in the index; `path` below the archive;
    `essential` is `yes` or empty."""

    name: str
    version: str
    arch: str
    priority: str
    pre_depends: str
    depends: str
    provides: str
    conflicts: str
    breaks: str
    path: str
    size: int
    digest: Digest
    essential: str
    suite: str


_FIELDS = (
    "package version architecture priority pre-depends depends provides conflicts breaks "
    "filename size sha256 essential"
)


def _provided(row: Fields) -> set[str]:
    """The virtual names of a package; ValueError says what of it is malformed."""
    name, version, path = row["package"], row["version"], row["filename"]
    debian_key(version)
    good = DEB_NAME.fullmatch(name) and row["architecture"] and row["size"].isdecimal()
    if not good or not is_hex64(row["sha256"]) or not _POOL.fullmatch(path) or ".." in path:
        raise ValueError(f"package {name[:60]!r} {version[:60]!r} is malformed")
    return {one.name for group in parse_relations(row["provides"]) for one in group}


PACKAGES = Table(tuple(_FIELDS.split()), " ", _provided, Candidate)
PackageIndex = OpenIndex[Candidate]


@dataclass(frozen=True, slots=True)
class Indices:
    """What can be chosen from for one Debian architecture: all suites as one, earlier ones first
    where versions are equal, and each suite's date (ISO 8601, UTC)."""

    indices: tuple[PackageIndex, ...]
    dates: Mapping[str, str]
    arch: str

    def named(self, name: str) -> tuple[Candidate, ...]:
        return tuple(found for index in self.indices for found in index.named(name))

    def providing(self, name: str) -> tuple[Candidate, ...]:
        """All packages that provide a virtual name."""
        return tuple(found for index in self.indices for found in index.also(name))

    def essential(self) -> tuple[str, ...]:
        """The names of all packages that are `Essential: yes` in some suite."""
        return self._having("essential", "yes")

    def required(self) -> tuple[str, ...]:
        """The names of all packages of priority `required` in some suite (Policy 2.5)."""
        return self._having("priority", "required")

    def _having(self, column: str, value: str) -> tuple[str, ...]:
        found = (one.name for index in self.indices for one in index.having(column, value))
        return tuple(sorted(set(found)))
