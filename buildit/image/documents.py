"""Rules of JSON documents, of which `aci_rules` and `oci_rules` are made; pure.

A rule takes a place in the document and the value there, and gives each problem as `place: what`.
"""

from __future__ import annotations

import datetime
import json
import re
import time as clock
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from buildit.errors import RecipeError
from buildit.recipe.leaf import LARGEST_ID, id_of

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


def fields(
    where: str, value: object, required: Mapping[str, JsonRule], optional: Mapping[str, JsonRule]
) -> Problems:
    """An object with these keys and no other."""
    if not isinstance(value, dict):
        yield f"{where or 'the document'}: must be an object"
        return
    rules = {**required, **optional}
    for key, member in value.items():
        if key in rules:
            yield from rules[key](at(where, key), member)
            continue
        yield f"{at(where, key)}: is not a key of the specification{near(key, rules)}"
    yield from (f"{at(where, key)}: is required" for key in required if key not in value)


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


def text(where: str, value: object) -> Problems:
    if not isinstance(value, str):
        yield f"{where}: must be a string"


def filled_text(where: str, value: object) -> Problems:
    if not isinstance(value, str) or not value:
        yield f"{where}: must be a non-empty string"


def boolean(where: str, value: object) -> Problems:
    if not isinstance(value, bool):
        yield f"{where}: must be true or false"


def pattern_rule(pattern: re.Pattern[str], what: str) -> JsonRule:
    def check(where: str, value: object) -> Problems:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            yield f"{where}: {value!r} is not {what} ({pattern.pattern})"

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


def time(where: str, value: object) -> Problems:
    """A time as RFC 3339 5.6 writes it, on a day that exists. Stricter than the RFC: no leap
    second, which the clients' own readers (Go's time.Parse) refuse."""
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        try:
            datetime.date.fromisoformat(match[1])
        except ValueError:
            match = None
    if match is None:
        yield f"{where}: {value!r} is not a time as RFC 3339 writes it (2026-01-31T23:59:59Z)"


def url(where: str, value: object) -> Problems:
    """An http or https URL that takes itself apart: host, port, brackets, percent signs."""
    if not isinstance(value, str) or not _is_url(value):
        yield f"{where}: {value!r} is not an http or https URL"


def _is_url(value: str) -> bool:
    if _URL.fullmatch(value) is None or _LONE_PERCENT.search(value) is not None:
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def account_rule(where: str, value: object) -> Problems:
    """A user or group: a name, a number that the kernel has, or in App Container the path of a
    file whose owner is meant. Stricter than actool: no id above 2^32-2 (setresuid(2)), no blanks,
    colons or commas, which end a field of passwd(5) and group(5)."""
    if not isinstance(value, str) or not value:
        yield f"{where}: must be a non-empty string"
    elif not value.startswith("/"):
        yield from (f"{where}: {problem}" for problem in account_problems(value))


_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")


def account_problems(name: str) -> Problems:
    """What is wrong with the name or number of a user or group."""
    if _ACCOUNT.fullmatch(name) is None:
        yield f"{name!r} is neither a name nor a number"
    elif name.isdecimal() and id_of(name) is None:
        yield f"the id {name} is not from 0 to {LARGEST_ID}"


def rfc3339(epoch: int) -> str:
    """Seconds since 1970 as documents write a time."""
    return clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(epoch))


def read_json(text: str, place: str, what: str) -> object:
    """JSON text of the user; a key that occurs twice is an error, not a silent loss.

    Raises:
        RecipeError: the text is not JSON; says the line and column within it.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} of the rendered content"
        raise RecipeError(
            f"{what} is not JSON: {error.msg} at {where}",
            place=place or None,
            hint="correct `content` of this image step",
        ) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{what} is not usable JSON: {error}",
            place=place or None,
            hint="correct `content` of this image step",
        ) from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} occurs twice in one object")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
