"""Events as lines for people, or as JSON for programs, on stderr."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import asdict
from typing import TextIO

from buildit.cli.results import printable
from buildit.digest import BuildKey, key_uuid
from buildit.events import (
    BuildFailed,
    Building,
    Built,
    Emitted,
    Event,
    Fetching,
    LocationFailed,
    Missing,
    Notice,
    Packaging,
    PhaseStarted,
    Planned,
    Processing,
    Recalled,
    Reused,
    Started,
    Uploading,
)
from buildit.model.amount import size

_OK = "   [OK]"
_FAILED = "   [FAILED]"
_DEB = "debian:"


def event_name(event: Event) -> str:
    """`phase-started` for `PhaseStarted`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(event).__name__).lower()


def lines(event: Event, roots: frozenset[BuildKey]) -> tuple[str, ...]:
    """The lines of one event; `roots` are the packages that the container names itself."""
    match event:
        case Started(label):
            return (f"Building {label}",)
        case Processing(origin, platform, key):
            return (f"Processing package from '{origin}' for {platform}.", f"HASH: {key_uuid(key)}")
        case Planned(reused, builds, unpacks):
            return _plan_line(reused, builds, unpacks)
        case Missing(key, _) if key in roots:
            return ("Can't find HASH in any known location...",)
        case Reused(key, _, origin) if key in roots:
            return (f"Found HASH in {origin}...{_OK}",)
        case Building() | Built() | BuildFailed():
            return _build_lines(event, roots)
        case Recalled(_, name, origin):
            return (f"  {name}: not rebuilt: taken from {origin}",)
        case LocationFailed(name, location, reason):
            return (f"  {name}: {location}: {reason}; trying the next location",)
        case Fetching(name, received, _, True) if not name.endswith(".deb"):
            return (f"  fetched {name} ({size(received)})",)
        case Emitted(name, kind, _, _):
            return (f"Packaging {name} as {kind.upper()}...{_OK}",)
        case Uploading(repository, what, _, _, True):
            return (f"Uploading {what} to '{repository}'{_OK}",)
        case Notice(message, warning):
            return (f"{'warning: ' if warning else ''}{message}",)
        case Fetching() | PhaseStarted() | Packaging() | Missing() | Reused() | Uploading():
            return ()


def _plan_line(reused: int, builds: int, unpacks: int) -> tuple[str, ...]:
    """Only where something is built: a .deb that an image turns out to need is said by itself."""
    if not builds:
        return ()
    parts = [f"{builds} to build"]
    parts += [f"{unpacks} to unpack"] if unpacks else []
    parts += [f"{reused} at hand"] if reused else []
    return (f"Packages: {', '.join(parts)}.",)


def _build_lines(
    event: Building | Built | BuildFailed, roots: frozenset[BuildKey]
) -> tuple[str, ...]:
    name = event.name
    match event:
        case Building(_, _, reason):
            return () if name.startswith(_DEB) else (f"  {name}: building ({reason})",)
        case Built(key, _, seconds):
            did = "unpacked" if name.startswith(_DEB) else "built"
            told = f"  {name}: {did} in {seconds:.1f} s"
            return (told, f"Defaulting to local build...{_OK}") if key in roots else (told,)
        case BuildFailed(key, _, message):
            told = f"  {name}: failed: {message}"
            return (told, f"Defaulting to local build...{_FAILED}") if key in roots else (told,)


class PlainScreen:
    """One line after the other; for pipes, logs and dumb terminals.

    A stream that nobody reads any more ends the talking, not the build.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._roots: frozenset[BuildKey] = frozenset()
        self._heard = True

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Processing):
                self._roots |= {event.key}
            self._follow(event)
            for line in lines(event, self._roots):
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

    def _follow(self, event: Event) -> None:
        """Show what has no line of its own."""


class JsonScreen(PlainScreen):
    """Every event as one line of JSON: its fields, and its type as `event`."""

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._say(json.dumps({"event": event_name(event), **asdict(event)}))
