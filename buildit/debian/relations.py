"""Debian's version order (deb-version(7)), and relations between packages (Debian Policy 7.1):
`a (>= 1) | b:any, c`; pure.

Relations of a source package's build say for which architectures and build profiles they stand too:
`a [linux-any !i386] <!nocheck>`. `reduced` makes of them what holds for one build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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


_RELATION = (
    r"\s*([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9-]+))?\s*"
    r"(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^\s()]+)\s*\))?\s*"
)
_BINARY = re.compile(_RELATION)
_BUILD = re.compile(_RELATION + r"(?:\[([^\[\]]*)\]\s*)?((?:<[^<>]*>\s*)*)")
_LONGEST_RELATION = 2048  # characters of one package with all that is said of it
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


Groups = tuple[tuple[Relation, ...], ...]
"""All must be satisfied, each by one of its alternatives."""
Restriction = tuple[tuple[str, ...], ...]
"""To build profiles: one of these must hold, each with all its terms, `name` or
`!name`; an empty formula always holds."""


@lru_cache(maxsize=2048)
def parse_relations(text: str) -> Groups:
    """
    Raises:
        ValueError: the text is no relation field of a binary package.
    """
    return tuple(
        tuple(_relation(_match(_BINARY, one)) for one in group) for group in _alternatives(text)
    )


def reduced(field: str, architecture: str, profiles: Collection[str]) -> Groups:
    """What a relation field of a source package's build says for one Debian architecture (`amd64`)
    and these build profiles (Policy 7.1): what is for others is left out, and the groups of which
    nothing is left. Where everything is of one architecture, `:native` says nothing.

    Raises:
        ValueError: the text is no relation field of a source package.
    """
    groups = []
    for group in _alternatives(field):
        found = (_match(_BUILD, one) for one in group)
        kept = (one for one in found if _is_for(one, architecture, profiles))
        groups.append(tuple(_relation(one) for one in kept))
    return tuple(group for group in groups if group)


def profiles_named(field: str) -> frozenset[str]:
    """The build profiles that a relation field of a source package's build asks for.

    Raises:
        ValueError: the text is no relation field of a source package.
    """
    found = (_match(_BUILD, one) for group in _alternatives(field) for one in group)
    return frozenset(
        term.lstrip("!") for one in found for terms in _formula(one[6]) for term in terms
    )


def fits_profiles(formula: Restriction, profiles: Collection[str]) -> bool:
    """Whether a restriction lets something be, with these build profiles."""
    return not formula or any(
        all((term.lstrip("!") in profiles) is not term.startswith("!") for term in terms)
        for terms in formula
    )


def concerns(architectures: Sequence[str], architecture: str) -> bool:
    """Whether a list of architectures, wildcards, or `!` before either has this one: the first that
    fits says so, and what is not excluded is meant where anything is (dpkg's rule)."""
    found = not architectures
    for text in architectures:
        excluded = text.startswith("!")
        if _is_of(architecture, text.lstrip("!")):
            return not excluded
        found = found or excluded
    return found


_SPECIAL = {"armel": ("eabi", "arm"), "armhf": ("eabihf", "arm"), "x32": ("x32", "amd64")}
"""Architectures whose ABI is not the base one, or whose processor has another name (dpkg's
tupletable, as far as Debian has ports of it)."""


def _is_of(architecture: str, wildcard: str) -> bool:
    """Whether an architecture is a certain one, or one of those that a wildcard means: up to four
    parts, ABI, libc, system and processor, of which the first may be left out (`any` is all)."""
    if "any" not in wildcard.split("-"):
        return architecture == wildcard
    parts = wildcard.split("-")
    parts = ["any"] * (4 - len(parts)) + parts
    system, _, processor = architecture.rpartition("-")
    abi, processor = _SPECIAL.get(processor, ("base", processor))
    tuple_of = (abi, "gnu", system or "linux", processor)
    return all(part in ("any", own) for part, own in zip(parts, tuple_of, strict=True))


def _is_for(found: re.Match[str], architecture: str, profiles: Collection[str]) -> bool:
    return concerns((found[5] or "").split(), architecture) and fits_profiles(
        _formula(found[6]), profiles
    )


def _formula(text: str) -> Restriction:
    """`<!a !b> <c>`"""
    return tuple(tuple(terms.split()) for terms in re.findall("<([^<>]*)>", text))


def _alternatives(text: str) -> Iterator[list[str]]:
    return (group.split("|") for group in text.split(",") if group.strip())


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text) if len(text) <= _LONGEST_RELATION else None
    if found is None:
        raise ValueError(f"not a package relation: {text.strip()[:80]!r}")
    return found


def _relation(found: re.Match[str]) -> Relation:
    name, qualifier, operator, version = found.group(1, 2, 3, 4)
    if version is not None:
        debian_key(version)
    qualifier = "" if qualifier in (None, "native") else qualifier
    return Relation(name, qualifier, operator or "", version or "")
