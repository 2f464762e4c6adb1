"""P4-formats: an image of each format from packages in the store, against copying what came out and
against the rival that makes such a file from the same tree, unpacked.

P10-formats: the peak memory of the same for a root of 2 GB.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.emit import LARGE
from bench.emitting import data_container, forget
from bench.rivals import installed
from bench.room import Room, clear
from bench.tables import Table, Verdict, ratio, rows
from bench.timing import Run, Sample, Side, interleaved, process
from buildit.image.formats.table import FORMATS

COUNT, BYTES = 20, 100_000_000
ROOT, PACKAGES = 2_000_000_000, 20
LIMIT_MIB = 200.0
SLOW = frozenset({"lxc"})
"""Formats of xz, which are measured once."""

_BUILDAH = """\
tree=$1 work=$2
b() { buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs "$@"; }
name=$(b from scratch)
b add -q "$name" "$tree" /
b commit -q --disable-compression "$name" "%s:$work/image"
"""
RIVALS = {
    "oci": ("buildah", _BUILDAH % "oci"),
    "oci-archive": ("buildah", _BUILDAH % "oci-archive"),
    "docker-archive": ("buildah", _BUILDAH % "docker-archive"),
    "aci": ("gzip", 'tar -C "$1" -c . | gzip -6 > "$2/image"'),
    "rootfs": ("tar", 'tar -C "$1" -cf "$2/image" .'),
    "squashfs": ("mksquashfs", 'mksquashfs "$1" "$2/image" -quiet -no-progress -comp zstd'),
    "lxc": ("xz", 'tar -C "$1" -c . | xz -6 > "$2/image"'),
    "nspawn": ("cp", 'cp -a "$1" "$2/image"'),
}
"""By format: the program that has to be there, and the shell that makes such an image in `$2` of
the tree in `$1`."""


def measure(room: Room, rounds: int) -> Table:
    """The packages are built once; each round makes each image anew where there was none."""
    found: dict[str, list[Sample]] = {}
    verdicts: list[Verdict] = []
    tree = room.root / "rootfs"
    first = data_container(room, "formats", COUNT, BYTES, image="rootfs")
    room.buildit(first)()
    clear(tree)
    tree.mkdir()
    [archive] = (first / "out").iterdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(tree)], check=True)
    for form in sorted(FORMATS, key=SLOW.__contains__):
        sides = _sides(room, form, tree)
        found |= interleaved(sides, 1 if form in SLOW else rounds)
        print({side.name: found[side.name] for side in sides}, flush=True)
        verdicts += [
            verdict for side in sides[1:] for verdict in ratio(found, sides[0].name, side.name)
        ]
    clear(tree)
    size = sum(path.stat().st_size for path in first.rglob("*.rootfs.tar"))
    remarks = (
        (
            f"{COUNT} packages, {size / 1e6:.0f} MB as a tar; the plan comes from its stamp, all "
            "else is decided and written anew. Rivals start from the unpacked tree."
        ),
    )
    return Table("P4-formats", "an image of each format", rows(found), tuple(verdicts), remarks)


def _sides(room: Room, form: str, tree: Path) -> list[Side]:
    directory = data_container(room, f"formats-{form}", COUNT, BYTES, image=form)
    run, out, work = room.buildit(directory), directory / "out", room.root / "rival"
    run()
    [image] = (path for path in out.iterdir() if not path.name.startswith("."))
    kept = room.root / f"kept-{form}"
    clear(kept)
    image.rename(kept)

    def emptied() -> None:
        clear(work)
        work.mkdir()

    copy = ["cp", "-a", str(kept), str(work)]
    sides = [
        Side(form, run, lambda: forget(room, directory)),
        Side(f"{form}: cp", _process(room, copy), emptied),
    ]
    program, script = RIVALS[form]
    if installed(program):
        argv = ["sh", "-euc", script, "sh", str(tree), str(work)]
        sides.append(Side(f"{form}: {program} of the tree", _process(room, argv), emptied))
    return sides


def _process(room: Room, argv: list[str]) -> Run:
    return lambda: process(argv, cwd=room.root, log=room.log("rival.log"))


def memory(room: Room, _rounds: int) -> Table:
    """Each format once. The layers are made here, not built: 2 GB would take the sandbox longer
    than all formats together."""
    place = room.root / "mixed"
    clear(place)
    found: dict[str, list[Sample]] = {}
    # In another process: what this one had at most counts for those that it starts.
    making = [
        sys.executable,
        "-m",
        "bench.emit",
        "-",
        str(place),
        str(PACKAGES),
        str(ROOT // PACKAGES),
    ]
    process(making, cwd=room.root, log=room.log("emit.log"), env=room.environment())
    for form in FORMATS:
        argv = [sys.executable, "-m", "bench.emit", form, str(place)]
        log = room.log("emit.log")
        found[form] = [process(argv, cwd=room.root, log=log, env=room.environment())]
        print(f"{form}: {found[form][0]}", flush=True)
        clear(place / "out")
    clear(place)
    table = rows(found)
    verdicts = tuple(Verdict(row.side, row.peak, "MiB", LIMIT_MIB) for row in table)
    remarks = (
        f"{PACKAGES} layers, {ROOT / 1e9:.0f} GB: files of {LARGE // 1_000_000} MB and of 40 kB.",
    )
    return Table("P10-formats", "peak memory of each format", table, verdicts, remarks)
