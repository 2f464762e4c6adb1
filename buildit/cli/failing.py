"""What went wrong, as text or JSON on stderr, and the exit code; the only place that decides both.

0 ok, 1 build or store, 2 recipe or usage, 3 unsatisfiable, 4 network, 5 integrity, 70 a bug of
buildit, 130 interrupted, 141 the reader of stdout went away.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from buildit.cli.screen import printable, unwritable
from buildit.errors import BuilditError, Interrupted, StoreError

BUG = 70
PIPE_CLOSED = 141
"""What a shell says of a process that SIGPIPE ended (128 + 13)."""

DETAIL_LINES = 40
LINE_LENGTH = 400

DEBUG = "BUILDIT_DEBUG"

_ERRORS = """
    EACCES EAGAIN EDQUOT EINTR EIO EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENOMEM ENOSPC ENOTDIR
    EPERM EROFS
"""
_THE_MACHINES = frozenset(getattr(errno, name) for name in _ERRORS.split())
"""What the file system may answer at any time; any other OSError that gets here is a bug."""


_NO_THREAD = "can't start new thread"
"""CPython's RuntimeError where clone(2) says EAGAIN (Python/thread_pthread.h)."""


def error_lines(error: BuilditError) -> tuple[str, ...]:
    """The lines of an error: what and where, bounded details, the next step."""
    place = f"{error.place}: " if error.place else ""
    found = [f"buildit: error: {place}{error.message}"]
    shown = error.details[:DETAIL_LINES]
    found += [f"  {line}" for line in shown]
    if len(error.details) > len(shown):
        found.append(f"  … and {len(error.details) - len(shown)} more")
    if error.hint:
        found.append(f"hint: {error.hint}")
    return tuple(printable(_short(line)) for line in found)


def error_plain(error: BuilditError) -> dict[str, object]:
    """The error as JSON data; its details are whole."""
    return {
        "event": "error",
        "kind": _kind(error),
        "exit": error.exit_code,
        "message": error.message,
        "place": error.place,
        "hint": error.hint,
        "details": list(error.details),
    }


def _kind(error: BuilditError) -> str:
    """The nearest class of `buildit.errors`: that of a module of its own is nobody's business."""
    public = (one for one in type(error).__mro__ if one.__module__ == BuilditError.__module__)
    return next(public).__name__


def fail(error: BuilditError, stream: TextIO, *, as_json: bool) -> int:
    """Write the error, and return its exit code."""
    _say(stream, [json.dumps(error_plain(error))] if as_json else error_lines(error))
    return error.exit_code


def known_error(error: BaseException) -> BuilditError | None:
    """The error that an exception of others means to a user; None where it is a bug."""
    if isinstance(error, BuilditError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted", hint="what was finished is kept: run the command again")
    if str(error) == _NO_THREAD or (isinstance(error, OSError) and error.errno == errno.EAGAIN):
        return StoreError(
            "no further thread or process can be started here: a limit on processes is reached",
            hint="raise it (ulimit -u, or pids.max of the control group), or build with --jobs 1",
        )
    if isinstance(error, OSError) and error.errno in _THE_MACHINES:
        return StoreError(
            error.strerror or "the file system refuses",
            place=os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None,
            hint="look at the permissions and the free space there; `buildit doctor` helps",
        )
    return None


def bug(error: BaseException, stream: TextIO, logs: Path, *, as_json: bool = False) -> int:
    """Say that buildit itself is wrong, keep the traceback, and return the exit code."""
    import traceback

    text = "".join(traceback.format_exception(error))
    shown = text.splitlines() if os.environ.get(DEBUG) else []
    kept = _keep(text, logs)
    name = printable(_short(f"{type(error).__name__}: {error}"))
    where = f"report it with {kept}" if kept else f"run it again with {DEBUG}=1 and report that"
    known = BuilditError(f"this is a bug of buildit: {name}", hint=where)
    if as_json:
        plain = {**error_plain(known), "kind": "Bug", "exit": BUG, "details": shown}
        _say(stream, [json.dumps(plain)])
    else:
        _say(stream, [*shown, *error_lines(known)])
    return BUG


def _say(stream: TextIO, lines: Sequence[str]) -> None:
    """Write lines; a stream that takes none is no reason for another exit code."""
    with suppress(OSError, ValueError):
        stream.write("".join(f"{line}\n" for line in lines))
        stream.flush()


def stuck(error: BaseException) -> StoreError | None:
    """What kept stdout from taking what click writes there (help, version); None where that is
    not what went wrong: a full disk says the same, in another place."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, OSError):
        return None
    name = str(trace.tb_frame.f_globals.get("__name__", ""))
    return unwritable(error) if name.partition(".")[0] == "click" else None


def _keep(text: str, logs: Path) -> Path | None:
    """The traceback in a file of its own; in the temporary directory where `logs` refuses."""
    import tempfile  # 4 ms that only a bug costs

    for directory in (logs, Path(tempfile.gettempdir())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=directory, prefix="bug-", suffix=".txt")
        except OSError:
            continue
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{' '.join(map(repr, sys.argv))}\n{sys.version}\n{text}")
        return Path(name)
    return None


def _short(line: str) -> str:
    return line if len(line) <= LINE_LENGTH else f"{line[: LINE_LENGTH - 1]}…"
