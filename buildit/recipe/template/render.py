"""Templates in values: text leaves are rendered after parsing, so structure cannot change.

A leaf without `{{`, `{%` or `{# #}` never loads Jinja2. Rendered text is marked and never rendered
again. What a template may say is in `recipe.template.template`; keys are never templates.

In templates of JSON (the raw manifest of an image) a value is escaped inside of a JSON string;
outside of one it must be a JSON value by itself. So a value can change neither the structure nor
its neighbours (THREATS B3).
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NoReturn

from buildit.errors import RecipeError
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence

Value = str | bool | int | float | abc.Sequence["Value"] | abc.Mapping[str, "Value"] | None
"""What a variable may hold: plain values only, so that a template reaches no code."""

Json = str | int | float | bool | list["Json"] | dict[str, "Json"] | None

Variables = abc.Mapping[str, Value]


COMMENT = re.compile(r"(?<!\$)\{#.*?#\}", re.DOTALL)
"""A comment of templates; `${#x}` is shell, and `{#` without an end is text."""


def is_template(text: str) -> bool:
    return "{{" in text or "{%" in text or ("{#" in text and COMMENT.search(text) is not None)


def variables_in(scalar: Scalar) -> frozenset[str]:
    """The variables that a text asks for, in branches that do not run too; none of text that is no
    template.

    Raises:
        RecipeError: the template is malformed.
    """
    if scalar.rendered or not is_template(scalar.text):
        return frozenset()
    from buildit.recipe.template.template import names_in

    return names_in(scalar)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the rendered text, and the line of the template (from 1) that it begins on.

    `is_value` tells what an expression gave from what the template itself says.
    """

    text: str
    line: int
    is_value: bool


def render_tree(node: Node, variables: Variables) -> Node:
    """`node` with every text leaf rendered; places stay.

    Raises:
        RecipeError: a template is malformed, names what is not defined, uses what templates may
            not, or grows too large; or a key is a template.
    """
    match node:
        case Scalar():
            return render_scalar(node, variables)
        case Sequence(items):
            return replace(node, items=tuple(render_tree(item, variables) for item in items))
        case Mapping(items):
            rendered = ((_key(key), render_tree(value, variables)) for key, value in items)
            return replace(node, items=tuple(rendered))


def render_scalar(scalar: Scalar, variables: Variables) -> Scalar:
    """`scalar` rendered, once.

    Raises:
        RecipeError: as `render_tree`.
    """
    if scalar.rendered or not is_template(scalar.text):
        return scalar
    text = "".join(piece.text for piece in rendered_pieces(scalar, variables))
    return replace(scalar, text=text, body=None, rendered=True)


def rendered_pieces(scalar: Scalar, variables: Variables) -> tuple[Piece, ...]:
    """What a text becomes, in parts; one part of a text that is no template.

    Raises:
        RecipeError: as `render_tree`.
    """
    if scalar.rendered or not is_template(scalar.text):
        return (Piece(scalar.text, 1, is_value=False),)
    from buildit.recipe.template.template import pieces

    return pieces(scalar, variables)


def _key(key: Scalar) -> Scalar:
    if is_template(key.text):
        message = f"the key {key.text!r} looks like a template, which keys may not be"
        raise key.error(message, "write its text out; only values are rendered")
    return key


_QUOTES = re.compile(r'\\.|"|\\\Z', re.DOTALL)
_TEXT = r'"(?:[^"\\]|\\.)*"'
_TOKENS = re.compile(rf"(?P<key>{_TEXT})\s*:|{_TEXT}|[{{}}\[\]]", re.DOTALL)


