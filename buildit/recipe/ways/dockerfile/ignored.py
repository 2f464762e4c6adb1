"""What a `.dockerignore` leaves out of what is copied. Pure.

The rules are moby's `patternmatcher`: patterns are of whole paths from the root of the context, one
that fits a directory counts for all beneath it, `!` takes back, the last one that fits decides.
"""

from __future__ import annotations

import posixpath

from buildit.errors import RecipeError
from buildit.model.ignored import ignore_matcher

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
        ignore_matcher(pattern, place)
        found.append("!" * takes_back + pattern)
        if len(found) > MOST_PATTERNS:
            raise RecipeError(f"the file has more than {MOST_PATTERNS} patterns", place=place)
    return tuple(found)
