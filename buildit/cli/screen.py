"""Events as lines for people, on stderr: plain everywhere, with live progress on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from buildit.digest import BuildKey, key_uuid
from buildit.events import (
    Building,
    Built,
    BuildFailed,
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
    Reused,
    Started,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

OK = "   [OK]"


def printable(text: str) -> str:
    """`text` with control characters shown as `?`: upstream's words must not drive a terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


def lines(event: Event, roots: frozenset[BuildKey]) -> tuple[str, ...]:
    """The lines of one event; `roots` are the packages that the container names itself."""
    match event:
        case Started(label):
            return (f"Building {label}",)
        case Processing(origin, platform, key):
            return (
                f"Processing package from '{origin}' for {platform}.",
                f"HASH: {key_uuid(key)}",
            )
        case Planned(reused, builds, unpacks):
            return _plan_line(reused, builds, unpacks)
        case Missing(key, _) if key in roots:
            return ("Can't find HASH in any known location...",)
        case Reused(key, _, origin) if key in roots:
            return (f"Found HASH in {origin}...{OK}",)
        case Built(key, _, _) if key in roots:
            return (f"Defaulting to local build...{OK}",)
        case Building(_, name, reason):
            return (f"  {name}: building ({reason})",)
        case Built(_, name, seconds):
            return (f"  {name}: built in {seconds:.1f} s",)
        case BuildFailed(_, name, message):
            return (f"  {name}: failed: {message}",)
        case LocationFailed(name, location, reason):
            return (f"  {name}: {location}: {reason}; trying the next location",)
        case Emitted(name, kind, _, _):
            return (f"Packaging {name} as {kind.upper()}...{OK}",)
        case Notice(message, warning):
            return (f"{'warning: ' if warning else ''}{message}",)
        case Fetching() | PhaseStarted() | Packaging() | Missing() | Reused():
            return ()


def _plan_line(reused: int, builds: int, unpacks: int) -> tuple[str, ...]:
    if not builds and not unpacks:
        return ()
    parts = [f"{builds} to build"] if builds else []
    parts += [f"{unpacks} to unpack"] if unpacks else []
    parts += [f"{reused} at hand"] if reused else []
    return (f"Packages: {', '.join(parts)}.",)


class PlainScreen:
    """One line after the other; for pipes, logs and dumb terminals."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._roots: frozenset[BuildKey] = frozenset()
        self.shown: list[str] = []

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Processing):
                self._roots |= {event.key}
            for line in lines(event, self._roots):
                text = printable(line)
                self.shown.append(text)
                self._write(text)
            self._follow(event)

    def close(self) -> None:
        """Take down what is live."""

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _follow(self, event: Event) -> None:
        """Show what has no line of its own."""


class LiveScreen(PlainScreen):
    """The same lines above bars for the downloads and builds that are under way."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        super().__init__(stream)
        self._progress: Progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(file=stream, highlight=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()

    def _write(self, line: str) -> None:
        self._progress.console.print(line, markup=False, soft_wrap=True)

    def _follow(self, event: Event) -> None:
        match event:
            case Fetching(name, received, total, done):
                if done:
                    self._end(f"fetch {name}")
                else:
                    note = f"{received / 1e6:.1f}" + (f"/{total / 1e6:.1f} MB" if total else " MB")
                    self._update(f"fetch {name}", note, received, total)
            case Building(_, name, _):
                self._update(f"build {name}", "starting", 0, None)
            case PhaseStarted(_, name, phase):
                self._update(f"build {name}", phase, 0, None)
            case Built(_, name, _) | BuildFailed(_, name, _):
                self._end(f"build {name}")
            case Packaging(name, kind):
                self._update(f"package {name}", kind, 0, None)
            case Emitted(name):
                self._end(f"package {name}")
            case _:
                pass

    def _update(self, label: str, note: str, done: int, total: int | None) -> None:
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(printable(label), total=total, note="")
        self._progress.update(self._tasks[label], completed=done, total=total, note=note)

    def _end(self, label: str) -> None:
        task = self._tasks.pop(label, None)
        if task is not None:
            self._progress.remove_task(task)


def screen(stream: TextIO, terminal: Callable[[], bool]) -> PlainScreen:
    """The screen that fits the stream."""
    return LiveScreen(stream) if terminal() else PlainScreen(stream)
