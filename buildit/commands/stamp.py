"""Stamps: what was read for a result, by stat, so that the next run can tell that nothing changed.

The path of a run with nothing to do: only the standard library, no YAML, no store. A stamp is a
cache: a missing, foreign or damaged one is a miss, never an error.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from buildit.home import cache_of

try:
    from _sha256 import sha256  # type: ignore[import-not-found]  # OpenSSL takes 3 ms to load
except ImportError:  # not every Python has it under this name
    from hashlib import sha256

TYPE_CHECKING = False  # typing and pathlib cost 7 ms, a sixth of a run with nothing to do
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

RACY_NANOSECONDS = 2_000_000_000
"""A file changed so shortly before its stamp could change again unseen: its digest is kept too."""

SETTINGS = ("BUILDIT_STORE", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
"""Variables that decide which files are read."""

COARSE = 20_000_000
"""Nanoseconds by which the kernel's time of a change may lag behind the clock."""

FORMAT = "1"


def directory() -> Path:
    """Where stamps lie: beside the default store, whatever `store:` says (that is in a file).

    Where the caller has no home directory it is a path where nothing is and nothing can be.
    """
    from pathlib import Path

    return Path(stamp_path(""))


def stamp_path(file_name: str) -> str:
    """The path of a stamp."""
    store = os.environ.get("BUILDIT_STORE")
    store = store or os.path.join(cache_of(os.environ) or os.devnull, "buildit")
    return os.path.join(store, "cache", "stamps", file_name)


@cache
def code_stamp() -> str:
    """Changes with every edit of our own code, so that a new buildit trusts no old stamp."""
    found: list[str] = []
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        pending.append(entry.path)
                elif entry.name.endswith((".py", ".sh")):
                    status = entry.stat()
                    found.append(f"{entry.path}\0{status.st_mtime_ns}\0{status.st_size}")
    return name(*sorted(found))


def name(*words: str) -> str:
    """The file name of the stamp of a question, such as (verb, directory, options…)."""
    told = sha256("\0".join(words).encode("utf-8", "surrogateescape"))
    return str(told.hexdigest())


def question(*words: str) -> str:
    """The name of the stamp of a question that is asked here, by this user, with these settings.

    Raises:
        OSError: there is no working directory any more.
    """
    settings = (os.environ.get(each, "\0") for each in SETTINGS)
    return name(*words, os.getcwd(), str(os.geteuid()), *settings)


def changed_since(seen: list[int] | None, started: int) -> bool:
    """Whether a file may have changed after a moment (`time.time_ns`), by its look in a row."""
    return bool(seen and max(seen[0], seen[1]) > started - COARSE)


def _digest(path: str) -> str | None:
    """Of a file's bytes or of a directory's names; None where there is nothing to read."""
    try:
        if os.path.isdir(path):
            return name(*sorted(os.listdir(path)))
        if not os.path.isfile(path):  # never wait for the writer of a FIFO
            return None
        from hashlib import file_digest  # of the few files that are looked at so closely

        with open(path, "rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _look(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode]


def record(paths: Iterable[Path]) -> list[list[Any]]:
    """The present state of files and directories; an absent path is remembered as absent."""
    now = time.time_ns()
    rows: list[list[Any]] = []
    for path in sorted({os.path.abspath(path) for path in paths}):
        seen = _look(path)
        racy = seen is not None and abs(now - seen[1]) < RACY_NANOSECONDS
        rows.append([path, seen, _digest(path) if racy else None])
    return rows


def made(paths: Iterable[Path]) -> list[list[Any]]:
    """The present state of files that this process has just made itself.

    Their stat is enough, however large they are: a change by anybody else comes after ours, and
    shows unless it is made within the same tick of the kernel's clock.
    """
    return [[path, _look(path), None] for path in sorted({os.path.abspath(p) for p in paths})]


def unchanged(rows: Iterable[list[Any]]) -> bool:
    """Whether every path is as it was recorded."""
    return all(
        _look(path) == seen and (digest is None or _digest(path) == digest)
        for path, seen, digest in rows
    )


def image_parts(image: Path) -> list[Path]:
    """What of an emitted image is looked at: the file, or all files of the directory; of a tree in
    it, that it is there."""
    from buildit.image.output import UNPACKED, emitted_files

    tree = image / UNPACKED
    return [*emitted_files(image), *([tree] if tree.is_dir() else [])]


def write(file_name: str, rows: list[list[Any]], result: dict[str, Any]) -> None:
    """Keep a result under its question; a disk that refuses costs only the shortcut."""
    from buildit.files import replacing  # pathlib and typing, which a replay does without
    from buildit.store.disk import make_directory

    with suppress(OSError):
        where = directory()
        make_directory(where)
        kept = {"format": FORMAT, "code": code_stamp(), "files": rows, "result": result}
        with replacing(where / file_name, mode=0o600) as stream:
            stream.write(json.dumps(kept, separators=(",", ":")).encode())


def _kept(file_name: str) -> dict[str, Any]:
    """A stamp as it lies there; empty where there is none."""
    try:
        with open(stamp_path(file_name), "rb") as stream:
            found = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read(file_name: str) -> dict[str, Any] | None:
    """The result kept under a question, where all that it came from is unchanged."""
    stamp = _kept(file_name)
    try:
        if stamp["format"] != FORMAT or stamp["code"] != code_stamp():
            return None
        result = stamp["result"] if unchanged(stamp["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if isinstance(result, dict) else None


def last(file_name: str) -> dict[str, Any]:
    """The result kept under a question, whatever has changed since; empty where there is none."""
    result = _kept(file_name).get("result")
    return result if isinstance(result, dict) else {}


def files_of(file_name: str) -> list[list[Any]] | None:
    """What the result of a question came from, as it was then; None where there is none."""
    found = _kept(file_name).get("files")
    return found if isinstance(found, list) else None


def renew(file_name: str, new: dict[str, Any] | None = None, changed: Iterable[Path] = ()) -> None:
    """Keep another result under a question whose files are as they were; or the same one although
    some of its files `changed`: this process did that, and knows why."""
    with suppress(ValueError, LookupError, TypeError):
        stamp, now = _kept(file_name), {row[0]: row for row in record(changed)}
        files = [now.get(row[0], row) for row in stamp["files"]]
        write(file_name, files, stamp["result"] if new is None else new)


def forget(file_name: str) -> None:
    with suppress(OSError):
        os.unlink(stamp_path(file_name))
