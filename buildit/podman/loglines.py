"""The lines that containers write, as podman keeps them (the driver k8s-file: Kubernetes' CRI
format, `TIME STREAM F|P TEXT`, P where the line goes on), read from their files.

No process of podman is needed for it, and one that restarts goes on in the same file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from buildit.errors import UsageError

LONGEST_LINE = 1 << 20
"""Bytes of a line; what is longer is cut into several."""

_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line: `when` is as podman writes it (RFC 3339), `source` is `stdout` or `stderr`."""

    container: str
    when: str
    source: str
    text: str


@dataclass(slots=True)
class LogReader:
    """Reads one container's file as it grows; what is renamed or cut off in between is read from
    its new beginning."""

    container: str
    path: str
    _file: int | None = None
    _rest: bytes = b""
    _begun: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By stream: since when a line has been going on, and what it has so far."""

    def lines(self, *, all_of_it: bool = False) -> Iterator[LogLine]:
        """What has come since the last call; with `all_of_it` what has no end yet, too."""
        while data := self._more():
            *whole, self._rest = (self._rest + data).split(b"\n")
            for row in whole:
                yield from self._line(row)
        if all_of_it:
            for source, (when, text) in self._begun.items():
                yield LogLine(self.container, when, source, text)
            self._begun.clear()

    def skip(self) -> None:
        """Leave out what is there already."""
        for _ in self.lines():
            pass

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _more(self) -> bytes:
        if self._file is None:
            with suppress(OSError):
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        if self._file is None:
            return b""
        data = os.read(self._file, _PIECE)
        if not data and self._is_another(self._file):
            self.close()
            self._rest = b""
            return self._more()
        return data

    def _is_another(self, file: int) -> bool:
        """Whether the path leads to another file than the one that was read to its end, or that
        became shorter."""
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        here, at = os.fstat(file), os.lseek(file, 0, os.SEEK_CUR)
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev) or here.st_size < at

    def _line(self, row: bytes) -> Iterator[LogLine]:
        when, source, flag, text = parse_log_row(row)
        if not when:
            return
        first, before = self._begun.pop(source, (when, ""))
        if flag == "P" and len(before + text) < LONGEST_LINE:
            self._begun[source] = first, before + text
        else:
            yield LogLine(self.container, first, source, before + text)


def parse_log_row(row: bytes) -> tuple[str, str, str, str]:
    """Time, stream, flag and text of one row; the time is empty where it is none."""
    parts = row.decode("utf-8", "replace").split(" ", 3)
    if len(parts) < 3 or parts[1] not in ("stdout", "stderr") or parts[2][:1] not in ("F", "P"):
        return "", "", "", ""
    return parts[0], parts[1], parts[2][:1], parts[3] if len(parts) > 3 else ""


def by_time(lines: Iterable[LogLine]) -> list[LogLine]:
    """By time, those of one container in their order."""
    return sorted(lines, key=lambda one: moment(one.when))


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?\d*(Z|[+-]\d\d:\d\d)?")


def moment(text: str) -> tuple[float, int]:
    """Seconds since 1970 and nanoseconds of a time of RFC 3339; (0, 0) where it is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return 0.0, 0
    zone = "+00:00" if found[3] in (None, "Z") else found[3]
    try:
        whole = datetime.fromisoformat(f"{found[1]}{zone}")
    except ValueError:
        return 0.0, 0
    return whole.timestamp(), int((found[2] or ".0")[1:].ljust(9, "0"))


_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


def since_of(text: str, now: float) -> float:
    """Seconds since 1970 that `--since` means: a span before now (`90s`, `1h30m`), or a time.

    Raises:
        UsageError: it is neither.
    """
    found = _SPAN.fullmatch(text)
    if text and found is not None and any(found.groups()):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        return now - span.total_seconds()
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        hint = "--since 90s, --since 1h30m, or a time: --since 2030-01-31T10:00:00Z"
        raise UsageError(f"not a time: {text!r}", hint=hint) from None
    local = when if when.tzinfo else when.replace(tzinfo=_here(now))
    return local.timestamp()


def _here(now: float) -> timezone:
    offset = datetime.fromtimestamp(now).astimezone().utcoffset()
    return timezone(offset or timedelta())
