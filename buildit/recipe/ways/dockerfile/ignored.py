"""What a `.dockerignore` leaves out of what is copied. Pure.

The rules are moby's `patternmatcher`: patterns are of whole paths from the root of the context, one
that fits a directory counts for all beneath it, `!` takes back, the last one that fits decides.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable

from buildit.errors import RecipeError
from buildit.model.globs import path_matcher

IGNORE_FILE = ".dockerignore"
MOST_PATTERNS = 1_000


def ignore_names(recipe: str) -> tuple[str, ...]:
    """The files that may say what is left out for a recipe of this path; the first that is there
    counts."""
    return f"{recipe}{IGNORE_FILE}", IGNORE_FILE


def ignore_patterns(text: str, file: str) -> tuple[str, ...]:
    """The patterns of a `.dockerignore`: shortest spelling, those that take back with a `!`.

    Raises:
        RecipeError: one says nothing or is malformed, or there are too many.
    """
    found: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        bare = line.strip()
        if line.startswith("#") or not bare:
            continue
        place = f"{file}:{number}:1"
        takes_back = bare.startswith("!")
        pattern = bare[takes_back:].strip()
        if not pattern:
            raise RecipeError("`!` takes nothing back", place=place, hint="write !PATTERN")
        pattern = posixpath.normpath(pattern)
        if len(pattern) > 1:
            pattern = pattern.lstrip("/") or "."
        _matcher(pattern, place)
        found.append("!" * takes_back + pattern)
        if len(found) > MOST_PATTERNS:
            raise RecipeError(f"the file has more than {MOST_PATTERNS} patterns", place=place)
    return tuple(found)


def ignored_by(patterns: Iterable[str], place: str = "") -> Callable[[str], bool]:
    """A test of paths from the root of the context: whether the patterns leave one out.

    Raises:
        RecipeError: a pattern is malformed.
    """
    rules = [
        (one.startswith("!"), _matcher(one.removeprefix("!"), place or None)) for one in patterns
    ]

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


def _matcher(pattern: str, place: str | None) -> Callable[[str], bool]:
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
