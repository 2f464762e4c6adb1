"""Ten `run` steps over a Debian root: nothing changed, and the last of them, against buildah."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from bench.rivals import installed
from bench.room import Room, clear
from bench.tables import Table, Verdict, ahead, rows
from bench.timing import Run, Sample, Side, interleaved, process

COUNT = 10
UNCHANGED, CHANGED = 10.0, 3.0
_ROOT = """- vars: {author: bench, name: root, version: "1.0"}
- from: {suite: debian-12}
- entrypoint: [/bin/sh]
- image: {type: oci}
"""
_BUILDAH = (
    *("buildah", "--storage-driver", "overlay"),
    *("--root", "ROOT", "--runroot", "RUNROOT", "bud", "--layers", "--isolation", "chroot"),
)


def base_layout(room: Room) -> Path:
    """An OCI layout of a Debian root, made once."""
    base = room.root / "steps-root" / "out" / "root-1.0-linux-amd64.oci"
    if not base.is_dir():
        room.buildit(room.place("steps-root", {"container.yaml": _ROOT}))()
    return base


def measure(room: Room, rounds: int) -> Table:
    """Both over one OCI layout, which buildit makes of Debian's .debs once."""
    base = base_layout(room)
    ours = room.place("steps", {"container.yaml": ""})
    theirs = room.root / "steps-buildah"
    clear(theirs)
    theirs.mkdir()
    numbers = count(1)

    def write(last: str) -> None:
        echoes = [f"echo {number} > /srv/{number}" for number in range(COUNT - 1)]
        commands = [*echoes, f"echo {last} > /srv/last"]
        runs = "".join(f'- run: {{script: "{one}"}}\n' for one in commands)
        text = f"- vars: {{name: steps, version: 1}}\n- from: {{oci: 'oci:{base}'}}\n{runs}"
        (ours / "container.yaml").write_text(f"{text}- image: {{type: oci}}\n")
        lines = "".join(f"RUN {one}\n" for one in commands)
        (theirs / "Containerfile").write_text(f"FROM oci:{base}\n{lines}")

    def change() -> None:
        write(f"{room.salt}-{next(numbers)}")

    sides = []
    runs = {"buildit": room.buildit(ours)}
    if installed("buildah"):
        runs["buildah"] = buildah(room, theirs)
    change()
    for name, run in runs.items():
        run()
        sides += [
            Side(f"{name}, nothing changed", run, once(run)),
            Side(f"{name}, the last one changed", run, change),
        ]
    found = interleaved(sides, rounds)
    verdicts: list[Verdict] = []
    if "buildah" in runs:
        for what, limit in (("nothing changed", UNCHANGED), ("the last one changed", CHANGED)):
            verdicts.append(ahead(found, f"buildit, {what}", f"buildah, {what}", limit))
    title = f"a chain of {COUNT} `run` steps over a Debian root"
    return Table("steps", title, rows(found), tuple(verdicts))


def once(run: Run) -> Callable[[], None]:
    """What was changed last is taken in first."""

    def before() -> None:
        run()

    return before


def buildah(room: Room, directory: Path) -> Run:
    """A build of a directory by buildah, with its layers kept."""
    places = {"ROOT": str(room.root / "buildah"), "RUNROOT": str(room.root / "buildah-run")}
    words = [places.get(word, word) for word in _BUILDAH]

    def run() -> Sample:
        argv = [*words, "--tag", "steps", str(directory)]
        return process(argv, cwd=room.root, log=room.log("steps-buildah.log"))

    return run
