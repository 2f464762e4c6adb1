"""Apply patches to the unpacked sources: canonical forms in order, beneath the directory alone.

It is our own code and not a program in the chroot, because a patch file is a sequence of commits
with git's meaning, which neither GNU patch nor `git apply` gives to a joined file (ADR 12). No file
operation follows a link, and nothing of a patch is written unless all of it fits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from buildit.archive.beneath import Root
from buildit.archive.source import SETTLED
from buildit.archive.tar.names import parents
from buildit.errors import BuilditError, IntegrityError, Interrupted
from buildit.patch.apply import (
    OTHER_FILE,
    REAL_PATH,
    Applied,
    DirectoryThere,
    Misfit,
    PatchedFile,
    Problem,
    Unusable,
    apply,
)
from buildit.patch.binary import MAX_RESULT
from buildit.patch.form import Action, Patch
from buildit.patch.read import parse_canonical

PATCHER = "2"
"""Version of how patches are applied, and of the time that their files get; in the key."""

_TOO_LARGE = "change it by a command in the prepare step"


@dataclass(frozen=True, slots=True)
class PatchToApply:
    """A patch to apply: its canonical form, and the strip that its recipe says."""

    canonical: bytes
    strip: int = 1


class Refused(Exception):  # noqa: N818 - what happened
    """A patch that does not apply: its number from 0, why, what to do, and further reasons."""

    def __init__(self, number: int, reason: str, hint: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason
        self.hint = hint
        self.details = details


def patched_time(newest: int) -> int:
    """The time of all files that patches touch, where the newest of the sources has `newest`.

    One time, so that make(1) remakes nothing where a file and what is generated from it are both
    patched; later than any other (none is later than SETTLED), so that it remakes what was not
    patched too.
    """
    return min(newest, SETTLED) + 1


def apply_patches(
    root: Root,
    patches: Sequence[PatchToApply],
    newest: int,
    owner: tuple[int, int] | None,
    log: Callable[[str], object],
) -> None:
    """Apply patches in turn to the tree; `newest` is the latest time of a file in it.

    Files that are made get mode 0644 or 0755, and `owner` (uid, gid) where it is given. What `log`
    raises comes up as it is.

    Raises:
        Refused: one does not apply; of it nothing is written.
        OSError: the disk is full or broken.
    """
    for number, wanted in enumerate(patches):
        log(f"==> patch {number + 1} of {len(patches)}")
        try:
            _apply(root, wanted, patched_time(newest), owner, log)
        except Misfit as misfit:
            for problem in misfit.problems:
                log(f"  {problem}")
            raise _refused(root, number, wanted, misfit) from misfit
        except Interrupted:
            raise  # from `log`
        except BuilditError as error:
            hint = error.hint or "see `buildit shell`"
            raise Refused(number, f"does not apply: {error.message}", hint) from error


def _apply(
    root: Root,
    wanted: PatchToApply,
    time: int,
    owner: tuple[int, int] | None,
    log: Callable[[str], object],
) -> None:
    done = apply(parse_canonical(wanted.canonical, "the patch"), _Source(root))
    for line in done.log:
        log(line)
    _check_places(root, done.files)
    _Writer(root, time, owner).write(done)


class _Source:
    """The tree as `patch.apply` reads it."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def read(self, path: str) -> PatchedFile | None:
        root = self._root
        try:
            status = root.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                text = root.readlink(path).encode("utf-8", "surrogateescape")
                return PatchedFile(text, link=True)
            if stat.S_ISDIR(status.st_mode):
                raise DirectoryThere("is a directory", OTHER_FILE)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("is no regular file", OTHER_FILE)
            if status.st_size > MAX_RESULT:
                raise Unusable(f"has more than {MAX_RESULT >> 20} MiB", _TOO_LARGE)
            with root.open_file(path) as stream:
                return PatchedFile(stream.read(), stat.S_IMODE(status.st_mode))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IntegrityError as error:
            raise Unusable(_behind(root, path), REAL_PATH) from error


def _behind(root: Root, path: str) -> str:
    """Which link a path leads through, and where to."""
    parts = path.split("/")
    for count in range(1, len(parts)):
        above = "/".join(parts[:count])
        try:
            if stat.S_ISLNK(root.lstat(above).st_mode):
                return f"leads through {above}, a symlink to {root.readlink(above)!r}"
        except (OSError, IntegrityError):
            break
    return "is a path that cannot be used"


def _check_places(root: Root, files: Mapping[str, PatchedFile | None]) -> None:
    """No file may stand where a directory stays, nor lie below a file.

    Raises:
        Misfit: one would.
    """
    problems = []
    for path, found in files.items():
        reason = _place_taken(root, path, files) if found is not None else ""
        if reason:
            hint = "rebase the patch on this version"
            problems.append(Problem(0, path, f"cannot be made: {reason}", hint))
    if problems:
        raise Misfit(tuple(problems))


