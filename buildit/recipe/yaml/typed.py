"""Located nodes to typed models; what pydantic finds wrong becomes one error with places."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping as Map
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from buildit.errors import RecipeError
from buildit.model.nearest import advice
from buildit.model.yamlword import yaml_word
from buildit.recipe.leaf import LeafError
from buildit.recipe.schema import MAPPING, SCALAR, SEQUENCE, UNKNOWN_KEY
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence

T = TypeVar("T")
_SHOWN = 10
_KINDS = {SCALAR: "text", SEQUENCE: "a list", MAPPING: "a mapping"}
_EXPECTED = {
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "int_type": "a number",
    "int_parsing": "a number",
    "bool_type": "on or off",
    "bool_parsing": "on or off",
}


def parse(node: Node, model: type[T]) -> T:
    """`node` as `model`: a `Model`, or a tuple or union of such.

    Raises:
        RecipeError: unknown or missing keys, values that their types refuse; the first one is the
            message, up to nine more are its details.
    """
    try:
        return TypeAdapter(model).validate_python(plain(node), by_alias=True, by_name=False)
    except ValidationError as error:
        found = [_finding(node, one) for one in error.errors(include_url=False)]
        raise _report(found) from error


def plain(node: Node) -> str | list[Any] | dict[str, Any]:
    """`node` without places: texts, lists, and maps in written order."""
    match node:
        case Scalar(text):
            return text
        case Sequence(items):
            return [plain(item) for item in items]
        case Mapping(items):
            return {key.text: plain(value) for key, value in items}


@dataclass(frozen=True, slots=True, order=True)
class _Finding:
    place: tuple[str, int, int]
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{':'.join(map(str, self.place))}: {self.message}"


def _report(found: list[_Finding]) -> RecipeError:
    ordered = sorted(set(found))
    first, *rest = ordered
    details = tuple(f"{one} ({one.hint})" if one.hint else str(one) for one in rest[: _SHOWN - 1])
    if len(ordered) > _SHOWN:
        details += (f"and {len(ordered) - _SHOWN} more",)
    return RecipeError(
        first.message,
        place=":".join(map(str, first.place)),
        hint=first.hint or None,
        details=details,
    )


@dataclass(frozen=True, slots=True)
class _Spot:
    """How far an error's location leads into the nodes: the node, its key, what did not fit."""

    node: Node
    key: Scalar | None = None
    rest: tuple[int | str, ...] = ()


def _spot(root: Node, loc: tuple[int | str, ...]) -> _Spot:
    """Follow `loc`; a part that is no key or position there is the tag of a union, or missing."""
    spot = _Spot(root)
    for part in loc:
        spot = _step(spot, part)
    return spot


def _step(spot: _Spot, part: int | str) -> _Spot:
    match spot.node:
        case Mapping() as mapping:
            key, value = mapping.key(str(part)), mapping.get(str(part))
            if key is not None and value is not None:
                return _Spot(value, key)
        case Sequence(items):
            if isinstance(part, int) and part < len(items):
                return _Spot(items[part], spot.key)
        case Scalar():
            pass
    return _Spot(spot.node, spot.key, (*spot.rest, part))


def _at(place: Place, message: str, hint: str | None = None) -> _Finding:
    return _Finding((place.file, place.line, place.column), message, hint or "")


def _finding(root: Node, error: ErrorDetails) -> _Finding:
    kind, loc = error["type"], error["loc"]
    context: Map[str, Any] = error.get("ctx", {})
    spot = _spot(root, loc)
    if kind == UNKNOWN_KEY and spot.key is not None:
        name = spot.key.text
        return _at(spot.key.place, f"unknown key {name!r}", advice(name, context["valid"]))
    if kind == "missing":
        return _at(spot.node.place, f"the key {loc[-1]!r} is missing", f"add `{loc[-1]}: …`")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _of_union(context, spot)
    if spot.rest[-1:] == ("[key]",) and spot.key is not None:
        spot = _Spot(spot.key)  # pydantic locates an unfit key of a map as (…, key, "[key]")
    message, hint = _said(kind, error["msg"], context, spot)
    place = spot.node.place
    subject = f"{spot.key.text}: " if spot.key is not None else ""
    return _at(place, subject + message, hint)


def _said(kind: str, text: str, context: Map[str, Any], spot: _Spot) -> tuple[str, str | None]:
    """The message and the hint of an error that is not about a key."""
    wrong = context.get("error")
    if isinstance(wrong, ValueError):
        return str(wrong), wrong.hint if isinstance(wrong, LeafError) else None
    written = _written(spot.node)
    if expected := _EXPECTED.get(kind):
        return f"expected {expected}, found {written}", _form(spot.node, expected)
    if kind in {"literal_error", "enum"}:
        choices = _quoted(str(context.get("expected", "")))
        chosen = spot.node.text if isinstance(spot.node, Scalar) else ""
        return f"expected one of {', '.join(choices)}; found {written}", advice(chosen, choices)
    if kind in {"too_short", "too_long"}:
        limit = context.get("min_length", context.get("max_length"))
        word = "at least" if kind == "too_short" else "at most"
        return f"expected {word} {limit}, found {context.get('actual_length')}", None
    return f"{text[:1].lower()}{text[1:]}, found {written}", None


def _of_union(context: Map[str, Any], spot: _Spot) -> _Finding:
    """No branch fits: by the kind of the node, or by the key that says which one."""
    choices = _quoted(str(context.get("expected_tags", "")))
    place = spot.node.place
    if kinds := [_KINDS[choice] for choice in choices if choice in _KINDS]:
        subject = f"{spot.key.text}: " if spot.key is not None else ""
        expected = " or ".join(kinds)
        return _at(place, f"{subject}expected {expected}, found {_written(spot.node)}")
    name = str(context.get("discriminator", "")).strip("'")
    chosen = spot.node.get(name) if isinstance(spot.node, Mapping) else None
    if chosen is None:
        return _at(place, f"the key {name!r} is missing")
    found = _written(chosen)
    hint = advice(chosen.text if isinstance(chosen, Scalar) else "", choices)
    return _at(chosen.place, f"{name}: expected one of {', '.join(choices)}; found {found}", hint)


def _quoted(text: str) -> tuple[str, ...]:
    """The names in pydantic's `'a', 'b' or 'c'`."""
    return tuple(re.findall(r"'([^']*)'", text))


def _form(node: Node, expected: str) -> str | None:
    """How what was expected is written."""
    if expected == "a mapping":
        return "write `key: value` lines below it"
    if expected == "a list":
        text = node.text if isinstance(node, Scalar) else ""
        return _as_list(text) or "write each item on a line that begins with a dash"
    return None


_SHELL = re.compile(r"[|&;<>$`*]")


def _as_list(text: str) -> str | None:
    """How a text that was meant as a list is written as one, word by word as a shell reads it."""
    if not text.strip():
        return None
    if _SHELL.search(text) and any(char.isspace() for char in text.strip()):
        words = ["/bin/sh", "-c", text.strip()]
    else:
        try:
            words = shlex.split(text)
        except ValueError:  # a lone quote
            return None
    return f"write [{', '.join(map(yaml_word, words))}]"


def _written(node: Node) -> str:
    match node:
        case Scalar(""):
            return "nothing"
        case Scalar(text):
            shown = text if len(text) <= 60 else text[:59] + "…"
            return repr(shown)
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"