def render_json(scalar: Scalar, variables: Variables) -> Json:
    """The JSON value that the template in `scalar` becomes.

    Raises:
        RecipeError: the template is wrong, a value does not fit where it stands, or the result is
            not JSON (RFC 8259) or repeats a key; the place is that in the user's file.
    """
    pieces: tuple[Piece, ...] = (Piece(scalar.text, 1, is_value=False),)
    if not scalar.rendered and is_template(scalar.text):
        pieces = tuple(_escaped(scalar, variables))
    text = "".join(piece.text for piece in pieces)
    try:
        return _loads(text)
    except _UnfitError as error:
        line = text[text.rfind("\n", 0, error.offset) + 1 :].split("\n", 1)[0].strip()
        changed = any(piece.is_value for piece in pieces)
        details = (f"after rendering, the line is: {line[:200]}",) if line and changed else ()
        hint = "correct it there; the result must be one JSON value (RFC 8259)"
        place = str(_origin(scalar, pieces, error.offset))
        raise RecipeError(str(error), place=place, hint=hint, details=details) from error


def _origin(scalar: Scalar, pieces: tuple[Piece, ...], offset: int) -> Place:
    """Where in the user's file the character at `offset` of the result comes from."""
    if not pieces:
        return scalar.place
    starts = [0, *accumulate(len(piece.text) for piece in pieces[:-1])]
    at = max(0, bisect_right(starts, offset) - 1)
    piece = pieces[at]
    before = "" if piece.is_value else piece.text[: offset - starts[at]]
    lines = scalar.text.split("\n")
    row = min(piece.line - 1 + before.count("\n"), len(lines) - 1)
    column = len(before) - before.rfind("\n") - 1
    if "\n" not in before:
        # The line is exact; the column is that of the piece's first like text on it.
        first = "{{" if piece.is_value else piece.text.split("\n", 1)[0]
        column = max(0, lines[row].find(first)) + len(before)
    return scalar.place_of(sum(len(line) + 1 for line in lines[:row]) + column)


class _UnfitError(ValueError):
    """No JSON, or JSON that Python would take and others would not."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


def _loads(text: str) -> Json:
    try:
        value: Json = json.loads(text, parse_constant=_deny, parse_float=_number, parse_int=_whole)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _UnfitError(f"this is not JSON: {error.msg}", error.pos) from error
    except UnicodeEncodeError as error:
        raise _UnfitError("a text holds half of a surrogate pair") from error
    except RecursionError as error:
        raise _UnfitError("the JSON is nested too deeply") from error
    _check_keys(text)
    return value


def _deny(name: str) -> NoReturn:
    raise _UnfitError(f"this is not JSON: {name} is no number there")


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _UnfitError(f"the number {text[:40]} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > 40:
        raise _UnfitError(f"the number {text[:40]}… is too large")
    return int(text)


def _check_keys(text: str) -> None:
    """Refuse valid JSON that repeats a key: `json` tells of it, but not where."""
    seen: list[set[str]] = []
    for token in _TOKENS.finditer(text):
        if token[0] in "{[":
            seen.append(set())
        elif token[0] in "}]":
            seen.pop()
        elif token["key"] is not None:
            key = json.loads(token["key"])
            if key in seen[-1]:
                raise _UnfitError(f"the key {key!r} is written twice", token.start())
            seen[-1].add(key)


def _escaped(scalar: Scalar, variables: Variables) -> Iterator[Piece]:
    from buildit.recipe.template.template import pieces, place_on

    inside = escaping = False
    for piece in pieces(scalar, variables):
        text, place = piece.text, place_on(scalar, piece.line)
        if piece.is_value and escaping:
            raise RecipeError("a backslash stands before a template", place=place)
        if not piece.is_value:
            last = ""
            for token in _QUOTES.finditer(text):
                last = token[0]
                inside ^= last == '"'
            escaping = inside and last == "\\"
        elif inside:
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        else:
            try:
                _loads(text)
            except _UnfitError as error:
                message = f"the value {text[:60]!r} is not JSON by itself"
                hint = 'put quotes around it, "{{ … }}", or use {{ … | tojson }}'
                raise RecipeError(message, place=place, hint=hint) from error
        yield Piece(text, piece.line, piece.is_value)
