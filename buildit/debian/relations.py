"""Debian's version order (deb-version(7)), and relations between packages (Debian Policy 7.1):
`a (>= 1) | b:any, c`; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

_VERSION = re.compile(
    r"(?:([0-9]{1,10}):)?([A-Za-z0-9][A-Za-z0-9.+~:-]*?)(?<!-)(?:-([A-Za-z0-9.+~]+))?"
)
_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_LONGEST = 512  # characters of a version; the archive's longest has 60

_Part = tuple[tuple[int, ...], int]
VersionKey = tuple[int, tuple[_Part, ...], tuple[_Part, ...]]
"""Compares as the versions do, and is equal where they are equal (`1.0` and `1.00`)."""


@lru_cache(maxsize=4096)
def debian_key(version: str) -> VersionKey:
    """The version's sort key.

    Raises:
        ValueError: it is no Debian version.
    """
    found = _VERSION.fullmatch(version) if len(version) <= _LONGEST else None
    # a colon is for those that have an epoch
    if found is None or (found[1] is None and ":" in version):
        raise ValueError(f"not a Debian version: {version[:80]!r}")
    epoch, upstream, revision = found.groups()
    return int(epoch or 0), _parts(upstream), _parts(revision or "0")


def _parts(text: str) -> tuple[_Part, ...]:
    """Non-digits and numbers in turn. The empty text at the end, where a `~` would sort lower."""
    parts = [
        ((*map(_weight, letters), 0), int(digits or 0))
        for letters, digits in _PARTS.findall(text)
        if letters or digits
    ]
    return (*parts, ((0,), 0))


def _weight(char: str) -> int:
    """`~` before the end (0), then letters, then all else."""
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


_RELATION = re.compile(
    r"\s*([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^\s()]+)\s*\))?\s*"
)
_TESTS: Mapping[str, Callable[[VersionKey, VersionKey], bool]] = {
    "<<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a <= b,  # Policy 7.1: the old forms mean <= and >=
    "=": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a >= b,
    ">>": lambda a, b: a > b,
}


@dataclass(frozen=True, slots=True)
class Relation:
    """One package, `qualifier` (`any`, an architecture or empty), and a version range if any."""

    name: str
    qualifier: str = ""
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        name = f"{self.name}:{self.qualifier}" if self.qualifier else self.name
        return f"{name} ({self.operator} {self.version})" if self.operator else name

    def admits(self, version: str) -> bool:
        """Whether a real package of this version will do."""
        if not self.operator:
            return True
        return _TESTS[self.operator](debian_key(version), debian_key(self.version))

    def admits_provided(self, provided: Relation) -> bool:
        """Whether `Provides: provided` will do (Policy 7.5: versioned only by versioned)."""
        if provided.name != self.name:
            return False
        return not self.operator or (provided.operator == "=" and self.admits(provided.version))


@lru_cache(maxsize=2048)
def parse_relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """All must be satisfied, each by one of its alternatives.

    Raises:
        ValueError: the text is no relation field of a binary package.
    """
    groups = (group for group in text.split(",") if group.strip())
    return tuple(tuple(_relation(one) for one in group.split("|")) for group in groups)


def _relation(text: str) -> Relation:
    found = _RELATION.fullmatch(text)
    if found is None:
        raise ValueError(f"not a package relation: {text.strip()[:80]!r}")
    name, qualifier, operator, version = found.groups()
    if version is not None:
        debian_key(version)
    return Relation(name, qualifier or "", operator or "", version or "")
