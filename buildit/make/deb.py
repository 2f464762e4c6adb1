"""The maker of `debian`: unpack a .deb, without its scripts, and split it like what is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.deb import read_deb
from buildit.archive.streams import Readable
from buildit.archive.tar.admit import Budget
from buildit.archive.unpack import unpack_entries
from buildit.events import Notice
from buildit.make.capture.capture import (
    CAPTURE,
    Installed,
    capture,
    found_providers,
    pack_outputs,
    told,
)
from buildit.make.capture.debs import leave_out, link_run_directories, unmet_text
from buildit.make.capture.normalise import Change
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.watched import Watched
from buildit.model.artifact import RUNTIME
from buildit.model.pathglob import glob_of
from buildit.model.plan import Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.task import Inputs, Task
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import RuleInput, left_out
from buildit.store.durable import store_error

_NO_SET_ID = "set-id bit of the .deb left out"
_NO_OWNER = "owner of the .deb left out, it is 0:0"


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """The .debs around it too: what its files load is looked for in them."""
    return Inputs(debs=(*toolchain.debs, *task.inputs.debs))


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Unpack and split a .deb. What nothing provides is no error: Debian has such files on purpose;
    it is in the log.

    Raises:
        IntegrityError, BuildError, StoreError, Interrupted: as `makers.make_task`.
    """
    del at_hand
    try:
        return _made(task, place, work / "out")
    except OSError as error:
        raise store_error(error, work) from error


def _made(task: Task, place: BuildPlace, out: Path) -> Made:
    out.mkdir()
    members: list[Entry] = []
    with place.store.seekable(task.inputs.debs[0].digest) as deb, Root.open(out) as into:
        pairs = read_deb(deb, Budget(), task.label)
        unpack_entries(_noting(pairs, members), into, task.label)
        gone = leave_out(into, left_out(task.record), task.label) | link_run_directories(into)
    members = [entry for entry in members if entry.path not in gone]
    epoch = max((entry.mtime for entry in members if entry.kind is Kind.FILE), default=0)
    platform = PLATFORMS[task.platform]
    with Root.open(out) as plain:
        tree = Watched(plain, place.stop)
        installed = capture(tree, _sticky(members), (), epoch, platform, task.label)
        found = found_providers(installed, place.debs().around(task), platform)
        lost = tuple(_lost(members))
        for line in told(Installed({RUNTIME: ()}, {}, lost)):
            place.report(Notice(f"{task.label}: {line}", warning=True))
        lines = told(replace(installed, changes=(*installed.changes, *lost)))
        text = unmet_text(installed.needs, found)
        text += "".join(f"{line}\n" for line in (f"=== {CAPTURE}", *lines)) if lines else ""
        with place.store.batch() as batch:
            log = batch.put_bytes(text.encode("utf-8", "surrogateescape")) if text else None
            outputs = pack_outputs(tree, installed, found, batch)
            return Made(outputs, put_record(task, batch), epoch, log)


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


def _noting(
    pairs: Iterator[tuple[Entry, Readable | None]], noted: list[Entry]
) -> Iterator[tuple[Entry, Readable | None]]:
    for entry, content in pairs:
        noted.append(entry)
        yield entry, content
