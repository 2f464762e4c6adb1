"""Whether what an image runs can start in it, and what else in it lacks something.

The program, its loader or interpreter, and all libraries are looked for in the merged tree, with
the links that are really there. What no package answers for is looked at too: .debs whose files
have needs that nothing met, and programs that were synced.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from buildit.archive.contents import way
from buildit.errors import RecipeError
from buildit.image.layertar import Contents
from buildit.image.merge import Member, Rootfs
from buildit.image.rules import program_problem
from buildit.make.capture import needs
from buildit.make.capture.elf import ELF_MAGIC, Elf, MalformedElf, machine_of, read_elf, unmet
from buildit.model.artifact import Artifact
from buildit.model.image import LayerKind
from buildit.model.plan import ContainerPlan
from buildit.model.platform import Platform
from buildit.model.services import Init, Service
from buildit.model.tree import Entry, Kind
from buildit.model.words import counted

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as runtimes set it
_LOADERS = ("lib", "lib64", "usr/local/lib")  # of other C libraries than Debian's, besides
_CACHE = "etc/ld.so.cache"
_DEEPEST = 4  # fs/exec.c: of interpreters that are scripts
_I386 = 3  # EM_386: a 64-bit kernel runs those, too
SHOWN, FEW = 5, 3


@dataclass(frozen=True, slots=True)
class ImageTree:
    """The merged tree of layers, with the bytes of its files; `names` are the last parts of its
    paths."""

    members: Mapping[str, Member]
    contents: Contents
    platform: Platform
    names: frozenset[str]

    def find(self, path: str) -> Entry | None:
        """The entry at a path without leading slash; a hard link is the file that it names."""
        member = self.members.get(path)
        return None if member is None else member.entry

    def file(self, path: str) -> str | None:
        """The file behind all links that a path means, None where there is none."""
        end = way(path, self.find).end
        entry = self.find(end) if end else None
        return entry.path if entry is not None and entry.kind is Kind.FILE else None

    def gives(self, need: str, directories: Sequence[str]) -> bool:
        """Whether a need is met; a library that lies elsewhere may be found by an environment."""
        kind, _, name = need.partition(":")
        if kind == "soname":
            places = (*directories, *self.system(()))
            return any(self.file(f"{one}/{name}") for one in places) or name in self.names
        end = way(name, self.find).end
        return end == "" or (end is not None and self.find(end) is not None)

    def system(self, first: Sequence[str]) -> tuple[str, ...]:
        """Where a loader looks without being told by a file; `first` is LD_LIBRARY_PATH."""
        lib = f"lib/{self.platform.triplet}"
        return (*first, *needs.library_directories(self.platform), lib, *_LOADERS)

    def open(self, path: str) -> BinaryIO:
        """The content of a file."""
        return cast(BinaryIO, io.BufferedReader(self.contents.open(self.members[path])))


def image_tree(rootfs: Rootfs, contents: Contents, platform: Platform) -> ImageTree:
    """The merged tree of an image, with what opens its files."""
    names = frozenset(path.rpartition("/")[2] for path in rootfs.tree)
    return ImageTree(rootfs.tree, contents, platform, names)


def check_starts(
    tree: ImageTree,
    program: str,
    environment: Mapping[str, str],
    waived: Collection[str],
    place: str,
    who: str = "the image",
) -> None:
    """Refuse an image whose program would not start, which `who` runs.

    `waived` are needs that a package's recipe accepts as unmet: met by a volume, say.

    Raises:
        RecipeError: it names what is missing.
    """
    problem = _Start(tree, environment, waived).problem(program, 0)
    if problem:
        near = _alike(tree, program) if tree.file(program) is None else ()
        there = f" ({', '.join(near)} is there)" if near else ""
        hint = f"correct `exec`{there}, or add the package that brings what is missing: "
        hint += "`- package: {debian: NAME}`"
        message = f"{who} runs {program}, but {problem}"
        raise RecipeError(message, place=place or None, hint=hint)


def _alike(tree: ImageTree, program: str) -> tuple[str, ...]:
    """Programs of the image that may be meant: `/usr/bin/nc.openbsd` for `nc`, whose name only
    Debian's alternatives would give it."""
    base = posixpath.basename(program)
    pattern = re.compile(rf"(?:[^/]+/)*s?bin/{re.escape(base)}(?:[-.0-9][^/]*)?")
    found = sorted(path for path in tree.members if base and pattern.fullmatch(path))
    return tuple(f"/{path}" for path in found if tree.file(path))[:FEW]


