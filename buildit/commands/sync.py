"""Sync steps: what of a project they take, found, read and dated before anything is built; where it
comes to lie is for `placing`.

The time of a file is pinned in the lock with its digest: a checkout's own times say when it was
cloned, and one fixed time would let a browser keep an old page for ever.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.admit import shown
from buildit.archive.beneath import Root
from buildit.archive.contents import way
from buildit.commands.archives import holds_tar
from buildit.digest import Digest, digest_bytes, digest_stream
from buildit.errors import IntegrityError, RecipeError
from buildit.make.layer import opened_project
from buildit.model.globs import path_matcher
from buildit.model.ignored import ignored_by, may_take_back
from buildit.model.plan import ContainerPlan, LayerFile, SyncStep
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.model.words import some
from buildit.recipe.yaml.node import shown_place

EPOCH = YEAR_1980
"""mtime of directories and links that a step makes."""

_SHOWN = 3

_NAMES = frozenset({".git", ".buildit-config.yaml", "buildit.lock"})
_LOCK_IN_WRITING = (".buildit.lock.new-", ".buildit.lock-")
"""As `files.replacing` names it, and as it was named before."""
_SUFFIXES = r"(?:aci|aci\.asc|aci\.d|oci|oci\.tar|docker\.tar|lxc|rootfs\.tar|squashfs|nspawn)"
_USUAL_OUTPUT = "out"
_WHITEOUT = ".wh."  # OCI image-spec layer.md, "Whiteouts"
_DELETING = "names that begin with .wh. delete files in image layers"
_HOSTS_OWN = ("security.selinux", "system.nfs4_acl", "trusted.")
"""Attributes that say something of the machine, not of the file."""

LARGEST_TEMPLATE = 64 << 10
"""Bytes of a file that is a template; the evaluator takes no more characters."""

Filler = Callable[[bytes, str], bytes]
"""What a template becomes, of its bytes and the name of its file; see `commands.templated`."""


@dataclass(frozen=True, slots=True)
class Own:
    """What lies in a project and is buildit's own, or the repository's: it never enters an image.

    `output` is the output directory relative to the project, "" where it is not beneath it;
    `images` matches the names of images of this container, of any version.
    """

    output: str
    images: re.Pattern[str]

    def has(self, path: str) -> bool:
        name = posixpath.basename(path)
        ours = path == self.output or name in _NAMES or name.startswith(_LOCK_IN_WRITING)
        return ours or self.images.fullmatch(name) is not None


def own_of(plan: ContainerPlan, output: Path, step: SyncStep) -> Own:
    """What a step leaves out. Looks only where the output directory lies."""
    project, there = os.path.realpath(step.root or plan.directory), os.path.realpath(output)
    relative = os.path.relpath(there, project)
    beneath = relative != "." and relative.split("/")[0] != ".."
    name = re.escape(posixpath.basename(plan.name))
    images = re.compile(rf"{name}-.+\.{_SUFFIXES}", re.IGNORECASE | re.DOTALL)
    return Own(relative if beneath else "", images)


@dataclass(frozen=True, slots=True)
class SyncedBefore:
    """One node that a step takes.

    `relative` is its path beneath `src`, "" for `src` itself; `source` the path in the project
    that its bytes come from. `mode` is as it lies there. `target` is a link's text, or the
    `relative` of the file that a hard link is another name of; `time` is of a file, in seconds.
    `text` is what a template became, whose are then digest and size. `layer` has its bytes, and
    `entry` its attributes, where it is not of the project.
    """

    relative: str
    source: str
    kind: Kind
    mode: int
    size: int = 0
    target: str = ""
    digest: Digest | None = None
    time: int = EPOCH
    text: bytes | None = None
    layer: LayerFile | None = None
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """All that one source of a step takes, parents first; `remarks` say what of it does not arrive.
    `further` are its other sources; `source` is the path of one of several. It is an `archive`
    where the step unpacks it."""

    step: SyncStep
    nodes: tuple[SyncedBefore, ...]
    remarks: tuple[str, ...] = ()
    further: tuple[Taken, ...] = ()
    source: str = ""
    archive: bool = False

    @property
    def parts(self) -> tuple[Taken, ...]:
        """Each source by itself."""
        return (replace(self, further=()), *self.further)

    def with_step(self, step: SyncStep) -> Taken:
        """The same where the owner of the step is known."""
        return replace(self, step=step, further=tuple(one.with_step(step) for one in self.further))

    def name(self, found: SyncedBefore) -> str:
        """Where a node goes as the step says it, whatever links the image has on the way."""
        is_directory, dest = self.nodes[0].kind is Kind.DIRECTORY, self.step.dest
        source = self.source or self.step.src
        if self.step.parents:
            above = source if is_directory else posixpath.dirname(source)
            dest = posixpath.join(dest, above) + "/"
        named = destination(dest, source, is_directory)
        return posixpath.join(named, found.relative) if found.relative else named


def destination(dest: str, src: str, is_directory: bool) -> str:
    """The path in the image, without a leading slash, that `src` itself becomes."""
    path = posixpath.normpath(dest).lstrip("/")
    if dest.endswith("/") and not is_directory:
        path = posixpath.join(path, posixpath.basename(posixpath.normpath(src)))
    return "" if path == "." else path


def take(project: Path, step: SyncStep, own: Own, fill: Filler | None = None) -> Taken:
    """Find what a step takes, and read every file of it once. Templates are filled in here, by
    `fill`, which a step with templates needs.

    Raises:
        RecipeError: `src` is missing, leads out of the project, is not for images, or holds what an
            image cannot; or a template is wrong.
    """
    if any(part.startswith(_WHITEOUT) for part in step.dest.split("/")):
        raise wrong_sync(step.place, f"{shown(step.dest)!r}: {_DELETING}", "name another `dest`")
    if step.fetched is not None:
        at = LayerFile("", step.fetched.digest, step.fetched.size, 0)
        size, digest = step.fetched.size, step.fetched.digest
        node = SyncedBefore("", step.sources[0], Kind.FILE, 0o644, size, digest=digest, layer=at)
        return Taken(step, (node,), source=step.sources[0])
    project = _project(project, step)
    if (step.names is None) != (fill is None):
        raise ValueError("what fills in templates comes with a step that has some")
    with opened_project(project, step.src, step.place) as root:
        if step.sources:
            each = (_part(root, one, own, project, fill) for one in _each_source(root, step, own))
            parts = [replace(one, step=step) for one in each]
            return replace(parts[0], further=tuple(parts[1:]))
        taken = _part(root, step, own, project, fill)
    _check_modes(taken)
    return taken


def _part(root: Root, step: SyncStep, own: Own, project: Path, fill: Filler | None) -> Taken:
    """What one source takes."""
    walk = _Walk(root, step, own)
    read = [_read(root, found, walk.bare, project, fill) for found in walk.nodes()]
    taken = Taken(step, tuple(read), source=step.src if step.sources else "")
    if step.extract and read[0].kind is Kind.FILE:
        with root.open_file(read[0].source) as stream:
            taken = replace(taken, archive=holds_tar(stream))
    return replace(taken, remarks=tuple(_remarks(walk, taken)))


def _each_source(root: Root, step: SyncStep, own: Own) -> Iterator[SyncStep]:
    """The step for each path that its sources fit.

    Raises:
        RecipeError: one fits nothing that is for an image.
    """
    ignored = ignored_by(step.ignore, step.place)

    def names(directory: str) -> list[str]:
        try:
            return root.listdir(directory)
        except (OSError, IntegrityError):
            return []

    def may_be_kept(path: str) -> bool:
        """Whether something beneath a directory that is ignored is not."""
        return may_take_back(step.ignore) and stat.S_ISDIR(root.lstat(path).st_mode)

    for source in step.sources:
        paths = expanded(source, names, step.place)
        if GLOBS & {*source}:
            paths = [one for one in paths if not own.has(one)]
        paths = [one for one in paths if one == "." or not ignored(one) or may_be_kept(one)]
        if not paths:
            hint = "see what lies there, and what `.dockerignore` leaves out"
            raise wrong_sync(step.place, f"no file fits {source!r}", hint)
        yield from (replace(step, src=one) for one in paths)


def watched(project: Path, step: SyncStep, own: Own) -> list[str]:
    """The host paths whose states decide what `take` gives; nothing is read.

    Raises:
        RecipeError: as `take`.
    """
    if step.fetched is not None:
        return []
    project = _project(project, step)
    with opened_project(project, step.src, step.place) as root:
        each = [*_each_source(root, step, own)] if step.sources else [step]
        nodes = [node for one in each for node in _Walk(root, one, own).nodes()]
    real = [os.path.join(project, found.source) for found in nodes]
    links = [os.path.dirname(path) for path, f in zip(real, nodes, strict=True) if f.target]
    named = [os.path.normpath(os.path.join(project, one.src)) for one in each]
    globbed = [os.path.join(project, path) for path in step.places] if step.sources else []
    return [*named, *globbed, *real, *dict.fromkeys(links)]


def _project(project: Path, step: SyncStep) -> Path:
    """The directory that what a step takes is beneath."""
    return Path(step.root) if step.root else project


def wrong_sync(place: str, message: str, hint: str) -> RecipeError:
    return RecipeError(message, place=place, hint=hint)


GLOBS = frozenset("*?[")


def expanded(pattern: str, names: Callable[[str], Iterable[str]], place: str) -> list[str]:
    """The paths that a pattern fits, sorted; one without globs is itself, whether it is there or
    not. `names` gives what is in a directory, nothing for what is none."""
    found, is_sure = [""], True
    for part in posixpath.normpath(pattern).strip("/").split("/"):
        if not GLOBS & {*part}:
            there = [one for one in found if is_sure or part in names(one)]
            found = [posixpath.normpath(posixpath.join(above, part)) for above in there]
            continue
        is_sure = False
        matches = path_matcher(part, place=place)
        found = [
            posixpath.join(above, name)
            for above in found
            for name in sorted(names(above if above != "." else ""))
            if matches(name)
        ]
    return [one for one in found if one] or ([] if GLOBS & {*pattern} else ["."])


class _Walk:
    """The nodes of one step, and what was met on the way."""

    def __init__(self, root: Root, step: SyncStep, own: Own) -> None:
        self._root = root
        self._step = step
        self._own = own
        self._excluded = [(glob, path_matcher(glob, place=step.place)) for glob in step.exclude]
        self._skipped: set[str] = set()
        self._ignored = ignored_by(step.ignore, step.place)
        self._taken_back = may_take_back(step.ignore)
        self._inodes: dict[tuple[int, int], SyncedBefore] = {}
        self.left_out: list[str] = []
        self.matched: set[str] = set()
        self.bare: list[str] = []
        """Names of files with attributes that do not arrive."""

    def nodes(self) -> list[SyncedBefore]:
        step, src = self._step, self._source()
        output = self._own.output
        if src and (self._own.has(src) or (output and src.startswith(f"{output}/"))):
            what = "is not for an image: it changes with every build or commit"
            raise wrong_sync(step.place, f"{step.src!r} {what}", "sync what it is made from")
        first = self._node("", src, self._root.lstat(src))
        if first.kind is not Kind.DIRECTORY:
            if step.exclude and not step.sources:
                what = "is no directory, and `exclude` is for what is in one"
                raise wrong_sync(step.place, f"{step.src!r} {what}", "leave `exclude` out")
            return [first]
        if not step.recursive:
            raise wrong_sync(step.place, f"{step.src!r} is a directory", "add `recursive: true`")
        found = [first]
        waiting: dict[str, SyncedBefore] = {}
        """Directories that are ignored, and something beneath them perhaps is not."""
        with self._root.inner(src) if src else nullcontext(self._root) as inner:
            for relative, inside in inner.walk(lambda path: path not in self._skipped):
                source = posixpath.join(src, relative)
                if self._leaves_out(relative, source, inside):
                    self._skipped.add(relative)
                elif self._step.ignore and self._ignored(source):
                    if self._taken_back and stat.S_ISDIR(inside.st_mode):
                        waiting[relative] = self._node(relative, source, inside)
                    else:
                        self._skipped.add(relative)
                else:
                    found += (waiting.pop(one) for one in _above(relative) if one in waiting)
                    found.append(self._node(relative, source, inside))
        return found

    def _source(self) -> str:
        """`src` with every link on its way followed, inside of the project only; "" is that."""
        step, links = self._step, {"": ""}

        def entry_at(path: str) -> Entry:
            try:
                is_link = stat.S_ISLNK(self._root.lstat(path).st_mode)
            except OSError as error:
                here, target = links.popitem()
                if not here:
                    raise
                message = f"{here!r} is a link to {target!r}: {error.strerror}"
                hint = "correct the link, or sync the file itself"
                raise wrong_sync(step.place, message, hint) from error
            if not is_link:
                return Entry(path, Kind.DIRECTORY, 0)  # or a file: beneath it, `lstat` says so
            links[path] = target = self._root.readlink(path)
            self._check_inside(posixpath.join(posixpath.dirname(path), target), path)
            return Entry(path, Kind.SYMLINK, 0, target=target)

        src = posixpath.normpath(step.src)
        self._check_inside(src, "/" if src.startswith("/") else "..")
        found = way(src, entry_at)
        if found.end is None:
            hint = "correct the links, or sync the file itself"
            raise wrong_sync(step.place, f"{step.src!r} leads into a loop of links", hint)
        if found.escapes:
            self._check_inside("..", found.links[-1])
        return found.end

    def _check_inside(self, path: str, here: str) -> None:
        """Refuse a path that leads out of the project, as the source does at `here`."""
        if posixpath.normpath(path).split("/")[0] in ("", ".."):
            message = f"{self._step.src!r} leads out of the container's directory, at {here!r}"
            hint = "copy what is synced into the container's directory"
            raise wrong_sync(self._step.place, message, hint)

    def _leaves_out(self, relative: str, source: str, status: os.stat_result) -> bool:
        for glob, matches in self._excluded:
            if matches(relative):
                self.matched.add(glob)
                return True
        usual = posixpath.basename(source) == _USUAL_OUTPUT and stat.S_ISDIR(status.st_mode)
        # of another run, which was told another place or stood elsewhere
        names = self._root.listdir(source) if usual else []
        if self._own.has(source) or (names and all(map(self._own.images.fullmatch, names))):
            self.left_out.append(relative)
            return True
        return False

    def _node(self, relative: str, source: str, status: os.stat_result) -> SyncedBefore:
        mode, step = status.st_mode, self._step
        if posixpath.basename(relative or source).startswith(_WHITEOUT):
            hint = "rename it, or leave it out with `exclude`"
            raise wrong_sync(step.place, f"{shown(source)!r}: {_DELETING}", hint)
        if stat.S_ISDIR(mode):
            return SyncedBefore(relative, source, Kind.DIRECTORY, mode)
        if stat.S_ISLNK(mode):
            target = self._root.readlink(source)
            return SyncedBefore(relative, source, Kind.SYMLINK, mode, target=target)
        if not stat.S_ISREG(mode):
            hint = "move it out of what is synced, or leave it out with `exclude`"
            raise wrong_sync(
                step.place, f"{shown(source)!r} is neither file, directory nor link", hint
            )
        found = SyncedBefore(relative, source, Kind.FILE, mode, status.st_size)
        if status.st_nlink > 1:
            first = self._inodes.setdefault((status.st_dev, status.st_ino), found)
            if first is not found:
                return replace(found, kind=Kind.HARDLINK, target=first.relative)
        return found


def _above(path: str) -> list[str]:
    """The directories above a path, the first the highest."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _read(
    root: Root, found: SyncedBefore, bare: list[str], project: Path, fill: Filler | None
) -> SyncedBefore:
    """A file with its digest; another name of one is read again, which is simpler than to ask."""
    if found.kind not in (Kind.FILE, Kind.HARDLINK):
        return found
    with root.open_file(found.source) as stream:
        attributes = os.listxattr(stream.fileno())
        if any(not name.startswith(_HOSTS_OWN) for name in attributes):
            bare.append(found.relative or found.source)
        if fill is None:
            return replace(found, digest=digest_stream(stream))
        text = fill(stream.read(LARGEST_TEMPLATE + 1), shown_place(project / found.source))
    return replace(found, digest=digest_bytes(text), size=len(text), text=text)


