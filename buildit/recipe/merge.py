"""Overlay: how a package says only what differs from its base.

Scalars replace, maps merge, lists append. A map with verbs in the place of a list or map says
otherwise: `{$prepend: […]}`, `{$append: […]}`, `{$replace: …}`, `{$remove: […]}`. Every node keeps
the place where it was written, so the merged recipe still says where each leaf comes from.
"""

from __future__ import annotations

from dataclasses import replace

from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence

_VERBS = ("$prepend", "$append", "$replace", "$remove")
_KINDS = {Mapping: "map", Sequence: "list", Scalar: "value"}


def overlay(base: Node | None, over: Node) -> Node:
    """`over` laid upon `base`; upon nothing, `over` with its verbs carried out.

    Raises:
        RecipeError: the kinds differ, a verb does not fit, or `$remove` names what is not there.
    """
    match over:
        case Mapping() if verbs := _verbs(over):
            return _edited(base, over, verbs)
        case Mapping() if base is None or isinstance(base, Mapping):
            merged = {key.text: (key, value) for key, value in (base.items if base else ())}
            for key, value in over.items:
                before = merged.get(key.text)
                merged[key.text] = (key, overlay(before[1] if before else None, value))
            return replace(over, items=tuple(merged.values()))
        case Sequence() if base is None or isinstance(base, Sequence):
            return replace(over, items=(base.items if base else ()) + _items(over))
        case Scalar() if base is None or isinstance(base, Scalar):
            return over
    raise over.error(
        f"a {_KINDS[type(over)]} cannot be laid over the {_named(base)}",
        "write the same kind of value, or `{$replace: …}`",
    )


def _verbs(node: Mapping) -> dict[str, Node]:
    """The verbs of a map.

    `$remove` may stand among a map's own keys; the other verbs stand only among verbs.
    """
    verbs = {key.text: value for key, value in node.items if key.text.startswith("$")}
    for key, _ in node.items:
        if key.text in verbs and key.text not in _VERBS:
            raise key.error(f"unknown verb {key.text!r}", f"the verbs are {', '.join(_VERBS)}")
    return verbs


def _edited(base: Node | None, over: Mapping, verbs: dict[str, Node]) -> Node:
    own = over.without(*verbs)
    if "$replace" in verbs:
        if len(verbs) > 1 or own.items:
            hint = "write everything into it, or use the other verbs without it"
            raise over.error("`$replace` stands alone", hint)
        return overlay(None, verbs["$replace"])
    only_removes = set(verbs) == {"$remove"}
    if isinstance(base, Sequence) or (base is None and not own.items and not only_removes):
        if own.items:
            hint = f"the verbs are {', '.join(_VERBS)}"
            raise over.error("verbs and other keys cannot be mixed over a list", hint)
        return _edited_list(base.items if base else (), over, verbs)
    if not only_removes or not isinstance(base, Mapping):
        raise over.error(
            f"{', '.join(sorted(verbs))} cannot change "
            + (f"the {_named(base)}" if base else "what the base does not have"),
            "lists take $prepend, $append, $replace and $remove; maps $replace and $remove",
        )
    gone = _removed(verbs["$remove"], [key.text for key, _ in base.items])
    return overlay(base.without(*gone), own)


def _edited_list(items: tuple[Node, ...], over: Mapping, verbs: dict[str, Node]) -> Sequence:
    if "$remove" in verbs:
        present = [item.text for item in items if isinstance(item, Scalar)]
        gone = _removed(verbs["$remove"], present)
        items = tuple(i for i in items if not (isinstance(i, Scalar) and i.text in gone))
    before, after = (
        _items(verbs[verb]) if verb in verbs else () for verb in ("$prepend", "$append")
    )
    return Sequence(before + items + after, over.place)


def _items(node: Node) -> tuple[Node, ...]:
    if not isinstance(node, Sequence):
        hint = "write the items in brackets: [x, y]"
        raise node.error(f"expected a list, found a {_KINDS[type(node)]}", hint)
    return tuple(overlay(None, item) for item in node.items)


def _removed(node: Node, present: list[str]) -> list[str]:
    """The names that `$remove` lists, each of which is there."""
    gone = []
    for name in _items(node):
        if not isinstance(name, Scalar):
            hint = "name keys or plain items; replace a list of conditions with `$replace`"
            raise name.error("`$remove` takes a list of names", hint)
        if name.text not in present:
            hint = f"it has: {', '.join(present) or 'nothing'}"
            raise name.error(f"nothing to remove: the base has no {name.text!r}", hint)
        gone.append(name.text)
    return gone


def _named(base: Node | None) -> str:
    return f"{_KINDS[type(base)]} at {base.place}" if base else "nothing"
