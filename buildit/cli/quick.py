"""The way with nothing to do: replay the last run where no file that it read has changed.

Standard library only, and little of it; everything else is imported by `cli.main`. A replay is
right only if the run that it replays saw the files as they are now, so nothing is kept of a run
during which one of them changed.
"""

from __future__ import annotations

import os
import stat
import sys
import time

TYPE_CHECKING = False  # typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

VERBS = frozenset(
    (
        "build",
        "digest",
        "doctor",
        "explain",
        "lock",
        "log",
        "pages",
        "plan",
        "push",
        "schema",
        "shell",
        "show",
        "store",
        "trust",
        "use",
        "verify",
        "why",
    )
)
"""The words that are no directory where a command begins with them; `cli.main` has the same."""

LOCK = "buildit.lock"

_INTERRUPTED = 130
"""The exit code of `errors.Interrupted`."""


def replay(argv: list[str]) -> int | None:
    """Print what the same command would print, where its images are still what it made.

    Returns its exit code, 0; None where the command must really run.
    """
    name = _question(argv)
    if name is None:
        return None
    from buildit.commands import stamp

    kept = stamp.read(name)
    if kept is None:
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
    except KeyboardInterrupt:
        return _INTERRUPTED
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


def _is_private(blobs: str) -> bool:
    """Whether nobody else may write to the store of `blobs`, nor to what this shortcut believes."""
    from buildit.commands import stamp

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

    from buildit.commands import stamp
    from buildit.errors import BuilditError
    from buildit.image.output import restore

    recipes = {path: one for path, one in kept["restore"].items() if not os.path.lexists(path)}
    there = [row for row in kept["images"] if not any(_within(row[0], path) for path in recipes)]
    if None in recipes.values() or not stamp.unchanged(there):
        return False
    try:
        for path, one in recipes.items():
            restore(Path(path), one, Path(kept["blobs"]))
        images = stamp.made(Path(part) for path in kept["restore"] for part in _beneath(path))
    except (BuilditError, OSError, AttributeError):
        return False  # a real run says what is wrong, or mends it
    stamp.renew(name, {**kept, "images": images})
    return True


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def keep_run(
    argv: list[str],
    started: int,
    plan_stamp: str,
    synced: list[str],
    lines: list[str],
    images: list[str],
    statements: list[str],
    blobs: str = "",
    until: int | None = None,
) -> None:
    """Remember a run that succeeded, so that the next one can be replayed.

    `started` is when it began (`time.time_ns`). `plan_stamp` names the stamp of its plan, whose
    files are those that planning read; `synced` are the sources of its sync steps. `images` and
    `statements` (of its packages, in the store) must still be there for a replay; an OCI layout
    that was deleted is put back from `blobs`, the directory of the store's blobs. `until` (seconds
    since 1970) is when some builder's word ends to count: from then on a real run must look.
    """
    name = _question(argv)
    if name is None:
        return
    from pathlib import Path

    from buildit.commands import stamp

    planned = _planned(plan_stamp)
    if planned is None:
        return
    files = planned + stamp.record(Path(path) for path in synced)
    if any(_changed(row, started, "--locked" in argv) for row in files):
        # What was planned may be older than what its stamp says of the files: neither counts.
        stamp.forget(plan_stamp)
        return
    result = {
        "screen": [f"{line}\n" for line in lines],
        "paths": [f"{path}\n" for path in images],
        "images": stamp.made(Path(part) for image in images for part in _beneath(image)),
        "store": statements,
        "restore": {os.path.abspath(image): _recipe(image, blobs) for image in images},
        "blobs": blobs,
        "until": until,
    }
    stamp.write(name, files, result)


def _recipe(image: str, blobs: str) -> dict[str, Any] | None:
    """How to put an image back; None for one that is a file, or holds what the store has not."""
    from pathlib import Path

    from buildit.image.output import recipe

    try:
        return recipe(Path(image), Path(blobs)) if blobs and os.path.isdir(image) else None
    except OSError:
        return None


def _question(argv: list[str]) -> str | None:
    """The name of the stamp of a build that asks for plain lines, None for any other command."""
    words = argv[1:] if argv[:1] == ["build"] else argv
    if not words or (words is argv and words[0] in VERBS):
        return None
    if any(word in ("--json", "--help", "--version", "--push") for word in words):
        return None
    if any(word.startswith("--discover") for word in words):
        return None  # who asks other places, or publishes, wants it done now
    from buildit.commands import stamp

    try:
        return stamp.question("run", *words)
    except OSError:
        return None


def _planned(plan_stamp: str) -> list[list[Any]] | None:
    """The rows of the files that planning read, from the stamp that it left."""
    import json

    from buildit.commands import stamp

    try:
        with open(stamp.stamp_path(plan_stamp), "rb") as stream:
            rows = json.load(stream)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if isinstance(rows, list) else None


def _changed(row: list[Any], started: int, locked: bool) -> bool:
    """Whether a file changed after the run began; the lock is written by the run itself."""
    from buildit.commands import stamp

    own = os.path.basename(row[0]) == LOCK and not locked
    return not own and stamp.changed_since(row[1], started)


def _beneath(path: str) -> list[str]:
    """A path and all that is beneath it. A link cannot be told by its stat: its directory can."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return [path]
    if stat.S_ISLNK(mode):
        return [path, os.path.dirname(path) or "."]
    found = [path]
    if stat.S_ISDIR(mode):
        for directory, below, files in os.walk(path):
            found += [os.path.join(directory, name) for name in (*below, *files)]
    return found
