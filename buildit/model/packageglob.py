"""Whether a glob over package names can fit any at all: a rule that fits none guards nothing."""

from __future__ import annotations

import re
import string
from collections.abc import Set
from fnmatch import translate

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
