"""Sync steps: what of a project they take, found, read and dated before anything is built, and then
as tasks over the layers below, where it comes to lie.

The time of a file is pinned in the lock with its digest: a checkout's own times say when it was
cloned, and one fixed time would let a browser keep an old page for ever.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.admit import shown
from buildit.archive.beneath import Root
from buildit.archive.contents import TOP_LINKS, way
from buildit.digest import Digest, digest_bytes, digest_stream
from buildit.errors import RecipeError
from buildit.image.merge import with_parents
from buildit.make.layer import layer_task, opened_project
from buildit.model.globs import path_matcher
from buildit.model.plan import About, ContainerPlan, DirectoriesStep, SyncStep, Task
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

_MOUNTED = ("proc", "dev", "sys")
"""What engines mount over; an image's own files there are never seen."""
_AT_RUN_TIME = (*_MOUNTED, "run", "var/run", "tmp")
"""Where a link may lead although the image has nothing there."""


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
    `text` is what a template became, whose are then digest and size.
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


@dataclass(frozen=True, slots=True)
class Taken:
    """All that one step takes, parents first; `remarks` say what of it does not arrive."""

    step: SyncStep
    nodes: tuple[SyncedBefore, ...]
    remarks: tuple[str, ...] = ()

    def name(self, found: SyncedBefore) -> str:
        """Where a node goes as the step says it, whatever links the image has on the way."""
        is_directory = self.nodes[0].kind is Kind.DIRECTORY
        named = destination(self.step.dest, self.step.src, is_directory)
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
        raise _wrong(step.place, f"{shown(step.dest)!r}: {_DELETING}", "name another `dest`")
    project = _project(project, step)
    if (step.names is None) != (fill is None):
        raise ValueError("what fills in templates comes with a step that has some")
    with opened_project(project, step.src, step.place) as root:
        walk = _Walk(root, step, own)
        nodes = walk.nodes()
        read = (_read(root, found, walk.bare, project, fill) for found in nodes)
        taken = Taken(step, tuple(read))
    _check_modes(taken)
    return replace(taken, remarks=tuple(_remarks(walk, taken)))


def watched(project: Path, step: SyncStep, own: Own) -> list[str]:
    """The host paths whose states decide what `take` gives; nothing is read.

    Raises:
        RecipeError: as `take`.
    """
    project = _project(project, step)
    with opened_project(project, step.src, step.place) as root:
        nodes = _Walk(root, step, own).nodes()
    real = [os.path.join(project, found.source) for found in nodes]
    links = [os.path.dirname(path) for path, f in zip(real, nodes, strict=True) if f.target]
    return [os.path.normpath(os.path.join(project, step.src)), *real, *dict.fromkeys(links)]


def _project(project: Path, step: SyncStep) -> Path:
    """The directory that what a step takes is beneath."""
    return Path(step.root) if step.root else project


def _wrong(place: str, message: str, hint: str) -> RecipeError:
    return RecipeError(message, place=place, hint=hint)


class _Walk:
    """The nodes of one step, and what was met on the way."""

    def __init__(self, root: Root, step: SyncStep, own: Own) -> None:
        self._root = root
        self._step = step
        self._own = own
        self._excluded = [(glob, path_matcher(glob, place=step.place)) for glob in step.exclude]
        self._skipped: set[str] = set()
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
            raise _wrong(step.place, f"{step.src!r} {what}", "sync what it is made from")
        first = self._node("", src, self._root.lstat(src))
        if first.kind is not Kind.DIRECTORY:
            if step.exclude:
                what = "is no directory, and `exclude` is for what is in one"
                raise _wrong(step.place, f"{step.src!r} {what}", "leave `exclude` out")
            return [first]
        if not step.recursive:
            raise _wrong(step.place, f"{step.src!r} is a directory", "add `recursive: true`")
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
                raise _wrong(step.place, message, hint) from error
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
            raise _wrong(step.place, f"{step.src!r} leads into a loop of links", hint)
        if found.escapes:
            self._check_inside("..", found.links[-1])
        return found.end

    def _check_inside(self, path: str, here: str) -> None:
        """Refuse a path that leads out of the project, as the source does at `here`."""
        if posixpath.normpath(path).split("/")[0] in ("", ".."):
            message = f"{self._step.src!r} leads out of the container's directory, at {here!r}"
            hint = "copy what is synced into the container's directory"
            raise _wrong(self._step.place, message, hint)

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
            raise _wrong(step.place, f"{shown(source)!r}: {_DELETING}", hint)
        if stat.S_ISDIR(mode):
            return SyncedBefore(relative, source, Kind.DIRECTORY, mode)
        if stat.S_ISLNK(mode):
            target = self._root.readlink(source)
            return SyncedBefore(relative, source, Kind.SYMLINK, mode, target=target)
        if not stat.S_ISREG(mode):
            hint = "move it out of what is synced, or leave it out with `exclude`"
            raise _wrong(step.place, f"{shown(source)!r} is neither file, directory nor link", hint)
        found = SyncedBefore(relative, source, Kind.FILE, mode, status.st_size)
        if status.st_nlink > 1:
            first = self._inodes.setdefault((status.st_dev, status.st_ino), found)
            if first is not found:
                return replace(found, kind=Kind.HARDLINK, target=first.relative)
        return found


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
        raise _wrong(step.place, f"chmod {step.mode} of {step.src!r} {what}", hint)


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


