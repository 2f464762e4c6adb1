"""Recipes that lie in memory: what a reader makes of one, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from buildit.model.image import App, Inherited
from buildit.model.recipe import RecipeOptions
from buildit.recipe.ways.find import Foreign, Translated
from buildit.recipe.yaml import node as nodes
from buildit.recipe.yaml.node import Node, Scalar


def plain(node: Node) -> Any:
    """A node as maps, lists and texts."""
    match node:
        case Scalar(text):
            return text
        case nodes.Sequence(items):
            return [plain(one) for one in items]
        case nodes.Mapping(pairs):
            return {key.text: plain(value) for key, value in pairs}


def foreign(
    text: str,
    name: str = "recipe",
    files: Mapping[str, str] | None = None,
    base: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
    **said: Any,
) -> Foreign:
    """A recipe in the directory `box`, with `files` beside it; `said` is of RecipeOptions."""
    inherited = None if base is None else Inherited(App((), environment=tuple(base.items())))
    beside = (files or {}).get
    wanted = RecipeOptions(**said)
    given = dict(facts or {})
    return Foreign(f"box/{name}", name, text, wanted, None, None, inherited, beside, given)


def steps(read: Callable[[Foreign], Translated], recipe: Foreign) -> list[tuple[int, Any]]:
    """Each step with its line."""
    return [(one.place.line, plain(one)) for one in read(recipe).steps.items]
