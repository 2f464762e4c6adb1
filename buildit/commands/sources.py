"""Sources that are no archives: what they are pinned to, and how their archive is made.

A directory of this machine is packed when it is planned: its tar is an input like the package's
own files. A git source is the canonical tar of its commit, a blob like every other source: pushed
to binhosts and taken from them by its digest, so that git is asked only where no place has the tar.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from io import FileIO
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from buildit.archive.beneath import Root
from buildit.archive.tar.write import write_tar
from buildit.commands.choose import Choice
from buildit.commands.run import LOCK_FILE, Downloads
from buildit.errors import BuildError, BuilditError, FetchError, IntegrityError, RecipeError
from buildit.model.globs import path_matcher
from buildit.model.sources import GitRef, SourceRef
from buildit.model.tree import YEAR_1980, Entry, Kind, sort_key
from buildit.model.words import name_of
from buildit.plan.lock import LockedCommit
from buildit.recipe.yaml.node import shown_place
from buildit.store.cas import Store

if TYPE_CHECKING:
    from buildit.plan.evaluate import WantedSource
    from buildit.recipe.package import GitSpec, PathSpec
    from buildit.remote.git.commit import PackedCommit


def pin_commit(
    choice: Choice, downloads: Downloads, package: str, place: str, spec: GitSpec
) -> SourceRef:
    """What a git source is: as its recipe has it, else as it is locked, else as it is now; its tar
    is then in the store.

    Raises:
        FetchError: it has to be looked at, and no place has it.
        IntegrityError: its tag is not at the commit that the recipe pins, or it cannot be packed.
    """
    urls = (spec.git, *spec.mirrors)
    ref = GitRef(spec.commit or "", spec.tag or "", spec.submodules)
    repository = name_of(spec.git).removesuffix(".git") or "source"
    version = (spec.tag or "").replace("/", "-") or ref.commit[:12]
    name = f"{repository}-{version}.tar"
    if spec.sha256 is not None:
        return SourceRef(name, spec.sha256, urls, git=ref)
    for locked in choice.section.commits:
        if _is_of(locked, package, urls, ref) and not (
            choice.options.moves(package) and not ref.commit
        ):
            ref = GitRef(locked.commit, ref.tag, ref.submodules)
            return SourceRef(name, locked.digest, urls, git=ref)
    try:
        made = fetch_commit(downloads, urls, ref, name)
    except BuilditError as error:
        error.place = place
        raise
    return SourceRef(name, made.digest, urls, git=GitRef(made.commit, ref.tag, ref.submodules))


def _is_of(locked: LockedCommit, package: str, urls: Sequence[str], ref: GitRef) -> bool:
    """Whether a record of the lock says what a source is: a commit is the same everywhere, a tag is
    one of its repository."""
    if (locked.package, locked.submodules) != (package, ref.submodules):
        return False
    if ref.commit:
        return locked.commit == ref.commit
    return locked.tag == ref.tag and locked.url in urls


def locked_commits(package: str, sources: Iterable[SourceRef]) -> Iterator[LockedCommit]:
    """What the lock will say of a package's git sources."""
    for one in sources:
        if one.git is not None and one.git.commit:
            git = one.git
            about = (package, one.urls[0], git.tag, git.submodules)
            yield LockedCommit(*about, git.commit, one.digest)


def fetch_commit(downloads: Downloads, urls: Sequence[str], ref: GitRef, name: str) -> PackedCommit:
    """Fetch a commit; its tar is then in the store.

    Raises:
        FetchError: no place has it, or `--offline` forbids to ask.
        IntegrityError: its tag has moved, or it cannot be packed.
    """
    if downloads.offline:
        urls = [url for url in urls if url.startswith("file://")]
        if not urls:
            hint = "leave out --offline, or put the tar into distfiles/"
            message = "a git repository is needed, and --offline forbids it"
            raise FetchError(message, place=name, hint=hint)
    from buildit.remote.git.commit import pack_commit

    return pack_commit(urls, ref, name, downloads.store, downloads.report)


def bring_commit(downloads: Downloads, source: SourceRef) -> None:
    """Make the tar of a git source whose digest is known.

    Raises:
        FetchError, IntegrityError: as `fetch_commit`, or the tar has another digest.
    """
    assert source.git is not None  # noqa: S101 - the caller asked
    made = fetch_commit(downloads, source.urls, source.git, source.name)
    if made.digest == source.digest:
        return
    at = f"commit {made.commit}" + (f" at the tag {source.git.tag!r}" if source.git.tag else "")
    message = f"the tree of {at} is not the source that is pinned"
    hint = f"compare it; if it is right, write sha256: {made.digest} in the recipe"
    if not source.git.commit:
        hint = f"the tag may have moved: ask upstream; if it is right, write sha256: {made.digest}"
    details = (f"expected sha256:{source.digest}", f"got sha256:{made.digest}")
    raise IntegrityError(message, place=source.name, hint=hint, details=details)