def _check_modes(taken: Taken) -> None:
    """Refuse a mode of files that can only be meant for directories."""
    step = taken.step
    if not step.mode:
        return
    mode = int(step.mode, 8)
    files = any(found.kind in (Kind.FILE, Kind.HARDLINK) for found in taken.nodes)
    meant = not files and mode & 0o111 and mode != 0o755
    if mode & 0o1000 or meant:
        what = "says nothing of a file" if mode & 0o1000 else "is for files, and there are none"
        hint = f"`dirmode: {step.mode}` is for directories"
        raise wrong_sync(step.place, f"chmod {step.mode} of {step.src!r} {what}", hint)


def _remarks(walk: _Walk, taken: Taken) -> Iterator[str]:
    """What of the source does not arrive in the image, a line for each kind."""
    step = taken.step
    if walk.left_out:
        yield f"what is not for an image stays out: {some_paths(walk.left_out, most=20)}"
    if unmatched := [glob for glob in step.exclude if glob not in walk.matched]:
        yield f"`exclude` matches nothing here: {some_paths(unmatched)}"
    files = [each for each in taken.nodes if each.kind is Kind.FILE]
    if not step.mode:
        if private := [each for each in files if not each.mode & 0o004]:
            yield f"everybody may read in the image: {_modes(private)}; `chmod` keeps them private"
        if setid := [each for each in files if each.mode & 0o6000]:
            yield f"set-id bits do not arrive: {_modes(setid)}; `chmod: 04755` sets them"
    if walk.bare:
        yield f"capabilities and attributes do not arrive: {some_paths(walk.bare)}"
    directories = [each for each in taken.nodes if each.kind is Kind.DIRECTORY]
    special = [each for each in directories if each.mode & 0o7000 or not each.mode & 0o001]
    if special and not step.dir_mode:
        yield f"new directories are 0755 in the image: {_modes(special)}; `dirmode` sets a mode"