# -- where it comes to lie

Tree = Mapping[str, Entry]


def resolved(path: str, tree: Tree, place: str) -> str:
    """`path` with the links to directories on its way followed, as a process in the image would.

    Raises:
        RecipeError: the way leads through a file or a loop of links.
    """
    found = way(path, tree.get, last=False)
    hint = "choose another dest"
    if found.through:
        message = f"/{found.through} is a file in the image, and dest leads through it"
        raise _wrong(place, message, hint)
    if found.end is None:
        hint += ", or leave the links out: `without:` of a Debian package"
        raise _wrong(place, f"/{path} leads into a loop of links in the image", hint)
    return found.end


def _inside(path: str, tree: Tree, place: str) -> str:
    """The directory that `path` is, or that a link there names; it need not exist."""
    return posixpath.dirname(resolved(f"{path}/.buildit", tree, place))


def sync_task(taken: Taken, tree: Tree) -> tuple[Task, tuple[Entry, ...], tuple[str, ...]]:
    """The task of a sync step over `tree`, the merged entries below it.

    Returns it with its entries, and with what a user should know of how they lie in the image.

    Raises:
        RecipeError: what is taken cannot lie where the step puts it.
    """
    step = taken.step
    placed = _Placing(taken, tree)
    entries = with_parents(placed.entries.values(), tree, _new_directory(step, ""), step.place)
    files = [entry.path for entry in entries if entry.kind is Kind.FILE]
    texts = {path: placed.texts[path] for path in files if path in placed.texts}
    sources = {path: placed.sources[path] for path in files if path not in texts}
    about = About(origin=step.place, description=step.src)
    task = layer_task("sync", entries, texts, sources, about, root=step.root)
    return task, entries, tuple(placed.remarks())


def _new_directory(step: SyncStep, path: str) -> Entry:
    mode = int(step.dir_mode, 8) if step.dir_mode else 0o755
    return Entry(path, Kind.DIRECTORY, mode, EPOCH, step.uid, step.gid)


