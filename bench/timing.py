"""Whole processes, measured side by side: each round runs every side once, in turning order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL = 3000


class BenchError(Exception):
    """A side failed, so that its figure would mean nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: wall and processor time in seconds (its children included), and the largest
    resident set of any of its processes in MiB."""

    seconds: float
    cpu: float
    peak: float


Run = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison; `before` is not measured."""

    name: str
    run: Run
    before: Callable[[], None] = lambda: None


def process(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    may_fail: bool = False,
) -> Sample:
    """Run a program to its end, its output in `log`.

    Raises:
        BenchError: it failed and may not; the message has the end of its output.
    """
    words = [str(word) for word in argv]
    with log.open("wb") as out:
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        before = Path.cwd()
        os.chdir(cwd)
        try:
            begun = time.perf_counter()
            pid = os.posix_spawnp(
                words[0], words, {**os.environ, **(env or {})}, file_actions=actions
            )
            _, status, used = os.wait4(pid, 0)
            seconds = time.perf_counter() - begun
        finally:
            os.chdir(before)
    code = os.waitstatus_to_exitcode(status)
    if code != 0 and not may_fail:
        tail = log.read_bytes()[-TAIL:].decode("utf-8", "replace")
        raise BenchError(f"{' '.join(words)} ended with {code}:\n{tail}")
    return Sample(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def interleaved(sides: Sequence[Side], rounds: int) -> dict[str, list[Sample]]:
    """Measure each side `rounds` times; every round starts with another side."""
    found: dict[str, list[Sample]] = {side.name: [] for side in sides}
    for number in range(rounds):
        turn = number % len(sides)
        for side in (*sides[turn:], *sides[:turn]):
            side.before()
            found[side.name].append(side.run())
    return found
