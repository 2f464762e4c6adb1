"""P3: nothing to do: a container of 5 packages, and a graph of 1000 beside nix, make and ninja."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench import graphs
from bench.rivals import NIX_OPTIONS, installed, nix_works
from bench.room import Room
from bench.tables import Table, Verdict, ratio, row, rows
from bench.timing import Run, Sample, Side, interleaved, process
from buildit.commands.stamp import RACY_NANOSECONDS

SMALL, LARGE = 5, 1000
SMALL_LIMIT_MS = 80.0
NIX_LIMIT = 0.8


def measure(room: Room, rounds: int) -> Table:
    """Everything is built once before the clock starts."""
    sides = [
        Side("python -S -c pass", _python(room)),
        Side(f"buildit, {SMALL} packages", _ready(room, SMALL)),
        Side(f"buildit, {LARGE} packages", _ready(room, LARGE)),
    ]
    ours = sides[2].name
    work = room.root / "files"
    _write(work, {**graphs.inputs(LARGE), "Makefile": graphs.make(LARGE)})
    _write(work, {"build.ninja": graphs.ninja(LARGE), "graph.nix": graphs.nix(LARGE, "no-op")})
    sides += [Side(name, _ready_tool(room, work, name)) for name in installed("make", "ninja")]
    nix = nix_works(room)
    if nix:
        argv = ["nix-build", *NIX_OPTIONS, "--store", str(room.root / "nix"), "graph.nix"]
        sides.append(Side("nix-build", _after_first(room, work, argv)))
    found = interleaved(sides, rounds)
    small = row("", found[sides[1].name])
    verdicts = [
        Verdict(f"{sides[1].name}", 1000 * small.median, "ms", SMALL_LIMIT_MS),
        Verdict(f"{sides[1].name}, minimum", 1000 * small.minimum, "ms"),
    ]
    if nix:
        verdicts += ratio(found, ours, "nix-build", NIX_LIMIT)
    return Table("P3", "nothing to do", rows(found), tuple(verdicts), _remarks(nix=nix))


def _remarks(*, nix: bool) -> tuple[str, ...]:
    return () if nix else ("nix-build is missing or its sandbox does not work here.",)


def _python(room: Room) -> Run:
    argv = [sys.executable, "-S", "-c", "pass"]
    return lambda: process(argv, cwd=room.root, log=room.log("python.log"))


def _ready(room: Room, count: int) -> Run:
    """A container whose packages are built and whose stamps are written."""
    name = f"graph-{count}"
    files = {f"pkgs/{p}": text for p, text in graphs.recipes(count, "no-op").items()}
    files["container.yaml"] = graphs.container(name, ("bench/p0000",))
    run = room.buildit(room.place(name, files))
    time.sleep(1.1 * RACY_NANOSECONDS / 1e9)  # files as new as their stamp are read each time
    run()
    run()
    return run


def _ready_tool(room: Room, work: Path, name: str) -> Run:
    return _after_first(room, work, [name])


def _after_first(room: Room, work: Path, argv: list[str]) -> Run:
    def run() -> Sample:
        return process(argv, cwd=work, log=room.log(f"{argv[0]}.log"))

    run()
    return run


def _write(directory: Path, files: Mapping[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
