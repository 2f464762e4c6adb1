"""P4: an OCI image from 80 packages in the store against copying the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench import graphs
from bench.imports import foreign, modules
from bench.rivals import installed
from bench.room import Room, clear
from bench.tables import Table, Verdict, ahead, ratio, rows
from bench.timing import Run, Sample, Side, interleaved, process

COUNT, BYTES = 80, 300_000_000
PIECE = 30_000
LIMIT = 1.5
BACK, ANEW = "buildit puts back", "buildit emits"
RIVALS = {"buildah": 50.0, "umoci": 20.0}


def measure(room: Room, rounds: int) -> Table:
    """The packages are built once; each round makes the image anew where there was none."""
    directory = data_container(room, "emitting", COUNT, BYTES)
    room.buildit(directory)()
    layout = next((directory / "out").glob("*.oci"))
    stored = [room.store / "blobs" / "sha256" / path.name for path in _blobs(layout)]
    blobs = [path for path in stored if path.exists()]  # all but the image's own directories
    size = sum(path.stat().st_size for path in blobs)
    copy = room.root / "copied"
    run = room.buildit(directory)

    def deleted() -> None:
        run()  # what emits leaves no replay where its stamp was taken away before
        clear(directory / "out")

    sides = (
        Side(BACK, run, deleted),
        Side(ANEW, run, lambda: forget(room, directory)),
        Side("cp", _copied(room, blobs, copy), _emptied(copy)),
    )
    found = interleaved(sides, rounds)
    verdicts = [*ratio(found, BACK, "cp", LIMIT), *ratio(found, ANEW, "cp", LIMIT)]
    found |= _rivals(room, blobs, verdicts, found)
    imported = []
    for prepare, name in ((deleted, BACK), (lambda: forget(room, directory), ANEW)):
        prepare()
        names = modules(room, room.argv(directory), room.root)
        imported.append(f"{name}: {', '.join(foreign(names)) or 'nothing'}")
    remarks = (
        (
            f"{len(blobs)} layers, {size / 1e6:.0f} MB. In both the plan comes from its stamp "
            "and the output is gone."
        ),
        (
            f"{BACK}: the run before had made the same image, its blobs are copied. {ANEW}: nobody "
            "remembers that; packages are looked up, the closure and the merged tree computed."
        ),
        f"Imported from outside of the standard library: {'; '.join(imported)}.",
    )
    return Table(
        "P4", "OCI image from packages in the store", rows(found), tuple(verdicts), remarks
    )


def data_container(room: Room, title: str, count: int, size: int, image: str = "oci") -> Path:
    """A container of `count` packages with `size` bytes in all, not yet built."""
    atoms = tuple(f"bench/blob{i:03d}" for i in range(count))
    files = {
        f"pkgs/{atom}/pkg.yaml": graphs.data_recipe(i, size // count, PIECE)
        for i, atom in enumerate(atoms)
    }
    files["pkgs/bench/all/pkg.yaml"] = graphs.everything(atoms)
    files["container.yaml"] = graphs.container(title, ("bench/all",), image=image)
    return room.place(title, files)


def forget(room: Room, directory: Path) -> None:
    """Delete the images of a container, and what tells that they were made before."""
    clear(directory / "out", *_replays(room))


def _replays(room: Room) -> list[Path]:
    """The stamps by which a run tells that it made the same before."""
    stamps = (room.store / "cache" / "stamps").iterdir()
    return [path for path in stamps if b'"screen"' in path.read_bytes()]


def _blobs(layout: Path) -> list[Path]:
    """The layers of a layout: all blobs but the documents."""
    found = sorted((layout / "blobs" / "sha256").iterdir())
    return [path for path in found if path.read_bytes()[:1] != b"{"]


def _copied(room: Room, blobs: list[Path], target: Path) -> Run:
    argv = ["cp", *map(str, blobs), str(target)]
    return lambda: process(argv, cwd=room.root, log=room.log("cp.log"))


def _emptied(target: Path) -> Callable[[], None]:
    def empty() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    return empty


def _rivals(
    room: Room, blobs: list[Path], verdicts: list[Verdict], found: dict[str, list[Sample]]
) -> dict[str, list[Sample]]:
    """Each rival once, from the unpacked root; they take too long to repeat."""
    here = installed(*RIVALS)
    if not here:
        return {}
    rootfs = room.root / "rootfs"
    clear(rootfs)
    rootfs.mkdir()
    for blob in blobs:
        subprocess.run(["tar", "-xf", str(blob), "-C", str(rootfs)], check=True)
    scripts = {"buildah": _BUILDAH, "umoci": _UMOCI}
    extra: dict[str, list[Sample]] = {}
    for name in here:
        work = room.root / name
        clear(work)
        work.mkdir()
        argv = ["sh", "-euc", scripts[name], name, str(rootfs), str(work)]
        extra[name] = [process(argv, cwd=work, log=room.log(f"{name}.log"))]
        verdicts.append(ahead({**found, **extra}, ANEW, name, RIVALS[name]))
        subprocess.run(["rm", "-rf", str(work)], check=True)
    clear(rootfs)
    return extra


_BUILDAH = """\
root=$1 work=$2
b() { buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs "$@"; }
name=$(b from scratch)
b add -q "$name" "$root" /
b commit -q --disable-compression "$name" "oci:$work/image"
"""

_UMOCI = """\
umoci init --layout "$2/image"
umoci new --image "$2/image:one"
umoci insert --image "$2/image:one" "$1" /
"""
