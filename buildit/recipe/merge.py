"""Overlay: how a package says only what differs from its base.

Scalars replace, maps merge, lists append. A map with verbs in the place of a list or map says
otherwise: `{$prepend: […]}`, `{$append: […]}`, `{$replace: …}`, `{$remove: […]}`. Every node keeps
the place where it was written, so the merged recipe still says where each leaf comes from.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

from buildit.errors import RecipeError
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence

_VERBS = ("$prepend", "$append", "$replace", "$remove")


def overlay(base: Node | None, over: Node) -> Node:
    """`over` laid upon `base`.

    Raises:
        RecipeError: the kinds differ, a verb does not fit, or `$remove` names what is not there.
    """
    if isinstance(over, Mapping) and (verbs := _verbs(over)):
        return _edited(base, over, verbs)
    if base is None:
        return _plain(over)
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return _merged(base, over)
    if isinstance(base, Sequence) and isinstance(over, Sequence):
        return replace(over, items=base.items + tuple(_plain(item) for item in over.items))
    if isinstance(base, Scalar) and isinstance(over, Scalar):
        return over
    raise RecipeError(
        f"a {_kind(over)} cannot be laid over the {_kind(base)} at {base.place}",
        place=str(over.place),
        hint="write the same kind of value, or `{$replace: …}`",
    )


def _merged(base: Mapping, over: Mapping) -> Mapping:
    merged = {key.text: (key, value) for key, value in base.items}
    for key, value in over.items:
        before = merged.get(key.text)
        merged[key.text] = (key, overlay(before[1] if before else None, value))
    return replace(over, items=tuple(merged.values()))


def _plain(node: Node) -> Node:
    """`node` with the verbs inside it carried out against nothing."""
    if isinstance(node, Mapping):
        if _verbs(node):
            return overlay(None, node)
        return replace(node, items=tuple((key, _plain(value)) for key, value in node.items))
    if isinstance(node, Sequence):
        return replace(node, items=tuple(_plain(item) for item in node.items))
    return node


def _verbs(node: Mapping) -> dict[str, Node]:
    """The verbs of a map.

    `$remove` may stand among a map's own keys; the other verbs stand only among verbs.
    """
    verbs = {key.text: value for key, value in node.items if key.text.startswith("$")}
    for key, _ in node.items:
        if key.text.startswith("$") and key.text not in _VERBS:
            raise RecipeError(
                f"unknown verb {key.text!r}",
                place=str(key.place),
                hint=f"the verbs are {', '.join(_VERBS)}",
            )
    return verbs


def _edited(base: Node | None, over: Mapping, verbs: dict[str, Node]) -> Node:
    own = tuple((key, value) for key, value in over.items if not key.text.startswith("$"))
    if "$replace" in verbs:
        if len(verbs) > 1 or own:
            raise RecipeError(
                "`$replace` stands alone",
                place=str(over.place),
                hint="write everything into it, or use the other verbs without it",
            )
        return _plain(verbs["$replace"])
    if isinstance(base, Sequence) or (base is None and not own and set(verbs) != {"$remove"}):
        return _edited_list(base, over, verbs, own)
    if set(verbs) != {"$remove"} or not isinstance(base, Mapping):
        raise RecipeError(
            f"{', '.join(sorted(verbs))} cannot change "
            + (f"the {_kind(base)} at {base.place}" if base else "what the base does not have"),
            place=str(over.place),
            hint="lists take $prepend, $append, $replace and $remove; maps $replace and $remove",
        )
    gone = _names(verbs["$remove"])
    _check_present(gone, [key.text for key, _ in base.items])
    names = {name.text for name in gone}
    kept = replace(base, items=tuple(pair for pair in base.items if pair[0].text not in names))
    return _merged(kept, replace(over, items=own))


def _edited_list(
    base: Sequence | None, over: Mapping, verbs: dict[str, Node], own: Seq[object]
) -> Sequence:
    if own:
        raise RecipeError(
            "verbs and other keys cannot be mixed over a list",
            place=str(over.place),
            hint=f"the verbs are {', '.join(_VERBS)}",
        )
    items = base.items if base else ()
    if "$remove" in verbs:
        gone = _names(verbs["$remove"])
        _check_present(gone, [item.text for item in items if isinstance(item, Scalar)])
        names = {name.text for name in gone}
        items = tuple(i for i in items if not (isinstance(i, Scalar) and i.text in names))
    before = _items(verbs["$prepend"]) if "$prepend" in verbs else ()
    after = _items(verbs["$append"]) if "$append" in verbs else ()
    return Sequence(before + items + after, over.place)


def _items(node: Node) -> tuple[Node, ...]:
    if not isinstance(node, Sequence):
        raise RecipeError(
            f"expected a list, found a {_kind(node)}",
            place=str(node.place),
            hint="write the items in brackets: [x, y]",
        )
    return tuple(_plain(item) for item in node.items)


def _names(node: Node) -> tuple[Scalar, ...]:
    names = _items(node)
    for name in names:
        if not isinstance(name, Scalar):
            raise RecipeError(
                "`$remove` takes a list of names",
                place=str(name.place),
                hint="name keys or plain items; replace a list of conditions with `$replace`",
            )
    return tuple(name for name in names if isinstance(name, Scalar))


def _check_present(gone: tuple[Scalar, ...], present: Seq[str]) -> None:
    for name in gone:
        if name.text not in present:
            raise RecipeError(
                f"nothing to remove: the base has no {name.text!r}",
                place=str(name.place),
                hint=f"it has: {', '.join(present) or 'nothing'}",
            )


def _kind(node: Node) -> str:
    match node:
        case Mapping():
            return "map"
        case Sequence():
            return "list"
        case Scalar():
            return "value"
