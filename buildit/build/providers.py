"""Who provides what an output needs: the provider that the build really saw. Pure.

Looked for in order: the build's other outputs, its dependencies nearest first (of all of them the
runtime outputs before the headers, which no image wants), the toolchain; never "some package in
the world" (PEERS §4.7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from buildit.archive.merged import merged_path
from buildit.build.needs import Listing, Needs, Target
from buildit.errors import UnsatisfiableError
from buildit.model.artifact import RUNTIME
from buildit.model.tree import Entry

DebOf = Callable[[str], "str | None"]
"""A path of the toolchain (`usr/bin/perl`) to the provider `<key>:runtime` of its .deb."""


@dataclass(frozen=True, slots=True)
class Visible:
    """What a build sees of one dependency's output: `name` is `<key>:<output>`."""

    name: str
    listing: Listing


def providers(
    needs: Needs,
    siblings: Mapping[str, Iterable[Entry]],
    visible: Sequence[Visible],
    deb_of: DebOf,
    target: Target,
) -> dict[str, str]:
    """For each need that somebody meets, who does: `<key>:<output>`, or `:<output>` for a sibling.

    `siblings` are the other outputs of the same build.
    """
    listings = [Visible(f":{name}", Listing(entries)) for name, entries in siblings.items()]
    listings += sorted(visible, key=lambda one: not one.name.endswith(f":{RUNTIME}"))
    found: dict[str, str] = {}
    for need in needs.wanted:
        directories = needs.directories.get(need, ())
        name = next(
            (one.name for one in listings if one.listing.gives(need, target, directories)),
            None,
        )
        if name is None:
            paths = _paths(need, target, directories)
            name = next((deb for path in paths if (deb := deb_of(path)) is not None), None)
        if name is not None:
            found[need] = name
    return found


def check_provided(
    needs: Needs, found: Mapping[str, str], output: str, label: str, accepted: Callable[[str], bool]
) -> None:
    """Refuse a runtime output with a need that nobody meets; other outputs may have some.

    `accepted` says whether the recipe accepts a path's need as unmet.

    Raises:
        UnsatisfiableError: it names the file and what it needs, and all others in the details.
    """
    if output != RUNTIME:
        return
    missing = [
        (files[0], need)
        for need, files in needs.wanted.items()
        if need not in found and not all(accepted(path) for path in files)
    ]
    if not missing:
        return
    path, need = missing[0]
    raise UnsatisfiableError(
        f"nothing that the build saw provides {_described(need)}, which /{path} needs",
        place=label,
        hint="add the package that has it to depends.link (a library) or depends.build (a "
        "program), or do not install the file",
        details=tuple(f"/{file}: {_described(need)}" for file, need in missing),
    )


def _described(need: str) -> str:
    kind, _, name = need.partition(":")
    words = {"soname": "the library ", "interp": "the loader ", "path": ""}
    return f"{words.get(kind, '')}{name}"


def _paths(need: str, target: Target, directories: Iterable[str]) -> list[str]:
    kind, _, name = need.partition(":")
    if kind != "soname":
        return [merged_path(name.lstrip("/"))]
    return [f"{place}/{name}" for place in (*directories, *target.library_directories)]
