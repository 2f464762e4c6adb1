"""One node of a plan to its artifact: lay out, patch, run the phases, capture."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.contents import parse_contents
from buildit.archive.deb import read_deb
from buildit.archive.streams import Readable
from buildit.archive.tar.admit import Budget
from buildit.archive.unpack import unpack_entries
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError, Interrupted, StoreError
from buildit.events import Notice, PhaseStarted, Reporter
from buildit.make.capture.capture import (
    CAPTURE,
    Installed,
    capture,
    check_outputs,
    found_providers,
    pack_outputs,
    readable,
    refuse_empty,
    told,
)
from buildit.make.capture.checks import refuse_unprovided
from buildit.make.capture.debs import Debs, leave_out, link_run_directories, unmet_text
from buildit.make.capture.elf import machine_of
from buildit.make.capture.needs import Visible, dependencies_sight
from buildit.make.capture.normalise import Bounds, Change
from buildit.make.capture.stripping import restore_modes, to_strip
from buildit.make.kept_jail import keep_jail
from buildit.make.record import BuildRecord, read_record
from buildit.make.sysroot import Lower, check_lowers, covered
from buildit.make.watched import Watched
from buildit.make.workroom import PhaseFailed, Workroom
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import Limits
from buildit.model.pathglob import glob_of
from buildit.model.plan import Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.task import Task
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import DEBIAN, RuleInput, left_out
from buildit.plan.steps import Phase
from buildit.store.cas import Store
from buildit.store.checked import CorruptBlob
from buildit.store.durable import Vanished, explained
from buildit.store.failures import Failure, forget_failure, keep_failure
from buildit.store.ingest import Batch

TREES = "trees"
_NO_SET_ID = "set-id bit of the .deb left out"
_NO_OWNER = "owner of the .deb left out, it is 0:0"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a build left in the store, of which all became visible together."""

    outputs: Mapping[str, Output]
    record: Digest
    log: Digest | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds nodes of one plan; each call is independent and runs in a thread of its own.

    `debs` knows what the .debs around them have.
    """

    store: Store
    toolchain: Toolchain
    debs: Debs
    limits: Limits
    report: Reporter
    stop: threading.Event

    def build(self, node: Task, at_hand: Mapping[BuildKey, Artifact]) -> Artifact:
        """The artifact of a node, its blobs in the store; the caller commits it.

        Raises:
            BuildError: a phase or patch failed; log and tree are kept for `log` and `shell`.
            UnsatisfiableError: a file needs what no output provides.
            StoreError: the store's disk is nearly full, or a tree of it is damaged.
            Interrupted: `stop` was set.
        """
        work = self.store.scratch(f"build-{node.key[:16]}")
        try:
            return (
                self._deb(node, work) if node.kind == DEBIAN else self._package(node, at_hand, work)
            )
        except OSError as error:
            self._check_place(work, ())
            raise explained(error, work) from error
        finally:
            if work.exists():
                self.store.discard(work)

    def _package(self, node: Task, at_hand: Mapping[BuildKey, Artifact], work: Path) -> Artifact:
        record = read_record(node.record)
        lowers = self._lowers(node, at_hand)
        room = self._room(node, tuple(lowers.values()), work)
        phase = ""
        try:
            epoch = room.lay_out(record, self.store, node.inputs.sources)
            room.note("sysroot", covered(lowers.values(), self.debs.owners))
            phase = "patch"
            env = environment_of(record, epoch)
            keep_jail(room, env, record.steps)
            if record.patches:
                self.report(PhaseStarted(node.key, node.label, "patch"))
                room.patch(record, node.about.patch_names(), epoch)
            for step in record.steps:
                phase = step.phase.value
                self.report(PhaseStarted(node.key, node.label, phase))
                for note in room.phase(step.phase, step.argv, env):
                    self.report(Notice(f"{node.label}: {note}", warning=True))
            phase = Phase.INSTALL.value
            if record.strip:
                self._strip(node, room, env)
            self.report(PhaseStarted(node.key, node.label, "pack"))
            with self.store.batch() as batch:
                outputs = self._capture(node, record, room, lowers, epoch, batch)
                kept = _Kept(outputs, _record(node, batch), self._log(room, batch))
        except (Interrupted, CorruptBlob, StoreError):
            raise  # not the recipe's fault; and where the disk is full, nothing is kept
        except BuilditError as error:
            self._check_place(work, (*(lower.tree for lower in lowers.values()), room.lowers[-1]))
            error.place = error.place or node.label
            self._keep_failure(node, room, phase, error)
            raise
        forget_failure(self.store, node.key)
        return self._artifact(node, kept, epoch, resolved_outputs(node, at_hand))

    def _check_place(self, work: Path, trees: Sequence[str]) -> None:
        """Tell a build that failed from one whose place in the store was taken away under it.

        Raises:
            Vanished: its directory is gone, or a tree that it saw is not what was unpacked.
        """
        places = [self.store.root / TREES / tree for tree in trees]
        bad = [place for place in places if not self.store.trees.is_as_sealed(place)]
        if bad or not work.is_dir() or self.store.lost():
            raise Vanished(
                "what a build needs of the store was deleted or changed under it",
                place=str(bad[0] if bad else work),
                hint="run the same command again: it is made anew",
            )

    def _strip(self, node: Task, room: Workroom, env: dict[str, str]) -> None:
        with room.installed() as tree, readable():
            stripping = to_strip(tree, machine_of(PLATFORMS[node.platform]), self._bounds())
            if stripping:
                self.report(PhaseStarted(node.key, node.label, "strip"))
                room.strip(stripping, env)
            restore_modes(tree, stripping)

    def _bounds(self) -> Bounds:
        return Bounds(self.limits.installed_bytes, self.limits.installed_files)

    def _room(self, node: Task, lowers: Sequence[Lower], work: Path) -> Workroom:
        names = dict.fromkeys(lower.tree for lower in lowers)
        return Workroom(
            work=work,
            trees=self.store.root / TREES,
            lowers=(*names, self.toolchain.identity),
            label=node.label,
            limits=self.limits,
            stop=self.stop,
        )

    def _lowers(
        self, node: Task, at_hand: Mapping[BuildKey, Artifact]
    ) -> dict[tuple[BuildKey, str], Lower]:
        """The dependencies' outputs, nearest first, unpacked."""
        lowers = {}
        for dependency in node.inputs.dependencies:
            artifact = at_hand[dependency.key]
            for name in dependency.outputs:
                output = artifact.outputs.get(name)
                if output is not None:
                    tree = self.store.tree(output.diff_id).name
                    entries = parse_contents(self.store.read(output.contents))
                    label = f"{artifact.name}-{artifact.version}"
                    lowers[dependency.key, name] = Lower(label, tree, entries)
        check_lowers(tuple(lowers.values()), node.label)
        return lowers

    def _capture(
        self,
        node: Task,
        record: BuildRecord,
        room: Workroom,
        lowers: Mapping[tuple[BuildKey, str], Lower],
        epoch: int,
        batch: Batch,
    ) -> dict[str, Output]:
        platform = PLATFORMS[node.platform]
        splits = record.outputs
        visible = [Visible(f"{key}:{name}", lower.entries) for (key, name), lower in lowers.items()]
        beyond = dependencies_sight(visible, self.debs.below())
        with room.installed() as tree:
            installed = capture(
                tree, record.file_rules, splits, epoch, platform, node.label, self._bounds()
            )
            room.note(CAPTURE, told(installed))
            refuse_empty(installed, splits, node.label)
            for line in told(installed, loud=True):
                self.report(Notice(f"{node.label}: {line}", warning=True))
            waivers = node.inputs.waivers
            for finding in check_outputs(
                tree, installed, platform, node.inputs.waivers, node.label
            ):
                self.report(Notice(f"{node.label}: {finding}", warning=True))
            found = found_providers(installed, beyond, platform)
            refuse_unprovided(
                installed.needs[RUNTIME], found[RUNTIME], node.inputs.waivers, node.label
            )
            return pack_outputs(tree, installed, found, batch)

    def _deb(self, node: Task, work: Path) -> Artifact:
        """Unpack a .deb, without its scripts, and split it like anything that was built.

        What nothing provides is no error: Debian has such files on purpose. It is in the log.
        """
        named = node.inputs.debs[0]
        out = work / "out"
        out.mkdir()
        members: list[Entry] = []
        with self.store.seekable(named.digest) as deb, Root.open(out) as into:
            pairs = read_deb(deb, Budget(), node.label)
            unpack_entries(_noting(pairs, members), into, node.label)
            gone = leave_out(into, left_out(node.record), node.label) | link_run_directories(into)
        members = [entry for entry in members if entry.path not in gone]
        epoch = max((entry.mtime for entry in members if entry.kind is Kind.FILE), default=0)
        platform = PLATFORMS[node.platform]
        with Root.open(out) as plain:
            tree = Watched(plain, self.stop)
            installed = capture(tree, _sticky(members), (), epoch, platform, node.label)
            found = found_providers(installed, self.debs.around(node), platform)
            lost = tuple(_lost(members))
            for line in told(Installed({RUNTIME: ()}, {}, lost)):
                self.report(Notice(f"{node.label}: {line}", warning=True))
            lines = told(replace(installed, changes=(*installed.changes, *lost)))
            text = unmet_text(installed.needs, found)
            text += "".join(f"{line}\n" for line in (f"=== {CAPTURE}", *lines)) if lines else ""
            with self.store.batch() as batch:
                log = batch.put_bytes(text.encode("utf-8", "surrogateescape")) if text else None
                kept = _Kept(pack_outputs(tree, installed, found, batch), _record(node, batch), log)
        return self._artifact(node, kept, epoch, {})

    def _artifact(
        self,
        node: Task,
        kept: _Kept,
        epoch: int,
        resolved: Mapping[BuildKey, Mapping[str, Digest]],
    ) -> Artifact:
        materials = [(source.name, source.digest) for source in node.inputs.sources]
        materials += [(f"input-{number}", blob) for number, blob in enumerate(node.inputs.blobs)]
        materials += [(deb.path.rpartition("/")[2], deb.digest) for deb in node.inputs.debs[:1]]
        return Artifact(
            key=node.key,
            name=node.name,
            version=node.version,
            platform=node.platform,
            outputs=kept.outputs,
            record=kept.record,
            log=kept.log,
            resolved=resolved,
            materials=tuple(materials),
            epoch=epoch,
        )

    def _log(self, room: Workroom, batch: Batch) -> Digest:
        with batch.ingest() as sink:
            room.write_log(sink.write)
            return sink.commit()

    def _keep_failure(self, node: Task, room: Workroom, phase: str, error: BuilditError) -> None:
        phase = error.phase if isinstance(error, PhaseFailed) else phase
        log = room.work / "log"
        with log.open("wb") as stream:
            room.write_log(stream.write)
            stream.write(f"=== {error}\n".encode("utf-8", "replace"))
        keep_failure(
            self.store,
            Failure(node.key, node.name, node.version, phase, str(error), log, room.work),
        )


