"""The links that packages count on and none of an image's brings: those of merged /usr, and of
Debian's packages those that their scripts would have made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from buildit.archive.merged import TOPS
from buildit.model.tree import Entry, Kind, sort_key

_PROGRAMS = "usr/bin"


def missing_links(packages: Sequence[tuple[bool, Sequence[Entry]]]) -> Iterator[Entry]:
    """The links for an image of these packages, in the order of layers.

    Each package says whether it is a .deb, and what it has. `/lib64` and its like are made where
    /usr has such a directory and no package has anything of that name; `/usr/bin/awk` and its like
    (`debian.fixups.ALTERNATIVES`) where a .deb has the program.
    """
    from buildit.debian.fixups import links

    paths = {entry.path for _, entries in packages for entry in entries}
    tops = {path.partition("/")[0] for path in paths}
    debs = {e.path for is_deb, entries in packages if is_deb for e in entries}
    present = {path for path in debs if path.startswith(f"{_PROGRAMS}/")}
    present |= set(_directories(packages)) & {f"usr/{top}" for top in TOPS}
    for link in sorted(links(present), key=sort_key):
        if link.path not in paths and link.path not in tops:
            yield link


def _directories(packages: Sequence[tuple[bool, Iterable[Entry]]]) -> Iterator[str]:
    """The directories of second rank that hold something, or are there as directories."""
    for _, entries in packages:
        for entry in entries:
            parts = entry.path.split("/", 2)
            if len(parts) == 3 or entry.kind is Kind.DIRECTORY:
                yield "/".join(parts[:2])
