"""The directory of one build: sources unpacked, inputs laid out, phases run.

build/src   the sources, writable: /build/src
build/out   what the install phase leaves: /build/out
input/      patches and the package's own files, read-only: /input
logs/       one file a phase
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.unpack import OLDEST, Unpacked, place_source, unpack_source
from buildit.digest import CHUNK, Digest, canonical
from buildit.errors import (
    BuildError,
    BuilditError,
    IntegrityError,
    Interrupted,
    StoreError,
    UsageError,
)
from buildit.make.advice import advice, notes
from buildit.make.capture.normalise import Watched
from buildit.make.patching import PatchToApply, apply_patches
from buildit.model.config import Limits
from buildit.model.plan import Task
from buildit.model.sources import SourceRef
from buildit.plan.identity import BuildInputs, PatchInput, SourceInput
from buildit.plan.steps import BUILD_DIRECTORY, DESTINATION_DIRECTORY, SOURCE_DIRECTORY
from buildit.sandbox.jail import Bind, Jail
from buildit.sandbox.limits import RESERVE
from buildit.sandbox.run import Outcome, end_of, printable_output, run
from buildit.store.blobs import CorruptBlob
from buildit.store.cas import Store
from buildit.store.disk import Vanished, host_owner, make_directory
from buildit.store.names import FailedBuild, forget_failure, keep_failure

TAIL_LINES = 25
_TAIL_BYTES = 256 << 10

TREES = "trees"
"""Where, in the store, the trees of a root are."""

OUT = "build/out"
"""Where, in the work directory, the build's `DESTINATION_DIRECTORY` is."""

_TWICE = "in .buildit-config.yaml, twice as much: limits: {%s}; or mend the recipe"
_LIMITS = {
    "memory": ("used more memory than `limits: memory` allows", _TWICE % "memory: %(memory)s"),
    "processes": (
        "started more processes than `limits: processes` allows",
        _TWICE % "processes: %(processes)s",
    ),
    "seconds": ("ran longer than `limits: time` allows", _TWICE % "time: %(seconds)s"),
    "idle": (
        "wrote nothing for an hour and was stopped",
        "let the phase say what it does now and then, or drop what hangs from the recipe",
    ),
    "disk": (
        "wrote more to the disk than a build may",
        "let it write less: a build may hold %(disk)s GiB at a time, of sources, objects and all",
    ),
}
"""By the name in `Outcome`: what happened, and what would help."""

STRIP = "strip"
"""The phase between the install step and packing."""

_JAIL = "jail.json"
_BINDS = (Bind("build", BUILD_DIRECTORY, writable=True), Bind("input", "/input"))


class PhaseFailed(BuildError):  # noqa: N818 - what happened
    """A phase ended by itself, with a status: nothing that it wrote was cut short."""


