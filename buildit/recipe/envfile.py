"""Files of variables, as compose reads `env_file` and `.env`: a variable a line. Pure.

`NAME=VALUE`, `export NAME=VALUE`, `NAME: VALUE`; `#` begins a comment, behind a value after a
blank. A value in single quotes is taken word for word, one in double quotes with its escapes
(`\\n`); both may have several lines. A name alone has the value that it has where the stack is
started.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from buildit.errors import RecipeError

_LINE = re.compile(
    r"[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*(?P<sign>[=:][ \t]*)?"
)
_QUOTED = {"'": re.compile(r"'([^']*)'"), '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)}
_END = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}

Expand = Callable[[str, str], str]
"""Fills variables into a value; the second is its place."""


def parse_env_file(text: str, file: str, expand: Expand | None = None) -> dict[str, str | None]:
    """The variables of a file in its order; None for a name without a value. `expand` is applied
    to what does not stand in single quotes.

    Raises:
        RecipeError: a line is something else.
    """
    found: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        if (blank := _END.match(text, at)) is not None:
            at = blank.end()
            continue
        place = f"{file}:{text.count(chr(10), 0, at) + 1}:1"
        match = _LINE.match(text, at)
        if match is None:
            line = text[at:].split("\n", 1)[0]
            hint = "write NAME=VALUE, or begin a comment with #"
            raise RecipeError(f"not a variable: {line!r}", place=place, hint=hint)
        at = match.end()
        if match["sign"] is None:
            end = _END.match(text, at)
            if end is None:
                hint = "write NAME=VALUE"
                raise RecipeError(f"{match['name']} has no value", place=place, hint=hint)
            found[match["name"]] = None
            at = end.end()
            continue
        value, at = _value(text, at, place, expand)
        found[match["name"]] = value
    return found


def _value(text: str, at: int, place: str, expand: Expand | None) -> tuple[str, int]:
    """A value that begins at `at`, and where its line ends."""
    mark = text[at : at + 1]
    if mark in _QUOTED:
        match = _QUOTED[mark].match(text, at)
        end = match and _END.match(text, match.end())
        if match is None or end is None:
            message = "a quote is not closed" if match is None else "text follows a closed quote"
            raise RecipeError(message, place=place, hint="quote the whole value, or none of it")
        if mark == "'":
            return match[1], end.end()
        dollar = "$$" if expand else "$"  # an escaped one begins no variable
        escapes = _ESCAPES | {"$": dollar}
        value = re.sub(r"\\(.)", lambda one: escapes.get(one[1], one[0]), match[1], flags=re.S)
        return (expand(value, place) if expand else value), end.end()
    line = text[at:].split("\n", 1)[0]
    bare = re.sub(r"(?:^|[ \t]+)#.*", "", line).rstrip(" \t")
    return (expand(bare, place) if expand else bare), at + len(line) + 1
