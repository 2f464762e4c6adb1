"""P7: the chroot of a Debian source against mmdebstrap; P12: its build against the same by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.debian_by_hand import source_task
from bench.rivals import installed
from bench.room import Room, clear
from bench.tables import Table, ratio, rows
from bench.timing import BenchError, Run, Sample, Side, interleaved, process
from buildit.archive.deb import read_control
from buildit.model.plan import DebRef

ROOT_LIMIT, BUILD_LIMIT = 0.5, 1.05
SOURCE = "chrony"
CONTAINER = """\
- vars: {name: debian, version: 1}
- package: {type: embedded, path: ./mine}
- image: {type: oci}
"""
RIVAL = "mmdebstrap"


def root(room: Room, rounds: int) -> Table:
    """The .debs are in the store, and in a directory that is an apt source; each round lays them
    out where nothing of them is."""
    directory = _container(room)
    _, task = source_task(directory)
    debs = [deb for tree in task.inputs.chroot for deb in tree]
    sides = [Side("buildit", _by_hand(room, "root", directory), lambda: _forget(room))]
    if installed(RIVAL):
        source, target = room.root / "apt-source", room.root / RIVAL
        _apt_source(room, source, debs)
        names = ",".join(sorted({deb.name for deb in debs}))
        argv = [RIVAL, "--mode=root", "--format=directory", "--variant=essential"]
        argv += [f"--include={names}", "", str(target), f"deb [trusted=yes] copy:{source} ./"]
        log = room.log(f"{RIVAL}.log")
        sides.append(
            Side(RIVAL, lambda: process(argv, cwd=room.root, log=log), lambda: clear(target))
        )
    found = interleaved(sides, rounds)
    size = sum(deb.size for deb in debs) / 1e6
    return Table(
        "P7",
        "chroot of a Debian source from .debs that are at hand",
        rows(found),
        ratio(found, "buildit", RIVAL, ROOT_LIMIT) if len(sides) > 1 else (),
        (
            (
                f"{len(debs)} .debs, {size:.0f} MB. buildit: the trees and what is laid over them, "
                "the plan not counted; man pages, translations and documentation stay out."
            ),
            f"{RIVAL}: the same .debs from a directory, configured by their maintainer scripts.",
        ),
    )


def build(room: Room, rounds: int) -> Table:
    """The chroot is laid out before; each round builds a version of its own."""
    directory = _container(room)
    count = iter(range(10**6))

    def fresh() -> None:
        _write(directory, f"+bench{next(count)}.{room.salt.replace('-', '.')}")
        clear(directory / "out")

    sides = (
        Side("by hand", _by_hand(room, "build", directory), fresh),
        Side("buildit", room.buildit(directory), fresh),
    )
    found = interleaved(sides, rounds)
    return Table(
        "P12",
        f"Debian source {SOURCE} against dpkg-buildpackage by hand in the same chroot",
        rows(found),
        ratio(found, "buildit", "by hand", BUILD_LIMIT)[:2],
        (
            (
                "By hand: one shell in one sandbox, dpkg-source and dpkg-buildpackage; its peak "
                "memory is that of the process that started it."
            ),
            (
                "buildit: the whole process, from reading the recipe, whose version is new, to "
                "the image."
            ),
        ),
    )


def _container(room: Room) -> Path:
    """A container of one Debian source, built once: its .debs and chroot are then in the store.
    The lock stays from one run to the next."""
    directory = room.root / "debian"
    if not (directory / "buildit.lock").exists():
        room.place("debian", {"container.yaml": CONTAINER, "mine/pkg.yaml": ""})
    _write(directory, "+bench")
    room.buildit(directory)()
    return directory


def _write(directory: Path, suffix: str) -> None:
    (directory / "mine/pkg.yaml").write_text(f'base: debian:{SOURCE}\nversion-suffix: "{suffix}"\n')


def _by_hand(room: Room, word: str, *places: Path) -> Run:
    log = room.log(f"{word}.log")
    argv = [sys.executable, "-m", "bench.debian_by_hand", word, *map(str, places)]

    def run() -> Sample:
        whole = process(argv, cwd=room.root, log=log, env=room.environment())
        told = json.loads(log.read_text().splitlines()[-1])
        return Sample(told["seconds"], whole.cpu, whole.peak)

    return run


def _forget(room: Room) -> None:
    for path in (room.store / "trees").glob("root-*"):
        clear(path)


def _apt_source(room: Room, source: Path, debs: list[DebRef]) -> None:
    """A directory that apt reads .debs from (deb [trusted=yes] copy:…)."""
    clear(source)
    source.mkdir()
    with (source / "Packages").open("wb") as index:
        for deb in debs:
            file = source / deb.path.rpartition("/")[2]
            file.hardlink_to(room.store / "blobs" / "sha256" / deb.digest)
            with file.open("rb") as packed:
                control = read_control(packed, deb.name)["control"].strip()
            about = f"Filename: ./{file.name}\nSize: {deb.size}\nSHA256: {deb.digest}"
            index.write(control + f"\n{about}\n\n".encode())


def large_debs(room: Room, total: int, each: int) -> Callable[[], Sample]:
    """Lay out .debs of `total` bytes that do not shrink, `each` of them one file; they are made
    once."""
    place, tree = room.root / "large-debs", room.root / "large-tree"
    files = [place / f"large{number}.deb" for number in range(total // each)]
    place.mkdir(exist_ok=True)
    for path in files:
        if not path.exists():
            _pack(path, each)
    run = _by_hand(room, "debs", tree, *files)

    def once() -> Sample:
        clear(tree)
        try:
            return run()
        finally:
            clear(tree)

    return once


def _pack(path: Path, size: int) -> None:
    tree = path.with_suffix("")
    (tree / "DEBIAN").mkdir(parents=True)
    fields = f"Package: {path.stem}\nVersion: 1\nArchitecture: all\n"
    (tree / "DEBIAN/control").write_text(f"{fields}Maintainer: bench\nDescription: data\n")
    with open("/dev/urandom", "rb") as noise, (tree / path.stem).open("wb") as out:
        for _ in range(size >> 20):
            out.write(noise.read(1 << 20))
    half = path.with_suffix(".half")
    argv = ["dpkg-deb", "-Znone", "--build", str(tree), str(half)]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode != 0:
        raise BenchError(done.stderr.decode("utf-8", "replace"))
    clear(tree)
    half.rename(path)
