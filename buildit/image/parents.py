"""The directories above a step's entries, restated in its layer. Pure.

An overlay file system takes a directory's attributes from the uppermost layer that holds anything
beneath it, and makes up what that layer does not say (0755, root, the time of unpacking; older
engines 0600). So a layer of ours says all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from buildit.errors import RecipeError
from buildit.model.tree import Entry, Kind, sort_key


def with_parents(
    entries: Iterable[Entry], tree: Mapping[str, Entry], new: Entry, place: str | None = None
) -> tuple[Entry, ...]:
    """The entries in order, with every directory above them that is not among them.

    One that `tree`, the merged entries below, has is repeated as it is there; another one is like
    `new`, whose path does not matter. `place` is where the step was written.

    Raises:
        RecipeError: something above an entry is no directory in `tree`.
    """
    made = {entry.path: entry for entry in entries}
    for path in list(made):
        parent = path.rpartition("/")[0]
        while parent and parent not in made:
            below = tree.get(parent)
            if below is not None and below.kind is not Kind.DIRECTORY:
                raise RecipeError(
                    f"/{path} lies beneath /{parent}, which is a {below.kind} in the image",
                    place=place,
                    hint=f"let the package that brings /{parent} bring a directory",
                )
            made[parent] = below or replace(new, path=parent)
            parent = parent.rpartition("/")[0]
    return tuple(sorted(made.values(), key=sort_key))
