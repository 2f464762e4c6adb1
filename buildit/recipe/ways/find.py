"""Which recipe a directory has, what the command line says of it, and what reads it.

A recipe that is no container.yaml is translated into the same steps: as nodes, whose places are
lines of its own file. After that nothing knows that there was another recipe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.errors import RecipeError, UsageError
from buildit.model.image import Inherited
from buildit.model.platform import Platform
from buildit.model.recipe import (
    CONTAINER_FILE,
    DOCKERFILE,
    FLOCKPORT,
    MANIFEST,
    RECIPE_NAMES,
    STACK_NAMES,
    RecipeOptions,
    kind_of_name,
)
from buildit.model.words import hint_of
from buildit.recipe.yaml.node import Sequence, shown_place

FORMATS_OF = {DOCKERFILE: ("oci",), FLOCKPORT: ("lxc",), MANIFEST: ("oci",)}
"""The images of a recipe that says none."""

NO_VERSION = "latest"
"""That of a container whose recipe says none."""


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """The recipe of a container in `directory`: its file and kind; `looked` are all paths that
    decide which it is, whether they are there or not."""

    directory: Path
    path: Path
    kind: str
    looked: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Foreign:
    """A recipe that is no container.yaml, as its reader gets it.

    `file` is its name in messages, `name` its path from the container's directory, `text` what it
    says. `target` is what is built for, `here` this machine. `base` is what the image says that it
    begins with; None until that is known, which the translation says in `pending` where it matters.
    `beside` gives the text of a file beneath the container's directory, by its relative path; None
    where there is none. `facts` are what a template may ask of the machine and the day, by name.
    """

    file: str
    name: str
    text: str
    wanted: RecipeOptions
    target: Platform | None
    here: Platform | None
    base: Inherited | None
    beside: Callable[[str], str | None]
    facts: Mapping[str, str] = field(default_factory=dict)

    def given(self) -> dict[str, str]:
        """What the command line says of its parameters."""
        return dict(self.wanted.values)

    def beside_it(self, name: str) -> str:
        """The name in messages of a file beneath the container's directory."""
        above = self.file.removesuffix(self.name)
        return f"{above}{name}"

    def refuse_stage(self, what: str) -> None:
        """Raises UsageError where one of several stages is asked for; `what` has none."""
        if self.wanted.stage:
            hint = "--target is for a Dockerfile; build a part of this one with --until"
            raise UsageError(f"{what} has no stages", place=self.file, hint=hint)

    def refuse_unused(self, known: Collection[str], what: str) -> None:
        """Raises UsageError where a parameter is given that `what` does not ask for."""
        for name, _ in self.wanted.values:
            if name not in known:
                message = f"--set {name}: {what} asks for no {name!r}"
                raise UsageError(message, place=self.file, hint=hint_of(name, sorted(known)))


@dataclass(frozen=True, slots=True)
class Translated:
    """What a recipe is in the words of container.yaml: its steps, each a map with one key, rendered
    already. `pending`: some of it is another thing once the base is known. `remarks` are for the
    user to see. `facts` are what it asked for and would be another thing elsewhere: facts, and what
    the command line gave."""

    steps: Sequence
    pending: bool = False
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


RecipeReader = Callable[[Foreign], Translated]
"""Translates a recipe. Raises RecipeError: it is wrong, with the line; UsageError: the command line
asks for what it has not."""


def reader_of(kind: str, file: str) -> RecipeReader:
    """What reads a kind of recipe.

    Raises:
        RecipeError: nothing does.
    """
    if kind == DOCKERFILE:
        from buildit.recipe.ways.dockerfile.steps import read_dockerfile

        return read_dockerfile
    if kind == FLOCKPORT:
        from buildit.recipe.ways.flockport import read_flockport

        return read_flockport
    if kind == MANIFEST:
        from buildit.recipe.ways.manifest import read_manifest

        return read_manifest
    hint = f"write a {CONTAINER_FILE}: docs/containers.md"
    raise RecipeError("recipes of this kind are not read", place=file, hint=hint)


def find_recipe(directory: Path, wanted: RecipeOptions) -> RecipeFile:
    """The recipe of a container: the file that is asked for, else the first that is there.

    Raises:
        UsageError: there is none.
    """
    shown = shown_place(directory)
    if wanted.file:
        path = directory / wanted.file
        if not os.path.lexists(path):
            hint = f"--file names it from {shown}, the directory of the container"
            raise UsageError("there is no such recipe", place=shown_place(path), hint=hint)
        return RecipeFile(directory, path, kind_of_name(path.name) or DOCKERFILE, (path,))
    looked = [directory / STACK_NAMES[0]]  # which comes first for a build
    for name, kind in RECIPE_NAMES:
        looked.append(directory / name)
        if os.path.lexists(looked[-1]):
            return RecipeFile(directory, looked[-1], kind, tuple(looked))
    message = f"there is no {CONTAINER_FILE} in {shown}"
    hint = "name the directory of a container: buildit containers/nginx-prod/"
    if (stack := find_stack(directory, wanted)) is not None:
        message = f"{shown} has a stack, and this is of one container"
        hint = f"name the directory of one of those in {stack.name}"
    elif near := _like_recipes(directory):
        hint = f"a recipe with another name is named: --file {near[0]}"
    raise UsageError(message, place=shown_place(directory / CONTAINER_FILE), hint=hint)


def _like_recipes(directory: Path) -> list[str]:
    """The files of a directory that are most likely recipes under another name."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    known = {name.lower() for name, _ in RECIPE_NAMES}
    kinds = {DOCKERFILE, FLOCKPORT, MANIFEST}
    return [one for one in names if one.lower() in known or kind_of_name(one) in kinds]


def has_recipe(directory: Path, wanted: RecipeOptions) -> bool:
    """Whether a directory has a recipe of a container, or the one that is asked for."""
    names = [wanted.file] if wanted.file else [name for name, _ in RECIPE_NAMES]
    return any(os.path.lexists(directory / name) for name in names)


def find_stack(directory: Path, wanted: RecipeOptions) -> Path | None:
    """The file of the stack that a directory has, or that is asked for by its name; None where it
    is a container's. A compose file beside the recipe of a container is not meant by itself."""
    if wanted.file:
        name = os.path.basename(wanted.file)
        return directory / wanted.file if name in STACK_NAMES else None
    own = directory / STACK_NAMES[0]
    if os.path.lexists(own):
        return own
    if has_recipe(directory, wanted):
        return None
    paths = (directory / name for name in STACK_NAMES)
    return next((path for path in paths if os.path.lexists(path)), None)


def named_recipe(path: Path, wanted: RecipeOptions) -> tuple[Path, RecipeOptions]:
    """The directory of the container that a path names: its own, or that of a recipe.

    Raises:
        UsageError: it is a recipe, and `--file` names one, too.
    """
    is_known = kind_of_name(path.name) is not None or path.name in STACK_NAMES
    if path.is_dir() or not path.is_file() or not is_known:
        return path, wanted
    if wanted.file:
        hint = f"name the directory, or leave --file out: buildit {path}"
        raise UsageError("two recipes are named", place=shown_place(path), hint=hint)
    return path.parent, replace(wanted, file=path.name)
