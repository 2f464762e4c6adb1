"""P1: a real build, nginx, in buildit and by hand in the same chroot."""

from __future__ import annotations

import json
import sys

from bench.room import DEMO, Room, clear
from bench.tables import Table, ratio, rows
from bench.timing import Sample, Side, interleaved, process

LIMIT = 1.05
RECIPE = "pkgs/nginx/pkg.yaml"


def measure(room: Room, rounds: int) -> Table:
    """Dependencies and the toolchain are in the store; each round builds a new nginx."""
    directory = room.demo / "container"
    count = iter(range(10**6))

    def fresh() -> None:
        text = (DEMO / RECIPE).read_text()
        salt = f"\nenvironment: {{BENCH_ROUND: '{room.salt}-{next(count)}'}}\n"
        (directory / RECIPE).write_text(text + salt)
        clear(directory / "out")

    def by_hand() -> Sample:
        log = room.log("by-hand.log")
        argv = [sys.executable, "-m", "bench.by_hand", str(directory)]
        whole = process(argv, cwd=room.root, log=log, env=room.environment())
        told = json.loads(log.read_text().splitlines()[-1])
        return Sample(told["seconds"], told["cpu"], whole.peak)

    sides = (Side("by hand", by_hand, fresh), Side("buildit", room.buildit(directory), fresh))
    found = interleaved(sides, rounds)
    return Table(
        "P1",
        "real build of nginx against configure, make, make install by hand in the same chroot",
        rows(found),
        ratio(found, "buildit", "by hand", LIMIT)[:2],
        (
            (
                "By hand: one shell in one sandbox, from patched sources to the end of make "
                "install; its peak memory is that of the process that started it."
            ),
            (
                "buildit: the whole process, from reading recipes (the recipe is new, so "
                "nothing is replayed) over patching, three phases and packing to the two images."
            ),
        ),
    )