def _place_taken(root: Root, path: str, files: Mapping[str, PatchedFile | None]) -> str:
    if _is_directory(root, path) and any(files.get(inner, root) for inner in _below(root, path)):
        return "a directory with other files is there"
    for above in parents(path):
        if files.get(above) is not None or (above not in files and _is_other(root, above)):
            return f"{above} is no directory"
    return ""


def _is_directory(root: Root, path: str) -> bool:
    try:
        return stat.S_ISDIR(root.lstat(path).st_mode)
    except (OSError, IntegrityError):
        return False


def _is_other(root: Root, path: str) -> bool:
    """Whether something is there that is no directory."""
    try:
        return not stat.S_ISDIR(root.lstat(path).st_mode)
    except (OSError, IntegrityError):
        return False


def _below(root: Root, path: str) -> Iterator[str]:
    with root.inner(path) as inner:
        for name, status in inner.walk():
            if not stat.S_ISDIR(status.st_mode):
                yield f"{path}/{name}"


class _Writer:
    """Writes what a patch made: takes away first, so that a directory may become a file."""

    def __init__(self, root: Root, time: int, owner: tuple[int, int] | None) -> None:
        self._root = root
        self._time = time
        self._owner = owner
        self._directories: set[str] = set()

    def write(self, done: Applied) -> None:
        for path, found in done.files.items():
            self._remove(path, prune=found is None)
        for path, found in done.files.items():
            if found is not None:
                self._make(path, found)
        for path in sorted(self._directories, reverse=True):
            if _is_directory(self._root, path):
                self._root.utime(path, self._time)

    def _remove(self, path: str, *, prune: bool) -> None:
        """Take a file away, and with it the directories that it leaves empty, as git does."""
        self._directories.add(path.rpartition("/")[0])
        try:
            if _is_directory(self._root, path):
                return
            self._root.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        while prune and (path := path.rpartition("/")[0]):
            try:
                self._root.rmdir(path)
            except OSError:
                return
            self._directories.add(path.rpartition("/")[0])

    def _make(self, path: str, found: PatchedFile) -> None:
        root = self._root
        self._ensure(path.rpartition("/")[0])
        self._clear(path)
        if found.link:
            root.symlink(found.content.decode("utf-8", "surrogateescape"), path)
        else:
            with os.fdopen(root.create(path, found.mode), "wb") as stream:
                stream.write(found.content)
        self._own(path)
        root.utime(path, self._time)

    def _clear(self, path: str) -> None:
        """Remove the empty directories in a file's place (those of it that patches emptied)."""
        if _is_directory(self._root, path):
            with self._root.inner(path) as inner:
                names = [name for name, _ in inner.walk()]
            for name in reversed(names):
                self._root.rmdir(f"{path}/{name}")
            self._root.rmdir(path)

    def _ensure(self, path: str) -> None:
        if not path or _is_directory(self._root, path):
            return
        self._ensure(path.rpartition("/")[0])
        self._root.mkdir(path)
        self._own(path)
        self._directories.add(path)

    def _own(self, path: str) -> None:
        if self._owner is not None:
            self._root.chown(path, *self._owner)


def _refused(root: Root, number: int, wanted: PatchToApply, misfit: Misfit) -> Refused:
    if misfit.already:
        files = parse_canonical(wanted.canonical, "the patch").files
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        reason = f"is already applied: {files[0].new}{more} has its change"
        return Refused(number, reason, "upstream has it: remove it from `patches:`")
    first, *others = misfit.problems
    hint = first.hint
    missing = [problem.path for problem in misfit.problems if problem.missing]
    if missing:
        patch = parse_canonical(wanted.canonical, "the patch")
        hint = _strip_hint(root, patch, wanted.strip, missing) or hint
    details = tuple(map(str, misfit.problems)) if others else ()
    return Refused(number, f"does not apply: {first}", hint, details)


def _strip_hint(root: Root, patch: Patch, strip: int, missing: Sequence[str]) -> str:
    """The `strip` at which all files that a patch needs are there, or may be; else nothing."""
    made = {file.new for file in patch.files if file.action is not Action.CHANGE}
    needed = {file.old for file in patch.files if file.action is not Action.CREATE} - made
    needed = needed or set(missing)
    for more in range(1, 4):
        shorter = [path.split("/", more)[more:] for path in needed]
        if all(rest and _is_other(root, rest[0]) for rest in shorter):
            return f"say `strip: {strip + more}` for this patch: then its names fit"
    for prefix in _prefixes(root, missing[0], min(strip, 3)):
        if all(_is_other(root, f"{prefix}/{path}") for path in missing):
            less = strip - prefix.count("/") - 1
            there = f"{prefix}/{missing[0]}"
            return f"{there} is there: if the patch's names begin so, say `strip: {less}` for it"
    return ""


def _prefixes(root: Root, path: str, most: int) -> list[str]:
    """The directories, of up to `most` parts, below which the tree has `path`."""
    ends = f"/{path}"
    found = [name for name, _ in root.walk() if name.endswith(ends)]
    prefixes = (name.removesuffix(ends) for name in found)
    return [prefix for prefix in prefixes if prefix.count("/") < most]
