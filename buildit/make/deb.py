"""The maker of `debian`: unpack a .deb, do by rules what its scripts would have done (none runs),
and split it like what is built.

A .deb is a node like any other, but its neighbours are known before they are unpacked: what it
needs is looked for in the .debs that were chosen with it and in those of the toolchain. They are
listed once in a run.
"""

from __future__ import annotations

import io
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from buildit.archive.admit import Budget, parents, shown
from buildit.archive.beneath import Root
from buildit.archive.contents import RUN_LINKS
from buildit.archive.deb import read_control, read_deb
from buildit.archive.streams import Readable, read_up_to
from buildit.archive.unpack import unpack_entries
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, RecipeError
from buildit.make.capture.capture import CAPTURE, Installed, capture, split_outputs, told
from buildit.make.capture.needs import Needs, Sight, Visible, dependencies_sight, described
from buildit.make.capture.normalise import Change, Watched, open_content
from buildit.make.debian_root import control_fields, control_name
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.scripts.apply import Attributes, apply_rules
from buildit.make.scripts.read import script_rules
from buildit.make.scripts.state import ScriptRules
from buildit.model.accounts import BASE_GROUPS, BASE_USERS, Declared, Group, united
from buildit.model.artifact import RUNTIME
from buildit.model.globs import path_matcher
from buildit.model.plan import WHOLE, DebRef, DebView, Inputs, Task, Toolchain
from buildit.model.platform import PLATFORMS, Platform
from buildit.model.tree import Entry, Kind
from buildit.model.words import counted
from buildit.plan.closure import deb_task
from buildit.plan.identity import Rules, deb_view
from buildit.store.cas import Store

_UNMET = "needs that neither its Depends nor the toolchain provide:\n"
_NO_SET_ID = "set-id bit left out, `package: {debian: …, set-id: keep}` keeps that of Debian's .deb"
_NO_OWNER = "owner of the .deb left out, it is 0:0"
SCRIPT_RULES = "maintainer scripts, by rules"
_LARGEST_SETTING = 1 << 20
_SETTINGS = (
    "etc/",
    "usr/lib/systemd/",
    "usr/lib/sysusers.d/",
    "usr/lib/tmpfiles.d/",
    "usr/share/pam",
)
STATUS = "var/lib/dpkg/status.d"


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
    platform = PLATFORMS[task.platform]
    with (
        place.store.seekable(task.inputs.debs[0].digest) as deb,
        captured(
            deb, work / "out", platform, task.label, place.stop, deb_view(task.record)
        ) as unpacked,
    ):
        installed = unpacked.installed
        found = installed.providers(lambda: place.debs().around(task))
        place.warn(task, (*told(unpacked.lost), *unpacked.remainder_told(task.name)))
        lines = installed.told()
        text = unmet_text(installed.needs, found)
        text += "".join(f"{line}\n" for line in (f"=== {CAPTURE}", *lines)) if lines else ""
        said = unpacked.scripts.said
        text += "".join(f"{line}\n" for line in (f"=== {SCRIPT_RULES}", *said)) if said else ""
        with place.store.batch() as batch:
            log = batch.put_bytes(text.encode("utf-8", "surrogateescape")) if text else None
            outputs = installed.pack(found, batch)
            outputs[RUNTIME] = replace(outputs[RUNTIME], declared=unpacked.declared)
            return Made(outputs, put_record(task, batch), unpacked.epoch, log)


@dataclass(frozen=True, slots=True)
class UnpackedDeb:
    """A .deb as outputs, not packed yet: its latest time, what no output has of it, and what stands
    for its scripts; `declared` are the accounts and alternatives of its runtime part."""

    installed: Installed
    epoch: int
    lost: tuple[Change, ...]
    scripts: ScriptRules
    declared: Declared

    def remainder_told(self, name: str) -> Iterator[str]:
        """One line for what rules left over of the scripts of `name`."""
        first, *others = self.scripts.remainder or (None,)
        if first is not None:
            more = f", and {counted(len(others), 'more line')}" if others else ""
            yield (
                f"its scripts do what no rule covers: {first.said}{more} "
                f"(`buildit explain {name}` lists all)"
            )


def _refuse_whiteouts(members: Iterable[Entry], label: str) -> None:
    for entry in members:
        if entry.path.rpartition("/")[2].startswith(".wh."):
            name = shown(entry.path)
            message = f"it has /{name}: names that begin with .wh. delete files in image layers"
            raise IntegrityError(message, place=label, hint=f"leave it out: without: ['{name}']")


@contextmanager
def captured(
    deb: BinaryIO,
    out: Path,
    platform: Platform,
    label: str,
    stop: threading.Event,
    view: DebView = WHOLE,
    *,
    keep_nothing: bool = False,
) -> Iterator[UnpackedDeb]:
    """Unpack a .deb into the new directory `out`, as far as `view` takes it, and split it.

    Raises:
        IntegrityError: it is damaged.
        RecipeError: a glob matches nothing.
        BuildError, StoreError, Interrupted: as `makers.make_task`.
    """
    out.mkdir(parents=True)
    members: list[Entry] = []

    def noted(found: tuple[Entry, Readable | None]) -> tuple[Entry, Readable | None]:
        members.append(found[0])
        return found

    with Root.open(out) as into:
        control = read_control(deb, label)
        deb.seek(0)
        unpack_entries(map(noted, read_deb(deb, Budget(), label)), into, label)
        gone = leave_out(into, view.sliced, label, must=False)
        gone |= leave_out(into, view.without, label) | link_run_directories(into)
        members = [entry for entry in members if entry.path not in gone]
        _refuse_whiteouts(members, label)
        name = control_name(control_fields(control["control"]), label)
        scripts = rules_of(name, control, members, into)
        attributes, accounts, lost = attributes_of(members)
        scripts = scripts.without(apply_rules(scripts.rules, into, attributes))
        put_status(control["control"], name, into)
    epoch = max((entry.mtime for entry in members if entry.kind is Kind.FILE), default=0)
    with Root.open(out) as plain:
        tree = Watched(plain, stop)
        rules = tuple(attributes.file_rules(keep_set_id=view.keep_set_id))
        installed = capture(tree, rules, (), epoch, platform, label)
        lost += [] if view.keep_set_id else [Change(_NO_SET_ID, p) for p in attributes.set_ids()]
        changes = (*installed.changes, *lost)
        # what is read again when it is packed is not to stay in memory with that of others
        tree = Watched(plain, stop, {}, [0]) if keep_nothing else tree
        whole = replace(installed, changes=changes, open=lambda one: open_content(tree, one.path))
        declared = united(scripts.declared, accounts)
        yield UnpackedDeb(whole, epoch, tuple(lost), scripts, declared)


