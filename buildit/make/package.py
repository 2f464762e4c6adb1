"""The maker of `package`: lay out the sources, patch, run the phases in the sandbox, capture.

What lies over the toolchain in a build's root are its dependencies, each path from one of them. Two
dependencies with different files at one path are an error: which one the build saw would depend on
their order. A dependency's file over the toolchain's is what dependencies are for; it is noted in
the log, because everything in the chroot that uses that file uses the new one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from buildit.archive.contents import parse_contents
from buildit.digest import BuildKey
from buildit.errors import UnsatisfiableError
from buildit.events import PhaseStarted
from buildit.make.alternative_links import links_for_build, tree_of_links
from buildit.make.build_directory import STRIP, TREES, BuildDirectory, kept_where_it_fails
from buildit.make.capture.capture import CAPTURE, capture, readable
from buildit.make.capture.checks import refuse_unprovided
from buildit.make.capture.elf import Machine, MalformedElf, described_size, machine_of, read_elf
from buildit.make.capture.needs import AR_MAGIC, Visible, dependencies_sight
from buildit.make.capture.normalise import InstalledTree, bounded
from buildit.make.emulator import emulator_of
from buildit.make.incremental import kept_sources
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.patching import patched_time
from buildit.model.artifact import RUNTIME, Output
from buildit.model.config import Limits
from buildit.model.plan import Inputs, Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import BuildInputs, read_record
from buildit.plan.steps import BUILD_DIRECTORY, DESTINATION_DIRECTORY, Phase, script
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.store.disk import make_directory

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Lower:
    """One dependency's output: the package's label, the tree's name, and its entries."""

    label: str
    tree: str
    entries: tuple[Entry, ...]


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """Sources, patches, and the toolchain that it is built with."""
    inputs = task.inputs
    debs = (*toolchain.debs, *inputs.emulator)
    return Inputs(sources=inputs.sources, patches=inputs.patches, debs=debs)


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Build a package.

    Raises:
        BuildError, UnsatisfiableError, StoreError, Interrupted: as `makers.make_task`.
        Vanished: what it needs of the store was deleted meanwhile.
    """
    record = read_record(task.record)
    lowers = _lowers(task, at_hand, place.store)
    names = dict.fromkeys(lower.tree for lower in lowers.values())
    trees = (*names, *_links(task, at_hand, lowers, place), place.toolchain.identity)
    above = place.store.root / TREES
    room = BuildDirectory(work, above, trees, task.label, place.limits, place.stop)
    room = replace(room, emulator=emulator_of(task, place.store, place.stop))
    with kept_where_it_fails(task, room, place.store) as course:
        epoch = room.lay_out(record, place.store, task.inputs.sources)
        room.note("sysroot", _covered(lowers.values(), place.debs().owners))
        course.phase = "patch"
        env = environment_of(record, epoch)
        room.keep_jail(env, {step.phase.value: step.argv for step in record.steps})
        if record.patches:
            place.report(PhaseStarted(task.key, task.label, "patch"))
            room.patch(record.patches, task.about.patch_names(), patched_time(epoch))
        with kept_sources(task, room, place.store):
            for step in record.steps:
                course.phase = step.phase.value
                place.report(PhaseStarted(task.key, task.label, course.phase))
                place.warn(task, room.phase(course.phase, step.argv, env))
            course.phase = Phase.INSTALL.value
            if record.strip:
                with room.installed() as tree, readable():
                    machine = machine_of(PLATFORMS[task.platform])
                    stripping = to_strip(tree, machine, place.limits)
                    if stripping.files:
                        course.phase = STRIP
                        place.report(PhaseStarted(task.key, task.label, course.phase))
                        put_lists(stripping, work / "input")
                        room.phase(STRIP, strip_argv(stripping), env)
                        course.phase = Phase.INSTALL.value
                    restore_modes(tree, stripping)
            place.report(PhaseStarted(task.key, task.label, "pack"))
            with place.store.batch() as batch:
                outputs = _capture(task, record, room, lowers, epoch, place, batch)
                with batch.ingest() as sink:
                    room.write_log(sink.write)
                    return Made(outputs, put_record(task, batch), epoch, sink.commit())


def _lowers(task: Task, at_hand: AtHand, store: Store) -> dict[tuple[BuildKey, str], Lower]:
    """The dependencies' outputs, nearest first, unpacked.

    Raises:
        UnsatisfiableError: two have different files at one path; the details name each, and both
            packages.
    """
    lowers = {}
    for dependency in task.inputs.dependencies:
        artifact = at_hand[dependency.key]
        label = f"{artifact.name}-{artifact.version}"
        for name in dependency.outputs:
            if output := artifact.outputs.get(name):
                tree = store.tree(output.diff_id).name
                entries = parse_contents(store.read(output.contents))
                lowers[dependency.key, name] = Lower(label, tree, entries)
    if clashes := tuple(_clashes(lowers.values())):
        text = f"two dependencies have different files at {clashes[0].partition(':')[0]}"
        hint = "depend on one of them only, or move the file in the recipe of the other"
        raise UnsatisfiableError(text, place=task.label, hint=hint, details=clashes[:_SHOWN])
    return lowers


def _links(
    task: Task, at_hand: AtHand, lowers: Mapping[tuple[BuildKey, str], Lower], place: BuildPlace
) -> tuple[str, ...]:
    """The tree with the alternatives of the dependencies, where they have some."""
    offered = [
        one
        for dependency in task.inputs.dependencies
        for name in dependency.outputs
        if (output := at_hand[dependency.key].outputs.get(name))
        for one in output.declared.alternatives
    ]
    if not offered:
        return ()
    present = frozenset(entry.path for lower in lowers.values() for entry in lower.entries)
    toolchain = place.store.root / TREES / place.toolchain.identity
    links = links_for_build(offered, present, toolchain)
    return (tree_of_links(links, place.store),) if links else ()


def _clashes(lowers: Iterable[Lower]) -> Iterator[str]:
    """Where dependencies would hide each other's files; equal files may meet."""
    owners: dict[str, tuple[Lower, Entry]] = {}
    for lower in lowers:
        for entry in lower.entries:
            first, other = owners.setdefault(entry.path, (lower, entry))
            if first.label != lower.label and _said(other) != _said(entry):
                yield f"/{entry.path}: {first.label} and {lower.label}"


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
    directory = entry.kind is Kind.DIRECTORY
    return (entry.kind, *(() if directory else (entry.mode, entry.target, entry.digest)))


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
    rules, outputs = record.file_rules, record.outputs
    with room.installed() as tree:
        installed = capture(tree, rules, outputs, epoch, platform, task.label, place.limits)
        room.note(CAPTURE, installed.told())
        installed.refuse_empty(outputs)
        place.warn(task, installed.told(loud=True))
        place.warn(task, installed.check(waivers))
        found = installed.providers(lambda: dependencies_sight(visible, place.debs().below()))
        refuse_unprovided(installed.needs[RUNTIME], found[RUNTIME], waivers, task.label)
        return installed.pack(found, batch)


