"""Pieces of a Debian source's build as processes of their own; each prints its seconds as JSON.

`build DIRECTORY`: the source of a container's package as a person builds it in its chroot, by one
shell: `dpkg-source -x`, `dpkg-buildpackage`. The chroot is laid out before the clock starts.
`root DIRECTORY`: that chroot, from .debs in the store. `debs TREE FILE…`: any .debs as one tree.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench.timing import BenchError
from buildit.commands.run import Options, Prepared, prepare
from buildit.digest import digest_file
from buildit.events import silent
from buildit.make.build_directory import TREES, BuildDirectory
from buildit.make.debian_root import fill_tree, root_trees
from buildit.make.debian_source import BINDS, PLACE, build_argv, dpkg_environment, lay_out_source
from buildit.make.debian_tree import source_directory
from buildit.model.plan import DebRef, Task
from buildit.plan.identity import DEBIAN_SOURCE, read_source_record
from buildit.sandbox.run import run
from buildit.store.cas import Store

STOP = threading.Event()


def source_task(directory: Path) -> tuple[Prepared, Task]:
    """The Debian source of a container."""
    prepared = prepare(Options(directory), silent)
    return prepared, next(one for one in prepared.plan.tasks if one.kind == DEBIAN_SOURCE)


def build(directory: Path) -> float:
    """Seconds of the shell."""
    prepared, task = source_task(directory)
    record = read_source_record(task.record)
    tree = source_directory(record.name, record.version)
    unpack = ("dpkg-source", "--no-check", "-x", f"/input/{record.files[0].name}", tree)
    words = (unpack, ("cd", tree), build_argv(record))
    shell = ("sh", "-c", " && ".join(map(shlex.join, words)))
    limits = prepared.settings.limits
    with Store.open(Path(prepared.settings.store)) as store:
        lowers, work = root_trees(store, task.inputs.chroot, STOP), store.scratch("by-hand")
        above = store.root / TREES
        room = BuildDirectory(work, above, lowers, task.label, limits, STOP, PLACE, BINDS)
        try:
            lay_out_source(record, room, store)
            begun, log = time.perf_counter(), work / "logs" / "by-hand"
            jail = room.jail(dpkg_environment(record))
            done = run(jail, shell, trees=above, work=work, log=log, limits=limits, stop=STOP)
            seconds = time.perf_counter() - begun
            if done.status != 0:
                raise BenchError(log.read_text()[-3000:])
        finally:
            store.discard(work)
    return seconds


def root(directory: Path) -> float:
    """Seconds of the chroot's trees, the plan not counted."""
    prepared, task = source_task(directory)
    with Store.open(Path(prepared.settings.store)) as store:
        begun = time.perf_counter()
        root_trees(store, task.inputs.chroot, STOP)
        return time.perf_counter() - begun


def debs(tree: Path, files: Sequence[Path]) -> float:
    """Seconds of one tree."""
    paths = {digest_file(path): path for path in files}
    refs = [
        DebRef(path.stem, "1", "all", "bench", path.name, path.stat().st_size, digest)
        for digest, path in paths.items()
    ]
    tree.mkdir()
    begun = time.perf_counter()
    fill_tree(tree, refs, paths.__getitem__, STOP)
    return time.perf_counter() - begun


def main(word: str, place: Path, *more: str) -> None:
    seconds = {"build": build, "root": root}.get(word, lambda _: debs(place, [*map(Path, more)]))
    print(json.dumps({"seconds": seconds(place)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
