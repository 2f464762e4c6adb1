"""Nodes of steps that we make ourselves, of a line of somebody's file: no text is a template."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Mapping as Map

from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence


def text_node(place: Place, text: str) -> Scalar:
    """A text that is no template."""
    return Scalar(text, place, rendered=True)


def list_node(place: Place, values: Iterable[str]) -> Sequence:
    """A list of texts, all of one place."""
    return Sequence(tuple(text_node(place, one) for one in values), place)


def map_node(place: Place, values: Map[str, str | Node]) -> Mapping:
    """A map of texts or further nodes, all of one place."""
    pairs = (
        (text_node(place, key), text_node(place, one) if isinstance(one, str) else one)
        for key, one in values.items()
    )
    return Mapping(tuple(pairs), place)


Plain = str | Collection["Plain"] | Map[str, "Plain"]
"""Texts, lists and maps of them."""


def plain_node(place: Place, value: Plain) -> Node:
    """The node of a value, all of one place."""
    if isinstance(value, str):
        return text_node(place, value)
    if isinstance(value, Map):
        return map_node(place, {key: plain_node(place, one) for key, one in value.items()})
    return Sequence(tuple(plain_node(place, one) for one in value), place)


def step_of(place: Place, key: str, value: Plain) -> Mapping:
    """A step with one key, all of one place."""
    return step_node(place, key, plain_node(place, value))


def step_node(place: Place, key: str, value: Node) -> Mapping:
    """A step with one key."""
    return Mapping(((text_node(place, key), value),), place)
