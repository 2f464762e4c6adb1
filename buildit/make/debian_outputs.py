"""What the build of a Debian source package left: each .deb as outputs, and the .debs themselves.

The runtime part of NAME.deb is the output `NAME`; its other parts are `NAME_doc`, `NAME_dev` …, as
no Debian package has an underscore in its name (Debian Policy 5.6.1). What a .deb needs is looked
for in those that its control names, then in all others of the build, then around it: siblings come
from one build, as their Depends ask for one version. `debs` has the files as they were built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from buildit.archive.beneath import Root
from buildit.archive.deb import read_control
from buildit.archive.streams import Content
from buildit.digest import digest_stream
from buildit.errors import BuildError, UnsatisfiableError
from buildit.make.build_directory import BuildDirectory
from buildit.make.capture.capture import CAPTURE, Installed, told
from buildit.make.capture.needs import Sight, described, providers
from buildit.make.capture.normalise import Change
from buildit.make.deb import captured
from buildit.make.debian_root import INFO, Below, control_fields, control_name
from buildit.make.layer import put_layer
from buildit.make.makers import BuildPlace
from buildit.model.accounts import NOTHING, Declared
from buildit.model.artifact import RUNTIME, Output
from buildit.model.plan import Task
from buildit.model.platform import PLATFORMS, Platform
from buildit.model.tree import Entry, Kind
from buildit.store.blobs import Batch

DEBS = "debs"
"""The output that holds the .debs."""

_NAME = re.compile(r"\s*([a-z0-9][a-z0-9+.-]*)")
_FILE = re.compile(r"(?![^_]*-dbgsym_).*\.deb")


@dataclass(frozen=True, slots=True)
class BuiltDeb:
    """A .deb of the build: its file's name, its control fields, and what is in it."""

    file: str
    fields: Mapping[str, str]
    installed: Installed
    epoch: int
    lost: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()
    declared: Declared = NOTHING

    @property
    def name(self) -> str:
        return self.fields["package"]

    def packed(self) -> Installed:
        """Its outputs by the names that they have in the whole build."""
        parts = self.installed.outputs
        outputs = {part_name(self.name, part): entries for part, entries in parts.items()}
        needs = {part_name(self.name, part): one for part, one in self.installed.needs.items()}
        return replace(self.installed, outputs=outputs, needs=needs)


def part_name(deb: str, part: str) -> str:
    return deb if part == RUNTIME else f"{deb}_{part}"


def put_outputs(
    task: Task, room: BuildDirectory, place: BuildPlace, batch: Batch
) -> tuple[dict[str, Output], int]:
    """Pack all outputs; and the latest time of a file in them.

    Raises:
        BuildError: no .deb was built, or one is none that an image can have.
        UnsatisfiableError: a program or library needs one that nothing provides.
        IntegrityError, StoreError, Interrupted: as `makers.make_task`.
    """
    platform = PLATFORMS[task.platform]
    with ExitStack() as opened:
        work = opened.enter_context(Root.open(room.work))
        above = opened.enter_context(work.inner(room.cwd.lstrip("/").rpartition("/")[0]))
        debs = [_built(above, file, room, platform, opened) for file in _names(above)]
        debs.sort(key=lambda deb: deb.name)
        if not debs:
            text = "the build left no .deb"
            hint = "see `buildit log`; a profile may leave all of them out"
            raise BuildError(text, place=task.label, hint=hint)
        for deb in debs:
            place.warn(task, (f"{deb.name}: {line}" for line in (*told(deb.lost), *deb.left)))
        room.note(CAPTURE, [f"{deb.name}: {line}" for deb in debs for line in deb.installed.told()])
        found = _providers(debs, lambda: place.debs().beside(task.inputs.beside), platform)
        place.warn(task, refuse_unmet(_taken(task, debs), found, _owners(room), task.label))
        room.note("needs", tuple(_unmet(debs, found)))
        outputs = {DEBS: _put_debs(above, debs, batch)}
        for deb in debs:
            for name, output in deb.packed().pack(found, batch).items():
                run = siblings_of(deb, debs) if name == deb.name else ()
                declared = deb.declared if name == deb.name else NOTHING
                run_of = tuple(f":{one}" for one in run)
                outputs[name] = replace(output, run=run_of, declared=declared)
        return outputs, max(deb.epoch for deb in debs)


