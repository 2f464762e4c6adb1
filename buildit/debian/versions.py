"""Debian's version order (deb-version(7)); pure."""

from __future__ import annotations

import re
from functools import lru_cache

_VERSION = re.compile(
    r"(?:([0-9]{1,10}):)?([A-Za-z0-9][A-Za-z0-9.+~:-]*?)(?<!-)(?:-([A-Za-z0-9.+~]+))?"
)
_PART = re.compile(r"([^0-9]*)([0-9]*)")
LONGEST = 512
"""Longest version in characters; the archive's longest has 60."""

Part = tuple[tuple[int, ...], int]
VersionKey = tuple[int, tuple[Part, ...], tuple[Part, ...]]
"""Compares as the versions do, and is equal where they are equal (`1.0` and `1.00`)."""


@lru_cache(maxsize=4096)
def version_key(version: str) -> VersionKey:
    """The version's sort key.

    Raises:
        ValueError: it is no Debian version.
    """
    found = _VERSION.fullmatch(version) if len(version) <= LONGEST else None
    # a colon is for those that have an epoch
    if found is None or (found[1] is None and ":" in version):
        raise ValueError(f"not a Debian version: {version[:80]!r}")
    epoch, upstream, revision = found.groups()
    return int(epoch or 0), _parts(upstream), _parts(revision or "0")


def _parts(text: str) -> tuple[Part, ...]:
    """Non-digits and numbers in turn. The empty text at the end, where a `~` would sort lower."""
    parts = [
        ((*map(_weight, letters), 0), int(digits or 0))
        for letters, digits in _PART.findall(text)
        if letters or digits
    ]
    return (*parts, ((0,), 0))


def _weight(char: str) -> int:
    """`~` before the end (0), then letters, then all else."""
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256
