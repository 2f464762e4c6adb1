"""What a command says: results on stdout, as lines for people and pipes or as one JSON document;
events on stderr, as lines or as JSON, and so what went wrong. Only here is an exit code decided:

0 ok, 1 build or store, 2 recipe or usage, 3 unsatisfiable, 4 network, 5 integrity, 70 a bug of
buildit, 130 interrupted, 141 the reader of stdout went away.

What upstream, a recipe or a file name says must not drive a terminal: `printable` and `columns`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO, TypeVar

from buildit import events
from buildit.codec import to_plain
from buildit.digest import BuildKey, key_uuid
from buildit.errors import BuilditError, Interrupted, StoreError
from buildit.model.words import size

_Result = TypeVar("_Result")

_OK = "   [OK]"
_FAILED = "   [FAILED]"
_DEB = "debian:"


def printable(text: str) -> str:
    """`text` with control, format and undecodable characters shown as `?`, tabs as blanks."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text)


def columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> tuple[str, ...]:
    """Rows of equal length as lines with aligned columns, two blanks between them."""
    shown = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return tuple(
        (indent + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in shown
    )


def give(
    found: _Result,
    lines: Callable[[_Result], Iterable[str]],
    plain: Callable[[_Result], object] = to_plain,
    *,
    as_json: bool,
) -> None:
    """Give the result of a verb: as the JSON of `plain`, or as `lines`; the caller has made foreign
    text in these printable, or wants its bytes."""
    if as_json:
        say(f"{json.dumps(plain(found), indent=2)}\n")
    else:
        say("".join(f"{line}\n" for line in lines(found)))


def say(text: str = "") -> None:
    """Write a result; without one, have everything written.

    Raises:
        StoreError: stdout takes it not.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
        if not text:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from error


def unwritable(error: OSError) -> StoreError:
    """What a stdout that takes nothing means; it takes all, and keeps nothing, afterwards."""
    to_nowhere(sys.stdout)
    told = f"the result cannot be written: {error.strerror}"
    hint = "what was made is there all the same: write the output elsewhere"
    return StoreError(told, place="standard output", hint=hint)


def to_nowhere(stream: TextIO) -> None:
    """From now on a stream takes all and keeps nothing, what it could not get rid of included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
    stream.flush()


def event_name(event: events.Event) -> str:
    """`phase-started` for `PhaseStarted`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(event).__name__).lower()


def event_lines(event: events.Event, roots: frozenset[BuildKey]) -> tuple[str, ...]:
    """The lines of one event; `roots` are the packages that the container names itself."""
    match event:
        case events.Started(label):
            return (f"Building {label}",)
        case events.Processing(origin, platform, key):
            return (f"Processing package from '{origin}' for {platform}.", f"HASH: {key_uuid(key)}")
        case events.Planned(reused, builds, unpacks) if builds:
            # only where something is built: a .deb that an image turns out to need says so itself
            parts = ((builds, "to build"), (unpacks, "to unpack"), (reused, "at hand"))
            return (f"Packages: {', '.join(f'{count} {what}' for count, what in parts if count)}.",)
        case events.Missing(key, _) if key in roots:
            return ("Can't find HASH in any known location...",)
        case events.Reused(key, _, origin) if key in roots:
            return (f"Found HASH in {origin}...{_OK}",)
        case events.Building(_, name, reason) if not name.startswith(_DEB):
            return (f"  {name}: building ({reason})",)
        case events.Built(key, name, seconds):
            did = "unpacked" if name.startswith(_DEB) else "built"
            told = f"  {name}: {did} in {seconds:.1f} s"
            return (told, f"Defaulting to local build...{_OK}") if key in roots else (told,)
        case events.BuildFailed(key, name, message):
            told = f"  {name}: failed: {message}"
            return (told, f"Defaulting to local build...{_FAILED}") if key in roots else (told,)
        case events.Recalled(_, name, origin):
            return (f"  {name}: not rebuilt: taken from {origin}",)
        case events.LocationFailed(name, location, reason):
            return (f"  {name}: {location}: {reason}; trying the next location",)
        case events.Fetching(name, received, _, True) if not name.endswith(".deb"):
            return (f"  fetched {name} ({size(received)})",)
        case events.Emitted(name, kind, _, _):
            return (f"Packaging {name} as {kind.upper()}...{_OK}",)
        case events.Uploading(repository, what, _, _, True):
            return (f"Uploading {what} to '{repository}'{_OK}",)
        case events.OfMember() | events.StackReady():
            return stack_lines(event)
        case events.Notice(message, warning):
            return (f"{'warning: ' if warning else ''}{message}",)
        case _:  # what has no line of its own
            return ()


def stack_lines(event: events.Event) -> tuple[str, ...]:
    """The lines of an event of a stack that runs here."""
    match event:
        case events.MemberKept(name):
            return (f"  {name}: runs already",)
        case events.MemberStarted(name, again):
            return (f"  {name}: started" + (f" again ({again})" if again else ""),)
        case events.MemberReady(name, seconds):
            return (f"  {name}: ready in {seconds:.1f} s",)
        case events.MemberEnded(name, status, again):
            told = "ended; podman has started it again" if again else f"ended with status {status}"
            return (f"  {name}: {told}",)
        case events.MemberRemoved(name):
            return (f"  {name}: removed",)
        case events.MemberTested(name, said, problem, details):
            verdict = f"{_FAILED}: {problem}" if problem else _OK
            return (f"  test of {name}: {said}...{verdict}", *(f"    {one}" for one in details))
        case events.StackReady(name, addresses, seconds):
            where = ", ".join(addresses) or name
            return (f"ready: {where} ({seconds:.1f} s)",)
        case _:
            return ()


class PlainScreen:
    """One line after the other; for pipes, logs and dumb terminals.

    A stream that nobody reads any more ends the talking, not the build.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._roots: frozenset[BuildKey] = frozenset()
        self._heard = True

    def __call__(self, event: events.Event) -> None:
        with self._lock:
            if isinstance(event, events.Processing):
                self._roots |= {event.key}
            self._follow(event)
            for line in event_lines(event, self._roots):
                self._say(printable(line))

    def close(self) -> None:
        """Take down what is live."""

    def _say(self, line: str) -> None:
        if not self._heard:
            return
        try:
            self._write(line)
        except OSError:
            self._heard = False

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _follow(self, event: events.Event) -> None:
        """Show what has no line of its own."""


class JsonScreen(PlainScreen):
    """Every event as one line of JSON: its fields, and its type as `event`."""

    def __call__(self, event: events.Event) -> None:
        with self._lock:
            self._say(json.dumps({"event": event_name(event), **asdict(event)}))


def screen_for(stream: TextIO, *, as_json: bool) -> PlainScreen:
    """The screen that fits the stream; only a terminal needs rich."""
    if as_json:
        return JsonScreen(stream)
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from buildit.cli.live import LiveScreen

        return LiveScreen(stream)
    return PlainScreen(stream)


@contextmanager
def on_screen(*, as_json: bool, plain: bool = False) -> Iterator[PlainScreen]:
    """The screen of one command on stderr, taken down at its end; `plain` where questions stand
    between its lines."""
    made = PlainScreen(sys.stderr) if plain else screen_for(sys.stderr, as_json=as_json)
    try:
        yield made
    finally:
        made.close()


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
    """The error as JSON data; its details are whole. `kind` is the nearest class of
    `buildit.errors`: that of a module of its own is nobody's business."""
    public = (one for one in type(error).__mro__ if one.__module__ == BuilditError.__module__)
    return {
        "event": "error",
        "kind": next(public).__name__,
        "exit": error.exit_code,
        "message": error.message,
        "place": error.place,
        "hint": error.hint,
        "details": list(error.details),
    }


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
        told = "no further thread or process can be started here: a limit on processes is reached"
        hint = "raise it (ulimit -u, or pids.max of the control group), or build with --jobs 1"
        return StoreError(told, hint=hint)
    if isinstance(error, ModuleNotFoundError):  # where a file cannot be looked at, Python says so
        told = f"a module that buildit is made of cannot be read: {error.name}"
        return StoreError(told, hint="run it again; where it says the same, install buildit anew")
    if isinstance(error, OSError) and error.errno in _THE_MACHINES:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
        hint = "look at the permissions and the free space there; `buildit doctor` helps"
        return StoreError(error.strerror or "the file system refuses", place=place, hint=hint)
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
    plain = {**error_plain(known), "kind": "Bug", "exit": BUG, "details": shown}
    _say(stream, [json.dumps(plain)] if as_json else [*shown, *error_lines(known)])
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
