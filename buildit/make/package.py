"""The maker of `package`: lay out the sources, patch, run the phases in the sandbox, capture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from buildit.archive.contents import parse_contents
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError, Interrupted, StoreError
from buildit.events import Notice, PhaseStarted
from buildit.make.build_directory import BuildDirectory, PhaseFailed
from buildit.make.capture.capture import (
    CAPTURE,
    capture,
    check_outputs,
    found_providers,
    pack_outputs,
    readable,
    refuse_empty,
    told,
)
from buildit.make.capture.checks import refuse_unprovided
from buildit.make.capture.elf import machine_of
from buildit.make.capture.needs import Visible, dependencies_sight
from buildit.make.capture.normalise import Bounds
from buildit.make.capture.stripping import restore_modes, to_strip
from buildit.make.kept_jail import keep_jail
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.sysroot import Lower, check_lowers, covered
from buildit.model.artifact import RUNTIME, Output
from buildit.model.config import Limits
from buildit.model.plan import Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.task import Inputs, Task
from buildit.plan.identity import BuildInputs, read_record
from buildit.plan.steps import Phase
from buildit.store.cas import Store
from buildit.store.checked import CorruptBlob
from buildit.store.durable import Vanished, store_error
from buildit.store.failures import FailedBuild, forget_failure, keep_failure
from buildit.store.ingest import Batch

TREES = "trees"


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """Sources, patches, and the toolchain that it is built with."""
    return Inputs(sources=task.inputs.sources, patches=task.inputs.patches, debs=toolchain.debs)


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Build a package.

    Raises:
        BuildError, UnsatisfiableError, StoreError, Interrupted: as `makers.make_task`.
        Vanished: what it needs of the store was deleted meanwhile.
    """
    try:
        return _made(task, at_hand, place, work)
    except OSError as error:
        _check_place(place.store, work, ())
        raise store_error(error, work) from error


def _made(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    record = read_record(task.record)
    lowers = _lowers(task, at_hand, place.store)
    room = _room(task, tuple(lowers.values()), place, work)
    phase = ""
    try:
        epoch = room.lay_out(record, place.store, task.inputs.sources)
        room.note("sysroot", covered(lowers.values(), place.debs().owners))
        phase = "patch"
        env = environment_of(record, epoch)
        keep_jail(room, env, record.steps)
        if record.patches:
            place.report(PhaseStarted(task.key, task.label, "patch"))
            room.patch(record, task.about.patch_names(), epoch)
        for step in record.steps:
            phase = step.phase.value
            place.report(PhaseStarted(task.key, task.label, phase))
            for note in room.phase(step.phase, step.argv, env):
                place.report(Notice(f"{task.label}: {note}", warning=True))
        phase = Phase.INSTALL.value
        if record.strip:
            _strip(task, room, env, place)
        place.report(PhaseStarted(task.key, task.label, "pack"))
        with place.store.batch() as batch:
            outputs = _capture(task, record, room, lowers, epoch, place, batch)
            made = Made(outputs, put_record(task, batch), epoch, _log(room, batch))
    except (Interrupted, CorruptBlob, StoreError):
        raise  # not the recipe's fault; and where the disk is full, nothing is kept
    except BuilditError as error:
        trees = (*(lower.tree for lower in lowers.values()), room.lowers[-1])
        _check_place(place.store, work, trees)
        error.place = error.place or task.label
        _keep_failure(task, place.store, room, phase, error)
        raise
    forget_failure(place.store, task.key)
    return made


def _check_place(store: Store, work: Path, trees: Sequence[str]) -> None:
    """Tell a build that failed from one whose place in the store was taken away under it.

    Raises:
        Vanished: its directory is gone, or a tree that it saw is not what was unpacked.
    """
    places = [store.root / TREES / tree for tree in trees]
    bad = [place for place in places if not store.trees.is_as_sealed(place)]
    if bad or not work.is_dir() or store.lost():
        raise Vanished(
            "what a build needs of the store was deleted or changed under it",
            place=str(bad[0] if bad else work),
            hint="run the same command again: it is made anew",
        )


def _strip(task: Task, room: BuildDirectory, env: dict[str, str], place: BuildPlace) -> None:
    with room.installed() as tree, readable():
        stripping = to_strip(tree, machine_of(PLATFORMS[task.platform]), _bounds(place.limits))
        if stripping:
            place.report(PhaseStarted(task.key, task.label, "strip"))
            room.strip(stripping, env)
        restore_modes(tree, stripping)


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.installed_bytes, limits.installed_files)