def _record(node: Task, batch: Batch) -> Digest:
    return batch.put_bytes(node.record.encode())


def environment_of(record: BuildRecord, epoch: int) -> dict[str, str]:
    """The whole environment of a build; a recipe may say how many jobs it bears, or its time."""
    return {
        "JOBS": str(len(os.sched_getaffinity(0))),
        "SOURCE_DATE_EPOCH": str(epoch),
        **record.environment,
    }


def _sticky(members: Sequence[Entry]) -> list[RuleInput]:
    """The sticky directories of a .deb, which is its declaration; no set-id bit reaches a disk."""
    return [
        RuleInput(glob_of(entry.path), f"{entry.mode & 0o1777:04o}", "", ())
        for entry in members
        if entry.kind is Kind.DIRECTORY and entry.mode & 0o1000
    ]


def _lost(members: Sequence[Entry]) -> list[Change]:
    """Set-id bits and owners of a .deb's files: no artifact has them without a declaration."""
    plain = [entry for entry in members if entry.kind in (Kind.FILE, Kind.DIRECTORY)]
    bits = [Change(_NO_SET_ID, entry.path) for entry in plain if entry.mode & 0o6000]
    owners = [Change(_NO_OWNER, entry.path) for entry in plain if entry.uid or entry.gid]
    return bits + owners


def resolved_outputs(
    node: Task, at_hand: Mapping[BuildKey, Artifact]
) -> dict[BuildKey, dict[str, Digest]]:
    resolved: dict[BuildKey, dict[str, Digest]] = {}
    for dependency in node.inputs.dependencies:
        outputs = at_hand[dependency.key].outputs
        resolved[dependency.key] = {
            name: outputs[name].diff_id for name in dependency.outputs if name in outputs
        }
    return resolved


def _noting(
    pairs: Iterator[tuple[Entry, Readable | None]], noted: list[Entry]
) -> Iterator[tuple[Entry, Readable | None]]:
    for entry, content in pairs:
        noted.append(entry)
        yield entry, content
