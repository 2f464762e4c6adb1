"""What of a project its sync steps take: found, read and dated before anything is built.

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

from buildit.archive.beneath import Root
from buildit.archive.tar.names import shown
from buildit.digest import Digest, digest_stream
from buildit.errors import IntegrityError, RecipeError
from buildit.make.layer import opened_project
from buildit.model.amount import some
from buildit.model.pathglob import path_matcher
from buildit.model.plan import ContainerPlan, SyncStep
from buildit.model.tree import MOST_LINKS, YEAR_1980, Kind

EPOCH = YEAR_1980
"""mtime of directories and links that a step makes."""

_SHOWN = 3

_NAMES = frozenset({".git", ".buildit-config.yaml", "buildit.lock"})
_LOCK_IN_WRITING = (".buildit.lock.new-", ".buildit.lock-")
"""As `files.replacing` names it, and as it was named before."""
_SUFFIXES = r"(?:aci|aci\.asc|oci|oci\.tar|docker\.tar|lxc|rootfs\.tar|squashfs|nspawn)"
_USUAL_OUTPUT = "out"
_WHITEOUT = ".wh."  # OCI image-spec layer.md, "Whiteouts"
_HOSTS_OWN = ("security.selinux", "system.nfs4_acl", "trusted.")
"""Attributes that say something of the machine, not of the file."""


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
        return (
            path == self.output
            or name in _NAMES
            or name.startswith(_LOCK_IN_WRITING)
            or self.images.fullmatch(name) is not None
        )


def own_of(plan: ContainerPlan, output: Path) -> Own:
    """Looks only where the output directory lies."""
    project, there = os.path.realpath(plan.directory), os.path.realpath(output)
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
    """

    relative: str
    source: str
    kind: Kind
    mode: int
    size: int = 0
    target: str = ""
    digest: Digest | None = None
    time: int = EPOCH


@dataclass(frozen=True, slots=True)
class Taken:
    """All that one step takes, parents first; `remarks` say what of it does not arrive."""

    step: SyncStep
    nodes: tuple[SyncedBefore, ...]
    remarks: tuple[str, ...] = ()

    def is_directory(self) -> bool:
        return self.nodes[0].kind is Kind.DIRECTORY

    def name(self, found: SyncedBefore) -> str:
        """Where a node goes as the step says it, whatever links the image has on the way."""
        named = destination(self.step.dest, self.step.src, self.is_directory())
        return posixpath.join(named, found.relative) if found.relative else named


def destination(dest: str, src: str, is_directory: bool) -> str:
    """The path in the image, without a leading slash, that `src` itself becomes."""
    path = posixpath.normpath(dest).lstrip("/")
    if dest.endswith("/") and not is_directory:
        path = posixpath.join(path, posixpath.basename(posixpath.normpath(src)))
    return "" if path == "." else path


def take(project: Path, step: SyncStep, own: Own) -> Taken:
    """Find what a step takes, and read every file of it once.

    Raises:
        RecipeError: `src` is missing, leads out of the project, is not for images, or holds what an
            image cannot.
    """
    if any(part.startswith(_WHITEOUT) for part in step.dest.split("/")):
        raise _whiteout(step, step.dest, "name another `dest`")
    with opened_project(project, step.src, step.place) as root:
        walk = _Walk(root, step, own)
        nodes = walk.nodes()
        taken = Taken(step, tuple(_read(root, found, walk.bare) for found in nodes))
    _check_modes(taken)
    return replace(taken, remarks=tuple(_remarks(walk, taken)))


def watched(project: Path, step: SyncStep, own: Own) -> list[str]:
    """The host paths whose states decide what `take` gives; nothing is read.

    Raises:
        RecipeError: as `take`.
    """
    with opened_project(project, step.src, step.place) as root:
        nodes = _Walk(root, step, own).nodes()
    real = [os.path.join(project, found.source) for found in nodes]
    links = [os.path.dirname(path) for path, f in zip(real, nodes, strict=True) if f.target]
    return [os.path.normpath(os.path.join(project, step.src)), *real, *dict.fromkeys(links)]


def _whiteout(step: SyncStep, name: str, hint: str) -> RecipeError:
    message = f"{shown(name)!r}: names that begin with .wh. delete files in image layers"
    return RecipeError(message, place=step.place, hint=hint)