def environment_of(record: BuildInputs, epoch: int) -> dict[str, str]:
    """The whole environment of a build; a recipe may say how many jobs it bears, or its time."""
    jobs = str(len(os.sched_getaffinity(0)))
    return {"JOBS": jobs, "SOURCE_DATE_EPOCH": str(epoch), **record.environment}


# -- which installed files lose their symbols, and the command for it, with strip of the toolchain
#
# The rules of debhelper's dh_strip: programs lose all symbols, libraries what no loader needs,
# static libraries debug information and times. Debug information is dropped. Left alone: files of
# another machine (BPF too), relocatable objects, and programs with something behind their ELF
# part, which strip would cut off.

_LISTS = "strip"
"""The directory below /input with one list of paths for each of `_OPTIONS`, each ended by a NUL."""

_LIBRARY = re.compile(r".*\.so(?:\.[^/]*)?")
_STATIC = re.compile(r"(?:.*/)?lib[^/]*\.a")
_PROGRAM, _SHARED = 2, 3  # ET_EXEC, ET_DYN (gABI 4)
_SCRATCH = f"{BUILD_DIRECTORY}/home/.buildit-strip"


_NOTES = "--remove-section=.comment --remove-section=.note"
_OPTIONS = {
    "program": f"--strip-all {_NOTES}",
    "library": f"--strip-unneeded {_NOTES}",
    "archive": f"--strip-debug --enable-deterministic-archives {_NOTES}",
}
"""What a file is, and so what it loses."""