@dataclass(frozen=True, slots=True)
class _Start:
    tree: ImageTree
    environment: Mapping[str, str]
    waived: Collection[str]

    def problem(self, program: str, depth: int) -> str:
        """Why the kernel would not start a program; empty where it would."""
        lacking = program_problem(program, self.tree.find)
        if lacking:
            return lacking
        file = self.tree.file(program)
        if file is None or depth > _DEEPEST:
            return f"{program} is a script whose interpreter is a script, {_DEEPEST} times over"
        with self.tree.open(file) as stream:
            head = stream.read(needs.LINE_BYTES)
            if needs.is_meant(head):
                return self._script(head, depth)
            if not head.startswith(ELF_MAGIC):
                return f"{program} is neither an ELF program nor a script that begins with `#!`"
            try:
                elf = read_elf(stream)
            except MalformedElf as error:
                return f"{program} is damaged: {error}"
        return "" if elf is None else self._elf(file, elf)

    def _script(self, head: bytes, depth: int) -> str:
        reason, _ = needs.fault(head)
        if reason:
            return reason
        for number, name in enumerate(needs.interpreters(head)):
            written = name.encode("utf-8", "surrogateescape") in head
            started = name if written or not number else self._searched(name)  # env has a PATH
            problem = self.problem(started, depth + 1)
            if problem and f"path:{name}" not in self.waived:
                return problem if depth else f"its interpreter {name} cannot be started: {problem}"
        return ""

    def _searched(self, name: str) -> str:
        base = posixpath.basename(name)
        places = self.environment.get("PATH", _PATH).split(":")
        found = (f"{place}/{base}" for place in places if place.startswith("/"))
        return next((path for path in found if self.tree.file(path)), name)

    def _elf(self, file: str, elf: Elf) -> str:
        """Why a program would not start: its loader, its machine, its libraries."""
        if elf.interp and self.tree.file(elf.interp) is None:
            if f"interp:{elf.interp}" not in self.waived:
                return f"the loader of /{file}, {elf.interp}, does not exist in it"
            return ""
        machine = machine_of(self.tree.platform)
        if elf.machine != machine:
            is_i386 = elf.machine.number == _I386 and machine.number == 62
            return "" if is_i386 else f"/{file} is a program for {elf.machine}"
        paths = self.environment.get("LD_LIBRARY_PATH", "").split(":")
        first = [path.strip("/") for path in paths if path.startswith("/")]
        system = self.tree.system(first)
        elves = self._reached(file, elf, system)
        for lacking in unmet(elves, self.tree.file, system):
            need = f"soname:{lacking.soname}"
            # A cache of the loader's own, which is not read, may name what lies elsewhere.
            cached = _CACHE in self.tree.members and lacking.soname in self.tree.names
            if need not in self.waived and not cached:
                return f"/{lacking.path} needs {needs.described(need)}, which is not in it"
        return ""

    def _reached(self, file: str, elf: Elf, system: Sequence[str]) -> dict[str, Elf]:
        """The file and all libraries that it may load, however deep."""
        elves = {file: elf}
        directories: dict[str, None] = {}
        queue = [file]
        for path in queue:
            directories |= dict.fromkeys(elves[path].directories(path))
            for name in elves[path].needed:
                for place in (*directories, *system):
                    found = self.tree.file(f"{place}/{name}")
                    if found is not None and found not in elves:
                        read = self._read(found)
                        if read is not None:
                            elves[found] = read
                            queue.append(found)
        return elves

    def _read(self, path: str) -> Elf | None:
        with self.tree.open(path) as stream:
            try:
                return read_elf(stream)
            except MalformedElf:
                return None


def waived_needs(packages: Sequence[Artifact]) -> frozenset[str]:
    """What packages need, nothing provides, and their recipes accept."""
    outputs = (output for artifact in packages for output in artifact.outputs.values())
    return frozenset(need for one in outputs for need in one.needs if need not in one.providers)


def remarks(tree: ImageTree, members: Sequence[tuple[Artifact, str]]) -> Iterator[str]:
    """What a user should see of what is not in an image, though something in it needs it.

    `members` are the .debs: their own packages were refused where something is missing.
    """
    debs = []
    for artifact, name in members:
        one = artifact.outputs.get(name)
        unmet_needs = [need for need in one.needs if need not in one.providers] if one else []
        lacking = [needs.described(need) for need in unmet_needs if not tree.gives(need, ())]
        if lacking:
            debs.append(f"{artifact.name}: {shortened(lacking)}")
    if debs:
        first, *others = debs
        name = first.partition(":")[2].partition(":")[0]
        yield (
            f"not in the image, though files of Debian's packages name it: {first}"
            + (f", and for {counted(len(others), 'further package')}" if others else "")
            + f" (`buildit log debian:{name}` names the files, `without:` leaves files out)"
        )
    synced = tuple(_lacking_of_synced(tree))
    yield from synced[:SHOWN]
    if len(synced) > SHOWN:
        yield f"and {counted(len(synced) - SHOWN, 'more need')} of synced programs"


def shortened(words: Sequence[str]) -> str:
    """The first words of a list, and how many follow."""
    more = f", {counted(len(words) - FEW, 'more', 'more')}" if len(words) > FEW else ""
    return f"{', '.join(words[:FEW])}{more}"


def _lacking_of_synced(tree: ImageTree) -> Iterator[str]:
    """What programs need that no package brought: `/srv/run.sh needs /bin/bash`."""
    layers = tree.contents.rootfs.layers
    for path, member in tree.members.items():
        entry = member.entry
        if member.layer < 0 or member.source != path:
            continue
        synced = layers[member.layer].kind is LayerKind.STEP
        if not synced or entry.kind is not Kind.FILE or not entry.mode & 0o111:
            continue
        looked = needs.looks((entry,), lambda one: tree.open(one.path))
        found = needs.needs_of((entry,), looked, tree.platform)
        for need in found.wanted:
            if not tree.gives(need, found.directories.get(need, ())):
                yield f"/{path} needs {needs.described(need)}, which is nowhere in the image"


def programs_of(
    plan: ContainerPlan, init: Init | None
) -> Iterator[tuple[Service, str, dict[str, str]]]:
    """What the services of a container start, and with what environment."""
    environment = dict(plan.app.environment) if plan.app is not None else {}
    for service in init.services if init is not None else ():
        known = {**environment, **dict(service.environment)}
        for words in (service.exec, service.ready.exec if service.ready is not None else ()):
            yield from ((service, word, known) for word in words[:1])
