"""What lies over the toolchain in a build's root: dependencies, each path from one of them. Pure.

Two dependencies with different files at one path are an error: which one the build saw would
depend on their order. A dependency's file over the toolchain's is what dependencies are for; it is
noted in the log, because everything in the chroot that uses that file uses the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from buildit.errors import UnsatisfiableError
from buildit.model.tree import Entry, Kind

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Lower:
    """One dependency's output: the package's label, the tree's name, and its entries."""

    label: str
    tree: str
    entries: tuple[Entry, ...]


def check_lowers(lowers: Sequence[Lower], label: str) -> None:
    """Refuse dependencies that would hide each other's files; equal files may meet.

    Raises:
        UnsatisfiableError: the details name each path and both packages.
    """
    owners: dict[str, tuple[Lower, Entry]] = {}
    clashes = []
    for lower in lowers:
        for entry in lower.entries:
            first, other = owners.setdefault(entry.path, (lower, entry))
            if first.label != lower.label and not _agree(other, entry):
                clashes.append(f"/{entry.path}: {first.label} and {lower.label}")
    if clashes:
        raise UnsatisfiableError(
            f"two dependencies have different files at {clashes[0].partition(':')[0]}",
            place=label,
            hint="depend on one of them only, or move the file in the recipe of the other",
            details=tuple(clashes[:_SHOWN]),
        )


def covered(lowers: Iterable[Lower], owners: Mapping[str, tuple[str, Entry]]) -> tuple[str, ...]:
    """A line for each file of the toolchain that a dependency covers, sorted.

    `owners` maps a path to the name of its .deb, and its entry.
    """
    lines = {
        f"/{entry.path} of {lower.label} covers that of debian:{owners[entry.path][0]}"
        for lower in lowers
        for entry in lower.entries
        if entry.kind is not Kind.DIRECTORY and entry.path in owners
    }
    return tuple(sorted(lines))


def _agree(one: Entry, other: Entry) -> bool:
    if one.kind is Kind.DIRECTORY and other.kind is Kind.DIRECTORY:
        return True
    same = (one.kind, one.mode, one.target) == (other.kind, other.mode, other.target)
    return same and one.digest == other.digest
