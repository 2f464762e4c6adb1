"""Debian's control syntax (deb822(5)): paragraphs of `Name: value` fields; pure and strict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from buildit.errors import RecipeError

_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class Field:
    """A field's value, further lines joined by newlines, and the line on which it begins."""

    value: str
    line: int

    def words(self) -> tuple[str, ...]:
        return tuple(self.value.split())


Paragraph = dict[str, Field]
"""Fields by lower-case name: names are compared without case."""


def paragraphs(text: str, place: str) -> Iterator[Paragraph]:
    """All paragraphs. Lines that begin with `#` are comments, as in sources files.

    Raises:
        RecipeError: a line that is no field, or a field given twice.
    """
    fields: Paragraph = {}
    last = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
            continue
        if line[0] in " \t" and last:
            before = fields[last]
            fields[last] = Field(f"{before.value}\n{line.strip()}", before.line)
            continue
        last = _add(fields, line, f"{place}:{number}:1", number)
    if fields:
        yield fields


def _add(fields: Paragraph, line: str, place: str, number: int) -> str:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise RecipeError(f"not a field: {line[:60]!r}", place=place, hint="write Name: value")
    name = found[1].lower()
    if name in fields:
        raise RecipeError(
            f"field {found[1]!r} stands there twice, first on line {fields[name].line}",
            place=place,
        )
    fields[name] = Field(found[2].strip(), number)
    return name
