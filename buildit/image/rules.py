"""Rules of JSON documents, of which those of the formats are made; pure.

A rule takes a place in the document and the value there, and gives each problem as `place: what`.
"""

from __future__ import annotations

import datetime
import json
import re
import time as clock
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from buildit.errors import RecipeError
from buildit.model.image import Image

Problems = Iterator[str]
JsonRule = Callable[[str, object], Problems]

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
)
_URL = re.compile(r"https?://[^\s/?#]\S*")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def at(where: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if where else key


def object_of(required: Mapping[str, JsonRule], optional: Mapping[str, JsonRule] = {}) -> JsonRule:
    """An object with these keys and no other."""
    rules = {**required, **optional}

    def check(where: str, value: object) -> Problems:
        if not isinstance(value, dict):
            yield f"{where or 'the document'}: must be an object"
            return
        for key, member in value.items():
            if key in rules:
                yield from rules[key](at(where, key), member)
                continue
            yield f"{at(where, key)}: is not a key of the specification{near(key, rules)}"
        yield from (f"{at(where, key)}: is required" for key in required if key not in value)

    return check


def near(key: str, known: Mapping[str, JsonRule]) -> str:
    import difflib  # only for a wrong document

    found = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def doubles(names: Iterable[object]) -> list[str]:
    """What is there more than once, sorted."""
    return sorted(name for name, count in Counter(map(str, names)).items() if count > 1)


def list_of(rule: JsonRule, unique: str | None = None) -> JsonRule:
    def check(where: str, value: object) -> Problems:
        if not isinstance(value, list):
            yield f"{where}: must be a list"
            return
        for number, member in enumerate(value):
            yield from rule(at(where, number), member)
        if unique is None:
            return
        names = [member.get(unique) for member in value if isinstance(member, dict)]
        yield from (f"{where}: {unique} {name!r} occurs twice" for name in doubles(names))

    return check


def all_of(*rules: JsonRule) -> JsonRule:
    """Each of the rules, in order."""

    def check(where: str, value: object) -> Problems:
        for rule in rules:
            yield from rule(where, value)

    return check


def must_be(kind: type, what: str) -> JsonRule:
    """A value of a type, an empty text not among them."""

    def check(where: str, value: object) -> Problems:
        if not isinstance(value, kind):
            yield f"{where}: must be {what}"

    return check


text = must_be(str, "a string")
boolean = must_be(bool, "true or false")


def filled_text(where: str, value: object) -> Problems:
    if not isinstance(value, str) or not value:
        yield f"{where}: must be a non-empty string"


def text_that(passes: Callable[[str], object], what: str) -> JsonRule:
    """A text that passes a test; one that does not "is not" `what`."""

    def check(where: str, value: object) -> Problems:
        if not isinstance(value, str) or not passes(value):
            yield f"{where}: {value!r} is not {what}"

    return check


def pattern_rule(pattern: re.Pattern[str], what: str) -> JsonRule:
    return text_that(pattern.fullmatch, f"{what} ({pattern.pattern})")


def text_without(problems: Callable[[str], Problems]) -> JsonRule:
    """A text of which a function tells the problems; an empty one is as good as none."""

    def check(where: str, value: object) -> Problems:
        yield from text(where, value)
        if isinstance(value, str) and value:
            yield from (f"{where}: {problem}" for problem in problems(value))

    return check


def whole(lowest: int, highest: int) -> JsonRule:
    def check(where: str, value: object) -> Problems:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not lowest <= value <= highest:  # type: ignore[operator]
            yield f"{where}: must be a whole number from {lowest} to {highest}"

    return check


def nothing_or(rule: JsonRule) -> JsonRule:
    """The rule, or null, which is as good as leaving the key out."""

    def check(where: str, value: object) -> Problems:
        if value is not None:
            yield from rule(where, value)

    return check


def map_of(key: JsonRule, value: JsonRule) -> JsonRule:
    """An object with any keys."""

    def check(where: str, found: object) -> Problems:
        if not isinstance(found, dict):
            yield f"{where}: must be an object"
            return
        for name, member in found.items():
            yield from key(where, name)
            yield from value(at(where, str(name)), member)

    return check


def _is_time(value: str) -> bool:
    match = _RFC3339.fullmatch(value)
    with suppress(ValueError):
        return match is not None and bool(datetime.date.fromisoformat(match[1]))
    return False


time = text_that(_is_time, "a time as RFC 3339 writes it (2026-01-31T23:59:59Z)")
"""A time as RFC 3339 5.6 writes it, on a day that exists. Stricter than the RFC: no leap second,
which the clients' own readers (Go's time.Parse) refuse."""


def _is_url(value: str) -> bool:
    if _URL.fullmatch(value) is None or _LONE_PERCENT.search(value) is not None:
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


url = text_that(_is_url, "an http or https URL")
"""An http or https URL that takes itself apart: host, port, brackets, percent signs."""


def rfc3339(epoch: int) -> str:
    """Seconds since 1970 as documents write a time."""
    return clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(epoch))


def read_document(
    image: Image, what: str, judge: Callable[[object], tuple[str, ...]], hint: str
) -> dict[str, Any]:
    """The document that the user wrote for an image; a key that occurs twice is an error, not a
    silent loss.

    Raises:
        RecipeError: it is not JSON, and at which line and column within it; or `judge` has
            problems, which are told with `hint`.
    """
    try:
        document = json.loads(image.content, object_pairs_hook=_unique, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} of the rendered content"
        raise _refused(image, f"{what} is not JSON: {error.msg} at {where}") from error
    except (ValueError, RecursionError) as error:
        raise _refused(image, f"{what} is not usable JSON: {error}") from error
    problems = judge(document)
    if problems or not isinstance(document, dict):
        raise _refused(image, f"{what} is not valid: {problems[0]}", hint, problems[1:])
    return document


def _refused(
    image: Image, message: str, hint: str = "", details: tuple[str, ...] = ()
) -> RecipeError:
    hint = f"correct `content` of this image step{hint}"
    return RecipeError(message, place=image.place or None, hint=hint, details=details)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} occurs twice in one object")
    return members


def no_constant(name: str) -> object:
    """NaN and the infinities, which Python would take."""
    raise ValueError(f"{name} is no JSON number")
