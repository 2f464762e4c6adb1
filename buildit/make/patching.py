"""Apply patches to the unpacked sources: canonical forms in order, beneath the directory alone.

It is our own code and not a program in the chroot, because a patch file is a sequence of commits
with git's meaning, which neither GNU patch nor `git apply` gives to a joined file (ADR 12). No file
operation follows a link, and nothing of a patch is written unless all of it fits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from buildit.archive.admit import parents
from buildit.archive.beneath import Root
from buildit.archive.unpack import SETTLED
from buildit.errors import BuildError, BuilditError, IntegrityError, Interrupted
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
from buildit.patch.form import MAX_RESULT, Action, Patch
from buildit.patch.read import parse_canonical

_TOO_LARGE = "change it by a command in the prepare step"


@dataclass(frozen=True, slots=True)
class PatchToApply:
    """A patch's canonical form, the strip that its recipe says, and what the user calls it."""

    canonical: bytes
    strip: int = 1
    name: str = ""


class Refused(BuildError):  # noqa: N818 - what happened
    """A patch that does not apply to `paths`; `already` is it, where the tree has its change
    already."""

    hint: str
    already: Patch | None = None
    paths: tuple[str, ...] = ()


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
    time: int,
    owner: tuple[int, int] | None,
    log: Callable[[str], object],
) -> None:
    """Apply patches in turn to the tree; all files that they touch get one `time`.

    All that patches touch gets one time, so that make(1) remakes nothing where a file and what is
    generated from it are both patched; later than any other (none is later than SETTLED), so that
    it remakes what was not patched too. Files that are made get mode 0644 or 0755, and `owner`
    (uid, gid) where it is given. What `log` raises comes up as it is.

    Raises:
        BuildError: one does not apply; of it nothing is written.
        OSError: the disk is full or broken.
    """
    for number, wanted in enumerate(patches):
        log(f"==> patch {number + 1} of {len(patches)}")
        try:
            done = apply(parse_canonical(wanted.canonical, "the patch"), partial(_read, root))
            for line in done.log:
                log(line)
            _check_places(root, done.files)
            _Writer(root, time, owner).write(done)
        except Misfit as misfit:
            for problem in misfit.problems:
                log(f"  {problem}")
            raise _refused(root, wanted, misfit) from misfit
        except Interrupted:
            raise  # from `log`
        except BuilditError as error:
            hint = error.hint or "see `buildit shell`"
            reason = f"the patch {wanted.name} does not apply: {error.message}"
            raise BuildError(reason, hint=hint) from error


