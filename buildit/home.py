"""The caller's home directory. Standard library only: the way with nothing to do reads it, too."""

from __future__ import annotations

from collections.abc import Mapping


def home_of(environ: Mapping[str, str]) -> str | None:
    """An absolute path, or None: `HOME` is relative, or unset where the user has no passwd entry.

    An empty HOME is an unset one. A user without an entry is what `docker run -u 12345` gives.
    """
    given = environ.get("HOME")
    if given:
        return given if given.startswith("/") else None
    import os
    import pwd

    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return found if found.startswith("/") else None


def cache_of(environ: Mapping[str, str]) -> str | None:
    """Where caches go: `XDG_CACHE_HOME` (XDG base directories, 0.8: absolute or ignored)."""
    given = environ.get("XDG_CACHE_HOME", "")
    if given.startswith("/"):
        return given
    home = home_of(environ)
    return None if home is None else f"{home}/.cache"