@dataclass(frozen=True, slots=True)
class KeptJail:
    """What was run where: the jail, and the command of each phase."""

    jail: Jail
    commands: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class BuildDirectory:
    """One build's directory `work`, the names of the trees that its root is made of, where its
    phases begin, and what they see of `work`. `emulator` is as in `Jail`."""

    work: Path
    trees: Path
    lowers: tuple[str, ...]
    label: str
    limits: Limits
    stop: threading.Event
    cwd: str = SOURCE_DIRECTORY
    binds: tuple[Bind, ...] = _BINDS
    emulator: str = ""

    @contextmanager
    def installed(self) -> Iterator[Watched]:
        """What the install phase left; never what a link in its place leads to.

        Raises:
            BuildError: the build removed the directory, or put something else there.
        """
        with Root.open(self.work) as work:
            try:
                tree = work.inner(OUT)
            except (IntegrityError, OSError) as error:
                text = f"the build replaced {DESTINATION_DIRECTORY} by something else"
                hint = "install into $DESTDIR; never remove or replace it"
                raise BuildError(text, place=self.label, hint=hint) from error
        with tree:
            yield Watched(tree, self.stop)

    def lay_out(self, record: BuildInputs, store: Store, named: Sequence[SourceRef] = ()) -> int:
        """Make the directory, unpack the sources, place patches and files; return the epoch.

        Sources are laid over each other in order: a later one may add to directories of an earlier
        one and replaces its files, which the log tells. `named` are their names, for people.

        Raises:
            IntegrityError: an archive is damaged or hostile.
            RecipeError: `strip` does not fit an archive.
            BuildError: an archive exceeds a limit.
            StoreError: the disk is full.
        """
        for name in ("build/src", "build/out", "build/home", "input/files"):
            make_directory(self.work / name)
        (self.work / "logs").mkdir()
        names = {source.digest: source for source in named}
        found = [self._unpack(s, store, names.get(s.digest)) for s in record.sources]
        self.note("sources", [line for one in found for line in one.remarks])
        self.place_patches(record.patches, store)
        for file in record.files:
            target = self.work / "input" / "files" / file.path
            make_directory(target.parent)
            place_blob(store, file.digest, target, executable=file.executable)
        self._own(record)
        return max((one.newest for one in found), default=OLDEST)

    def _unpack(self, source: SourceInput, store: Store, named: SourceRef | None) -> Unpacked:
        name = named.name if named else source.name or source.digest[:12]
        place = f"{self.label}: {name}"
        archive, owner = store.sound(source.digest), host_owner()
        try:
            with Root.open(self.work) as work, self._directory(work, source, place) as into:
                if source.unpack:
                    found = unpack_source(
                        archive,
                        into,
                        place=place,
                        strip=source.strip,
                        exclude=source.exclude,
                        single=source.name,
                        budget=Budget(),
                        owner=owner,
                    )
                else:
                    found = place_source(archive, into, source.name, place=place, owner=owner)
        except BuilditError as error:
            if named is not None and named.places:
                error.details = (*error.details, f"source: {named.places[0]}")
            raise
        return replace(found, remarks=tuple(f"{name}: {line}" for line in found.remarks))

    def _directory(self, work: Root, source: SourceInput, place: str) -> Root:
        """Where a source goes, made where it is not there; an earlier source's link is no way."""
        path = "build/src"
        try:
            for part in source.directory.split("/"):
                path = os.path.normpath(f"{path}/{part}")
                with suppress(FileExistsError):
                    work.mkdir(path)
            return work.inner(path)
        except (IntegrityError, NotADirectoryError) as error:
            text = f"its directory {source.directory!r} is a link or file of an earlier source"
            hint = "give this source another `directory:`, or the earlier one an `exclude:`"
            raise IntegrityError(text, place=place, hint=hint) from error

    def _own(self, record: BuildInputs) -> None:
        """Give the build what it may write: its directories, and those that hold each source."""
        owner = host_owner()
        if owner is None:
            return
        names = {"build", "build/out", "build/home", "build/src"}
        for source in record.sources:
            path = os.path.normpath(f"build/src/{source.directory}")
            while path not in names:
                names.add(path)
                path = os.path.dirname(path)
        for name in sorted(names):
            os.chown(self.work / name, *owner, follow_symlinks=False)
        # A build cannot write there, but sees one owner, root or an ordinary user as caller.
        for place in (self.work / "input").rglob("*"):
            os.chown(place, *owner, follow_symlinks=False)

    def jail(self, env: dict[str, str]) -> Jail:
        return Jail(self.lowers, self.binds, env, cwd=self.cwd, emulator=self.emulator)

    def place_patches(self, patches: Sequence[PatchInput], store: Store) -> None:
        """Lay out the patches beneath the directory that a build sees as /input."""
        make_directory(self.work / "input" / "patches")
        for number, patch in enumerate(patches):
            place_blob(store, patch.digest, self._patch(number))

    def patch(self, patches: Sequence[PatchInput], names: Sequence[str], time: int) -> None:
        """Apply all patches to the tree of `cwd`; `names` is what the user calls them, `time` what
        the files that they touch get.

        Raises:
            BuildError: one does not apply; the message names it, the file and the hunk.
            StoreError: the disk is full.
            Interrupted: `stop` was set.
        """
        with self.log_of("patch").open("w", encoding="utf-8", errors="surrogateescape") as log:

            def say(line: str) -> None:
                if self.stop.is_set():
                    raise Interrupted("the build was interrupted")
                log.write(f"{line}\n")

            wanted = []
            for number, patch in enumerate(patches):
                name = names[number] if number < len(names) else f"#{number + 1}"
                content = self._patch(number).read_bytes()
                wanted.append(PatchToApply(content, patch.strip, name))
            try:
                with Root.open(self.work) as work, work.inner(self.cwd.lstrip("/")) as tree:
                    apply_patches(tree, wanted, time, host_owner(), say)
            except OSError as error:
                text = f"cannot write a patched file: {error.strerror}"
                hint = "check the disk, its space and its permissions, then run again"
                raise StoreError(text, place=self.label, hint=hint) from error

    def _patch(self, number: int) -> Path:
        # The number leads, so that the shell's order is the written one.
        return self.work / "input" / "patches" / f"{number:04d}"

    def phase(self, name: str, argv: tuple[str, ...], env: dict[str, str]) -> tuple[str, ...]:
        """Run one phase; what a step of ours had to say to the user about it.

        Raises:
            PhaseFailed: it ended with another status than 0.
            BuildError: it was killed, or exceeded a limit.
            StoreError: the store's disk is nearly full.
        """
        log, jail = self.log_of(name), self.jail(env)
        places = {"trees": self.trees, "work": self.work, "log": log}
        outcome = run(jail, argv, limits=self.limits, stop=self.stop, **places)
        if outcome.status != 0 or outcome.limit is not None:
            raise self.failed(name, outcome, log)
        return notes(map(printable_output, end_of(log, _TAIL_BYTES)))

    def note(self, name: str, lines: Sequence[str]) -> None:
        """Say something of our own in the log, between the phases."""
        if lines:
            text = "".join(f"{line}\n" for line in lines)
            self.log_of(name).write_text(text, "utf-8", "surrogateescape")

    def log_of(self, name: str) -> Path:
        """Where the log of the next phase goes."""
        number = len(list((self.work / "logs").iterdir()))
        return self.work / "logs" / f"{number}-{name}"

    def failed(
        self, name: str, outcome: Outcome, log: Path, *, recipe: bool = True
    ) -> BuilditError:
        """The error of a phase that did not end well; `recipe` is whether one may be at fault."""
        last = end_of(log, _TAIL_BYTES)[-TAIL_LINES:]
        tail = tuple(line.decode("utf-8", "replace") for line in last)
        no_space = any("No space left on device" in line for line in tail)
        if outcome.limit == "full" or (no_space and self._free() < RESERVE):
            text = f"the store's disk is nearly full ({self._free() >> 20} MB free)"
            hint = "buildit store gc, or a larger disk: `store:` in .buildit-config.yaml"
            return StoreError(text, place=str(self.work.parent.parent), hint=hint, details=tail)
        how = f"signal {outcome.signal}" if outcome.signal else f"status {outcome.status}"
        message = f"{name} failed with {how}"
        hint = "see `buildit log`; look around in it with `buildit shell`"
        if outcome.limit is not None:
            words, hint = _LIMITS[outcome.limit]
            twice = {
                "memory": f"{(self.limits.memory_bytes >> 19) or 1}M",
                "processes": str(2 * self.limits.processes),
                "seconds": f"{2 * math.ceil(self.limits.seconds)}s",
                "disk": str(self.limits.disk_bytes >> 30),
            }
            message, hint = f"{name} {words}", hint % twice
        elif name == STRIP and outcome.status == 127:
            message = "there are programs to strip, and no strip in the toolchain"
            hint = "add binutils to the toolchain, or write `strip: no` in the recipe"
        elif recipe and (lacks := advice(outcome.status, tail)):
            reason, next_step = lacks
            message, hint = f"{name} failed: {reason}", f"{next_step}; see `buildit log`"
        killed = outcome.signal is not None or outcome.limit is not None
        error = BuildError if killed else PhaseFailed
        return error(message, place=self.label, hint=hint, details=tail)

    def _free(self) -> int:
        state = os.statvfs(self.work)
        return state.f_bavail * state.f_frsize

    def write_log(self, write: Callable[[bytes], object]) -> None:
        """The logs of all phases, in order, each under its name."""
        logs = (self.work / "logs").iterdir()
        for log in sorted(logs, key=lambda path: int(path.name.split("-")[0])):
            write(f"=== {log.name.partition('-')[2]}\n".encode())
            with log.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    write(chunk)

    def keep_jail(self, env: Mapping[str, str], commands: Mapping[str, Sequence[str]]) -> None:
        """Note the jail in the work directory, outside of what the build itself can write, with the
        command of each phase."""
        facts = {
            "binds": [[one.source, one.dest, one.writable] for one in self.binds],
            "commands": {name: list(argv) for name, argv in commands.items()},
            "cwd": self.cwd,
            "emulator": self.emulator,
            "env": dict(env),
            "lowers": list(self.lowers),
        }
        (self.work / _JAIL).write_bytes(canonical(facts))

    def read_jail(self) -> KeptJail:
        """The jail of a failed build; `lowers` of this value count for nothing.

        Raises:
            UsageError: the build failed before it had a sandbox.
        """
        try:
            facts = json.loads((self.work / _JAIL).read_bytes())
            env = {str(name): str(value) for name, value in facts["env"].items()}
            lowers = tuple(map(str, facts["lowers"]))
            commands = {name: tuple(map(str, argv)) for name, argv in facts["commands"].items()}
            binds = tuple(Bind(str(a), str(b), bool(w)) for a, b, w in facts["binds"])
            cwd, emulator = str(facts["cwd"]), str(facts.get("emulator", ""))
            room = replace(self, lowers=lowers, binds=binds, cwd=cwd, emulator=emulator)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = "the build failed before its sandbox was made: there is nothing to enter"
            hint = f"see `buildit log`; what is left of it is in {self.work}"
            raise UsageError(text, place=self.label, hint=hint) from error
        return KeptJail(room.jail(env), commands)


