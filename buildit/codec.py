"""Frozen dataclasses as plain JSON data, and back: one codec for everything that is kept as JSON.

Known are text, whole and other numbers, truth values, None, `Path`, enums, `Literal`, tuples,
frozensets (written in order), mappings by text, `Digest` and `BuildKey` (64 hex digits), and
dataclasses of all these. In a union at most one member of each JSON type may stand, except that
dataclasses are told apart by a field that is a `Literal` in all of them (`step: Literal["sync"]`).
Reading is strict: an unknown key, a missing one without a default, or a value of another type is
refused with its path.
"""

# ruff: noqa: ANN401 - JSON data, and types as values, have no narrower type

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar, cast

from buildit.digest import BuildKey, Digest, canonical, is_hex64

_T = TypeVar("_T")
_Read = Callable[[Any], Any]
_NAMES = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a map"}


class CodecError(ValueError):
    """What is wrong with the data, and at which path (`nodes[3].deb.size`)."""

    def __init__(self, reason: str, *path: str | int) -> None:
        self.reason = reason
        self.path = path
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        where = "".join(steps).removeprefix(".")
        super().__init__(f"{where}: {reason}" if where else reason)

    def within(self, step: str | int) -> CodecError:
        return CodecError(self.reason, step, *self.path)


def encode(value: object) -> bytes:
    """Canonical JSON of a value: equal values give equal bytes.

    Raises:
        TypeError, ValueError: something in it is not of the kinds above.
    """
    return canonical(to_plain(value))


def decode(kind: type[_T], text: bytes | str) -> _T:
    """Read what `encode` wrote.

    Raises:
        CodecError: it is no JSON, or not such a value.
    """
    try:
        return from_plain(kind, json.loads(text))
    except CodecError:
        raise
    except RecursionError:
        raise CodecError("it is nested too deeply") from None
    except ValueError as error:
        raise CodecError(f"it is not JSON: {error}") from None


