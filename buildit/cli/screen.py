"""What a command says: results on stdout, as lines for people and pipes or as one JSON document;
events on stderr, as lines or as JSON.

What upstream, a recipe or a file name says must not drive a terminal: `printable` and `columns`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TextIO, TypeVar

from buildit import events
from buildit.codec import to_plain
from buildit.digest import BuildKey, key_uuid
from buildit.errors import StoreError
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
    return StoreError(
        f"the result cannot be written: {error.strerror}",
        place="standard output",
        hint="what was made is there all the same: write the output elsewhere",
    )


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
        case events.Notice(message, warning):
            return (f"{'warning: ' if warning else ''}{message}",)
        case _:  # what has no line of its own
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
def on_screen(*, as_json: bool) -> Iterator[PlainScreen]:
    """The screen of one command on stderr, taken down at its end."""
    made = screen_for(sys.stderr, as_json=as_json)
    try:
        yield made
    finally:
        made.close()
