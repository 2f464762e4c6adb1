"""Run the benchmarks: tables on stdout, figures in bench/results.json."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench import (
    binhosts,
    cold_graph,
    debian,
    dockerfiles,
    emitting,
    formats,
    imports,
    machine,
    memory,
    no_op,
    real_build,
    registries,
    stack,
    steps,
    synced,
    up,
)
from bench.room import Room
from bench.tables import Table, plain, text
from bench.timing import BenchError

Measure = Callable[[Room, int], Table]

BENCHMARKS: Mapping[str, tuple[Measure, int]] = {
    "P1": (real_build.measure, 3),
    "P2": (cold_graph.measure, 5),
    "P3": (no_op.measure, 15),
    "P4": (emitting.measure, 9),
    "P4-formats": (formats.measure, 3),
    "P5": (synced.measure, 11),
    "P7": (debian.root, 5),
    "P8": (binhosts.pulling, 5),
    "P9": (binhosts.pushing, 5),
    "P10": (memory.measure, 1),
    "P10-formats": (formats.memory, 1),
    "P12": (debian.build, 3),
    "P15": (registries.measure, 5),
    "stack": (stack.measure, 5),
    "steps": (steps.measure, 5),
    "up": (up.measure, 5),
    "dockerfile": (dockerfiles.measure, 3),
    "imports": (imports.verbs, 5),
}
"""Each with the rounds that it gets where nothing else is asked for."""

ALONE = frozenset({"P8", "P9", "P10-formats", "P15", "up"})
"""Those that need neither a toolchain nor built packages."""

RESULTS = Path(__file__).resolve().parent / "results.json"


def main(argv: list[str]) -> int:
    """Measure what was asked for; 1 where a side failed, which has no figure then."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if unknown := sorted({*asked.names} - {*BENCHMARKS}):
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    room = Room(asked.work.resolve(), asked.binhost, f"{os.getpid()}-{os.urandom(3).hex()}")
    if asked.buildit:
        room = replace(room, program=tuple(shlex.split(asked.buildit)))
    about, tables = machine.facts(), []
    print(f"# {about['date']}, {about['processor']}, {about['cores']} cores, {about['memory']}\n")
    try:
        names = asked.names or [*BENCHMARKS]
        if not ALONE.issuperset(names):
            room.prepare()
        for name in names:
            measure, rounds = BENCHMARKS[name]
            before = machine.load()
            table = measure(room, asked.rounds or rounds)
            tables.append(table)
            print(text(table))
            print(f"load before and after: {before}; {machine.load()}\n", flush=True)
            RESULTS.write_text(json.dumps(plain(tables, about), indent=1))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"benchmarks to run: {', '.join(BENCHMARKS)}; all without any",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/var/tmp/buildit-bench"),
        help="where its store and containers lie; kept between runs",
    )
    parser.add_argument(
        "--binhost",
        default="",
        metavar="STORE",
        help="a store to take the toolchain and nginx's dependencies from",
    )
    parser.add_argument(
        "--buildit", default="", metavar="COMMAND", help="what to measure in place of this checkout"
    )
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each benchmark")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
