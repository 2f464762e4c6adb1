"""nginx as a person builds it in the same chroot: `./configure && make && make install`, one shell.

Run as a process of its own, with the container's directory as argument; prints what it took as
JSON. Sources, patches and dependencies are laid out before the clock starts.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import sys
import threading
import time
from pathlib import Path

from bench.timing import BenchError
from buildit.commands.fetching import toolchain_owners
from buildit.commands.run import Options, prepare
from buildit.events import silent
from buildit.make.build_directory import BuildDirectory
from buildit.make.patching import patched_time
from buildit.model.config import Config
from buildit.model.plan import Task
from buildit.plan.identity import BuildInputs, read_record
from buildit.sandbox.run import run
from buildit.store.artifacts import lookup
from buildit.store.cas import Store

PACKAGE = "www-servers/nginx"


def main(directory: Path) -> None:
    """Build the container's nginx by hand and print seconds and processor seconds."""
    prepared = prepare(Options(directory), silent)
    plan = prepared.plan
    node = next(one for one in plan.tasks if one.name == PACKAGE)
    with Store.open(Path(prepared.settings.store)) as store:
        toolchain_owners(plan.toolchain, store, threading.Event())
        lowers = (*_trees(node, store), plan.toolchain.identity)
        work = store.scratch("by-hand")
        try:
            print(json.dumps(_timed(node, lowers, work, store, prepared.settings)))
        finally:
            store.discard(work)


def _trees(node: Task, store: Store) -> list[str]:
    found: dict[str, None] = {}
    for dependency in node.inputs.dependencies:
        artifact = lookup(store, dependency.key)
        if artifact is None:
            raise BenchError(f"{node.label} needs {dependency.key[:12]}, which is not built")
        for name in dependency.outputs:
            if name in artifact.outputs:
                found[store.tree(artifact.outputs[name].diff_id).name] = None
    return list(found)


def _timed(
    node: Task, lowers: tuple[str, ...], work: Path, store: Store, settings: Config
) -> dict[str, float]:
    record = read_record(node.record)
    stop = threading.Event()
    room = BuildDirectory(work, store.root / "trees", lowers, node.label, settings.limits, stop)
    epoch = room.lay_out(record, store)
    env = {
        **record.environment,
        "JOBS": str(len(os.sched_getaffinity(0))),
        "SOURCE_DATE_EPOCH": str(epoch),
    }
    if record.patches:
        room.patch(record.patches, node.about.patch_names(), patched_time(epoch))
    used, begun = _cpu(), time.perf_counter()
    outcome = run(
        room.jail(env),
        _one_shell(record),
        trees=room.trees,
        work=work,
        log=work / "logs" / "by-hand",
        limits=settings.limits,
        stop=stop,
    )
    seconds = time.perf_counter() - begun
    if outcome.status != 0:
        raise BenchError((work / "logs" / "by-hand").read_text()[-3000:])
    return {"seconds": seconds, "cpu": _cpu() - used}


def _one_shell(record: BuildInputs) -> tuple[str, ...]:
    return ("sh", "-c", " && ".join(shlex.join(step.argv) for step in record.steps))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(Path(sys.argv[1]))
