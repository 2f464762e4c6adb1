"""The name that somebody probably meant, and the names that there are."""

from __future__ import annotations

from collections.abc import Collection

_SHOWN = 12


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name most like `name`; None where none is like it."""
    import difflib

    folded = {one.lower().replace("_", "-"): one for one in sorted(known, reverse=True)}
    close = difflib.get_close_matches(name.lower().replace("_", "-")[:100], folded, n=1)
    return folded[close[0]] if close else None


def hint_of(name: str, known: Collection[str]) -> str:
    """A hint: the nearest name, if there is one, and the names that are valid."""
    if not known:
        return "nothing can be named here"
    meant = nearest(name, known)
    listed = list(known)[:_SHOWN]
    rest = len(known) - len(listed)
    names = ", ".join(listed) + (f" and {rest} more" if rest > 0 else "")
    return (f"did you mean {meant!r}? " if meant else "") + f"valid here: {names}"
