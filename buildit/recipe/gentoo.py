"""What trees know of Gentoo's names: Debian's packages in their place, and the meaning of flags."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from buildit.recipe import schema
from buildit.recipe.schema import Model, parse
from buildit.recipe.ways.ebuild.needs import DebianNames
from buildit.recipe.yaml.read import load_yaml

_FILE = "debian/gentoo.yaml"


class DebianNamesSpec(Model):
    """Debian's packages in the place of one of Gentoo's."""

    dev: tuple[schema.DebianName, ...] = ()
    """Those to build with it."""
    run: tuple[schema.DebianName, ...] = ()
    """Those to run it."""


class GentooNamesFile(Model):
    """`pkgs/debian/gentoo.yaml`."""

    packages: dict[schema.PackageName, DebianNamesSpec]
    """Debian's packages by Gentoo's names."""
    sources: dict[schema.PackageName, schema.DebianName] | None = None
    """Debian's source packages, where they are called otherwise."""
    flags: dict[schema.FlagName, schema.Line] | None = None
    """What usual flags mean."""


@dataclass(slots=True)
class GentooNames:
    """The tables of all trees as one; of two that name the same thing the first counts."""

    packages: dict[str, DebianNames] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)


def read_gentoo_names(trees: Iterable[Path]) -> GentooNames:
    """The tables of some trees, in order.

    Raises:
        RecipeError: one is wrong.
    """
    found = GentooNames()
    for tree in trees:
        path = tree / _FILE
        if not os.path.lexists(path):
            continue
        table = parse(load_yaml(path), GentooNamesFile)
        for name, one in table.packages.items():
            found.packages.setdefault(name, DebianNames(one.dev, one.run))
        found.sources = {**(table.sources or {}), **found.sources}
        found.flags = {**(table.flags or {}), **found.flags}
    return found