class _Placing:
    """Where each node of a step comes to lie in the image."""

    def __init__(self, taken: Taken, tree: Tree) -> None:
        self._step = step = taken.step
        self._tree = tree
        self.entries: dict[str, Entry] = {}
        self.sources: dict[str, str] = {}
        self.texts: dict[str, bytes] = {}
        self._paths: dict[str, str] = {}
        self._replaced: list[str] = []
        self._changed: list[str] = []
        first, *others = taken.nodes
        named = taken.name(first)
        if first.kind is not Kind.DIRECTORY:
            path = resolved(named, tree, step.place)
            if not path or _is_directory(tree.get(path)) or self._names_directory(path):
                message = f"dest {step.dest!r} is a directory, {step.src!r} is a file"
                hint = f"write dest: {step.dest.rstrip('/')}/ to put it there by its name"
                raise _wrong(step.place, message, hint)
            self._leaf(first, path)
            return
        # What goes into a directory goes through a link to one, as `cp -r src/. dest/` would.
        self._directory(first, _inside(named, tree, step.place))
        for found in others:
            above, _, name = found.relative.rpartition("/")
            place = self._directory if found.kind is Kind.DIRECTORY else self._leaf
            place(found, posixpath.join(self._paths[above], name))

    def _directory(self, found: SyncedBefore, path: str) -> None:
        lower = self._tree.get(path)
        if lower is not None and lower.kind is Kind.SYMLINK:
            inside = _inside(path, self._tree, self._step.place)
            if inside and not _is_directory(self._tree.get(inside)):
                raise self._clash(found, path, f"a link to {lower.target!r}, which is no directory")
            path, lower = inside, self._tree.get(inside)
        if lower is not None and lower.kind is not Kind.DIRECTORY:
            raise self._clash(found, path, "a file")
        self._paths[found.relative] = path
        if not path:
            return
        new = _new_directory(self._step, path)
        if lower is None:
            self._put(found, new)
        elif self._step.dir_mode and lower.mode != new.mode:
            self._changed.append(f"/{path} ({lower.mode:04o})")
            self._put(found, replace(lower, mode=new.mode))

    def _leaf(self, found: SyncedBefore, path: str) -> None:
        lower = self._tree.get(path)
        if _is_directory(lower):
            raise self._clash(found, path, "a directory")
        step = self._step
        if found.kind is Kind.SYMLINK:
            entry = Entry(path, Kind.SYMLINK, 0o777, EPOCH, step.uid, step.gid, target=found.target)
        else:
            mode = int(step.mode, 8) if step.mode else 0o755 if found.mode & 0o100 else 0o644
            entry = Entry(path, found.kind, mode, found.time, step.uid, step.gid)
            if found.kind is Kind.FILE:
                entry = replace(entry, size=found.size, digest=found.digest)
            else:
                entry = replace(entry, target=self._paths[found.target])
        if lower is not None and lower.kind is Kind.SYMLINK and lower.target != entry.target:
            if found.kind is not Kind.SYMLINK and self._names_directory(path):
                raise self._clash(found, path, f"a link to the directory {lower.target!r}")
            if path in TOP_LINKS:
                raise self._clash(found, path, f"the link to {lower.target!r} that merges /usr")
            self._replaced.append(f"/{path} (to {lower.target})")
        self._paths[found.relative] = path
        self.sources[path] = found.source
        if found.text is not None:
            self.texts[path] = found.text
        self._put(found, entry)

    def _put(self, found: SyncedBefore, entry: Entry) -> None:
        there = self.entries.get(entry.path)
        if there is not None and (there.kind is not Kind.DIRECTORY or there.kind is not entry.kind):
            two = f"{shown(found.source)!r} and another file of {self._step.src!r}"
            message = f"{two} become /{shown(entry.path)}, as the image has a link on the way"
            hint = "keep one of the two, or leave one out with `exclude`"
            raise _wrong(self._step.place, message, hint)
        self.entries[entry.path] = entry

    def _names_directory(self, path: str) -> bool:
        """Whether a link lies there that leads to a directory of the image."""
        lower = self._tree.get(path)
        if lower is None or lower.kind is not Kind.SYMLINK:
            return False
        found = way(path, self._tree.get)
        there = found.end == "" or _is_directory(self._tree.get(found.end or ""))
        return there and not found.through

    def _clash(self, found: SyncedBefore, path: str, what: str) -> RecipeError:
        kind = {Kind.DIRECTORY: "directory", Kind.SYMLINK: "link"}.get(found.kind, "file")
        message = f"/{shown(path)} is {what} in the image, and {shown(found.source)!r} is a {kind}"
        hint = "choose another dest, rename it, or leave it out with `exclude`"
        return _wrong(self._step.place, message, hint)

    def remarks(self) -> Iterator[str]:
        mode = self._step.dir_mode
        if "" in self._paths.values() and mode not in ("", "0755"):
            yield f"`dirmode: {mode}` is not for /, which engines make themselves"
        if self._replaced:
            yield f"links of the image are replaced: {some_paths(self._replaced)}"
        if self._changed:
            yield f"directories of the image become {mode}: {some_paths(self._changed)}"
        files = (path for path, entry in self.entries.items() if not _is_directory(entry))
        hidden = [f"/{path}" for path in files if path.split("/")[0] in _MOUNTED]
        if hidden:
            yield f"engines mount over what lies in /proc, /dev and /sys: {some_paths(hidden)}"


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is Kind.DIRECTORY


def leading_nowhere(links: Iterable[str], tree: Tree) -> Iterator[str]:
    """Those of the synced links whose targets the whole image lacks, with them.

    What is only there in a running container (/proc, /dev, /run, /tmp) is not asked for.
    """
    for path in links:
        entry = tree.get(path)
        if entry is None or entry.kind is not Kind.SYMLINK:
            continue
        aim = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), entry.target))
        if any(f"{aim[1:]}/".startswith(f"{each}/") for each in _AT_RUN_TIME):
            continue
        found = way(path, tree.get)
        if found.through or found.end is None or (found.end and found.end not in tree):
            yield f"/{path} (to {entry.target})"


def directories_task(step: DirectoriesStep, tree: Tree) -> tuple[Task, tuple[Entry, ...]]:
    """The task of a step, and its entries, over `tree`, the merged entries below it.

    A directory that the image has gets the step's mode and owner, unless it `keeps` its own; links
    to directories are followed. Directories above that are missing are made with 0755 and 0:0.

    Raises:
        RecipeError: the way leads through a file or to /, or a file is there.
    """
    made: dict[str, Entry] = {}
    below = ChainMap(made, dict(tree))
    for one in step.directories:
        path = resolved(f"{one.path}/.", below, one.place)
        if not path:
            message = f"/{one.path} is a link to /, and engines make that themselves"
            raise _wrong(one.place, message, "leave it out")
        there = below.get(path) if one.keeps else None
        if there is None or there.kind is not Kind.DIRECTORY:
            there = Entry(path, Kind.DIRECTORY, one.mode, EPOCH, one.uid, one.gid)
        made[path] = there
    entries = with_parents(made.values(), tree, Entry("", Kind.DIRECTORY, 0o755, EPOCH), step.place)
    return layer_task("directories", entries, about=About(origin=step.place)), entries