def _modes(found: Sequence[SyncedBefore]) -> str:
    modes = (f"{one.relative or one.source} ({one.mode & 0o7777:04o})" for one in found)
    return some_paths([*modes])


def some_paths(paths: Sequence[str], most: int = _SHOWN) -> str:
    """The first of several paths in one line fit for a terminal, and how many follow."""
    return some([shown(path) for path in paths], most)


Times = Mapping[tuple[str, Digest], int]
"""By the name in the image and the digest of a synced file: its time, in seconds since 1970."""


def dated(everything: Iterable[Taken], pinned: Times, now: int) -> tuple[tuple[Taken, ...], Times]:
    """Give every file its time; returns all of them with what is to be pinned. Pure.

    A file that is pinned keeps its time. Another one has `now`, or a second more than the name had
    before, so that no client takes the new content for the old one.
    """
    steps = [*everything]
    flat = [part for one in steps for part in one.parts]
    done, times = _dated(flat, pinned, now)
    parts, result = iter(done), []
    for one in steps:
        first, *further = (next(parts) for _ in one.parts)
        result.append(replace(first, further=tuple(further)))
    return tuple(result), times


def _dated(everything: Iterable[Taken], pinned: Times, now: int) -> tuple[tuple[Taken, ...], Times]:
    latest: dict[str, int] = {}
    for (name, _), time in pinned.items():
        latest[name] = max(time, latest.get(name, time))
    times: dict[tuple[str, Digest], int] = {}
    result = []
    for taken in everything:
        nodes: list[SyncedBefore] = []
        leaders: dict[str, int] = {}
        for found in taken.nodes:
            if found.digest is None:
                nodes.append(found)
                continue
            key = taken.name(found), found.digest
            time = pinned.get(key, max(now, latest.get(key[0], now - 1) + 1))
            if found.kind is Kind.HARDLINK:  # of one inode, which has one time
                time = leaders[found.target]
            leaders[found.relative] = times[key] = time
            nodes.append(replace(found, time=time))
        result.append(replace(taken, nodes=tuple(nodes)))
    return tuple(result), times
