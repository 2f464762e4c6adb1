"""Relations between packages (Debian Policy 7.1): `a (>= 1) | b:any, c`; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from buildit.debian.versions import VersionKey, version_key

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
        return _TESTS[self.operator](version_key(version), version_key(self.version))

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
        version_key(version)
    return Relation(name, qualifier or "", operator or "", version or "")
