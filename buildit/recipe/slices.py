"""Slices: shares of Debian's binary packages that images take or leave, by a table of the trees."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from buildit.errors import RecipeError
from buildit.model.globs import path_matcher
from buildit.model.words import hint_of
from buildit.recipe import schema
from buildit.recipe.schema import Model, parse
from buildit.recipe.yaml.read import load_yaml

SLICES_FILE = "debian/slices.yaml"
CORE = "core"
"""What no slice names: it is always taken."""


class SliceSpec(Model):
    """A share of a package."""

    description: schema.Text
    """What it is for."""
    default: schema.OnOff
    """Whether an image takes it where it names none of the package's slices."""
    paths: tuple[schema.Line, ...]
    """Globs of its files."""
    but: tuple[schema.Line, ...] = ()
    """Globs of files among them that are in `core` all the same."""


class SlicesFile(Model):
    """`pkgs/debian/slices.yaml`."""

    packages: dict[schema.Line, dict[schema.Line, SliceSpec]]
    """Slices by package and name."""


Slices = Mapping[str, Mapping[str, SliceSpec]]


def read_slices(trees: Iterable[Path], consulted: list[Path]) -> Slices:
    """The slices of all trees; the first tree that names a package has all its slices.

    Raises:
        RecipeError: a table is wrong.
    """
    found: dict[str, Mapping[str, SliceSpec]] = {}
    for tree in trees:
        path = tree / SLICES_FILE
        consulted.append(path)
        if not os.path.lexists(path):
            continue
        node = load_yaml(path)
        for package, slices in parse(node, SlicesFile).packages.items():
            for one in slices.values():
                for glob in (*one.paths, *one.but):
                    path_matcher(glob, place=str(path))
            found.setdefault(package, slices)
    return found


def sliced(
    slices: Slices, package: str, names: Iterable[str] | None, place: str
) -> tuple[str, ...]:
    """Globs of what is left out of a package where these slices are taken (None: by default); what
    fits one that begins with `!` stays.

    Raises:
        RecipeError: it has no such slice.
    """
    known = slices.get(package, {})
    for name in names or ():
        if name not in known and name != CORE:
            there = ", ".join((CORE, *known))
            message = f"debian:{package} has no slice {name!r}"
            raise RecipeError(
                message, place=place, hint=f"{hint_of(name, [*known])}; it has {there}"
            )
    globs: list[str] = []
    for name, one in known.items():
        if not (one.default if names is None else name in names):
            globs += [*one.paths, *(f"!{glob}" for glob in one.but)]
    return tuple(globs)
