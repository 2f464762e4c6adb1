"""The maker of `debian`: unpack a .deb, without its scripts, and split it like what is built.

A .deb is a node like any other, but its neighbours are known before they are unpacked: what it
needs is looked for in the .debs that were chosen with it and in those of the toolchain. They are
listed once in a run.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.admit import Budget, parents
from buildit.archive.beneath import Root
from buildit.archive.deb import read_deb
from buildit.archive.streams import Readable
from buildit.archive.unpack import unpack_entries
from buildit.digest import BuildKey, Digest
from buildit.errors import RecipeError
from buildit.make.capture.capture import CAPTURE, capture, split_outputs, told
from buildit.make.capture.needs import Needs, Sight, Visible, dependencies_sight, described
from buildit.make.capture.normalise import Change, Watched
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.model.artifact import RUNTIME
from buildit.model.globs import glob_of, path_matcher
from buildit.model.plan import DebRef, Inputs, Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import RuleInput, Rules, left_out
from buildit.plan.tasks import deb_task
from buildit.store.cas import Store

RUN_LINKS: Mapping[str, str] = {"var/lock": "../run/lock", "var/run": "../run"}
"""As `sys-apps/baselayout` has them, too."""

_UNMET = "needs that neither its Depends nor the toolchain provide:\n"
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
    out = work / "out"
    out.mkdir()
    members: list[Entry] = []

    def noted(found: tuple[Entry, Readable | None]) -> tuple[Entry, Readable | None]:
        members.append(found[0])
        return found

    with place.store.seekable(task.inputs.debs[0].digest) as deb, Root.open(out) as into:
        unpack_entries(map(noted, read_deb(deb, Budget(), task.label)), into, task.label)
        gone = leave_out(into, left_out(task.record), task.label) | link_run_directories(into)
    members = [entry for entry in members if entry.path not in gone]
    epoch = max((entry.mtime for entry in members if entry.kind is Kind.FILE), default=0)
    platform = PLATFORMS[task.platform]
    with Root.open(out) as plain:
        tree = Watched(plain, place.stop)
        # its sticky directories are its declaration; no set-id bit reaches a disk
        sticky = (one for one in members if one.kind is Kind.DIRECTORY and one.mode & 0o1000)
        modes = ((glob_of(one.path), f"{one.mode & 0o1777:04o}") for one in sticky)
        rules = [RuleInput(glob, mode, "", ()) for glob, mode in modes]
        installed = capture(tree, rules, (), epoch, platform, task.label)
        found = installed.providers(lambda: place.debs().around(task))
        lost = tuple(_lost(members))
        place.warn(task, told(lost))
        lines = replace(installed, changes=(*installed.changes, *lost)).told()
        text = unmet_text(installed.needs, found)
        text += "".join(f"{line}\n" for line in (f"=== {CAPTURE}", *lines)) if lines else ""
        with place.store.batch() as batch:
            log = batch.put_bytes(text.encode("utf-8", "surrogateescape")) if text else None
            outputs = installed.pack(found, batch)
            return Made(outputs, put_record(task, batch), epoch, log)


def _lost(members: Sequence[Entry]) -> list[Change]:
    """Set-id bits and owners of a .deb's files: no artifact has them without a declaration."""
    plain = [entry for entry in members if entry.kind in (Kind.FILE, Kind.DIRECTORY)]
    bits = [Change(_NO_SET_ID, entry.path) for entry in plain if entry.mode & 0o6000]
    owners = [Change(_NO_OWNER, entry.path) for entry in plain if entry.uid or entry.gid]
    return bits + owners


# -- what lies around a .deb


