"""P2: a graph of 100 trivial packages from nothing, in sandboxes, two at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from bench import graphs
from bench.rivals import NIX_OPTIONS, nix_works
from bench.room import Room
from bench.tables import Row, Table, Verdict, ahead, ratio, rows
from bench.timing import Run, Sample, Side, interleaved, process

COUNT = 100
LIMIT_MS = 25.0

_LOOP = """\
seq 1 "$1" | xargs -P 2 -I N bwrap --unshare-all --die-with-parent --ro-bind / / --proc /proc \\
  --dev /dev --tmpfs /tmp --bind "$2" /mnt sh -c 'echo "$0" > /mnt/N' "$3"
"""


@dataclass(frozen=True, slots=True)
class _Salted:
    """Makes each round's packages new."""

    room: Room
    numbers: count[int]

    def fresh(self, write: Callable[[str], None]) -> Callable[[], None]:
        return lambda: write(f"{self.room.salt}-{next(self.numbers)}")


def measure(room: Room, rounds: int) -> Table:
    """All sides build what nobody has built before."""
    salted = _Salted(room, count())
    directory = room.root / "cold"
    sides = [
        Side("buildit", room.buildit(directory), salted.fresh(lambda s: _write(room, s))),
        Side("bwrap in a shell loop", _loop(room), salted.fresh(lambda s: _salt(room, s))),
    ]
    nix = nix_works(room)
    if nix:
        sides.append(Side("nix-build", _nix(room), salted.fresh(lambda s: _nix_write(room, s))))
    found = interleaved(sides, rounds)
    ours = rows({"buildit": found["buildit"]})[0]
    verdicts = [
        Verdict("buildit, per package", 1000 * ours.median / COUNT, "ms", LIMIT_MS),
        Verdict("buildit, per package, minimum", 1000 * ours.minimum / COUNT, "ms"),
        *(_each(row) for row in rows(found) if row.side != "buildit"),
    ]
    if nix:
        verdicts += [ahead(found, "buildit", "nix-build", 1.0)]
        verdicts += ratio(found, "buildit", "nix-build")[1:2]
    remarks = ["buildit: the whole process, with reading 100 new recipes and making an image."]
    if not nix:
        remarks.append("nix-build is missing or its sandbox does not work here.")
    return Table(
        "P2",
        f"cold graph of {COUNT} trivial packages",
        rows(found),
        tuple(verdicts),
        tuple(remarks),
    )


def _each(row: Row) -> Verdict:
    return Verdict(f"{row.side}, per package", 1000 * row.median / COUNT, "ms")


def _write(room: Room, salt: str) -> None:
    files = {f"pkgs/{path}": text for path, text in graphs.recipes(COUNT, salt).items()}
    files["container.yaml"] = graphs.container("cold", ("bench/p0000",))
    room.place("cold", files)


def _salt(room: Room, salt: str) -> None:
    target = room.root / "loop"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    room.log("loop.salt").write_text(salt)


def _loop(room: Room) -> Run:
    def run() -> Sample:
        salt = room.log("loop.salt").read_text()
        argv = ["sh", "-c", _LOOP, "loop", str(COUNT), str(room.root / "loop"), salt]
        return process(argv, cwd=room.root, log=room.log("loop.log"))

    return run


def _nix_write(room: Room, salt: str) -> None:
    (room.root / "cold.nix").write_text(graphs.nix(COUNT, salt))


def _nix(room: Room) -> Run:
    def run() -> Sample:
        argv = ["nix-build", *NIX_OPTIONS, "--store", str(room.root / "nix"), "cold.nix"]
        return process(argv, cwd=room.root, log=room.log("nix.log"))

    return run
