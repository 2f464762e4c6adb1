"""`explain` and `use`: the packages of a container as they are chosen."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from buildit.commands.choose import Choice, choose, shipped_trees
from buildit.commands.run import Options
from buildit.errors import UsageError
from buildit.model.use import flag_text
from buildit.model.version import Version
from buildit.plan.evaluate import Evaluated, declared_flags
from buildit.plan.resolve import Demand
from buildit.recipe.config import load_config
from buildit.recipe.container import CONTAINER_FILE
from buildit.recipe.package import Package
from buildit.recipe.trees import PACKAGE_FILE, Catalog
from buildit.recipe.yaml.node import leaves
from buildit.recipe.yaml.text import shown_place


def chosen(options: Options) -> Choice:
    """What a build would choose, with the lock where there is one.

    Raises:
        UsageError, RecipeError, UnsatisfiableError: as `choose`.
    """
    return choose(options, load_config(options.directory))


def recipes(options: Options, wanted: str | None) -> tuple[tuple[Package, tuple[Demand, ...]], ...]:
    """The merged recipes that `explain` shows, and who asks for each: `wanted`, else what the
    directory itself names.

    The directory is a container's, or holds a pkg.yaml.

    Raises:
        UsageError: it is neither, or nothing there is called `wanted`.
        RecipeError, UnsatisfiableError: a file is wrong.
    """
    directory = options.directory
    if not (directory / CONTAINER_FILE).exists() and (directory / PACKAGE_FILE).exists():
        return ((_alone(directory, wanted), ()),)
    choice = chosen(options)
    demands = choice.selection.demands
    known = {name: (one.package, demands[name]) for name, one in choice.selection.chosen.items()}
    if wanted is None:
        return tuple(known[name] for name in dict.fromkeys(choice.roots.names.values()))
    fitting = [name for name in known if wanted in (name, name.rpartition("/")[2])]
    if len(fitting) != 1:
        raise unknown_package(wanted, tuple(known), shown_place(directory))
    return (known[fitting[0]],)


def unknown_package(wanted: str, known: tuple[str, ...], place: str) -> UsageError:
    """The error of a name that no package of a container has, or that several end with."""
    near = difflib.get_close_matches(wanted, known, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"no single package is called {wanted!r} here",
        place=place,
        hint=f"{guess}packages: {', '.join(sorted(known)) or 'none'}",
    )


def _alone(directory: Path, wanted: str | None) -> Package:
    """The package of a directory that no container is needed for."""
    loaded = load_config(directory)
    whole = Path(os.path.abspath(directory))
    tree, name = whole.parent.parent, f"{whole.parent.name}/{whole.name}"
    catalog = Catalog((tree, *loaded.config.trees, *shipped_trees()))
    if _has_base(directory):
        return catalog.embed(directory, shown_place(directory))
    place = shown_place(directory)
    versions = catalog.versions(name, place)
    version = Version.parse(wanted, place=place) if wanted else versions[0]
    if version not in versions:
        raise UsageError(
            f"{name} has no version {wanted}",
            place=place,
            hint=f"it has: {', '.join(map(str, versions))}",
        )
    exact = next(one for one in versions if one == version)
    return catalog.package(name, exact, place)


def _has_base(directory: Path) -> bool:
    from buildit.recipe.yaml.node import Mapping
    from buildit.recipe.yaml.read import load_yaml

    node = load_yaml(directory / PACKAGE_FILE)
    return isinstance(node, Mapping) and node.get("base") is not None


def recipe_plain(package: Package, demands: tuple[Demand, ...]) -> dict[str, object]:
    """A merged recipe as JSON data: each leaf with its path and place."""
    return {
        "name": package.name,
        "version": package.version,
        "origin": package.origin,
        "demands": [
            {"atom": str(one.atom), "chain": list(one.chain), "place": one.place} for one in demands
        ],
        "leaves": [
            {"path": list(path), "value": leaf.text, "place": str(leaf.place)}
            for path, leaf in leaves(package.node)
        ],
    }


def flag_rows(one: Evaluated) -> list[tuple[str, ...]]:
    """The flags of a package: what each is, who says so, what it means."""
    declared = declared_flags(one.package)
    return [
        (
            flag_text(name, setting.value),
            f"{setting.layer} ({setting.origin})",
            declared[name].description,
        )
        for name, setting in one.settings.items()
    ]


def flags_plain(one: Evaluated) -> dict[str, object]:
    declared = declared_flags(one.package)
    return {
        "name": one.package.name,
        "version": one.package.version,
        "flags": [
            {
                "flag": name,
                "value": setting.value,
                "layer": setting.layer,
                "origin": setting.origin,
                "choices": list(declared[name].choices),
                "description": declared[name].description,
            }
            for name, setting in one.settings.items()
        ],
    }
