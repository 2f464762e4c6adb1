"""Live progress below the lines: a row per build with its phase, a row per download with bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from buildit import events
from buildit.cli.screen import PlainScreen, printable
from buildit.model.words import size

_BAR = 20
_NAME = 44
_REFRESHES = 4  # a second


@dataclass(slots=True)
class _Row:
    """Something under way: what it is, how far, and since when (monotonic seconds)."""

    label: str
    note: str
    since: float
    received: int = 0
    total: int | None = None

    def text(self, now: float) -> str:
        seconds = int(now - self.since)
        clock = f"{seconds // 60}:{seconds % 60:02}"
        label = self.label if len(self.label) <= _NAME else f"{self.label[: _NAME - 1]}…"
        bar = ""
        if self.total:
            filled = min(_BAR, self.received * _BAR // self.total)
            bar = f"{'━' * filled}{'╌' * (_BAR - filled)}  "
        return f"  {label:<{_NAME}} {clock:>6}  {bar}{self.note}"


class LiveScreen(PlainScreen):
    """The lines of a plain screen, and below them what is under way."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._rows: dict[str, _Row] = {}
        # Nothing in the text means anything to rich: names and logs are upstream's words.
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=_REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def close(self) -> None:
        self._rows.clear()
        self._live.stop()

    def _write(self, line: str) -> None:
        self._live.refresh()  # rows that have just gone are not drawn again below the line
        self._console.print(Text(line), soft_wrap=True)

    def _picture(self) -> Group:
        now = time.monotonic()
        rows = list(self._rows.values())
        room = max(1, self._console.height - 4)
        texts = [row.text(now) for row in rows[:room]]
        if len(rows) > room:
            texts.append(f"  … and {len(rows) - room} more")
        return Group(*(Text(text, no_wrap=True, overflow="ellipsis") for text in texts))

    def _follow(self, event: events.Event) -> None:
        match event:
            case events.Fetching(name, received, total, done):
                self._moving(f"fetching {name}", received, total, done=done)
            case events.Uploading(repository, what, sent, total, done):
                self._moving(f"uploading {what} to {repository}", sent, total, done=done)
            case events.Building(_, name, _):
                self._update(name, "starting")
            case events.PhaseStarted(_, name, phase):
                self._update(name, phase)
            case events.Built(_, name, _) | events.BuildFailed(_, name, _):
                self._rows.pop(name, None)
            case events.Packaging(name, kind):
                self._update(f"{name} ({kind})", "packaging")
            case events.Emitted(name, kind):
                self._rows.pop(f"{name} ({kind})", None)
            case _:
                pass

    def _moving(self, label: str, received: int, total: int | None, *, done: bool) -> None:
        if done:
            self._rows.pop(label, None)
            return
        row = self._update(label, f"{size(received)} of {size(total)}" if total else size(received))
        row.received, row.total = received, total

    def _update(self, label: str, note: str) -> _Row:
        row = self._rows.setdefault(label, _Row(printable(label), "", time.monotonic()))
        row.note = printable(note)
        return row
