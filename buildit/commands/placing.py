"""Where what sync steps take comes to lie in an image: their tasks over the layers below. Pure."""

from __future__ import annotations

import posixpath
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from buildit.archive.admit import shown
from buildit.archive.contents import TOP_LINKS, way
from buildit.commands.sync import EPOCH, SyncedBefore, Taken, destination, some_paths, wrong_sync
from buildit.errors import RecipeError
from buildit.image.merge import with_parents
from buildit.make.layer import layer_task
from buildit.model.plan import About, DirectoriesStep, LayerFile, SyncStep, Task
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
    hint = "choose another dest"
    if found.through:
        message = f"/{found.through} is a file in the image, and dest leads through it"
        raise wrong_sync(place, message, hint)
    if found.end is None:
        hint += ", or leave the links out: `without:` of a Debian package"
        raise wrong_sync(place, f"/{path} leads into a loop of links in the image", hint)
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
    step, made = taken.step, dict[str, Entry]()
    placed: list[_Placing] = []
    above = _new_directory(step, "")
    if step.sources:  # as COPY does: --chmod is not for what is made on the way
        above = replace(above, mode=0o755)
    for part in taken.parts:
        one = _Placing(_in_directory(part, ChainMap(made, dict(tree))), ChainMap(made, dict(tree)))
        placed.append(one)
        below = ChainMap(made, dict(tree))
        laid = with_parents(one.entries.values(), below, above, step.place)
        made |= {each.path: each for each in laid}
    entries = with_parents(made.values(), tree, above, step.place)
    files = [entry.path for entry in entries if entry.kind is Kind.FILE]
    texts: dict[str, bytes] = {}
    sources: dict[str, str] = {}
    copies: dict[str, LayerFile] = {}
    for one in placed:  # of two that become one path the later one counts
        for path in one.entries:
            texts.pop(path, None)
            sources.pop(path, None)
            copies.pop(path, None)
        texts |= one.texts
        copies |= one.copies
        sources |= {path: source for path, source in one.sources.items() if path not in texts}
    texts = {path: texts[path] for path in files if path in texts}
    sources = {path: sources[path] for path in files if path in sources}
    copied = tuple(copies[path] for path in files if path in copies)
    about = About(origin=step.place, description=step.src)
    task = layer_task("sync", entries, texts, sources, about, copied, root=step.root)
    return task, entries, tuple(dict.fromkeys(line for one in placed for line in one.remarks()))


def _in_directory(part: Taken, tree: Tree) -> Taken:
    """A part of several with the directory of the image that it goes into as such: what is copied
    to a directory goes into it by its name."""
    step = part.step
    if not step.sources or step.dest.endswith("/"):
        return part
    named = way(destination(step.dest, part.source, True), tree.get)
    there = named.end == "" or (named.end and _is_directory(tree.get(named.end)))
    if not there or part.nodes[0].kind is Kind.DIRECTORY:
        return part
    return replace(part, step=replace(step, dest=f"{step.dest}/"))


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
        self.copies: dict[str, LayerFile] = {}
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
                raise wrong_sync(step.place, message, hint)
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
        new = self._own(found, _new_directory(self._step, path), self._step.dir_mode)
        # COPY gives a directory beneath the first the attributes of its source (BuildKit, buildah)
        if lower is None or (self._step.sources and found.relative and found.entry != lower):
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
            plain = Entry(path, Kind.SYMLINK, 0o777, EPOCH, step.uid, step.gid, target=found.target)
            entry = self._own(found, plain, "0777")
        else:
            mode = int(step.mode, 8) if step.mode else 0o755 if found.mode & 0o100 else 0o644
            entry = Entry(path, found.kind, mode, found.time, step.uid, step.gid)
            entry = self._own(found, entry, step.mode)
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
        if found.layer is not None:
            self.copies[path] = replace(found.layer, path=path)
        elif found.entry is None:
            self.sources[path] = found.source
        if found.text is not None:
            self.texts[path] = found.text
        self._put(found, entry)

    def _own(self, found: SyncedBefore, entry: Entry, mode: str) -> Entry:
        """With the attributes that a node of another image has there, but for what the step says;
        its time, too."""
        own = found.entry
        if own is None:
            return entry
        owner = (own.uid, own.gid) if self._step.keeps else (entry.uid, entry.gid)
        kept = int(mode, 8) if mode else own.mode
        xattrs = {} if entry.kind is Kind.HARDLINK else own.xattrs
        uid, gid = owner
        return replace(entry, mode=kept, mtime=own.mtime, uid=uid, gid=gid, xattrs=xattrs)

    def _put(self, found: SyncedBefore, entry: Entry) -> None:
        there = self.entries.get(entry.path)
        if there is not None and (there.kind is not Kind.DIRECTORY or there.kind is not entry.kind):
            two = f"{shown(found.source)!r} and another file of {self._step.src!r}"
            message = f"{two} become /{shown(entry.path)}, as the image has a link on the way"
            hint = "keep one of the two, or leave one out with `exclude`"
            raise wrong_sync(self._step.place, message, hint)
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
        return wrong_sync(self._step.place, message, hint)

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
            raise wrong_sync(one.place, message, "leave it out")
        there = below.get(path) if one.keeps else None
        if there is None or there.kind is not Kind.DIRECTORY:
            there = Entry(path, Kind.DIRECTORY, one.mode, EPOCH, one.uid, one.gid)
        made[path] = there
    entries = with_parents(made.values(), tree, Entry("", Kind.DIRECTORY, 0o755, EPOCH), step.place)
    return layer_task("directories", entries, about=About(origin=step.place)), entries
