"""Versions of packages, ordered by the Gentoo package manager specification (PMS, chapter 3).

A version of a recipe is what upstream calls it (`1.1.1w`, `10.42`), within the grammar of PMS 3.2;
the free text that a container calls its own version (`1.22.1-p1`) never comes here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.versionhint import suggested

_LONGEST = 200  # far above any real version; keeps int() and error texts small
_SUFFIX_RANK = {"alpha": 0, "beta": 1, "pre": 2, "rc": 3, "p": 5}
_NO_MORE_SUFFIXES = (4, 0)
_PATTERN = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?P<letter>[a-z]?)"
    r"(?P<suffixes>(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*)"
    r"(?:-r(?P<revision>[0-9]+))?"
)

Component = tuple[int, str, int]
SortKey = tuple[int, tuple[Component, ...], str, tuple[tuple[int, int], ...], int]


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; compares, hashes and equals by `sort_key`, so `1.0` equals `1.0-r0`.

    `text` is what was parsed; `str()` gives it back unchanged.
    """

    sort_key: SortKey = field(repr=False)
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str, *, place: str | None = None) -> Version:
        """Parse a version of PMS 3.2.

        Raises:
            RecipeError: the text is not one; the message has the column of the first wrong letter.
        """
        match = _PATTERN.match(text)
        if match is None or match.end() != len(text) or len(text) > _LONGEST:
            raise _refused(text, match.end() if match else 0, place)
        return cls(_sort_key(match), text)

    @property
    def revision(self) -> int:
        """N of `-rN`; 0 where there is none (PMS 3.2)."""
        return self.sort_key[4]

    def same_upstream(self, other: Version) -> bool:
        """Whether both are equal but for the revision: the `~` operator (PMS 8.3.1)."""
        return self.sort_key[:4] == other.sort_key[:4]

    def begins(self, other: Version) -> bool:
        """Whether `other` equals this one in as many components as this has: `=…*` (PMS 8.3.1)."""
        first, rest, letter, suffixes, _ = self.sort_key
        other_first, other_rest, other_letter, other_suffixes, _ = other.sort_key
        if "-r" in self.text:  # a written -r0 is a component too
            return self.sort_key == other.sort_key
        if first != other_first or rest != other_rest[: len(rest)]:
            return False
        given = suffixes[:-1]
        if not letter and not given:
            return True
        if rest != other_rest or letter != other_letter:
            return False
        if not given:
            return True
        # `_rc*` names every _rc: a suffix without a number is only a part of a component.
        bare = not self.text[-1].isdigit()
        compared = other_suffixes[: len(given)]
        if bare and len(compared) == len(given):
            return given[:-1] == compared[:-1] and given[-1][0] == compared[-1][0]
        return given == compared

    def __str__(self) -> str:
        return self.text


def _refused(text: str, end: int, place: str | None) -> RecipeError:
    if len(text) > _LONGEST:
        shown = text[:40] + "…"
        return RecipeError(
            f"version {shown!r} is longer than {_LONGEST} characters",
            place=place,
            hint="a version looks like 1.22.1, 1.1.1w, 2.0_rc1 or 1.4-r2",
        )
    rest = text[end:]
    near = suggested(text)
    if re.fullmatch(r"-p[0-9]+", rest):
        hint = (
            f"a patch level is written {text[:end]}_{rest[1:]}; only containers have free versions"
        )
    elif near is not None:
        hint = f"write {near}; the sources keep upstream's own text"
    else:
        hint = "a version looks like 1.22.1, 1.1.1w, 2.0_rc1 or 1.4-r2"
    found = f"{rest[0]!r} at column {end + 1}" if rest else "its end"
    return RecipeError(f"malformed version {text!r}: unexpected {found}", place=place, hint=hint)


def _sort_key(match: re.Match[str]) -> SortKey:
    first, *rest = match["numbers"].split(".")
    suffixes = tuple(
        (_SUFFIX_RANK[name], int(number or "0"))
        for name, number in re.findall(r"_([a-z]+)([0-9]*)", match["suffixes"])
    )
    return (
        int(first),
        tuple(_component(number) for number in rest),
        match["letter"],
        (*suffixes, _NO_MORE_SUFFIXES),
        int(match["revision"] or "0"),
    )


def _component(number: str) -> Component:
    """A further number as a key: with a leading zero it compares as text without trailing zeros.

    PMS 3.3, algorithm 3.3. Such a text is below every number without a leading zero, so that one
    tuple order covers the rule's mixed case too.
    """
    if number.startswith("0"):
        return (0, number.rstrip("0"), 0)
    return (1, "", int(number))
