"""Which stack a directory has, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from buildit.model.recipe import STACK_NAMES, RecipeOptions
from buildit.recipe.stack import STACK_FILE
from buildit.recipe.stackread import LoadedStack, load_stack
from buildit.recipe.ways.compose.read import load_compose
from buildit.recipe.ways.find import has_recipe


def find_stack(directory: Path, wanted: RecipeOptions) -> Path | None:
    """The file of the stack that a directory has, or that is asked for by its name; None where it
    is a container's. A compose file beside the recipe of a container is not meant by itself."""
    if wanted.file:
        name = os.path.basename(wanted.file)
        return directory / wanted.file if name in STACK_NAMES else None
    own = directory / STACK_FILE
    if os.path.lexists(own):
        return own
    if has_recipe(directory, wanted):
        return None
    paths = (directory / name for name in STACK_NAMES)
    return next((path for path in paths if os.path.lexists(path)), None)


def read_stack_file(path: Path, environ: Mapping[str, str]) -> LoadedStack:
    """The stack that a file says; `environ` is what compose fills into its texts.

    Raises:
        RecipeError: it is wrong; the place names the line.
    """
    return load_stack(path) if path.name == STACK_FILE else load_compose(path, environ)
