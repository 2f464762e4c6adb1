"""Reading the recipe of a container, whichever kind it is, as a list of steps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from pathlib import Path

from buildit.errors import RecipeError, UsageError
from buildit.files import is_beneath
from buildit.model.image import Inherited
from buildit.model.platform import Platform
from buildit.model.recipe import OWN_RECIPE, RecipeOptions
from buildit.model.words import hint_of
from buildit.recipe.container import LONGEST_NAME
from buildit.recipe.ways.find import FORMATS_OF, NO_VERSION, Foreign, RecipeFile, reader_of
from buildit.recipe.ways.nodes import map_node, step_node
from buildit.recipe.yaml.node import Mapping, Node, Place, Sequence, read_text, shown_place
from buildit.recipe.yaml.read import load_yaml

_PLATFORM = ("os", "arch")


@dataclass(frozen=True, slots=True)
class ReadRecipe:
    """The steps of a container. `given` are variables that its `vars` do not change. `files` are
    those that it consists of, beside container.yaml, `looked` further paths that decide what it
    is. `awaits_base`: it is to be read again when the base is known. `facts` are what its template
    asked for that may be another thing elsewhere."""

    steps: Sequence
    given: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    looked: tuple[Path, ...] = ()
    awaits_base: bool = False
    remarks: tuple[str, ...] = ()
    facts: Map[str, str] = field(default_factory=dict)


def read_recipe(
    found: RecipeFile,
    wanted: RecipeOptions,
    target: Platform | None,
    here: Platform | None,
    base: Inherited | None,
) -> ReadRecipe:
    """Read a recipe; one that is no container.yaml is translated.

    Raises:
        UsageError: it has not what is `wanted`.
        RecipeError: it is wrong; the place names the line.
    """
    file = shown_place(found.path)
    named = {"name": wanted.name, "version": wanted.version}
    given = {name: value for name, value in named.items() if value}
    if found.kind == OWN_RECIPE:
        steps = steps_of(load_yaml(found.path))
        values = _values_of(steps, wanted, file)
        return ReadRecipe(_with_images(steps, wanted.formats, file), {**values, **given})
    beside = BesideRecipe(found.directory)
    name, text = os.path.relpath(found.path, found.directory), read_text(found.path, file)
    facts = dict(wanted.facts)
    if target is not None:
        facts |= {"os": target.os, "arch": target.arch}
    told = Foreign(file, name, text, wanted, target, here, base, beside.text, facts)
    done = reader_of(found.kind, file)(told)
    steps, own = done.steps, _variables(done.steps)
    usual = {"name": _name_of(found.directory), "version": NO_VERSION}
    given |= {name: value for name, value in usual.items() if name not in {*own, *given}}
    formats = wanted.formats
    if not formats and not any(key == "image" for key in _keys(steps)):
        formats = FORMATS_OF[found.kind]
    steps = _with_images(steps, formats, file)
    files = (found.path, *(path for path in beside.looked if path.is_file()))
    looked = tuple(beside.looked)
    awaits = done.pending and base is None
    pinned = {name: value for name, value in done.facts.items() if name not in _PLATFORM}
    return ReadRecipe(steps, given, files, looked, awaits, done.remarks, pinned)


def steps_of(node: Node) -> Sequence:
    """The steps of a list. Raises RecipeError where it is none."""
    if not isinstance(node, Sequence):
        hint = "begin each step with a dash: `- vars: {name: web, version: 1.0}`"
        raise node.error("expected a list of steps", hint)
    return node


class BesideRecipe:
    """Reads the files of a directory that a recipe asks for, and notes which."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.looked: list[Path] = []

    def text(self, name: str) -> str | None:
        path = Path(os.path.normpath(self.directory / name))
        if not is_beneath(path, self.directory):
            message = f"{name!r} lies outside of the directory of the container"
            raise RecipeError(message, place=shown_place(self.directory))
        self.looked.append(path)
        return read_text(path, shown_place(path)) if os.path.lexists(path) else None


def _keys(steps: Sequence) -> Iterable[str]:
    maps = (one for one in steps.items if isinstance(one, Mapping))
    return (key.text for one in maps for key, _ in one.items)


def _variables(steps: Sequence) -> dict[str, None]:
    """The names that the `vars` steps of a list itself set."""
    maps = (one.get("vars") for one in steps.items if isinstance(one, Mapping))
    return {name.text: None for one in maps if isinstance(one, Mapping) for name, _ in one.items}


def _values_of(steps: Sequence, wanted: RecipeOptions, file: str) -> dict[str, str]:
    """What the command line says of the variables of a container.yaml.

    Raises:
        UsageError: it has no such variable, the platform says it, or it has no stages.
    """
    if wanted.stage:
        hint = "--target is for a Dockerfile; build a part of this one with --until"
        raise UsageError("the container has no stages", place=file, hint=hint)
    known = [name for name in _variables(steps) if name not in _PLATFORM]
    for name, _ in wanted.values:
        if name in _PLATFORM:
            raise UsageError(f"--set says the {name}", place=file, hint="say it with --platform")
        if name not in known:
            message = f"no `vars` step has {name!r}"
            raise UsageError(message, place=file, hint=hint_of(name, known))
    return dict(wanted.values)


def _with_images(steps: Sequence, formats: tuple[str, ...], file: str) -> Sequence:
    """The steps with these images in the place of their own, where there are any."""
    if not formats:
        return steps
    place = Place(file, 1, 1)
    kept = [one for one in steps.items if not (isinstance(one, Mapping) and one.key("image"))]
    made = [step_node(place, "image", map_node(place, {"type": one})) for one in formats]
    return Sequence((*kept, *made), steps.place)


def _name_of(directory: Path) -> str:
    """What a container is called by its directory, with `-` for what no file name may have."""
    name = os.path.basename(os.path.realpath(directory))
    fit = "".join(sign if sign.isprintable() and not sign.isspace() else "-" for sign in name)
    return fit.lstrip(".-").encode()[:LONGEST_NAME].decode(errors="ignore") or "container"
