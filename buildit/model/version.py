"""Versions of packages, ordered by the Gentoo package manager specification (PMS, chapter 3), and
how one that upstream writes in a way of its own is written here.

A version of a recipe is what upstream calls it (`1.1.1w`, `10.42`), within the grammar of PMS 3.2;
the free text that a container calls its own version (`1.22.1-p1`) never comes here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from buildit.errors import RecipeError

VERSION = r"[0-9]+(?:\.[0-9]+)*[a-z]?(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*(?:-r[0-9]+)?"
"""A version as PMS 3.2 has it."""

_LONGEST = 200  # far above any real version; keeps int() and error texts small
_SUFFIX_RANK = {"alpha": 0, "beta": 1, "pre": 2, "rc": 3, "p": 5}
_NO_MORE_SUFFIXES = (4, 0)
_PATTERN = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?P<letter>[a-z]?)"
    r"(?P<suffixes>(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*)"
    r"(?:-r(?P<revision>[0-9]+))?"
)
_FORM = "a version looks like 1.22.1, 1.1.1w, 2.0_rc1 or 1.4-r2"

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

    def has_prefix(self, wanted: Version) -> bool:
        """Whether it equals the other one in as many components as that has: `=…*` (PMS 8.3.1)."""
        first, rest, letter, suffixes, _ = wanted.sort_key
        own_first, own_rest, own_letter, own_suffixes, _ = self.sort_key
        if "-r" in wanted.text:  # a written -r0 is a component too
            return wanted.sort_key == self.sort_key
        if first != own_first or rest != own_rest[: len(rest)]:
            return False
        given = suffixes[:-1]
        if not letter and not given:
            return True
        if rest != own_rest or letter != own_letter:
            return False
        if not given:
            return True
        # `_rc*` names every _rc: a suffix without a number is only a part of a component.
        bare = not wanted.text[-1].isdigit()
        compared = own_suffixes[: len(given)]
        if bare and len(compared) == len(given):
            return given[:-1] == compared[:-1] and given[-1][0] == compared[-1][0]
        return given == compared

    def __str__(self) -> str:
        return self.text


def _refused(text: str, end: int, place: str | None) -> RecipeError:
    if len(text) > _LONGEST:
        shown = text[:40] + "…"
        return RecipeError(
            f"version {shown!r} is longer than {_LONGEST} characters", place=place, hint=_FORM
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
        hint = _FORM
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


def is_version(text: str) -> bool:
    return len(text) <= _LONGEST and _PATTERN.fullmatch(text) is not None


_LONGEST_FOREIGN = 100
_HEAD = re.compile(
    r"(?:v|r|ver|version|rel|release)?[-_.]?"
    r"(?P<numbers>[0-9]+(?:(?:_[0-9]{1,3})+|(?:-[0-9]{1,3})+|(?:[.][0-9]+)*)(?![0-9]))"
)
_COUNTED = re.compile(r"r(?P<count>[0-9]+)(?:[.+-]g?[0-9a-f]{5,40})?")  # commits and a git hash
_EPOCH = re.compile(r"[0-9]+:")
_PART = re.compile(
    r"[-._~+]?(?P<word>snapshot|preview|patch|build|git|alpha|beta|final|release|repack|dfsg|post|dev|pre"
    r"|rc|ga|ds|cr|a|b|c|m|p)?[-._]?(?P<number>[0-9]*(?:[.][0-9]+(?![0-9a-z]))*)(?:[.+-]g?[0-9a-f]{7,40}$)?"
)
_SUFFIXES = {
    "alpha": "alpha", "a": "alpha", "beta": "beta", "b": "beta",
    "pre": "pre", "preview": "pre", "dev": "pre", "snapshot": "pre", "m": "pre",
    "rc": "rc", "c": "rc", "cr": "rc", "p": "p", "patch": "p", "post": "p",
    "build": "p", "git": "p", None: "p",
}  # fmt: skip
_DROPPED = frozenset(("final", "release", "ga", "dfsg", "ds", "repack"))


def suggested(text: str) -> str | None:
    """The version of PMS 3.2 that says the same, None where none is near.

    Semver (`1.0.0-rc.1`), PEP 440 (`1.2.3a1`), Debian (`1.0~rc1`, `2.9+dfsg`), dates
    (`4.4-20221106`), git tags (`v1.2.3`) and counts (`r1234.abcdef0`), OpenJDK
    (`11.0.20.1+1`), boost (`1_2_3`).
    """
    lower = text.lower()
    if len(text) > _LONGEST_FOREIGN or is_version(text):
        return None
    counted = _COUNTED.fullmatch(lower)
    found = f"0_p{int(counted['count'])}" if counted else _rewritten(_EPOCH.sub("", lower, count=1))
    return found if found is not None and is_version(found) else None


def _rewritten(text: str) -> str | None:
    head = _HEAD.match(text)
    if head is None:
        return None
    made, rest = re.sub("[_-]", ".", head["numbers"]), text[head.end() :]
    if re.match(r"[a-z](?![a-z0-9])", rest):
        made, rest = made + rest[0], rest[1:]
    while rest:
        part = _PART.match(rest)
        if part is None or not part[0] or not (part["word"] or part["number"]):
            return None
        word, number = part["word"], part["number"].replace(".", "")
        if word not in _DROPPED:
            made += f"_{_SUFFIXES[word]}{number}"
        rest = rest[part.end() :]
    return made


def suggested_name(name: str) -> str | None:
    """The `category/name-version` of a text that was taken for a name as a whole."""
    for dash in re.finditer("-", name):
        version = suggested(name[dash.end() :])
        if version is not None and name[: dash.start()].rpartition("/")[2]:
            return f"{name[: dash.start()]}-{version}"
    return None
