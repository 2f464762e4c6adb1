"""The filters and tests of templates: plain functions of plain values, each bounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from buildit.load.jinja import Value

MAX_TEXT = 1 << 20
"""Characters that one expression may make."""


class FilterError(ValueError):
    """A filter does not fit the value; the message is one phrase, without a place."""


def kind_of(value: object) -> str:
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
    raise FilterError(f"expected text, found {kind_of(value)}")


def within(length: int) -> None:
    """Refuse a text of `length` characters, best before it is made.

    Raises:
        FilterError: it is too large.
    """
    if length > MAX_TEXT:
        raise FilterError(f"the text is larger than {MAX_TEXT >> 20} MiB")


def _lower(value: Value) -> Value:
    return text_of(value).lower()


def _upper(value: Value) -> Value:
    upper = text_of(value).upper()
    within(len(upper))
    return upper


def _trim(value: Value, chars: Value = None) -> Value:
    return text_of(value).strip(None if chars is None else text_of(chars))


def _replace(value: Value, old: Value, new: Value) -> Value:
    text, before, after = text_of(value), text_of(old), text_of(new)
    found = text.count(before)
    within(len(text) + found * (len(after) - len(before)))
    return text.replace(before, after)


def _join(value: Value, d: Value = "") -> Value:
    parts, between = [text_of(one) for one in _many(value)], text_of(d)
    within(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _length(value: Value) -> Value:
    if isinstance(value, str | Sequence | Mapping):
        return len(value)
    raise FilterError(f"expected text, a list or a mapping, found {kind_of(value)}")


def _first(value: Value) -> Value:
    return _many(value, "the first of nothing")[0]


def _last(value: Value) -> Value:
    return _many(value, "the last of nothing")[-1]


def _items(value: Value) -> Value:
    if not isinstance(value, Mapping):
        raise FilterError(f"expected a mapping, found {kind_of(value)}")
    return [[key, one] for key, one in value.items()]


def _tojson(value: Value) -> Value:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    within(len(text))
    return text


def _many(value: Value, if_none: str = "") -> Sequence[Value]:
    if isinstance(value, Mapping):
        value = list(value)
    if not isinstance(value, Sequence):
        raise FilterError(f"expected a list, found {kind_of(value)}")
    if if_none and not value:
        raise FilterError(if_none)
    return value


FILTERS: Mapping[str, Callable[..., Value]] = {
    "count": _length,
    "first": _first,
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
"""`default` and `d` are there too; they alone take a name that is not defined."""