@dataclass(slots=True)
class Debs:
    """The .debs of one plan. `owners` maps a path of the toolchain's tree to the name of its .deb
    and the entry. For any thread."""

    store: Store
    toolchain: Toolchain
    owners: Mapping[str, tuple[str, Entry]]
    rules: Rules
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _listings: dict[Digest, Mapping[str, tuple[Entry, ...]]] = field(default_factory=dict)
    _sights: dict[frozenset[Digest], tuple[Sight, Mapping[Digest, BuildKey]]] = field(
        default_factory=dict
    )
    _below: Sight | None = None

    def below(self) -> Sight:
        """The .debs of the toolchain, as far as they are in its tree."""
        with self._lock:
            if self._below is None:
                self._below = Sight.of(self._toolchains())
            return self._below

    def _toolchains(self) -> Iterable[Visible]:
        entries: dict[str, list[Entry]] = {}
        for name, entry in self.owners.values():
            entries.setdefault(name, []).append(entry)
        for deb in sorted(self.toolchain.debs, key=lambda deb: deb.name):
            key = deb_task(deb, self.toolchain, (), self.rules).key
            for output, found in split_outputs(entries.get(deb.name, ())).items():
                yield Visible(f"{key}:{output}", found)

    def around(self, node: Task) -> Sight:
        """What the .deb of a node sees: those that were chosen with it, then the toolchain.

        One sight of all that were chosen together serves each of them, with itself hidden.

        Raises:
            IntegrityError, StoreError: one of them is damaged or missing.
        """
        named, *beside = node.inputs.debs
        if not beside:
            return self.below()
        group = tuple(sorted(node.inputs.debs, key=lambda deb: deb.digest))
        name = frozenset(deb.digest for deb in group)
        with self._lock:
            if name not in self._sights:
                tasks = (deb_task(deb, self.toolchain, group, self.rules) for deb in group)
                keys = {deb.digest: one.key for deb, one in zip(group, tasks, strict=True)}
                visible = [
                    Visible(f"{keys[deb.digest]}:{output}", entries)
                    for deb in group
                    for output, entries in self._outputs(deb).items()
                ]
                self._sights[name] = dependencies_sight(visible, self.below()), keys
            sight, keys_of = self._sights[name]
        return replace(sight, hidden=f"{keys_of[named.digest]}:")

    def _outputs(self, deb: DebRef) -> Mapping[str, tuple[Entry, ...]]:
        if deb.digest not in self._listings:
            with self.store.seekable(deb.digest) as stream:
                entries = [entry for entry, _ in read_deb(stream, Budget(), deb.name)]
            # a hard link as a file like its first name: only paths and kinds are asked for
            self._listings[deb.digest] = split_outputs(
                replace(one, kind=Kind.FILE, target="") if one.kind is Kind.HARDLINK else one
                for one in entries
            )
        return self._listings[deb.digest]


def leave_out(tree: Root, globs: Iterable[str], label: str) -> frozenset[str]:
    """Remove what the globs match, directories with all in them, and directories emptied by it;
    the paths that are gone.

    Raises:
        RecipeError: a glob is malformed or matches nothing.
    """
    paths = [path for path, _ in tree.walk()]
    gone: set[str] = set()
    for glob in globs:
        matched = set(filter(path_matcher(glob), paths))
        if not matched:
            text = f"`without: [{glob}]` matches no file of {label}"
            hint = "correct it; `buildit show --files` and the package's own list name the files"
            raise RecipeError(text, place=label, hint=hint)
        gone |= matched
    gone |= {path for path in paths if any(above in gone for above in parents(path))}
    emptied = {above for path in gone for above in parents(path)}
    for path in sorted({*gone, *emptied}, reverse=True):
        if not stat.S_ISDIR(tree.lstat(path).st_mode):
            tree.unlink(path)
        elif path in gone or not tree.listdir(path):
            tree.rmdir(path)
            gone.add(path)
    return frozenset(gone)


def link_run_directories(tree: Root) -> frozenset[str]:
    """Make the links that base-files' postinst makes of two directories in its .deb; their paths.

    /run is a file system of its own (Debian Policy 9.1.4); a package with anything below keeps it.
    """
    made = set()
    for path, target in RUN_LINKS.items():
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(tree.lstat(path).st_mode) and not tree.listdir(path):
                tree.rmdir(path)
                tree.symlink(target, path)
                made.add(path)
    return frozenset(made)


def unmet_text(needs: Mapping[str, Needs], found: Mapping[str, Mapping[str, str]]) -> str:
    """What nothing provides to the runtime output, one file a line: `/usr/bin/x: /usr/bin/perl`."""
    lines = [
        f"/{path}: {described(need)}\n"
        for need, paths in needs[RUNTIME].wanted.items()
        if need not in found[RUNTIME]
        for path in paths
    ]
    return "".join([_UNMET, *lines]) if lines else ""
