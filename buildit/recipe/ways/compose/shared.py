"""What the readers of a compose file's parts have in common: the kinds of nodes, and how a key is
refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping as Map
from typing import NoReturn

from buildit.model.words import hint_of
from buildit.recipe.ways.compose.words import whole_bytes
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence

RemarkList = list[str]
"""Remarks, each with its place."""

Pairs = list[tuple[Scalar, Node]]


def refuse_key(key: Scalar, refused: Map[str, str], known: tuple[str, ...]) -> NoReturn:
    """Raises RecipeError: the key has no meaning here, and what to do; or compose has none such."""
    if key.text in refused:
        raise key.error(f"`{key.text}` has no meaning here", refused[key.text])
    raise key.error(f"unknown key {key.text!r}", hint_of(key.text, (*known, *refused)))


def map_said(node: Node, what: str) -> Mapping:
    """Raises RecipeError where it is no map."""
    if not isinstance(node, Mapping):
        raise node.error(f"`{what}` is a map", f"write {what}: {{NAME: …}}")
    return node


def text_said(node: Node, what: str) -> str:
    """Raises RecipeError where it is no text."""
    if not isinstance(node, Scalar):
        raise node.error(f"`{what}` is a text", f"write {what}: …")
    return node.text


def items_said(node: Node, what: str) -> tuple[Node, ...]:
    """The items of a list. Raises RecipeError where it is none."""
    if not isinstance(node, Sequence):
        raise node.error(f"`{what}` is a list", f"write {what}: […]")
    return node.items


def bytes_of(node: Node, what: str) -> str:
    """A size as `stack.yaml` has it. Raises RecipeError where it is none."""
    size = whole_bytes(text_said(node, what))
    if size is None:
        raise node.error(f"not a size: {text_said(node, what)!r}", "write it as in 512m")
    return str(size)


def is_yes(node: Node) -> bool:
    """Whether a switch is on."""
    return isinstance(node, Scalar) and node.text.lower() in ("true", "yes", "on")
