"""Patterns that leave files out, as moby's `patternmatcher` reads them: they are of whole paths
from the root of the context, one that fits a directory counts for all beneath it, `!` takes back,
the last one that fits decides. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from buildit.model.globs import path_matcher


def ignored_by(patterns: Iterable[str], place: str = "") -> Callable[[str], bool]:
    """A test of paths from the root of the context: whether the patterns leave one out.

    Raises:
        RecipeError: a pattern is malformed.
    """
    pairs = ((one.startswith("!"), one.removeprefix("!")) for one in patterns)
    rules = [(takes_back, ignore_matcher(one, place or None)) for takes_back, one in pairs]

    def is_ignored(path: str) -> bool:
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        found = False
        for takes_back, matches in rules:
            if takes_back == found and any(map(matches, above)):
                found = not takes_back
        return found

    return is_ignored


def may_take_back(patterns: Iterable[str]) -> bool:
    """Whether some pattern takes back what others leave out, so that even a directory that is left
    out must be looked into."""
    return any(one.startswith("!") for one in patterns)


_PIECE = re.compile(r"\*\*/?|\\.|\[[^\]]*\]|.", re.DOTALL)


def ignore_matcher(pattern: str, place: str | None) -> Callable[[str], bool]:
    """A test of one path. `..` and an absolute path fit nothing beneath the context."""
    if pattern == ".." or pattern.startswith(("../", "/")):
        return lambda _: False
    if pattern == ".":
        return lambda _: True
    return path_matcher(translated_glob(pattern), place=place)


def translated_glob(pattern: str) -> str:
    """A pattern of moby's as a glob of ours: `**` is any number of directories, wherever it stands;
    a backslash takes a character as it is."""
    pieces = _PIECE.findall(pattern)
    made = []
    for number, piece in enumerate(pieces):
        if piece.startswith("**"):
            is_last = number == len(pieces) - 1
            made.append("**" if is_last else "**/")
        elif piece.startswith("\\") and len(piece) == 2:
            made.append(f"[{piece[1]}]" if piece[1] in "*?[" else piece[1])
        elif piece.startswith("[^"):
            made.append(f"[!{piece[2:]}")
        else:
            made.append(piece)
    return "".join(made)
