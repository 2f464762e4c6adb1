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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NoReturn

from buildit.errors import RecipeError
from buildit.recipe.template.values import Json, Piece, Variables, is_template
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence


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
    from buildit.recipe.template.template import pieces

    text = "".join(piece.text for piece in pieces(scalar, variables))
    return replace(scalar, text=text, body=None, rendered=True)


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
    rendered = _Rendered(scalar, pieces)
    try:
        return _loads(rendered.text)
    except _UnfitError as error:
        raise rendered.error(str(error), error.offset) from error


class _UnfitError(ValueError):
    """No JSON, or JSON that Python would take and others would not."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


def _loads(text: str) -> Json:
    try:
        value: Json = json.loads(
            text, parse_constant=_refuse, parse_float=_number, parse_int=_whole
        )
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _UnfitError(f"this is not JSON: {error.msg}", error.pos) from error
    except UnicodeEncodeError as error:
        raise _UnfitError("a text holds half of a surrogate pair") from error
    except RecursionError as error:
        raise _UnfitError("the JSON is nested too deeply") from error
    _check_keys(text)
    return value


def _refuse(name: str) -> NoReturn:
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


@dataclass(frozen=True, slots=True)
class _Rendered:
    scalar: Scalar
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def error(self, message: str, offset: int) -> RecipeError:
        text = self.text
        start = text.rfind("\n", 0, offset) + 1
        line = text[start:].split("\n", 1)[0].strip()
        changed = any(piece.is_value for piece in self.pieces)
        details = (f"after rendering, the line is: {line[:200]}",) if line and changed else ()
        hint = "correct it there; the result must be one JSON value (RFC 8259)"
        return RecipeError(message, place=str(self.place(offset)), hint=hint, details=details)

    def place(self, offset: int) -> Place:
        """Where in the user's file the character at `offset` of the result comes from."""
        if not self.pieces:
            return self.scalar.place
        starts = [0, *accumulate(len(piece.text) for piece in self.pieces[:-1])]
        at = max(0, bisect_right(starts, offset) - 1)
        piece = self.pieces[at]
        before = "" if piece.is_value else piece.text[: offset - starts[at]]
        lines = self.scalar.text.split("\n")
        row = min(piece.line - 1 + before.count("\n"), len(lines) - 1)
        column = len(before) - before.rfind("\n") - 1
        if "\n" not in before:
            # The line is exact; the column is that of the piece's first like text on it.
            first = "{{" if piece.is_value else piece.text.split("\n", 1)[0]
            column = max(0, lines[row].find(first)) + len(before)
        return self.scalar.place_of(sum(len(line) + 1 for line in lines[:row]) + column)


def _escaped(scalar: Scalar, variables: Variables) -> Iterator[Piece]:
    from buildit.recipe.template.template import pieces, place_on

    inside = escaping = False
    for piece in pieces(scalar, variables):
        text = piece.text
        if piece.is_value and escaping:
            place = place_on(scalar, piece.line)
            raise RecipeError("a backslash stands before a template", place=place)
        if not piece.is_value:
            last = ""
            for token in _QUOTES.finditer(text):
                last = token[0]
                inside ^= last == '"'
            escaping = inside and last == "\\"
        elif inside:
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        elif not _is_json(text):
            raise RecipeError(
                f"the value {text[:60]!r} is not JSON by itself",
                place=place_on(scalar, piece.line),
                hint='put quotes around it, "{{ … }}", or use {{ … | tojson }}',
            )
        yield Piece(text, piece.line, piece.is_value)


def _is_json(text: str) -> bool:
    try:
        _loads(text)
    except _UnfitError:
        return False
    return True