def to_plain(value: Any) -> Any:
    """A value as dicts, lists and scalars.

    Raises:
        TypeError: something in it is not of the kinds above.
    """
    kind = type(value)
    if kind in (str, int, bool, float) or value is None:
        return value
    if kind in (tuple, list):
        return [to_plain(one) for one in value]
    if is_dataclass(kind):
        return {name: to_plain(getattr(value, name)) for name in _written(kind)}
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(to_plain(one) for one in value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON is known for {kind.__name__}")


def from_plain(kind: type[_T], data: object) -> _T:
    """The value of a type that `to_plain` gave as JSON data.

    Raises:
        CodecError: the data is no such value.
        TypeError: the type is none that the codec knows (a fault of the program).
    """
    found: _T = _reader(cast("Any", kind))(data)
    return found


@cache
def _written(kind: Any) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


@cache
def _reader(kind: Any) -> _Read:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, object):
        return lambda data: data
    if kind in (Digest, BuildKey):
        return _hex64
    if kind in _NAMES or kind is type(None):
        return _exactly(kind)
    if kind is float:
        return _number
    if origin is typing.Literal:
        return _one_of(args)
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is tuple and args[1:] != (...,):
        return _fixed(args)
    if origin in (tuple, frozenset):
        return _many(origin, args[0])
    if origin in (Mapping, dict):
        return _map(*args)
    if is_dataclass(kind):
        return _fields(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _made(kind)
    if isinstance(kind, type) and issubclass(kind, Path):
        return lambda data: kind(_exactly(str)(data))
    raise TypeError(f"the codec does not know {kind}")


def _expect(data: Any, kind: type) -> None:
    if type(data) is not kind:
        raise CodecError(f"it is not {_NAMES.get(kind, 'null')}")


def _exactly(kind: type) -> _Read:
    def read(data: Any) -> object:
        _expect(data, kind)
        return data

    return read


def _number(data: Any) -> float:
    with suppress(OverflowError):
        if type(data) in (int, float) and math.isfinite(data):
            return float(data)
    raise CodecError("it is not a number")


def _hex64(data: object) -> object:
    if type(data) is not str or not is_hex64(data):
        raise CodecError(f"{data!r:.80} is not a SHA-256 digest")
    return data


def _one_of(choices: tuple[object, ...]) -> _Read:
    def read(data: Any) -> object:
        if data not in choices or type(data) not in map(type, choices):
            raise CodecError(f"{data!r:.80} is none of {', '.join(map(str, choices))}")
        return data

    return read


def _made(kind: type[Enum]) -> _Read:
    def read(data: Any) -> object:
        try:
            return kind(data)
        except ValueError:
            raise CodecError(f"{data!r:.80} is no {kind.__name__}") from None

    return read


def _each(data: Any, readers: Iterable[_Read]) -> list[object]:
    _expect(data, list)
    found: list[object] = []
    try:
        for inner, one in zip(readers, data, strict=False):
            found.append(inner(one))
    except CodecError as error:
        raise error.within(len(found)) from None
    return found


def _many(kind: type[tuple[object, ...] | frozenset[object]], of: object) -> _Read:
    inner = _reader(of)

    def read(data: Any) -> object:
        found = kind(_each(data, repeat(inner)))
        if len(found) != len(data):
            raise CodecError("a member stands twice")
        return found

    return read


def _fixed(of: tuple[object, ...]) -> _Read:
    inner = tuple(_reader(one) for one in of)

    def read(data: Any) -> object:
        found = tuple(_each(data, inner))
        if len(data) != len(inner):
            raise CodecError(f"it does not have {len(inner)} members")
        return found

    return read


def _map(of_keys: object, of_values: object) -> _Read:
    key_reader, inner = _reader(of_keys), _reader(of_values)

    def read(data: Any) -> object:
        _expect(data, dict)
        found, key = {}, ""
        try:
            for key, one in data.items():
                found[key_reader(key)] = inner(one)
        except CodecError as error:
            raise error.within(key) from None
        return found

    return read


@cache
def _known(kind: Any) -> Mapping[str, tuple[_Read, bool]]:
    """Of each field, by its name: its reader, and whether it must be there."""
    hints, known = typing.get_type_hints(kind), {}
    for one in fields(kind):
        needed = one.default is MISSING and one.default_factory is MISSING
        known[one.name] = (_reader(hints[one.name]), needed)
    return known


def _fields(kind: Any) -> _Read:
    def read(data: Any) -> object:
        _expect(data, dict)
        found, name = {}, ""
        try:
            for name, (inner, needed) in _known(kind).items():
                if name in data:
                    found[name] = inner(data[name])
                elif needed:
                    raise CodecError("it is missing")
        except CodecError as error:
            raise error.within(name) from None
        if len(found) != len(data):
            raise CodecError("it is not known", min(data.keys() - _known(kind)))
        try:
            return kind(**found)
        except CodecError:
            raise
        except ValueError as error:  # a check of the class itself
            raise CodecError(str(error)) from None

    return read


def _union(members: tuple[Any, ...]) -> _Read:
    by_type: dict[type, _Read] = {}
    tagged = [one for one in members if is_dataclass(one)]
    if len(tagged) > 1:
        by_type[dict] = _tagged(tagged)
        members = tuple(one for one in members if one not in tagged)
    for one in members:
        kind = _json_type(one)
        if kind in by_type:
            raise TypeError(f"{one} cannot be told from another member of its union")
        by_type[kind] = _reader(one)

    def read(data: Any) -> object:
        inner = by_type.get(type(data))
        if inner is None:
            raise CodecError(f"it is not {' or '.join(_NAMES.get(one, 'null') for one in by_type)}")
        return inner(data)

    return read


def _json_type(kind: Any) -> type:
    kind = typing.get_origin(kind) or getattr(kind, "__supertype__", kind)
    if kind in (int, bool, float, type(None)):
        return cast("type", kind)
    if kind in (tuple, frozenset):
        return list
    return dict if kind in (Mapping, dict) or is_dataclass(kind) else str


def _tagged(kinds: list[Any]) -> _Read:
    """One of several dataclasses, by the text of the field that is a `Literal` in all of them."""
    hints = [typing.get_type_hints(kind) for kind in kinds]
    tags = [
        name
        for name in hints[0]
        if all(typing.get_origin(one.get(name)) is typing.Literal for one in hints)
    ]
    if len(tags) != 1:
        raise TypeError(f"{kinds} have no one field that tells them apart")
    tag = tags[0]
    readers = {
        text: _reader(kind)
        for kind, one in zip(kinds, hints, strict=True)
        for text in typing.get_args(one[tag])
    }

    def read(data: Any) -> object:
        text = data.get(tag)
        if not isinstance(text, str) or text not in readers:
            raise CodecError(f"{text!r:.80} is none of {', '.join(sorted(readers))}", tag)
        return readers[text](data)

    return read
