"""Templates of JSON (the raw manifest of an image): whatever values hold, the result is JSON.

Inside a JSON string a value is escaped; outside of one it must be a JSON value by itself. So a
value can change neither the structure nor its neighbours (THREATS B3).
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from buildit.errors import RecipeError
from buildit.recipe.template.values import Json, Variables, is_template
from buildit.recipe.yaml.node import Place, Scalar

_QUOTES = re.compile(r'\\.|"|\\\Z', re.DOTALL)
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]', re.DOTALL)


def render_json(scalar: Scalar, variables: Variables) -> Json:
    """The JSON value that the template in `scalar` becomes.

    Raises:
        RecipeError: the template is wrong, a value does not fit where it stands, or the result is
            not JSON (RFC 8259) or repeats a key; the place is that in the user's file.
    """
    rendered = _rendered(scalar, variables)
    try:
        value = _loads(rendered.text)
    except json.JSONDecodeError as error:
        raise rendered.error(f"this is not JSON: {error.msg}", error.pos) from error
    except _UnfitError as error:
        found = _twice(rendered.text)
        if found is None:
            raise rendered.error(str(error), 0) from error
        offset, key = found
        raise rendered.error(f"the key {key!r} is written twice", offset) from error
    except RecursionError as error:
        raise rendered.error("the JSON is nested too deeply", 0) from error
    return value


class _UnfitError(ValueError):
    """JSON that Python would take and others would not."""


def _loads(text: str) -> Json:
    value: Json = json.loads(
        text,
        object_pairs_hook=_object,
        parse_constant=_refuse,
        parse_float=_number,
        parse_int=_whole,
    )
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _UnfitError("a text holds half of a surrogate pair") from error
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _UnfitError("a key is written twice")
    return found


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


def _twice(text: str) -> tuple[int, str] | None:
    """The offset and name of the first repeated key of valid JSON."""
    seen: list[set[str] | None] = []  # None: inside a list
    expects_key = False
    for token in _TOKENS.finditer(text):
        match token.group()[0]:
            case "{":
                seen.append(set())
                expects_key = True
            case "[":
                seen.append(None)
                expects_key = False
            case "}" | "]":
                seen.pop()
                expects_key = False
            case ",":
                expects_key = seen[-1] is not None
            case _:
                keys = seen[-1] if seen else None
                if expects_key and keys is not None:
                    key = json.loads(token.group())
                    if key in keys:
                        return token.start(), key
                    keys.add(key)
                expects_key = False
    return None


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the result: where it starts there, and the template line that it came from."""

    start: int
    text: str
    line: int
    is_value: bool


@dataclass(frozen=True, slots=True)
class _Rendered:
    scalar: Scalar
    parts: tuple[_Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    def error(self, message: str, offset: int) -> RecipeError:
        text = self.text
        start = text.rfind("\n", 0, offset) + 1
        end = text.find("\n", offset)
        line = text[start : end if end >= 0 else len(text)].strip()
        changed = any(part.is_value for part in self.parts)
        details = (f"after rendering, the line is: {line[:200]}",) if line and changed else ()
        hint = "correct it there; the result must be one JSON value (RFC 8259)"
        return RecipeError(message, place=str(self.place(offset)), hint=hint, details=details)

    def place(self, offset: int) -> Place:
        """Where in the user's file the character at `offset` of the result comes from."""
        if not self.parts:
            return self.scalar.place
        at = max(0, bisect_right([part.start for part in self.parts], offset) - 1)
        part = self.parts[at]
        before = "" if part.is_value else part.text[: offset - part.start]
        lines = self.scalar.text.split("\n")
        row = min(part.line - 1 + before.count("\n"), len(lines) - 1)
        if "\n" in before:
            column = len(before) - before.rfind("\n") - 1
        else:
            # The line is exact; the column is that of the part's first like text on it.
            first = "{{" if part.is_value else part.text.split("\n", 1)[0]
            column = max(0, lines[row].find(first)) + len(before)
        return self.scalar.place_of(sum(len(line) + 1 for line in lines[:row]) + column)


def _rendered(scalar: Scalar, variables: Variables) -> _Rendered:
    if scalar.rendered or not is_template(scalar.text):
        return _Rendered(scalar, (_Part(0, scalar.text, 1, is_value=False),))
    return _Rendered(scalar, tuple(_parts(scalar, variables)))


def _parts(scalar: Scalar, variables: Variables) -> Iterator[_Part]:
    from buildit.recipe.template.template import pieces, place_on

    start, inside, escaping = 0, False, False
    for piece in pieces(scalar, variables):
        text = piece.text
        if piece.is_value and escaping:
            place = place_on(scalar, piece.line)
            raise RecipeError("a backslash stands before a template", place=place)
        if not piece.is_value:
            inside, escaping = _after(text, inside)
        elif inside:
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        elif not _is_json(text):
            raise RecipeError(
                f"the value {text[:60]!r} is not JSON by itself",
                place=place_on(scalar, piece.line),
                hint='put quotes around it, "{{ … }}", or use {{ … | tojson }}',
            )
        yield _Part(start, text, piece.line, piece.is_value)
        start += len(text)


def _after(text: str, inside: bool) -> tuple[bool, bool]:
    """Whether the end of `text` is inside a JSON string, and whether a backslash ends it."""
    last = ""
    for token in _QUOTES.finditer(text):
        last = token.group()
        if last == '"':
            inside = not inside
    return inside, inside and last == "\\"


def _is_json(text: str) -> bool:
    try:
        _loads(text)
    except (ValueError, RecursionError):
        return False
    return True
