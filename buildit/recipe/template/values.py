"""The plain values of templates, and the filters and tests: plain functions, each bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Value = str | bool | int | float | Sequence["Value"] | Mapping[str, "Value"] | None
"""What a variable may hold: plain values only, so that a template reaches no code."""

Json = str | int | float | bool | list["Json"] | dict[str, "Json"] | None

Variables = Mapping[str, Value]


COMMENT = re.compile(r"(?<!\$)\{#.*?#\}", re.DOTALL)
"""A comment of templates; `${#x}` is shell, and `{#` without an end is text."""


def is_template(text: str) -> bool:
    return "{{" in text or "{%" in text or ("{#" in text and COMMENT.search(text) is not None)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the rendered text, and the line of the template (from 1) that it begins on.

    `is_value` tells what an expression gave from what the template itself says.
    """

    text: str
    line: int
    is_value: bool


MAX_TEXT = 1 << 20
"""Characters that one expression may make."""


class FilterError(ValueError):
    """A filter does not fit the value; the message is one phrase, without a place."""


def called(value: object) -> str:
    """How messages call a value."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def weight(value: object) -> int:
    """How much work a value is to walk over, in characters."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 64 + sum(weight(key) + weight(one) for key, one in value.items())
    if isinstance(value, Sequence):
        return 64 + sum(map(weight, value))
    return 16


def text_of(value: Value) -> str:
    """A scalar as templates print it.

    Raises:
        FilterError: it is a list, a mapping or nothing.
    """
    if isinstance(value, str | bool | int | float):
        return str(value)
    raise FilterError(f"expected text, found {called(value)}")


def within(length: int) -> None:
    """Refuse a text of `length` characters, best before it is made.

    Raises:
        FilterError: it is too large.
    """
    if length > MAX_TEXT:
        raise FilterError(f"the text is larger than {MAX_TEXT >> 20} MiB")


def _lower(value: Value) -> Value:
    """The text in lower case."""
    return text_of(value).lower()


def _upper(value: Value) -> Value:
    """The text in upper case."""
    upper = text_of(value).upper()
    within(len(upper))
    return upper


def _trim(value: Value, chars: Value = None) -> Value:
    """The text without blanks, or the `chars` given, at both ends."""
    return text_of(value).strip(None if chars is None else text_of(chars))


def _replace(value: Value, old: Value, new: Value) -> Value:
    """The text with every `old` replaced by `new`."""
    text, before, after = text_of(value), text_of(old), text_of(new)
    found = text.count(before)
    within(len(text) + found * (len(after) - len(before)))
    return text.replace(before, after)


def _join(value: Value, d: Value = "") -> Value:
    """The items of a list as one text, with `d` between them."""
    parts, between = [text_of(one) for one in _many(value)], text_of(d)
    within(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _length(value: Value) -> Value:
    """How many characters, items or keys there are."""
    if isinstance(value, str | Sequence | Mapping):
        return len(value)
    raise FilterError(f"expected text, a list or a mapping, found {called(value)}")


def _first(value: Value) -> Value:
    """The first item of a list, or key of a map."""
    return _many(value, "the first of nothing")[0]


def _last(value: Value) -> Value:
    """The last one."""
    return _many(value, "the last of nothing")[-1]


def _items(value: Value) -> Value:
    """The keys and values of a map, in pairs for `{% for key, value in … %}`."""
    if not isinstance(value, Mapping):
        raise FilterError(f"expected a mapping, found {called(value)}")
    return [[key, one] for key, one in value.items()]


def _tojson(value: Value) -> Value:
    """The value as JSON."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    within(len(text))
    return text


def _int(value: Value) -> Value:
    """The whole number that a text says."""
    text = text_of(value).strip()
    if isinstance(value, bool) or re.fullmatch(r"[+-]?[0-9]{1,18}", text) is None:
        raise FilterError(f"expected a whole number, found {text[:40]!r}")
    return int(text)


def _many(value: Value, if_none: str = "") -> Sequence[Value]:
    if isinstance(value, Mapping):
        value = list(value)
    if not isinstance(value, Sequence):
        raise FilterError(f"expected a list, found {called(value)}")
    if if_none and not value:
        raise FilterError(if_none)
    return value


FILTERS: Mapping[str, Callable[..., Value]] = {
    "count": _length,
    "first": _first,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": _length,
    "lower": _lower,
    "replace": _replace,
    "tojson": _tojson,
    "trim": _trim,
    "upper": _upper,
}
"""What stands behind `|`, but for `DEFAULT`."""

DEFAULT_NAMES = ("default", "d")
"""Two names of the one filter that takes a name which is not defined."""

TESTS = ("defined", "undefined")
"""What may stand behind `is`."""