def _names(above: Root) -> list[str]:
    """The .debs that were built, but for debug symbols."""
    return [name for name in sorted(above.listdir("")) if _FILE.fullmatch(name)]


def _built(
    above: Root, file: str, room: BuildDirectory, platform: Platform, opened: ExitStack
) -> BuiltDeb:
    with above.open_file(file) as stream:
        fields = control_fields(read_control(stream, file)["control"])
        name = control_name(fields, file)
        if name == DEBS:
            raise BuildError(f"{name!r} can be no output", place=file)
        if (room.work / "unpacked" / name).exists():
            message = f"it is another .deb of the package {name}, which the build made already"
            hint = "debian/rules must not leave two: remove one by a patch"
            raise BuildError(message, place=file, hint=hint)
        stream.seek(0)
        out = room.work / "unpacked" / name
        unpacked = captured(stream, out, platform, name, room.stop, keep_nothing=True)
        found = opened.enter_context(unpacked)
    left = tuple(found.remainder_told(name))
    return BuiltDeb(file, fields, found.installed, found.epoch, found.lost, left, found.declared)


def _put_debs(above: Root, debs: Sequence[BuiltDeb], batch: Batch) -> Output:
    entries = []
    for deb in sorted(debs, key=lambda deb: deb.file):
        with above.open_file(deb.file) as stream:
            digest, size = digest_stream(stream), stream.tell()
        entries.append(Entry(deb.file, Kind.FILE, 0o644, deb.epoch, size=size, digest=digest))
    return put_layer(batch, entries, lambda entry: cast(Content, above.open_file(entry.path)))


# -- who gives what


def siblings_of(deb: BuiltDeb, debs: Sequence[BuiltDeb]) -> tuple[str, ...]:
    """Those of the same build that a .deb depends on (Depends, Pre-Depends), by name, sorted: of
    alternatives the first that is one; a virtual name where one of them alone provides it."""
    names = {one.name for one in debs}
    provided: dict[str, list[str]] = {}
    for one in debs:
        for name in (
            name for group in _relations(one.fields.get("provides", "")) for name in group
        ):
            provided.setdefault(name, []).append(one.name)
    found = set()
    for group in _relations(f"{deb.fields.get('pre-depends', '')},{deb.fields.get('depends', '')}"):
        own = [name for name in group if name in names]
        own += [
            one for name in group if len(others := provided.get(name, ())) == 1 for one in others
        ]
        found.update(own[:1])
    return tuple(sorted(found - {deb.name}))


def _relations(text: str) -> Iterator[list[str]]:
    """The names of each group of alternatives (Debian Policy 7.1), without versions."""
    for group in text.split(","):
        names = (_NAME.match(one) for one in group.split("|"))
        if found := [name[1] for name in names if name]:
            yield found


def _near(deb: BuiltDeb, debs: Sequence[BuiltDeb]) -> list[BuiltDeb]:
    """All of a build in the order in which one of them looks: itself, what it depends on, and so
    on, then the others."""
    by_name = {one.name: one for one in debs}
    found = [deb]
    for one in found:
        others = (by_name[name] for name in siblings_of(one, debs))
        found += [other for other in others if other not in found]
    return [*found, *(one for one in debs if one not in found)]


