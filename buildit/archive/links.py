"""Where paths lead through the symbolic links of a tree, by the tree's own names, without a file
system; and the links of a merged /usr (DESIGN 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from buildit.model.tree import MOST_LINKS, Entry, Kind

EntryAt = Callable[[str], Entry | None]
"""The entry at a path without leading slash; None where the tree has none."""

MERGED_USR = "1"
"""The version of this transform; part of every key that a .deb enters."""

TOPS = ("bin", "lib", "lib32", "lib64", "sbin")
TOP_LINKS = frozenset((*TOPS, "libx32"))
"""Names of links into /usr that a merged tree may have, whoever made it."""

MERGED_LINKS = tuple(Entry(top, Kind.SYMLINK, 0o777, target=f"usr/{top}") for top in TOPS)
"""What a tree needs beside merged packages, less those whose target it does not have."""


def merged_path(path: str) -> str:
    """Where a path of an unmerged tree lies in a merged one."""
    return f"usr/{path}" if path.partition("/")[0] in TOPS else path


_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Way:
    """How the kernel walks a path with the tree as root, path_resolution(7).

    `links` are those that it passes, in order. `end` is where it leads: the root is "", a loop of
    links None; places that the tree lacks are taken as directories. `named` is whether an entry
    has the path's own name, and be it a link that leads on. `missing` is the first place that the
    tree lacks, `through` the first that is neither directory nor link although the path goes on
    beneath it; both empty where there is none. `escapes` is whether, without the tree as root, it
    would leave the tree: by an absolute link, or by `..` above the root.
    """

    links: tuple[str, ...]
    end: str | None
    named: bool
    missing: str = ""
    through: str = ""
    escapes: bool = False


def way(
    path: str, entry_at: EntryAt, merged: Mapping[str, str] = _NOTHING, *, last: bool = True
) -> Way:
    """Walk a path; `merged` are links of the root that are taken for granted. Without `last`, a
    link that the path itself names, with nothing after it, is not followed."""
    rest = path.split("/")[::-1]
    at: list[str] = []
    links: list[str] = []
    missing = through = ""
    named = escapes = False
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            escapes = escapes or not at
            del at[-1:]
            continue
        if not at and part in merged:
            at = merged[part].split("/")
            continue
        at.append(part)
        here = "/".join(at)
        entry = entry_at(here)
        if entry is None:
            missing = missing or here
            continue
        named = named or not any(each not in ("", ".") for each in rest)
        if entry.kind is Kind.SYMLINK and (rest or last):
            links.append(here)
            if len(links) > MOST_LINKS:
                return Way(tuple(links), None, named, missing, through, escapes)
            absolute = entry.target.startswith("/")
            escapes = escapes or absolute
            at = [] if absolute else at[:-1]
            rest += entry.target.split("/")[::-1]
        elif entry.kind is not Kind.DIRECTORY and rest:
            through = through or here
    end = "/".join(at)
    named = named or not end or entry_at(end) is not None
    return Way(tuple(links), end, named, missing, through, escapes)
