"""The maker of `package`: lay out the sources, patch, run the phases in the sandbox, capture.

What lies over the toolchain in a build's root are its dependencies, each path from one of them. Two
dependencies with different files at one path are an error: which one the build saw would depend on
their order. A dependency's file over the toolchain's is what dependencies are for; it is noted in
the log, because everything in the chroot that uses that file uses the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.contents import parse_contents
from buildit.digest import BuildKey
from buildit.errors import BuilditError, Interrupted, StoreError, UnsatisfiableError
from buildit.events import Notice, PhaseStarted
from buildit.make.build_directory import STRIP, BuildDirectory
from buildit.make.capture.capture import CAPTURE, capture, readable
from buildit.make.capture.checks import refuse_unprovided
from buildit.make.capture.elf import machine_of
from buildit.make.capture.needs import Visible, dependencies_sight
from buildit.make.capture.normalise import Bounds
from buildit.make.capture.stripping import restore_modes, to_strip
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.model.artifact import RUNTIME, Output
from buildit.model.config import Limits
from buildit.model.plan import Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.task import Inputs, Task
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import BuildInputs, read_record
from buildit.plan.steps import Phase
from buildit.store.blobs import Batch, CorruptBlob
from buildit.store.cas import Store
from buildit.store.durable import Vanished
from buildit.store.failures import FailedBuild, forget_failure, keep_failure

TREES = "trees"
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Lower:
    """One dependency's output: the package's label, the tree's name, and its entries."""

    label: str
    tree: str
    entries: tuple[Entry, ...]


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
    except OSError:
        _check_place(place.store, work, ())
        raise


def _made(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    record = read_record(task.record)
    lowers = _lowers(task, at_hand, place.store)
    names = dict.fromkeys(lower.tree for lower in lowers.values())
    trees = (*names, place.toolchain.identity)
    room = BuildDirectory(
        work, place.store.root / TREES, trees, task.label, place.limits, place.stop
    )
    phase = ""
    try:
        epoch = room.lay_out(record, place.store, task.inputs.sources)
        room.note("sysroot", _covered(lowers.values(), place.debs().owners))
        phase = "patch"
        env = environment_of(record, epoch)
        room.keep_jail(env, record.steps)
        if record.patches:
            place.report(PhaseStarted(task.key, task.label, "patch"))
            room.patch(record, task.about.patch_names(), epoch)
        for step in record.steps:
            phase = step.phase.value
            place.report(PhaseStarted(task.key, task.label, phase))
            for note in room.phase(phase, step.argv, env):
                place.report(Notice(f"{task.label}: {note}", warning=True))
        phase = Phase.INSTALL.value
        if record.strip:
            with room.installed() as tree, readable():
                machine = machine_of(PLATFORMS[task.platform])
                stripping = to_strip(tree, machine, _bounds(place.limits))
                if stripping:
                    phase = STRIP
                    place.report(PhaseStarted(task.key, task.label, phase))
                    room.strip(stripping, env)
                    phase = Phase.INSTALL.value
                restore_modes(tree, stripping)
        place.report(PhaseStarted(task.key, task.label, "pack"))
        with place.store.batch() as batch:
            outputs = _capture(task, record, room, lowers, epoch, place, batch)
            with batch.ingest() as sink:
                room.write_log(sink.write)
                made = Made(outputs, put_record(task, batch), epoch, sink.commit())
    except (Interrupted, CorruptBlob, StoreError):
        raise  # not the recipe's fault; and where the disk is full, nothing is kept
    except BuilditError as error:
        _check_place(place.store, work, trees)
        error.place = error.place or task.label
        log = work / "log"
        with log.open("wb") as stream:
            room.write_log(stream.write)
            stream.write(f"=== {error}\n".encode("utf-8", "replace"))
        keep_failure(
            place.store,
            FailedBuild(task.key, task.name, task.version, phase, str(error), log, work),
        )
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


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.installed_bytes, limits.installed_files)


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
    _check_lowers(tuple(lowers.values()), task.label)
    return lowers


def _check_lowers(lowers: Sequence[Lower], label: str) -> None:
    """Refuse dependencies that would hide each other's files; equal files may meet.

    Raises:
        UnsatisfiableError: the details name each path and both packages.
    """
    owners: dict[str, tuple[Lower, Entry]] = {}
    clashes = []
    for lower in lowers:
        for entry in lower.entries:
            first, other = owners.setdefault(entry.path, (lower, entry))
            if first.label != lower.label and _said(other) != _said(entry):
                clashes.append(f"/{entry.path}: {first.label} and {lower.label}")
    if clashes:
        raise UnsatisfiableError(
            f"two dependencies have different files at {clashes[0].partition(':')[0]}",
            place=label,
            hint="depend on one of them only, or move the file in the recipe of the other",
            details=tuple(clashes[:_SHOWN]),
        )


def _covered(lowers: Iterable[Lower], owners: Mapping[str, tuple[str, Entry]]) -> tuple[str, ...]:
    """A line for each file of the toolchain that a dependency covers, sorted.

    `owners` maps a path to the name of its .deb, and its entry.
    """
    lines = {
        f"/{entry.path} of {lower.label} covers that of debian:{owners[entry.path][0]}"
        for lower in lowers
        for entry in lower.entries
        if entry.kind is not Kind.DIRECTORY and entry.path in owners
    }
    return tuple(sorted(lines))


def _said(entry: Entry) -> tuple[object, ...]:
    """What two dependencies must agree on."""
    if entry.kind is Kind.DIRECTORY:
        return (entry.kind,)
    return entry.kind, entry.mode, entry.target, entry.digest


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
    bounds = _bounds(place.limits)
    with room.installed() as tree:
        installed = capture(
            tree, record.file_rules, record.outputs, epoch, platform, task.label, bounds
        )
        room.note(CAPTURE, installed.told())
        installed.refuse_empty(record.outputs)
        for line in installed.told(loud=True):
            place.report(Notice(f"{task.label}: {line}", warning=True))
        for finding in installed.check(waivers):
            place.report(Notice(f"{task.label}: {finding}", warning=True))
        found = installed.providers(lambda: dependencies_sight(visible, place.debs().below()))
        refuse_unprovided(installed.needs[RUNTIME], found[RUNTIME], waivers, task.label)
        return installed.pack(found, batch)


def environment_of(record: BuildInputs, epoch: int) -> dict[str, str]:
    """The whole environment of a build; a recipe may say how many jobs it bears, or its time."""
    return {
        "JOBS": str(len(os.sched_getaffinity(0))),
        "SOURCE_DATE_EPOCH": str(epoch),
        **record.environment,
    }