class _Walk:
    """The nodes of one step, and what was met on the way."""

    def __init__(self, root: Root, step: SyncStep, own: Own) -> None:
        self._root = root
        self._step = step
        self._own = own
        self._excluded: list[tuple[str, Callable[[str], bool]]] = [
            (glob, path_matcher(glob, place=step.place)) for glob in step.exclude
        ]
        self._skipped: set[str] = set()
        self._inodes: dict[tuple[int, int], SyncedBefore] = {}
        self.left_out: list[str] = []
        self.matched: set[str] = set()
        self.bare: list[str] = []
        """Names of files with attributes that do not arrive."""

    def nodes(self) -> list[SyncedBefore]:
        src = self._source()
        if src and (self._own.has(src) or _within(src, self._own.output)):
            raise RecipeError(
                f"{self._step.src!r} is not for an image: it changes with every build or commit",
                place=self._step.place,
                hint="sync what it is made from",
            )
        status = self._root.lstat(src)
        first = self._node("", src, status)
        if first.kind is not Kind.DIRECTORY:
            if self._step.exclude:
                raise RecipeError(
                    f"{self._step.src!r} is no directory, and `exclude` is for what is in one",
                    place=self._step.place,
                    hint="leave `exclude` out",
                )
            return [first]
        if not self._step.recursive:
            raise RecipeError(
                f"{self._step.src!r} is a directory",
                place=self._step.place,
                hint="add `recursive: true`",
            )
        found = [first]
        with self._root.inner(src) if src else nullcontext(self._root) as inner:
            for relative, inside in inner.walk(lambda path: path not in self._skipped):
                source = posixpath.join(src, relative)
                if self._leaves_out(relative, source, inside):
                    self._skipped.add(relative)
                else:
                    found.append(self._node(relative, source, inside))
        return found

    def _source(self) -> str:
        """`src` with every link on its way followed, inside of the project only; "" is that."""
        step, links = self._step, 0
        if step.src.startswith("/"):
            raise self._outside("/")
        done: list[str] = []
        pending = [part for part in posixpath.normpath(step.src).split("/") if part != "."]
        while pending:
            part = pending.pop(0)
            if part == "..":
                if not done:
                    raise self._outside("..")
                done.pop()
                continue
            here = "/".join((*done, part))
            mode = self._root.lstat(here).st_mode
            if not stat.S_ISLNK(mode):
                done.append(part)
                continue
            links += 1
            target = self._root.readlink(here)
            if links > MOST_LINKS:
                raise RecipeError(
                    f"{step.src!r} leads into a loop of links",
                    place=step.place,
                    hint="correct the links, or sync the file itself",
                )
            if target.startswith("/"):
                raise self._outside(here)
            pending = [each for each in target.split("/") if each not in ("", ".")] + pending
            self._check_there(done, pending, here, target)
        return "/".join(done)

    def _check_there(self, done: list[str], pending: list[str], here: str, target: str) -> None:
        path = posixpath.normpath("/".join((*done, *pending)) or ".")
        if path.split("/")[0] == "..":
            raise self._outside(here)
        try:
            self._root.lstat("" if path == "." else path)
        except OSError as error:
            raise RecipeError(
                f"{here!r} is a link to {target!r}: {error.strerror}",
                place=self._step.place,
                hint="correct the link, or sync the file itself",
            ) from error
        except IntegrityError:
            return  # through one more link: it is met in turn

    def _outside(self, here: str) -> RecipeError:
        return RecipeError(
            f"{self._step.src!r} leads out of the container's directory, at {here!r}",
            place=self._step.place,
            hint="copy what is synced into the container's directory",
        )

    def _leaves_out(self, relative: str, source: str, status: os.stat_result) -> bool:
        for glob, matches in self._excluded:
            if matches(relative):
                self.matched.add(glob)
                return True
        usual = posixpath.basename(source) == _USUAL_OUTPUT and stat.S_ISDIR(status.st_mode)
        if self._own.has(source) or (usual and self._holds_images(source)):
            self.left_out.append(relative)
            return True
        return False

    def _holds_images(self, source: str) -> bool:
        """An output directory of another run, which was told another place or stood elsewhere."""
        names = self._root.listdir(source)
        return bool(names) and all(map(self._own.images.fullmatch, names))

    def _node(self, relative: str, source: str, status: os.stat_result) -> SyncedBefore:
        mode, step = status.st_mode, self._step
        if posixpath.basename(relative or source).startswith(_WHITEOUT):
            raise _whiteout(step, source, "rename it, or leave it out with `exclude`")
        if stat.S_ISDIR(mode):
            return SyncedBefore(relative, source, Kind.DIRECTORY, mode)
        if stat.S_ISLNK(mode):
            target = self._root.readlink(source)
            return SyncedBefore(relative, source, Kind.SYMLINK, mode, target=target)
        if not stat.S_ISREG(mode):
            raise RecipeError(
                f"{shown(source)!r} is neither file, directory nor link",
                place=step.place,
                hint="move it out of what is synced, or leave it out with `exclude`",
            )
        found = SyncedBefore(relative, source, Kind.FILE, mode, status.st_size)
        if status.st_nlink > 1:
            first = self._inodes.setdefault((status.st_dev, status.st_ino), found)
            if first is not found:
                return replace(found, kind=Kind.HARDLINK, target=first.relative)
        return found


def _within(path: str, directory: str) -> bool:
    return bool(directory) and path.startswith(f"{directory}/")


def _read(root: Root, found: SyncedBefore, bare: list[str]) -> SyncedBefore:
    """A file with its digest; another name of one is read again, which is simpler than to ask."""
    if found.kind not in (Kind.FILE, Kind.HARDLINK):
        return found
    with root.open_file(found.source) as stream:
        names = os.listxattr(stream.fileno())
        if any(not name.startswith(_HOSTS_OWN) for name in names):
            bare.append(found.relative or found.source)
        return replace(found, digest=digest_stream(stream))


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
        raise RecipeError(
            f"chmod {step.mode} of {step.src!r} {what}",
            place=step.place,
            hint=f"`dirmode: {step.mode}` is for directories",
        )


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
    return some_paths(
        [f"{each.relative or each.source} ({each.mode & 0o7777:04o})" for each in found]
    )


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