# Written into the file itself: its further names, owner and attributes stay.
_SCRIPT = f"""
if ! command -v strip >/dev/null; then
  echo "buildit: there is no strip in the toolchain, and programs to be stripped"
  exit 127
fi
cd "{DESTINATION_DIRECTORY}"
"""
_EACH = f"""
xargs -0 -r sh -c '
for file do
  if strip OPTIONS -o {_SCRATCH} "$file"; then cat {_SCRATCH} > "$file" || exit 255; fi
done' sh < /input/{_LISTS}/HOW
rm -f {_SCRATCH}
"""


@dataclass(frozen=True, slots=True)
class Stripping:
    """The paths to strip by what they are, one of each inode, and modes to set again afterwards."""

    files: dict[str, list[str]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)


def to_strip(tree: InstalledTree, machine: Machine, limits: Limits) -> Stripping:
    """Look for what is to be stripped; what its owner may not read or write is opened up.

    Only files with an x bit, and those named as libraries, are looked into, as dh_strip does.

    Raises:
        BuildError: more than `limits` allow was installed.
        OSError: the tree cannot be read.
    """
    found = Stripping()
    seen: set[tuple[int, int]] = set()
    for path, status in bounded(tree.walk(), limits):
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            _open_up(tree, path, mode, 0o500, found)
        inode = (status.st_dev, status.st_ino)
        named = _STATIC.fullmatch(path) or _LIBRARY.fullmatch(path)
        if not stat.S_ISREG(status.st_mode) or not (mode & 0o111 or named) or inode in seen:
            continue
        seen.add(inode)
        opened = _open_up(tree, path, mode, 0o400, found)
        with tree.open_file(path) as stream:
            how = _how(path, stream, machine)
        if how:
            found.files.setdefault(how, []).append(path)
            found.modes[path] = mode  # writing takes set-id bits away
            tree.chmod(path, mode & 0o777 | 0o600)
        elif opened:
            tree.chmod(path, found.modes.pop(path))
    return found


def restore_modes(tree: InstalledTree, stripping: Stripping) -> None:
    """Give files and directories their own modes again."""
    for path, mode in sorted(stripping.modes.items(), reverse=True):
        tree.chmod(path, mode)


def strip_argv(stripping: Stripping) -> tuple[str, ...]:
    """The command that strips what the lists name."""
    options = {how: words for how, words in _OPTIONS.items() if how in stripping.files}
    parts = (_EACH.replace("OPTIONS", options[how]).replace("HOW", how) for how in options)
    return script("".join((_SCRIPT, *parts)))


def put_lists(stripping: Stripping, inputs: Path) -> None:
    """Lay out the lists beneath the directory that a build sees as /input."""
    place = inputs / _LISTS
    make_directory(place)
    for how, paths in stripping.files.items():
        listed = place / how
        listed.write_bytes(b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths))
        listed.chmod(0o644)  # the build is another user, whatever the umask


def _open_up(tree: InstalledTree, path: str, mode: int, wanted: int, found: Stripping) -> bool:
    if mode & wanted == wanted:
        return False
    found.modes[path] = mode
    tree.chmod(path, mode | wanted)
    return True


def _how(path: str, stream: BinaryIO, machine: Machine) -> str:
    if stream.read(len(AR_MAGIC)) == AR_MAGIC and _STATIC.fullmatch(path):
        return "archive"
    if path.startswith("usr/lib/debug/"):
        return ""
    with suppress(MalformedElf):
        elf = read_elf(stream)
        if elf is None or elf.machine != machine or elf.type not in (_PROGRAM, _SHARED):
            return ""
        if (end := described_size(stream)) is None:
            return ""
        stream.seek(end)
        rest = stream.read((4 << 10) + 1)
        if len(rest) > 4 << 10 or any(rest):  # behind the ELF part; a few zeros are nothing
            return ""
        program = elf.type == _PROGRAM or (elf.interp and not _LIBRARY.fullmatch(path))
        return "program" if program else "library"
    return ""
