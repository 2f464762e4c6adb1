"""A stack of five containers over shared packages, from nothing, against the largest of them
alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from bench import graphs
from bench.room import LOCK, Room, pinned_lock
from bench.tables import Table, ratio, rows
from bench.timing import Side, interleaved

MEMBERS, SHARED, UNITS = 5, 30, 16
"""Containers, packages that all of them have, and the C files that each of these compiles; each
but the largest has one package of its own besides."""

LIMIT = 1.3


def measure(room: Room, rounds: int) -> Table:
    """Each side builds packages that nobody has built before."""
    numbers = count()

    def fresh(name: str, members: int) -> Callable[[], None]:
        return lambda: _write(room, name, members, f"{room.salt}-{next(numbers)}")

    alone, whole = "the largest alone", f"a stack of {MEMBERS}"
    sides = [
        Side(alone, room.buildit(room.root / "stack-alone"), fresh("stack-alone", 1)),
        Side(whole, room.buildit(room.root / "stack-whole"), fresh("stack-whole", MEMBERS)),
    ]
    found = interleaved(sides, rounds)
    title = f"{MEMBERS} containers over {SHARED} shared packages, from nothing"
    return Table("stack", title, rows(found), ratio(found, whole, alone, LIMIT))


def _write(room: Room, name: str, members: int, salt: str) -> None:
    """A stack of so many containers; also the side alone is one, so that the same is emitted."""
    shared = {f"shared{number:02}": _package(number, salt) for number in range(SHARED)}
    own = {f"own{number}": _package(SHARED + number, salt) for number in range(1, members)}
    files = {f"pkgs/bench/{one}/pkg.yaml": text for one, text in {**shared, **own}.items()}
    for number in range(members):
        atoms = [f"bench/{one}" for one in shared] + [f"bench/own{number}"] * bool(number)
        text = graphs.container(f"m{number}", tuple(atoms))
        files[f"m{number}/container.yaml"] = text
        files[f"m{number}/{LOCK}"] = pinned_lock(room.demo / "container" / LOCK)
    listed = "".join(f"  m{number}: {{path: ./m{number}}}\n" for number in range(members))
    files["stack.yaml"] = f"name: bench\ncontainers:\n{listed}"
    room.place(name, files)


def _package(number: int, salt: str) -> str:
    return "\n".join(
        (
            f"description: Package {number}",
            "versions:",
            "  1.0: {}",
            "style: custom",
            "steps:",
            "  install: |",
            f'    mkdir -p "$DESTDIR/usr/share/bench/{number}"',
            f"    for unit in $(seq {UNITS}); do",
            f'      echo "char *a = \\"{salt} {number} $unit\\"; int f(int x) {{ return x; }}" |',
            f'        gcc -O2 -x c -c - -o "$DESTDIR/usr/share/bench/{number}/$unit.o"',
            "    done",
            "",
        )
    )