def _read(root: Root, path: str) -> PatchedFile | None:
    """The tree as `patch.apply` reads it."""
    try:
        status = root.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            text = root.readlink(path).encode("utf-8", "surrogateescape")
            return PatchedFile(text, link=True)
        if stat.S_ISDIR(status.st_mode):
            raise DirectoryThere("is a directory", hint=OTHER_FILE)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("is no regular file", hint=OTHER_FILE)
        if status.st_size > MAX_RESULT:
            raise Unusable(f"has more than {MAX_RESULT >> 20} MiB", hint=_TOO_LARGE)
        with root.open_file(path) as stream:
            return PatchedFile(stream.read(), stat.S_IMODE(status.st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IntegrityError as error:
        raise Unusable(_behind(root, path), hint=REAL_PATH) from error


def _behind(root: Root, path: str) -> str:
    """Which link a path leads through, and where to."""
    for above in parents(path):
        if stat.S_ISLNK(_mode(root, above)):
            return f"leads through {above}, a symlink to {root.readlink(above)!r}"
    return "is a path that cannot be used"


def _check_places(root: Root, files: Mapping[str, PatchedFile | None]) -> None:
    """No file may stand where a directory stays, nor lie below a file.

    Raises:
        Misfit: one would.
    """
    made = (path for path, found in files.items() if found is not None)
    taken = ((path, _place_taken(root, path, files)) for path in made)
    hint = "rebase the patch on this version"
    problems = [Problem(0, path, f"cannot be made: {why}", hint) for path, why in taken if why]
    if problems:
        raise Misfit(tuple(problems))


def _place_taken(root: Root, path: str, files: Mapping[str, PatchedFile | None]) -> str:
    if _is_directory(root, path) and any(files.get(inner, root) for inner in _below(root, path)):
        return "a directory with other files is there"
    for above in parents(path):
        if files.get(above) is not None or (above not in files and _is_other(root, above)):
            return f"{above} is no directory"
    return ""


def _mode(root: Root, path: str) -> int:
    """The mode of what is there; 0 where nothing is."""
    try:
        return root.lstat(path).st_mode
    except (OSError, IntegrityError):
        return 0


def _is_directory(root: Root, path: str) -> bool:
    return stat.S_ISDIR(_mode(root, path))


def _is_other(root: Root, path: str) -> bool:
    """Whether something is there that is no directory."""
    mode = _mode(root, path)
    return mode != 0 and not stat.S_ISDIR(mode)


def _below(root: Root, path: str) -> Iterator[str]:
    with root.inner(path) as inner:
        for name, status in inner.walk():
            if not stat.S_ISDIR(status.st_mode):
                yield f"{path}/{name}"


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes what a patch made: takes away first, so that a directory may become a file."""

    root: Root
    time: int
    owner: tuple[int, int] | None
    directories: set[str] = field(default_factory=set)

    def write(self, done: Applied) -> None:
        for path, found in done.files.items():
            self._remove(path, prune=found is None)
        for path, found in done.files.items():
            if found is not None:
                self._make(path, found)
        for path in sorted(self.directories, reverse=True):
            if _is_directory(self.root, path):
                self.root.utime(path, self.time)

    def _remove(self, path: str, *, prune: bool) -> None:
        """Take a file away, and with it the directories that it leaves empty, as git does."""
        self.directories.add(path.rpartition("/")[0])
        try:
            if _is_directory(self.root, path):
                return
            self.root.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        while prune and (path := path.rpartition("/")[0]):
            try:
                self.root.rmdir(path)
            except OSError:
                return
            self.directories.add(path.rpartition("/")[0])

    def _make(self, path: str, found: PatchedFile) -> None:
        root = self.root
        self._ensure(path.rpartition("/")[0])
        self._clear(path)
        if found.link:
            root.symlink(found.content.decode("utf-8", "surrogateescape"), path)
        else:
            with os.fdopen(root.create(path, found.mode), "wb") as stream:
                stream.write(found.content)
        self._own(path)
        root.utime(path, self.time)

    def _clear(self, path: str) -> None:
        """Remove the empty directories in a file's place (those of it that patches emptied)."""
        if _is_directory(self.root, path):
            with self.root.inner(path) as inner:
                below = [f"{path}/{name}" for name, _ in inner.walk()]
            for directory in (*reversed(below), path):
                self.root.rmdir(directory)

    def _ensure(self, path: str) -> None:
        if not path or _is_directory(self.root, path):
            return
        self._ensure(path.rpartition("/")[0])
        self.root.mkdir(path)
        self._own(path)
        self.directories.add(path)

    def _own(self, path: str) -> None:
        if self.owner is not None:
            self.root.chown(path, *self.owner)


def _refused(root: Root, wanted: PatchToApply, misfit: Misfit) -> Refused:
    patch = parse_canonical(wanted.canonical, "the patch")
    if misfit.already:
        files = patch.files
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        reason = f"is already applied: {files[0].new}{more} has its change"
        hint = "upstream has it: remove it from `patches:`"
        refused = Refused(f"the patch {wanted.name} {reason}", hint=hint)
        refused.already = patch
        return refused
    first, *others = misfit.problems
    missing = [problem.path for problem in misfit.problems if problem.missing]
    hint = (missing and _strip_hint(root, patch, wanted.strip, missing)) or first.hint
    details = tuple(map(str, misfit.problems)) if others else ()
    reason = f"the patch {wanted.name} does not apply: {first}"
    refused = Refused(reason, hint=hint, details=details)
    refused.paths = tuple(dict.fromkeys(problem.path for problem in misfit.problems))
    return refused


def _strip_hint(root: Root, patch: Patch, strip: int, missing: Sequence[str]) -> str:
    """The `strip` at which all files that a patch needs are there, or may be; else nothing."""
    made = {file.new for file in patch.files if file.action is not Action.CHANGE}
    needed = {file.old for file in patch.files if file.action is not Action.CREATE} - made
    needed = needed or set(missing)
    for more in range(1, 4):
        shorter = [path.split("/", more)[more:] for path in needed]
        if all(rest and _is_other(root, rest[0]) for rest in shorter):
            return f"say `strip: {strip + more}` for this patch: then its names fit"
    for there in [name for name, _ in root.walk() if name.endswith(f"/{missing[0]}")]:
        prefix = there.removesuffix(f"/{missing[0]}")
        less = strip - prefix.count("/") - 1
        near = prefix.count("/") < min(strip, 3)
        if near and all(_is_other(root, f"{prefix}/{path}") for path in missing):
            return f"{there} is there: if the patch's names begin so, say `strip: {less}` for it"
    return ""