# -- a directory of this machine


def pin_directory(
    choice: Choice, store: Store, source: WantedSource, spec: PathSpec
) -> tuple[SourceRef, list[Path]]:
    """The canonical tar of a directory, which the store has afterwards; and every path that was
    looked at.

    Its digest depends on names, content and x bits alone. Left out are `.git`, what git ignores,
    what `exclude` names, and of this container its output, its lock and the store.

    Raises:
        RecipeError: it is no directory, or holds what no source may.
        FetchError: it is git's, and git is not installed.
    """
    top = Path(os.path.abspath(Path(source.declared_in).parent / spec.path))
    if not top.is_dir():
        hint = "it is looked for from the file that names it; is it there, and a directory?"
        message = f"path: there is no directory {shown_place(top)}"
        raise RecipeError(message, place=source.place, hint=hint)
    is_taken = _taken(choice, store, top, spec, source.place)
    try:
        with Root.open(top) as root:
            found = {path: root.lstat(path) for path in _paths(top, root) if is_taken(path)}
            entries = sorted(_entries(root, found, source.place), key=sort_key)
            with store.ingest() as sink:
                write_tar(entries, lambda entry: FileIO(root.open_read(entry.path)), sink)
                digest = sink.commit()
    except (IntegrityError, BuildError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        at = f"{error.place}: " if isinstance(error, BuildError) else ""
        message = f"path: {shown_place(top)} cannot be read: {at}{reason}"
        hint = "make it a directory of files that may be read, or name what is not in `exclude:`"
        raise RecipeError(message, place=source.place, hint=hint) from error
    looked = {*_looked(top, is_taken), *(top / entry.path for entry in entries)}
    return SourceRef(top.name, digest, (), path=str(top)), sorted(looked)


def _looked(top: Path, is_taken: Callable[[str], bool]) -> Iterator[Path]:
    """What decides what is taken of a directory, besides that itself: each directory in it, as
    something may appear in one of which nothing is taken yet; what git looks at."""
    for directory, below, _ in os.walk(top):
        at = Path(directory)
        below[:] = [name for name in below if is_taken(str((at / name).relative_to(top)))]
        yield at
    above = (top, *top.parents)
    for number, one in enumerate(above):
        if os.path.lexists(one / ".git"):
            yield from (one / ".git/index", one / ".git/info/exclude")
            yield from (each / ".gitignore" for each in above[: number + 1])
            return


def _taken(
    choice: Choice, store: Store, top: Path, spec: PathSpec, place: str
) -> Callable[[str], bool]:
    """Whether a path of a directory is to be packed."""
    options, real = choice.options, os.path.realpath(top)
    own = (options.output, options.directory / LOCK_FILE, store.root)
    left_out = {os.path.relpath(os.path.realpath(path), real) for path in own}
    matchers = [path_matcher(glob, place=place) for glob in spec.exclude]

    def taken(path: str) -> bool:
        parts = path.split("/")
        whole = [*accumulate(parts, "{}/{}".format)]
        matched = any(matches(one) for matches in matchers for one in whole)
        return ".git" not in parts and not matched and left_out.isdisjoint(whole)

    return taken


def _paths(top: Path, root: Root, below: str = "") -> Iterator[str]:
    """Files and links in a directory, and where it is not git's, directories."""
    from buildit.remote.git.program import listed_files

    listed = listed_files(top / below)
    if listed is None:
        with root.inner(below) if below else nullcontext(root) as inner:
            for path, _ in inner.walk(lambda path: path.rpartition("/")[2] != ".git"):
                yield f"{below}/{path}".lstrip("/")
        return
    for path in dict.fromkeys(listed):
        whole = f"{below}/{path.rstrip('/')}".lstrip("/")
        with suppress(FileNotFoundError):  # it is deleted, and git not told yet
            if stat.S_ISDIR(root.lstat(whole).st_mode):
                yield from _paths(top, root, whole)  # a repository in this one
            else:
                yield whole


def _entries(root: Root, found: Mapping[str, os.stat_result], place: str) -> Iterator[Entry]:
    """What is found as entries of a tar, with the directories above it."""
    above = {str(one) for path in found for one in PurePosixPath(path).parents} - {"."}
    for path in above - found.keys():
        yield Entry(path, Kind.DIRECTORY, 0o755, YEAR_1980)
    for path, status in found.items():
        if stat.S_ISDIR(status.st_mode):
            yield Entry(path, Kind.DIRECTORY, 0o755, YEAR_1980)
        elif stat.S_ISLNK(status.st_mode):
            yield Entry(path, Kind.SYMLINK, 0o777, YEAR_1980, target=root.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            mode = 0o755 if status.st_mode & 0o100 else 0o644
            yield Entry(path, Kind.FILE, mode, YEAR_1980, size=status.st_size)
        else:
            message = f"path: {path!r} is no file, link or directory"
            raise RecipeError(message, place=place, hint="remove it, or name it in `exclude:`")
