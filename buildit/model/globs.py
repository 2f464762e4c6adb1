"""Globs over the paths of a tree, and over the names of packages.

In paths `*` and `?` stay within a name, `**` crosses directories. They are matched without
backtracking, in time linear in the path: all places of the glob that a path may be at are followed
at once, and what one character makes of them is remembered (a lazy DFA, as in Ken Thompson,
"Regular expression search algorithm", CACM 11.6, 1968).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Set
from fnmatch import translate
from functools import lru_cache

from buildit.errors import RecipeError

_LOWER = frozenset(string.ascii_lowercase + string.digits + "_")
_UPPER = _LOWER | set(string.ascii_uppercase)
_CATEGORY = _LOWER | set("+.-")
_NAME = _UPPER | set("+-")
_DEB = frozenset(string.ascii_lowercase + string.digits)
_DEBIAN = _DEB | set("+.-")
_ALPHABET = _NAME | set(".:/")
_PIECE = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_PREFIX = "debian:"
_IN_NAME, _IN_DEBIAN = 3, 5
_STEPS: dict[int, tuple[tuple[Set[str], int], ...]] = {
    0: ((_LOWER, 1),),
    1: ((_CATEGORY, 1), ({"/"}, 2)),
    2: ((_UPPER, _IN_NAME),),
    _IN_NAME: ((_NAME, _IN_NAME),),
    4: ((_DEB, _IN_DEBIAN),),
    _IN_DEBIAN: ((_DEBIAN, _IN_DEBIAN),),
    **{at: (({_PREFIX[at]}, at + 1 or 4),) for at in range(-len(_PREFIX), 0)},
}
"""The grammar of names: from each state, what one character may be and where it leads. Below zero:
how much of `debian:` is to come."""


def fits_some(glob: str) -> bool:
    """Whether some `category/name`, or `debian:name`, fits the glob (fnmatch; case counts).

    Categories are lower case, names as the schema of atoms has them. Glob and grammar are walked
    side by side, so nothing is tried out and no glob takes long.
    """
    pieces = _PIECE.findall(glob)
    takes = [
        {char for char in _ALPHABET if piece == "*" or re.match(translate(piece), char)}
        for piece in pieces
    ]
    pending = [(0, 0), (0, -len(_PREFIX))]
    reached = set(pending)
    while pending:
        at, state = pending.pop()
        if at == len(pieces):
            if state in (_IN_NAME, _IN_DEBIAN):
                return True
            continue
        star = pieces[at] == "*"
        after = {(at + (not star), there) for chars, there in _STEPS[state] if chars & takes[at]}
        if star:
            after.add((at + 1, state))
        pending += after - reached
        reached |= after
    return False


_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]/]*\]|.", re.DOTALL)
_SPECIAL = frozenset("*?[")
_MOST_REMEMBERED = 20_000


def path_matcher(glob: str, *, place: str | None = None) -> Callable[[str], bool]:
    """A test of paths without a leading slash.

    `**/` is any number of directories, also none; `a/**` is everything below `a`, not `a` itself;
    a set is `[a-z]` or `[!a-z]`.

    Raises:
        RecipeError: the glob is empty, absolute, or has an empty part, `.`, `..` or an open `[`.
    """
    parts = glob.split("/")
    if not glob or any(part in ("", ".", "..") for part in parts):
        hint = "write it relative to the root of the tree: usr/share/man/**"
        raise RecipeError(f"malformed glob {glob!r}", place=place, hint=hint)
    try:
        if "[" in _TOKEN.findall(glob):
            raise re.error("an open '['")
        return _compiled(glob)
    except re.error as error:
        told, hint = f"malformed glob {glob!r}: {error.msg}", "a set is [abc] or [a-z]"
        raise RecipeError(told, place=place, hint=hint) from error


def glob_of(path: str) -> str:
    """A glob that matches this path; `?` stands for what no text file can say."""
    return "".join(
        "?" if "\ud800" <= sign <= "\udfff" or not sign.isprintable() else
        f"[{sign}]" if sign in _SPECIAL else sign
        for sign in path
    )  # fmt: skip


@lru_cache(maxsize=512)
def _compiled(glob: str) -> Callable[[str], bool]:
    tokens = _TOKEN.findall(glob)
    plain = [len(token) == 1 and token not in _SPECIAL for token in tokens]
    if all(plain):
        return lambda path: path == glob
    first = plain.index(False)
    last = plain[::-1].index(False)
    prefix, suffix = "".join(tokens[:first]), "".join(tokens[len(tokens) - last :])
    if tokens[first:] == ["**"]:  # everything below
        return lambda path: path.startswith(prefix) and len(path) > first
    automaton = _Automaton(tokens)
    # what a path must have in it: told at once, where following its signs takes a while
    words = "".join(token if one else "*" for token, one in zip(tokens, plain, strict=True))
    word = max(words[first:].split("*"), key=len)

    def matches(path: str) -> bool:
        fits = path.startswith(prefix) and path.endswith(suffix) and word in path
        return fits and automaton.matches(path)

    return matches


class _Automaton:
    """The places of a glob as bits of a number: bit i is "all before place i has been matched".

    `**` is two places (one sign, then any), `**/` is two as well (before and inside of a name).
    """

    def __init__(self, tokens: list[str]) -> None:
        self._places: list[tuple[tuple[tuple[re.Pattern[str], int], ...], int]] = []
        """Of each: which signs lead to which place, and the place that it leads to without one."""
        for token in tokens:
            self._add(token)
        self._final = 1 << len(self._places)
        self._add("")
        self._start = self._closed(1)
        self._known: dict[tuple[int, str], int] = {}

    def matches(self, path: str) -> bool:
        known, at = self._known, self._start
        for sign in path:
            following = known.get((at, sign))
            if following is None:
                following = self._step(at, sign)
            if not following:
                return False
            at = following
        return bool(at & self._final)

    def _add(self, word: str) -> None:
        here = len(self._places)
        if word == "**/":
            self._place((("[^/]", here + 1),), here + 2)
            self._place((("/", here), ("[^/]", here + 1)))
        elif word == "**":
            self._place(((".", here + 1),))
            self._place(((".", here + 1),), here + 2)
        elif word == "*":
            self._place((("[^/]", here),), here + 1)
        elif word == "?":
            self._place((("[^/]", here + 1),))
        else:
            self._place(((_set(word) if word[1:] else re.escape(word), here + 1),))

    def _place(self, signs: tuple[tuple[str, int], ...], skip: int = -1) -> None:
        steps = tuple((re.compile(sign, re.DOTALL), 1 << there) for sign, there in signs)
        self._places.append((steps, skip))

    def _step(self, at: int, sign: str) -> int:
        reached, rest = 0, at & ~self._final
        while rest:
            lowest = rest & -rest
            rest ^= lowest
            for one, there in self._places[lowest.bit_length() - 1][0]:
                if one.fullmatch(sign):
                    reached |= there
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        following = self._known[at, sign] = self._closed(reached)
        return following

    def _closed(self, places: int) -> int:
        """With those that they lead to without a sign, which are always further on."""
        closed, rest = places, places
        while rest:
            lowest = rest & -rest
            rest ^= lowest
            skip = self._places[lowest.bit_length() - 1][1]
            if skip >= 0 and not closed >> skip & 1:
                closed |= 1 << skip
                rest |= 1 << skip
        return closed


def _set(token: str) -> str:
    inverse = token[1] in "!^"
    body = "".join(
        f"{re.escape(low)}-{re.escape(high)}" if low else re.escape(single)
        for low, high, single in re.findall(r"(.)-(.)|(.)", token[1 + inverse : -1], re.DOTALL)
    )
    return f"(?!/)[{'^' if inverse else ''}{body}]"
