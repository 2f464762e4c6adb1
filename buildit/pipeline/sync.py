"""A sync step as a layer: the project's files, with modes that do not depend on its clone."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.contents import contents_blob
from buildit.archive.tarwrite import write_tar
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.image.parents import with_parents
from buildit.model.image import Layer, LayerKind
from buildit.model.plan import SyncStep
from buildit.model.tree import Entry, Kind, sort_key
from buildit.store.cas import Store

EPOCH = 315532800
"""mtime of synced files (1980-01-01): a checkout's own times say when it was cloned."""

DEEPEST_LINKS = 40

WHITEOUT = ".wh."
"""image-spec layer.md, "Whiteouts": no layer may hold such a file."""


def destination(dest: str, src: str, is_directory: bool) -> str:
    """The path in the image, without a leading slash, that `src` itself becomes."""
    path = posixpath.normpath(dest).lstrip("/")
    if dest.endswith("/") and not is_directory:
        path = posixpath.join(path, posixpath.basename(posixpath.normpath(src)))
    return "" if path == "." else path


def resolved(path: str, tree: Mapping[str, Entry], place: str) -> str:
    """`path` with the links to directories on its way followed, as a process in the image would.

    Raises:
        RecipeError: the way leads through a file or a loop of links.
    """
    done: list[str] = []
    pending = [part for part in path.split("/") if part]
    links = 0
    while pending:
        part = pending.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        here = "/".join((*done, part))
        entry = tree.get(here)
        if pending and entry is not None and entry.kind is Kind.SYMLINK:
            links += 1
            if links > DEEPEST_LINKS:
                raise RecipeError(f"/{path} leads into a loop of links", place=place)
            if entry.target.startswith("/"):
                done = []
            pending = [*entry.target.split("/"), *pending]
            continue
        if pending and entry is not None and entry.kind is not Kind.DIRECTORY:
            raise RecipeError(
                f"/{here} is a file in the image, and dest leads through it",
                place=place,
                hint="choose another dest",
            )
        done.append(part)
    return "/".join(done)


def sync_layer(
    project: Path, step: SyncStep, tree: Mapping[str, Entry], store: Store
) -> tuple[Layer, tuple[Entry, ...]]:
    """Make the layer of a sync step over `tree`, the merged entries below it, and store it.

    Raises:
        RecipeError: `src` is missing, unsafe, or holds what an image cannot.
    """
    with _opened(project, step) as root:
        found = sorted(_found(root, step, tree), key=lambda pair: sort_key(pair[0]))
        sources = {entry.path: source for entry, source in found}
        new = Entry("", Kind.DIRECTORY, 0o755, EPOCH, step.uid, step.gid)
        entries = with_parents((entry for entry, _ in found), tree, new)
        with store.batch() as batch:
            with batch.ingest() as sink:
                written = write_tar(
                    entries, lambda e: os.fdopen(root.open_read(sources[e.path]), "rb"), sink
                )
                diff_id, size = sink.commit(), sink.size
            listing = batch.put_bytes(contents_blob(written))
    return Layer(diff_id, size, f"sync {step.src}", listing, LayerKind.STEP), written


def check_sources(project: Path, steps: Iterable[object]) -> None:
    """Look at what the sync steps name, before hours are spent on packages; nothing is read.

    Raises:
        RecipeError: as `sync_layer`, but for what depends on the tree below.
    """
    for step in steps:
        if isinstance(step, SyncStep):
            with _opened(project, step) as root:
                for _ in _found(root, step, {}):
                    pass


@contextmanager
def _opened(project: Path, step: SyncStep) -> Iterator[Root]:
    """The project's directory; what goes wrong with it is an error of `step`."""
    try:
        with Root.open(project) as root:
            yield root
    except (BuildError, IntegrityError) as error:
        raise RecipeError(
            f"{step.src!r} cannot be synced: {error}",
            place=step.place,
            hint="sync regular files and directories beneath the container's directory",
        ) from error
    except OSError as error:
        raise RecipeError(
            f"{step.src!r} cannot be synced: {error.strerror}",
            place=step.place,
            hint=f"it is looked for in {project}",
        ) from error


def _found(root: Root, step: SyncStep, tree: Mapping[str, Entry]) -> Iterator[tuple[Entry, str]]:
    """The layer's entries, each with the path in the project that its bytes come from."""
    src = posixpath.normpath(step.src)
    status = root.lstat("" if src == "." else src)
    is_directory = stat.S_ISDIR(status.st_mode)
    named = destination(step.dest, src, is_directory)
    if not is_directory:
        dest = resolved(named, tree, step.place)
        if not dest or _is_directory(tree.get(dest)):
            raise RecipeError(
                f"dest {step.dest!r} is a directory, {step.src!r} is a file",
                place=step.place,
                hint=f"write dest: {step.dest.rstrip('/')}/ to put it there by its name",
            )
        yield _entry(root, src, dest, status, step), src
        return
    if not step.recursive:
        raise RecipeError(
            f"{step.src!r} is a directory", place=step.place, hint="add `recursive: true`"
        )
    # What goes into a directory goes through a link to one, as `cp -r src/. dest/` would.
    dest = posixpath.dirname(resolved(f"{named}/.buildit", tree, step.place))
    if dest and dest not in tree:
        yield _entry(root, src, dest, status, step), src
    for below, inner in root.walk():
        if below.startswith(f"{src}/") or src == ".":
            relative = below if src == "." else below[len(src) + 1 :]
            path = f"{dest}/{relative}" if dest else relative
            if stat.S_ISDIR(inner.st_mode) and _is_directory(tree.get(path)):
                continue  # a directory that the image already has stays as it is
            yield _entry(root, below, path, inner, step), below


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is Kind.DIRECTORY


def _entry(root: Root, source: str, path: str, status: os.stat_result, step: SyncStep) -> Entry:
    name = posixpath.basename(path)
    if name.startswith(WHITEOUT):
        raise RecipeError(
            f"{source!r}: names that begin with {WHITEOUT} delete files in image layers",
            place=step.place,
            hint="give the file another name, or move it out of what is synced",
        )
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        return Entry(path, Kind.DIRECTORY, 0o755, EPOCH, step.uid, step.gid)
    if stat.S_ISLNK(mode):
        target = root.readlink(source)
        return Entry(path, Kind.SYMLINK, 0o777, EPOCH, step.uid, step.gid, target=target)
    if not stat.S_ISREG(mode):
        raise RecipeError(
            f"{source!r} is neither file, directory nor link",
            place=step.place,
            hint="move it out of what is synced",
        )
    chosen = int(step.mode, 8) if step.mode else 0o755 if mode & 0o100 else 0o644
    return Entry(path, Kind.FILE, chosen, EPOCH, step.uid, step.gid, size=status.st_size)
