"""What reads the file of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildit.recipe.stack import STACK_FILE
from buildit.recipe.stackread import LoadedStack, load_stack
from buildit.recipe.ways.compose.read import load_compose


def read_stack_file(path: Path, environ: Mapping[str, str]) -> LoadedStack:
    """The stack that a file says; `environ` is what compose fills into its texts.

    Raises:
        RecipeError: it is wrong; the place names the line.
    """
    return load_stack(path) if path.name == STACK_FILE else load_compose(path, environ)