def _room(task: Task, lowers: Sequence[Lower], place: BuildPlace, work: Path) -> BuildDirectory:
    names = dict.fromkeys(lower.tree for lower in lowers)
    return BuildDirectory(
        work=work,
        trees=place.store.root / TREES,
        lowers=(*names, place.toolchain.identity),
        label=task.label,
        limits=place.limits,
        stop=place.stop,
    )


def _lowers(task: Task, at_hand: AtHand, store: Store) -> dict[tuple[BuildKey, str], Lower]:
    """The dependencies' outputs, nearest first, unpacked."""
    lowers = {}
    for dependency in task.inputs.dependencies:
        artifact = at_hand[dependency.key]
        for name in dependency.outputs:
            output = artifact.outputs.get(name)
            if output is not None:
                tree = store.tree(output.diff_id).name
                entries = parse_contents(store.read(output.contents))
                label = f"{artifact.name}-{artifact.version}"
                lowers[dependency.key, name] = Lower(label, tree, entries)
    check_lowers(tuple(lowers.values()), task.label)
    return lowers


def _capture(
    task: Task,
    record: BuildInputs,
    room: BuildDirectory,
    lowers: Mapping[tuple[BuildKey, str], Lower],
    epoch: int,
    place: BuildPlace,
    batch: Batch,
) -> dict[str, Output]:
    platform, waivers = PLATFORMS[task.platform], task.inputs.waivers
    visible = [Visible(f"{key}:{name}", lower.entries) for (key, name), lower in lowers.items()]
    beyond = dependencies_sight(visible, place.debs().below())
    bounds = _bounds(place.limits)
    with room.installed() as tree:
        installed = capture(
            tree, record.file_rules, record.outputs, epoch, platform, task.label, bounds
        )
        room.note(CAPTURE, told(installed))
        refuse_empty(installed, record.outputs, task.label)
        for line in told(installed, loud=True):
            place.report(Notice(f"{task.label}: {line}", warning=True))
        for finding in check_outputs(tree, installed, platform, waivers, task.label):
            place.report(Notice(f"{task.label}: {finding}", warning=True))
        found = found_providers(installed, beyond, platform)
        refuse_unprovided(installed.needs[RUNTIME], found[RUNTIME], waivers, task.label)
        return pack_outputs(tree, installed, found, batch)


def _log(room: BuildDirectory, batch: Batch) -> Digest:
    with batch.ingest() as sink:
        room.write_log(sink.write)
        return sink.commit()


def _keep_failure(
    task: Task, store: Store, room: BuildDirectory, phase: str, error: BuilditError
) -> None:
    phase = error.phase if isinstance(error, PhaseFailed) else phase
    log = room.work / "log"
    with log.open("wb") as stream:
        room.write_log(stream.write)
        stream.write(f"=== {error}\n".encode("utf-8", "replace"))
    keep_failure(
        store, FailedBuild(task.key, task.name, task.version, phase, str(error), log, room.work)
    )


def environment_of(record: BuildInputs, epoch: int) -> dict[str, str]:
    """The whole environment of a build; a recipe may say how many jobs it bears, or its time."""
    return {
        "JOBS": str(len(os.sched_getaffinity(0))),
        "SOURCE_DATE_EPOCH": str(epoch),
        **record.environment,
    }
