"""Steps as tasks over the layers below: where synced files and directories come to lie. Pure."""

from __future__ import annotations

import posixpath
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from buildit.archive.links import way
from buildit.archive.merged import TOP_LINKS
from buildit.archive.tar.names import shown
from buildit.commands.synced import EPOCH, SyncedBefore, Taken, some_paths
from buildit.errors import RecipeError
from buildit.image.merge import with_parents
from buildit.make.layer import layer_task
from buildit.model.plan import DirectoriesStep, SyncStep
from buildit.model.task import About, Task
from buildit.model.tree import Entry, Kind

_MOUNTED = ("proc", "dev", "sys")
"""What engines mount over; an image's own files there are never seen."""
_AT_RUN_TIME = (*_MOUNTED, "run", "var/run", "tmp")
"""Where a link may lead although the image has nothing there."""

Tree = Mapping[str, Entry]


def resolved(path: str, tree: Tree, place: str) -> str:
    """`path` with the links to directories on its way followed, as a process in the image would.

    Raises:
        RecipeError: the way leads through a file or a loop of links.
    """
    found = way(path, tree.get, last=False)
    if found.through:
        raise RecipeError(
            f"/{found.through} is a file in the image, and dest leads through it",
            place=place,
            hint="choose another dest",
        )
    if found.end is None:
        raise RecipeError(
            f"/{path} leads into a loop of links in the image",
            place=place,
            hint="choose another dest, or leave the links out: `without:` of a Debian package",
        )
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
    placed.place()
    entries = with_parents(placed.entries.values(), tree, _new_directory(step, ""), step.place)
    files = [entry.path for entry in entries if entry.kind is Kind.FILE]
    sources = {path: placed.sources[path] for path in files}
    about = About(origin=step.place, description=step.src)
    return (
        layer_task("sync", entries, sources=sources, about=about),
        entries,
        tuple(placed.remarks()),
    )


def _new_directory(step: SyncStep, path: str) -> Entry:
    mode = int(step.dir_mode, 8) if step.dir_mode else 0o755
    return Entry(path, Kind.DIRECTORY, mode, EPOCH, step.uid, step.gid)


class _Placing:
    """Where each node of a step comes to lie in the image."""

    def __init__(self, taken: Taken, tree: Tree) -> None:
        self._taken = taken
        self._step: SyncStep = taken.step
        self._tree = tree
        self.entries: dict[str, Entry] = {}
        self.sources: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._replaced: list[str] = []
        self._changed: list[str] = []
        self._root = False

    def place(self) -> None:
        first = self._taken.nodes[0]
        named = self._taken.name(first)
        if first.kind is not Kind.DIRECTORY:
            path = resolved(named, self._tree, self._step.place)
            if not path or _is_directory(self._tree.get(path)) or self._names_directory(path):
                raise RecipeError(
                    f"dest {self._step.dest!r} is a directory, {self._step.src!r} is a file",
                    place=self._step.place,
                    hint=f"write dest: {self._step.dest.rstrip('/')}/ to put it there by its name",
                )
            self._leaf(first, path)
            return
        # What goes into a directory goes through a link to one, as `cp -r src/. dest/` would.
        self._directory(first, _inside(named, self._tree, self._step.place))
        for found in self._taken.nodes[1:]:
            above, _, name = found.relative.rpartition("/")
            path = posixpath.join(self._paths[above], name)
            if found.kind is Kind.DIRECTORY:
                self._directory(found, path)
            else:
                self._leaf(found, path)

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
            self._root = True
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
            entry = Entry(
                path,
                found.kind,
                mode,
                found.time,
                step.uid,
                step.gid,
                found.size if found.kind is Kind.FILE else 0,
                self._paths[found.target] if found.kind is Kind.HARDLINK else "",
                found.digest if found.kind is Kind.FILE else None,
            )
        if lower is not None and lower.kind is Kind.SYMLINK and lower.target != entry.target:
            if found.kind is not Kind.SYMLINK and self._names_directory(path):
                raise self._clash(found, path, f"a link to the directory {lower.target!r}")
            if path in TOP_LINKS:
                raise self._clash(found, path, f"the link to {lower.target!r} that merges /usr")
            self._replaced.append(f"/{path} (to {lower.target})")
        self._paths[found.relative] = path
        self.sources[path] = found.source
        self._put(found, entry)

    def _put(self, found: SyncedBefore, entry: Entry) -> None:
        there = self.entries.get(entry.path)
        if there is not None and (there.kind is not Kind.DIRECTORY or there.kind is not entry.kind):
            raise RecipeError(
                f"{shown(found.source)!r} and another file of {self._step.src!r} become "
                f"/{shown(entry.path)}, as the image has a link on the way",
                place=self._step.place,
                hint="keep one of the two, or leave one out with `exclude`",
            )
        self.entries[entry.path] = entry

    def _names_directory(self, path: str) -> bool:
        """Whether a link lies there that leads to a directory of the image."""
        lower = self._tree.get(path)
        if lower is None or lower.kind is not Kind.SYMLINK:
            return False
        found = way(path, self._tree.get)
        if found.end is None or found.through:
            return False
        return not found.end or _is_directory(self._tree.get(found.end))

    def _clash(self, found: SyncedBefore, path: str, what: str) -> RecipeError:
        kind = {Kind.DIRECTORY: "directory", Kind.SYMLINK: "link"}.get(found.kind, "file")
        return RecipeError(
            f"/{shown(path)} is {what} in the image, and {shown(found.source)!r} is a {kind}",
            place=self._step.place,
            hint="choose another dest, rename it, or leave it out with `exclude`",
        )

    def remarks(self) -> Iterator[str]:
        if self._root and self._step.dir_mode not in ("", "0755"):
            yield f"`dirmode: {self._step.dir_mode}` is not for /, which engines make themselves"
        if self._replaced:
            yield f"links of the image are replaced: {some_paths(self._replaced)}"
        if self._changed:
            mode = self._step.dir_mode
            yield f"directories of the image become {mode}: {some_paths(self._changed)}"
        hidden = [
            f"/{path}"
            for path, entry in self.entries.items()
            if entry.kind is not Kind.DIRECTORY and path.split("/")[0] in _MOUNTED
        ]
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

    A directory that the image has gets the step's mode and owner; links to directories are
    followed. Directories above that are missing are made with 0755 and 0:0.

    Raises:
        RecipeError: the way leads through a file or to /, or a file is there.
    """
    made: dict[str, Entry] = {}
    below = ChainMap(made, dict(tree))
    for one in step.directories:
        path = resolved(f"{one.path}/.", below, one.place)
        if not path:
            raise RecipeError(
                f"/{one.path} is a link to /, and engines make that themselves",
                place=one.place,
                hint="leave it out",
            )
        made[path] = Entry(path, Kind.DIRECTORY, one.mode, EPOCH, one.uid, one.gid)
    entries = with_parents(made.values(), tree, Entry("", Kind.DIRECTORY, 0o755, EPOCH), step.place)
    return layer_task("directories", entries, about=About(origin=step.place)), entries
