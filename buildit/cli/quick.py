"""The way with nothing to do: replay the last run where no file that it read has changed.

Standard library only, and little of it; everything else is imported by `cli.main`. What a run
leaves for its replay is written by `cli.containers`.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from buildit.commands import stamp

TYPE_CHECKING = False  # typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

_WORDS = """
    build check digest doctor down exec explain import lock log logs ls pages plan ps pull
    push run schema shell show store trust up use verify why
"""
VERBS = frozenset(_WORDS.split())
"""The words that are no directory where a command begins with them; `cli.main` has the same."""


def replay(argv: list[str]) -> int | None:
    """Print what the same command would print, where its images are still what it made.

    Returns its exit code, 0; None where the command must really run.
    """
    name = stamp_of_build(argv)
    kept = None if name is None else stamp.read(name)
    if name is None or kept is None:
        return None
    try:
        screen, paths = "".join(kept["screen"]), "".join(kept["paths"])
        if kept["until"] is not None and time.time() > kept["until"]:
            return None
        if not all(map(os.path.exists, kept["store"])) or not _is_private(kept["blobs"]):
            return None
        if not stamp.unchanged(kept["images"]) and not _put_back(name, kept):
            return None
    except (KeyError, TypeError):
        return None
    try:
        sys.stderr.write(screen)
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens to the progress; the result still counts
    try:
        sys.stdout.write(paths)
        sys.stdout.flush()
    except (OSError, UnicodeError):
        return None
    return 0


_NOW = ("--json", "--help", "--version", "--push", "--rebuild", "--step")
"""Options, with `--discover`, of who asks other places, publishes, compares or is asked: now."""


def stamp_of_build(argv: list[str]) -> str | None:
    """The name of the stamp of a build that asks for plain lines, None for any other command."""
    words = argv[1:] if argv[:1] == ["build"] else argv
    if not words or (words is argv and words[0] in VERBS):
        return None
    if any(word in _NOW or word.startswith("--discover") for word in words):
        return None
    try:
        return stamp.question("run", *words)
    except OSError:
        return None


def _is_private(blobs: str) -> bool:
    """Whether nobody else may write to the store of `blobs`, nor to what this shortcut believes."""
    root = os.path.dirname(os.path.dirname(blobs))
    parts = [root, os.path.dirname(blobs), blobs, os.path.join(root, "k")] if blobs else []
    for part in (*parts, stamp.stamp_path("")):
        try:
            status = os.stat(part)
        except OSError:
            continue  # what it held is missed where it is needed
        if status.st_mode & 0o022 or status.st_uid != os.geteuid():
            return False
    return True


def _put_back(name: str, kept: dict[str, Any]) -> bool:
    """Make deleted images again from what the store has; False where it takes a real run."""
    from pathlib import Path

    from buildit.errors import BuilditError
    from buildit.image.output import restore

    recipes = {path: one for path, one in kept["restore"].items() if not os.path.lexists(path)}
    lost = tuple(f"{path}/" for path in recipes)
    there = [row for row in kept["images"] if not f"{row[0]}/".startswith(lost)]
    if None in recipes.values() or not stamp.unchanged(there):
        return False
    try:
        for path, one in recipes.items():
            restore(Path(path), one, Path(kept["blobs"]))
        images = stamp.made(Path(part) for path in kept["restore"] for part in beneath(path))
    except (BuilditError, OSError, AttributeError):
        return False  # a real run says what is wrong, or mends it
    stamp.renew(name, {**kept, "images": images})
    return True


def beneath(path: str) -> list[str]:
    """A path and all that is beneath it. A link cannot be told by its stat: its directory can."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return [path]
    if stat.S_ISLNK(mode):
        return [path, os.path.dirname(path) or "."]
    found = [path]
    for directory, below, files in os.walk(path):
        found += [os.path.join(directory, name) for name in (*below, *files)]
        # `image.output.UNPACKED`: thousands of files, made from the rest
        if directory == path and "rootfs" in below:
            below.remove("rootfs")
    return found
