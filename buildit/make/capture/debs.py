"""What the .debs around a build have, each listed once in a run, and what a view leaves out.

A .deb is a node like any other, but its neighbours are known before they are unpacked: what it
needs is looked for in the .debs that were chosen with it and in those of the toolchain.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from buildit.archive.beneath import Root
from buildit.archive.deb import read_deb
from buildit.archive.tar.admit import Budget, parents
from buildit.digest import BuildKey, Digest
from buildit.errors import RecipeError
from buildit.make.capture.needs import Needs, Sight, Visible, dependencies_sight, described
from buildit.make.capture.split import split_outputs
from buildit.model.artifact import RUNTIME
from buildit.model.pathglob import path_matcher
from buildit.model.plan import Toolchain
from buildit.model.task import DebRef, Task
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import Rules
from buildit.plan.tasks import deb_task
from buildit.store.cas import Store

RUN_LINKS: Mapping[str, str] = {"var/lock": "../run/lock", "var/run": "../run"}
"""As `sys-apps/baselayout` has them, too."""

_UNMET = "needs that neither its Depends nor the toolchain provide:\n"


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
                keys = {
                    deb.digest: deb_task(deb, self.toolchain, group, self.rules).key
                    for deb in group
                }
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
                entries = [_plain(entry) for entry, _ in read_deb(stream, Budget(), deb.name)]
            self._listings[deb.digest] = split_outputs(entries)
        return self._listings[deb.digest]


def _plain(entry: Entry) -> Entry:
    """A hard link as a file like its first name: only paths and kinds are asked for."""
    return replace(entry, kind=Kind.FILE, target="") if entry.kind is Kind.HARDLINK else entry


def leave_out(tree: Root, globs: Iterable[str], label: str) -> frozenset[str]:
    """Remove what the globs match, directories with all in them, and directories emptied by it;
    the paths that are gone.

    Raises:
        RecipeError: a glob is malformed or matches nothing.
    """
    paths = [path for path, _ in tree.walk()]
    gone: set[str] = set()
    for glob in globs:
        matches = path_matcher(glob)
        matched = {path for path in paths if matches(path)}
        if not matched:
            raise RecipeError(
                f"`without: [{glob}]` matches no file of {label}",
                place=label,
                hint="correct it; `buildit show --files` and the package's own list name the files",
            )
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
        try:
            if not stat.S_ISDIR(tree.lstat(path).st_mode) or tree.listdir(path):
                continue
        except FileNotFoundError:
            continue
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