def rules_of(
    name: str, control: Mapping[str, bytes], members: Sequence[Entry], tree: Root
) -> ScriptRules:
    """The rules of a package that is unpacked in `tree`."""

    def read(path: str) -> str:
        try:
            if not path.startswith(_SETTINGS):
                return ""
            with tree.open_file(path) as stream:
                return stream.read(_LARGEST_SETTING).decode("utf-8", "replace")
        except (OSError, IntegrityError):  # not there, or a link
            return ""

    return script_rules(name, control, {one.path: one.kind for one in members}, read)


def rules_inside(deb: BinaryIO, name: str) -> ScriptRules:
    """The rules of a package that is not unpacked.

    Raises:
        IntegrityError: it is damaged.
    """
    control = read_control(deb, name)
    deb.seek(0)
    kinds: dict[str, Kind] = {}
    texts: dict[str, str] = {}
    for entry, content in read_deb(deb, Budget(), name):
        kinds[entry.path] = entry.kind
        if content is not None and entry.path.startswith(_SETTINGS):
            texts[entry.path] = read_up_to(content, _LARGEST_SETTING).decode("utf-8", "replace")
    return script_rules(name, control, kinds, lambda path: texts.get(path, ""))


def attributes_of(members: Sequence[Entry]) -> tuple[Attributes, Declared, list[Change]]:
    """Modes and owners of a .deb's files that a disk of ours does not have, the accounts of these
    owners, and the owners that are none's: only base-passwd's ids are the same everywhere (Debian
    Policy 9.2.2)."""
    found, accounts, lost = Attributes(), Declared(), []
    users = {user.uid: user for user in BASE_USERS.values()}
    groups = {gid: Group(name, gid) for name, gid in BASE_GROUPS.items()}
    for one in members:
        if one.kind not in (Kind.FILE, Kind.DIRECTORY):
            continue
        if one.mode & 0o7000:
            found.modes[one.path] = one.mode
            found.directories |= {one.path} if one.kind is Kind.DIRECTORY else set()
        if not one.uid and not one.gid:
            continue
        if one.uid not in users or one.gid not in groups:
            lost.append(Change(_NO_OWNER, one.path))
            continue
        found.owners[one.path] = one.uid, one.gid
        own = (users[one.uid],) if one.uid else ()
        gids = {gid: None for gid in (one.gid, *(user.gid for user in own)) if gid}
        accounts = united(accounts, Declared(own, tuple(groups[gid] for gid in gids)))
    return found, accounts, lost


def put_status(control: bytes, name: str, tree: Root) -> None:
    """What tells scanners of the package: its control paragraph, one file a package, as images
    without dpkg have it (dpkg's own `status` is the same paragraphs in one file, of which two
    layers could not each bring a part)."""
    text = control.strip(b"\n") + b"\n"
    entry = Entry(f"{STATUS}/{name}", Kind.FILE, 0o644, size=len(text))
    for path in reversed(list(parents(entry.path))):
        with suppress(FileExistsError):
            tree.mkdir(path)
    unpack_entries([(entry, io.BytesIO(text))], tree)


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
        sight, keys_of = self._grouped(node.inputs.debs)
        return replace(sight, hidden=f"{keys_of[named.digest]}:")

    def beside(self, debs: Sequence[DebRef]) -> Sight:
        """What something that is none of them sees of .debs that were chosen together, and of the
        toolchain.

        Raises:
            IntegrityError, StoreError: one of them is damaged or missing.
        """
        return self._grouped(debs)[0] if debs else self.below()

    def _grouped(self, debs: Sequence[DebRef]) -> tuple[Sight, Mapping[Digest, BuildKey]]:
        group = tuple(sorted(debs, key=lambda deb: deb.digest))
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
            return self._sights[name]

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


def leave_out(tree: Root, globs: Sequence[str], label: str, *, must: bool = True) -> frozenset[str]:
    """Remove what the globs match, directories with all in them, and directories emptied by it;
    the paths that are gone. Each `must` match something; what fits one that
    begins with `!` stays.

    Raises:
        RecipeError: a glob is malformed or matches nothing.
    """
    paths = [path for path, _ in tree.walk()]
    gone: set[str] = set()
    kept = [path_matcher(glob[1:]) for glob in globs if glob.startswith("!")]
    for glob in (glob for glob in globs if not glob.startswith("!")):
        matches = path_matcher(glob)
        matched = {path for path in paths if matches(path)}
        if not matched and must:
            text = f"`without: [{glob}]` matches no file of {label}"
            hint = "correct it; `buildit show --files` and the package's own list name the files"
            raise RecipeError(text, place=label, hint=hint)
        gone |= {path for path in matched if not any(stays(path) for stays in kept)}
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
