"""Globs over the paths of a tree: `*` and `?` stay within a name, `**` crosses directories."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from buildit.errors import RecipeError

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]/]*\]|.", re.DOTALL)
_WILD = {"**/": "(?:[^/]+/)*", "**": ".+", "*": "[^/]*", "?": "[^/]"}


def path_matcher(glob: str, *, place: str | None = None) -> Callable[[str], bool]:
    """A test of paths without a leading slash.

    `**/` is any number of directories, also none; `a/**` is everything below `a`, not `a` itself;
    a set is `[a-z]` or `[!a-z]`.

    Raises:
        RecipeError: the glob is empty, absolute, or has an empty part, `.`, `..` or an open `[`.
    """
    parts = glob.split("/")
    if not glob or any(part in ("", ".", "..") for part in parts):
        raise RecipeError(
            f"malformed glob {glob!r}",
            place=place,
            hint="write it relative to the root of the tree: usr/share/man/**",
        )
    try:
        if "[" in _TOKEN.findall(glob):
            raise re.error("an open '['")
        pattern = _compiled(glob)
    except re.error as error:
        raise RecipeError(
            f"malformed glob {glob!r}: {error.msg}", place=place, hint="a set is [abc] or [a-z]"
        ) from error
    return lambda path: pattern.fullmatch(path) is not None


@lru_cache(maxsize=512)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile("".join(map(_translated, _TOKEN.findall(glob))), re.DOTALL)


def _translated(token: str) -> str:
    if token in _WILD:
        return _WILD[token]
    if token.startswith("[") and len(token) > 2:
        inverse = token[1] in "!^"
        pieces = re.findall(r"(.)-(.)|(.)", token[1 + inverse : -1], re.DOTALL)
        body = "".join(
            f"{re.escape(low)}-{re.escape(high)}" if low else re.escape(single)
            for low, high, single in pieces
        )
        return f"(?!/)[{'^' if inverse else ''}{body}]"
    return re.escape(token)