def _providers(
    debs: Sequence[BuiltDeb], beyond: Callable[[], Sight], platform: Platform
) -> dict[str, dict[str, str]]:
    """Providers by output; of one place runtime parts come before others, which images lack."""
    found: dict[str, dict[str, str]] = {}
    for deb in debs:
        near = [(one, part) for one in _near(deb, debs) for part in one.installed.outputs]
        near.sort(key=lambda pair: pair[1] != RUNTIME)
        outputs = {part_name(one.name, part): one.installed.outputs[part] for one, part in near}
        for part, needs in deb.installed.needs.items():
            name = part_name(deb.name, part)
            met = providers(needs, name, outputs, beyond(), platform) if needs.wanted else {}
            found[name] = met
    return found


def _lacking(deb: BuiltDeb, found: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """What nothing provides of the needs of a .deb's runtime part: need, file."""
    for need, files in deb.installed.needs[RUNTIME].wanted.items():
        if need not in found[deb.name]:
            yield from ((need, file) for file in files)


def _taken(task: Task, debs: Sequence[BuiltDeb]) -> list[BuiltDeb]:
    """Those that the image takes, as far as that is known, and what they depend on; else all."""
    named = {one.name for one in debs} & set(task.outputs)
    taken = [one for one in debs if one.name in (named or {deb.name for deb in debs})]
    by_name = {one.name: one for one in debs}
    for one in taken:
        others = (by_name[name] for name in siblings_of(one, debs))
        taken += [other for other in others if other not in taken]
    return taken


def _unmet(debs: Sequence[BuiltDeb], found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for deb in debs:
        for need, file in _lacking(deb, found):
            yield f"{deb.name}: /{file}: {described(need)} is provided by nothing that is known"


def refuse_unmet(
    debs: Sequence[BuiltDeb],
    found: Mapping[str, Mapping[str, str]],
    owners: Callable[[str], str],
    label: str,
) -> tuple[str, ...]:
    """Refuse programs and libraries that need a library which nothing provides. Other needs are
    no errors: Debian has scripts for interpreters that it only recommends. Nor are libraries of a
    package that is only recommended or suggested (a plug-in's): these are told. `owners` says
    which .deb of the chroot has a soname.

    Raises:
        UnsatisfiableError: it names the file, the library, and what to write.
    """
    missing, told = [], []
    for deb in debs:
        optional = _optional(deb)
        for need, file in _lacking(deb, found):
            kind, _, soname = need.partition(":")
            if kind != "soname":
                continue
            owner = owners(soname)
            if owner in optional:
                told.append(f"{deb.name}: /{file} needs {described(need)} of {owner}, left out")
            else:
                missing.append((deb.name, file, need, owner))
    if not missing:
        return tuple(told)
    name, file, need, owner = missing[0]
    text = f"nothing provides {described(need)}, which /{file} of {name} needs"
    hint = f"its .deb is {owner}: write `depends: {{run: [debian:{owner}]}}`" if owner else ""
    hint = hint or "write the .deb that has it: `depends: {run: [debian:NAME]}`"
    details = tuple(f"{name}: /{file}: {described(need)}" for name, file, need, _ in missing)
    raise UnsatisfiableError(text, place=label, hint=hint, details=details)


def _optional(deb: BuiltDeb) -> frozenset[str]:
    """What a .deb recommends or suggests, by name."""
    texts = (deb.fields.get(field, "") for field in ("recommends", "suggests"))
    return frozenset(name for text in texts for group in _relations(text) for name in group)


def _owners(room: BuildDirectory) -> Callable[[str], str]:
    """Which package of the chroot has a library, by the lists of dpkg; "" where none has."""

    @cache
    def owner(soname: str) -> str:
        with ExitStack() as opened:
            trees = (opened.enter_context(Root.open(room.trees / one)) for one in room.lowers)
            below = Below(tuple(trees))
            for name in below.listed(INFO):
                listed = below.read(f"{INFO}/{name}") if name.endswith(".list") else b""
                if f"/{soname}\n".encode() in listed:
                    return name.removesuffix(".list").partition(":")[0]
        return ""

    return owner
