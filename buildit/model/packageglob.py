"""Whether a glob over package names can fit any at all: a rule that fits none guards nothing."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from fnmatch import translate

_LOWER = frozenset(string.ascii_lowercase + string.digits + "_")
_UPPER = _LOWER | set(string.ascii_uppercase)
_CATEGORY = _LOWER | set("+.-")
_NAME = _UPPER | set("+-")
_DEB = frozenset(string.ascii_lowercase + string.digits)
_DEBIAN = _DEB | set("+.-")
_ALPHABET = sorted(_NAME | set(".:/"))
_PIECE = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_PREFIX = "debian:"
_IN_NAME, _IN_DEBIAN = 3, 5


def fits_some(glob: str) -> bool:
    """Whether some `category/name`, or `debian:name`, fits the glob (fnmatch; case counts).

    Categories are lower case, names as the schema of atoms has them. Glob and grammar are walked
    side by side, so nothing is tried out and no glob takes long.
    """
    pieces = _PIECE.findall(glob)
    takes = [_chars(piece) for piece in pieces]
    pending = [(0, 0), (0, -len(_PREFIX))]
    reached = set(pending)
    while pending:
        at, state = pending.pop()
        if at == len(pieces):
            if state in (_IN_NAME, _IN_DEBIAN):
                return True
            continue
        star = pieces[at] == "*"
        after = [(at if star else at + 1, there) for c in takes[at] for there in _steps(state, c)]
        if star:
            after.append((at + 1, state))
        pending += [one for one in dict.fromkeys(after) if one not in reached]
        reached.update(after)
    return False


def _chars(piece: str) -> list[str]:
    """What one piece of a glob takes, of all that names are made of."""
    if piece == "*":
        return _ALPHABET
    fits = re.compile(translate(piece)).match
    return [char for char in _ALPHABET if fits(char)]


def _steps(state: int, char: str) -> Iterator[int]:
    """The grammar of names, one character on. Below zero: how much of `debian:` is to come."""
    if state < 0:
        if char == _PREFIX[state]:
            yield state + 1 or 4
    elif state == 0 and char in _LOWER:
        yield 1
    elif state == 1 and (char in _CATEGORY or char == "/"):
        yield 2 if char == "/" else 1
    elif (state == 2 and char in _UPPER) or (state == _IN_NAME and char in _NAME):
        yield _IN_NAME
    elif (state == 4 and char in _DEB) or (state == _IN_DEBIAN and char in _DEBIAN):
        yield _IN_DEBIAN
