"""P5: one synced file changed, the OCI image made again, against the run with nothing to do."""

from __future__ import annotations

from itertools import count

from bench import graphs
from bench.room import Room
from bench.tables import Table, ratio, rows
from bench.timing import Run, Side, interleaved

COUNT = 5
LIMIT = 3.0
_STEP = "- sync: {src: ./files/site.conf, dest: /etc/site.conf}\n"


def measure(room: Room, rounds: int) -> Table:
    """Both sides are the same container with 5 packages."""
    files = {f"pkgs/{p}": text for p, text in graphs.recipes(COUNT, "synced").items()}
    files["container.yaml"] = graphs.container("synced", ("bench/p0000",), _STEP)
    files["files/site.conf"] = "0\n"
    directory = room.place("synced", files)
    run = room.buildit(directory)
    run()
    numbers = count(1)

    def change() -> None:
        (directory / "files" / "site.conf").write_text(f"{room.salt} {next(numbers)}\n")

    # Before the run with nothing to do comes one that takes the last change in.
    sides = (Side("one file changed", run, change), Side("nothing to do", run, lambda: _once(run)))
    found = interleaved(sides, rounds)
    return Table(
        "P5",
        "one synced file changed, the OCI image made again",
        rows(found),
        ratio(found, "one file changed", "nothing to do", LIMIT),
    )


def _once(run: Run) -> None:
    run()
