"""One compose file over another, and a service over the one that it extends (compose-spec,
"Merge and override"). Pure."""

from __future__ import annotations

from collections.abc import Mapping as Map

from buildit.recipe.ways.nodes import text_node
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence

_WHOLE = frozenset({"command", "entrypoint", "test", "dns", "tmpfs"})
"""Lists that are another's as a whole."""

_PAIRS = frozenset({"environment", "labels", "args", "annotations", "extra_hosts", "sysctls"})
"""Maps that may be written as lists of `NAME=VALUE`."""

_NAMES = frozenset({"depends_on", "networks"})
"""Maps that may be written as lists of names."""

_TARGETS = {"volumes": "target", "secrets": "source", "configs": "source"}
"""Lists of which the later entry for one target counts."""


def merged(below: Node, above: Node, key: str = "") -> Node:
    """What is said above, and of what is below it what that leaves open."""
    if key in _PAIRS:
        below, above = as_pairs(below), as_pairs(above)
    if key in _NAMES:
        below, above = as_names(below), as_names(above)
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return _merged_maps(below, above)
    if isinstance(below, Sequence) and isinstance(above, Sequence) and key not in _WHOLE:
        return _merged_lists(below, above, _TARGETS.get(key, ""))
    return above


def _merged_maps(below: Mapping, above: Mapping) -> Mapping:
    items: dict[str, tuple[Scalar, Node]] = {name.text: (name, one) for name, one in below.items}
    for name, one in above.items:
        own = items.get(name.text)
        items[name.text] = (name, one if own is None else merged(own[1], one, name.text))
    return Mapping(tuple(items.values()), above.place)


def _merged_lists(below: Sequence, above: Sequence, target: str) -> Sequence:
    if not target:
        known = [*below.items]
        return Sequence((*known, *(one for one in above.items if one not in known)), above.place)
    found = {_target(one, target): one for one in (*below.items, *above.items)}
    return Sequence(tuple(found.values()), above.place)


def _target(node: Node, key: str) -> str:
    if isinstance(node, Mapping):
        named = node.get(key)
        return named.text if isinstance(named, Scalar) else str(node.place)
    if not isinstance(node, Scalar):
        return str(node.place)
    if key != "target":
        return node.text
    parts = node.text.split(":")
    return parts[1] if len(parts) > 1 else parts[0]


def as_pairs(node: Node) -> Node:
    """A list of `NAME=VALUE` as a map; a name alone has a value of nothing."""
    if not isinstance(node, Sequence):
        return node
    items = []
    for one in node.items:
        if not isinstance(one, Scalar):
            raise one.error("expected NAME=VALUE", "or write a map: NAME: VALUE")
        sign = min((at for at in (one.text.find("="), one.text.find(":")) if at > 0), default=-1)
        if "=" in one.text:
            sign = one.text.index("=")
        name, value = (one.text[:sign], one.text[sign + 1 :]) if sign > 0 else (one.text, None)
        made = Scalar("", one.place) if value is None else Scalar(value, one.place, one.place)
        items.append((text_node(one.place, name), made))
    return Mapping(tuple(_last(items).values()), node.place)


def _last(items: list[tuple[Scalar, Scalar]]) -> Map[str, tuple[Scalar, Node]]:
    return {name.text: (name, value) for name, value in items}


def as_names(node: Node) -> Node:
    """A list of names as a map, each with a value of nothing."""
    if not isinstance(node, Sequence):
        return node
    items = [(one, Scalar("", one.place)) for one in node.items if isinstance(one, Scalar)]
    if len(items) != len(node.items):
        raise node.error("expected a list of names", "or a map of them")
    return Mapping(tuple(_last([*items]).values()), node.place)


def is_null(node: Node | None) -> bool:
    """Whether no value is written: an empty text in quotes is one."""
    return node is None or (isinstance(node, Scalar) and not node.text and node.body is None)