def place_blob(store: Store, digest: Digest, target: Path, *, executable: bool = False) -> None:
    """Copy a blob to a path that is not there yet, with mode 0644 or 0755."""
    with store.checked(digest) as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy, CHUNK)
    target.chmod(0o755 if executable else 0o644)


# -- a build that fails


@dataclass(slots=True)
class Course:
    """How far a build has come: the name of its phase."""

    phase: str = ""


@contextmanager
def kept_where_it_fails(task: Task, room: BuildDirectory, store: Store) -> Iterator[Course]:
    """Keep log and tree of a build that fails, for `log` and `shell`; forget an earlier failure of
    one that does not.

    Raises:
        Vanished: what it needs of the store was deleted meanwhile.
        BuilditError: what was raised inside, with a place.
    """
    course = Course()
    try:
        yield course
    except (Interrupted, CorruptBlob, StoreError):
        raise  # not the recipe's fault; and where the disk is full, nothing is kept
    except OSError:
        _check_place(store, room.work, ())
        raise
    except BuilditError as error:
        _check_place(store, room.work, room.lowers)
        error.place = error.place or room.label
        log = room.work / "log"
        with log.open("wb") as stream:
            room.write_log(stream.write)
            stream.write(f"=== {error}\n".encode("utf-8", "replace"))
        failed = FailedBuild(
            task.key, task.name, task.version, course.phase, str(error), log, room.work
        )
        keep_failure(store, failed)
        raise
    forget_failure(store, task.key)


def _check_place(store: Store, work: Path, trees: Sequence[str]) -> None:
    """Tell a build that failed from one whose place in the store was taken away under it.

    Raises:
        Vanished: its directory is gone, or a tree that it saw is not what was unpacked.
    """
    places = [store.root / TREES / tree for tree in trees]
    bad = [place for place in places if not store.trees.is_as_sealed(place)]
    if bad or not work.is_dir() or store.lost():
        text = "what a build needs of the store was deleted or changed under it"
        hint = "run the same command again: it is made anew"
        raise Vanished(text, place=str(bad[0] if bad else work), hint=hint)
