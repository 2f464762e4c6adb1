"""Which libraries the dynamic loader finds within one tree, and which it does not. Pure.

Rules of ld.so(8) and of glibc's elf/dl-load.c: a library that is loaded already, by its name or
soname, is not looked for again; DT_RUNPATH of a file holds for what this file itself needs, and
turns DT_RPATH off for it; DT_RPATH holds for what is loaded on the file's behalf, too, however
deep; then the directories of the system. Loading is breadth first.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from buildit.make.capture.elf import Elf


@dataclass(frozen=True, slots=True, order=True)
class Unmet:
    """The file `path` needs `soname`, which was looked for in `directories` and in the system's."""

    path: str
    soname: str
    directories: tuple[str, ...]


def unmet(
    elves: Mapping[str, Elf], find: Callable[[str], str | None], system: Sequence[str]
) -> tuple[Unmet, ...]:
    """What the ELF files of a tree need by name and do not find in it, sorted.

    `find` gives the path of the file that a path means, None where there is none. Every program is
    followed as it would be started. Libraries that no program needs are followed by themselves;
    they are plugins then, which get DT_RPATH of the tree's programs.
    """
    programs = [path for path in sorted(elves) if elves[path].interp]
    seen: set[str] = set()
    found: set[Unmet] = set()
    for path in programs:
        found.update(_loaded(path, (), elves, find, system, seen))
    plugged = tuple(dict.fromkeys(d for path in programs for d in _rpath(path, elves[path])))
    names = {name for elf in elves.values() for name in elf.needed}
    rest = [path for path in sorted(elves) if path not in seen]
    # first those that nothing needs; a circle of libraries has none
    rest.sort(key=lambda p: elves[p].soname in names or posixpath.basename(p) in names)
    for path in rest:
        if path not in seen:
            found.update(_loaded(path, plugged, elves, find, system, seen))
    return tuple(sorted(found))


def _loaded(
    start: str,
    inherited: tuple[str, ...],
    elves: Mapping[str, Elf],
    find: Callable[[str], str | None],
    system: Sequence[str],
    seen: set[str],
) -> Iterator[Unmet]:
    """Follow one file and all that it loads; `seen` gets their paths."""
    names = {elves[start].soname, posixpath.basename(start)}
    waiting = deque([(start, inherited)])
    at_hand = {start}
    while waiting:
        path, above = waiting.popleft()
        seen.add(path)
        elf = elves[path]
        own = private_directories(path, elf)
        beyond = tuple(dict.fromkeys((*_rpath(path, elf), *above)))
        directories = own if elf.runpath and not elf.inherited else beyond
        for name in elf.needed:
            if "/" in name or name in names:
                continue
            places = (find(f"{place}/{name}") for place in (*directories, *system))
            place = next((place for place in places if place is not None), None)
            if place is None:
                yield Unmet(path, name, directories)
                continue
            names.add(name)
            if place in elves and place not in at_hand:
                at_hand.add(place)
                names.add(elves[place].soname)
                waiting.append((place, beyond))


def _rpath(path: str, elf: Elf) -> tuple[str, ...]:
    return private_directories(path, elf) if elf.inherited else ()


def private_directories(path: str, elf: Elf) -> tuple[str, ...]:
    """The directories of DT_RUNPATH or DT_RPATH in a tree, `$ORIGIN` replaced, no leading slash.

    Those that the loader would not take (relative, of an unknown token) are left out.
    """
    expanded = (expanded_path(path, directory) for directory in elf.runpath)
    return tuple(dict.fromkeys(directory.lstrip("/") for directory in expanded if directory))


def expanded_path(path: str, text: str) -> str:
    """An absolute, normalised path from one in DT_RUNPATH or DT_NEEDED; "" where there is none."""
    origin = "/" + posixpath.dirname(path)
    for token in ("$ORIGIN", "${ORIGIN}"):
        text = text.replace(token, origin)
    if not text.startswith("/") or "$" in text:
        return ""
    return posixpath.normpath("/" + text.lstrip("/"))
