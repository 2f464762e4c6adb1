"""What enters keys from outside of recipes: the lock's pins, and a package's own files.

The locked answer (toolchains, further .debs, patches at URLs) is taken wherever there is one; the
network is asked only for what is new or may move (`buildit lock --update`). Answers are values,
which the lock is then written from. Patches in canonical form, `files/` and OpenPGP keys go into
the store; their paths come from recipes, so each is opened beneath the directory of the file that
names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.commands.choose import Choice
from buildit.commands.run import Downloads
from buildit.commands.sources import pin_commit, pin_directory
from buildit.debian.fixups import toolchain_identity
from buildit.digest import CHUNK, Digest, canonical, digest_bytes
from buildit.errors import FetchError, IntegrityError, RecipeError, UnsatisfiableError
from buildit.model.plan import DebRef, Toolchain
from buildit.model.sources import SourceRef
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch
from buildit.plan.evaluate import Evaluated, WantedPatch
from buildit.plan.identity import FileInput
from buildit.plan.tasks import LocalInputs, Pinned
from buildit.recipe.package import GitSpec, PathSpec
from buildit.recipe.yaml.node import shown_place
from buildit.store.cas import Store

LARGEST_INPUT = 64 << 20
"""The largest patch, key or file of a package's own."""

_FILES = "files"

EMULATOR = "emulator"
"""Who asks for the emulator's .deb in the lock."""

EMULATOR_DEBS = ("qemu-user-static", "qemu-user")
"""Its package, and the one that has its programs where it is empty."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The .debs that one request comes to. `request` is the digest of what was asked; `dates` are
    those of the indices that were read for it, by suite."""

    request: Digest
    debs: tuple[DebRef, ...]
    dates: Mapping[str, str] = field(default_factory=dict)


def pin_debs(choice: Choice, downloads: Downloads) -> tuple[Pinned, Mapping[str, Answer]]:
    """The exact .debs of the toolchain, and those of further Debian packages with all of their
    Depends; and each answer by who asked, for the lock. Where the container has no package, the
    toolchain is empty: nothing asks for it, so that no index is read.

    Raises:
        FetchError, IntegrityError, UnsatisfiableError: they had to be chosen and could not be.
    """
    name, debian = choice.toolchain, choice.chroot.debian
    run = {deb: tuple(names) for deb, names in debian.run.items()}
    if not _has_packages(choice):
        return Pinned(Toolchain(name, str(choice.target), toolchain_identity(()), (), run), {}), {}
    request = request_digest((*debian.suites, "", *debian.packages))
    locked = locked_answer(choice, name, request)
    answer = _answer(choice, downloads, request, locked, debian.packages, debian.suites)
    identity = toolchain_identity(answer.debs)
    toolchain = Toolchain(name, str(choice.target), identity, answer.debs, run)
    answers = {name: answer}
    known = {deb.name: deb for deb in toolchain.debs}
    for wanted, (in_image, place) in _wanted_debs(choice, known).items():
        asker = f"debian:{wanted}"
        how = "run" if in_image else "depends"
        request = request_digest((wanted, how, "", *sorted(known)))
        locked = locked_answer(choice, asker, request)
        # Not where the toolchain has moved on to other versions.
        if locked is not None and any(known.get(deb.name, deb) != deb for deb in locked):
            locked = None
        try:
            answer = _answer(
                choice, downloads, request, locked, (wanted,), debian.suites, in_image=in_image
            )
        except UnsatisfiableError as error:
            error.place = place
            raise
        # Those that the toolchain has as it has them.
        debs = tuple(known.get(deb.name, deb) for deb in answer.debs)
        answers[asker] = replace(answer, debs=debs)
    debs_of = {asker: answer.debs for asker, answer in answers.items() if asker != name}
    if choice.emulates:
        answers[EMULATOR] = _emulator(choice, downloads)
    emulator = answers[EMULATOR].debs if choice.emulates else ()
    return Pinned(toolchain, debs_of, emulator), answers


def _has_packages(choice: Choice) -> bool:
    return bool(choice.selection.chosen or choice.roots.debs or choice.roots.sources)


def _emulator(choice: Choice, downloads: Downloads) -> Answer:
    """The .deb with the emulator for the programs of the platform, of the toolchain's suites and of
    this machine's architecture: nothing of the machine itself runs in a build.

    In Debian 13 qemu-user-static is an empty package that depends on qemu-user, which is static.
    """
    suites, arch = choice.chroot.debian.suites, choice.here.debian
    request = request_digest((*suites, "", arch, *EMULATOR_DEBS))
    locked = locked_answer(choice, EMULATOR, request)
    if locked is not None:
        return Answer(request, locked)
    from buildit.debian.select import select

    with downloads.debian().open_indices(suites, arch) as indices:
        found = {deb.name: deb for deb in select(EMULATOR_DEBS[:1], indices)}
        chosen = next(found[name] for name in reversed(EMULATOR_DEBS) if name in found)
        return Answer(request, (chosen,), dict(indices.dates))


def _wanted_debs(choice: Choice, known: Mapping[str, DebRef]) -> Mapping[str, tuple[bool, str]]:
    """Each Debian package whose Depends are to be known, once: those beyond the toolchain, and
    those that an image takes with their Depends; whether only images take it, and where it is
    written first."""
    needed = (wanted for one in choice.selection.chosen.values() for wanted in one.wanted)
    debs = [one for one in needed if one.atom is None] + [*choice.roots.debs.values()]
    found: dict[str, tuple[bool, str]] = {}
    for one in debs:
        runs = one.role == "run"
        if (runs and one.depends) or one.debian.partition("=")[0] not in known:
            in_image, place = found.get(one.debian, (True, one.place))
            found[one.debian] = in_image and runs, place
    return found


def _answer(
    choice: Choice,
    downloads: Downloads,
    request: Digest,
    locked: tuple[DebRef, ...] | None,
    packages: tuple[str, ...],
    suites: tuple[str, ...],
    *,
    in_image: bool = False,
) -> Answer:
    """What is locked for a request, else what the indices have for it; for an image alone without
    what only maintainer scripts use."""
    if locked is not None:
        return Answer(request, locked)
    from buildit.debian.select import SCRIPTS_ONLY, select

    names = {text.partition("=")[0] for text in packages}
    ignoring = SCRIPTS_ONLY - names if in_image else ()
    with downloads.debian().open_indices(suites, choice.target.debian) as indices:
        return Answer(request, select(packages, indices, ignoring), dict(indices.dates))


def request_digest(request: tuple[str, ...]) -> Digest:
    return digest_bytes(canonical(list(request)))


def locked_answer(
    choice: Choice, asker: str, request: Digest, *, empty: bool = False
) -> tuple[DebRef, ...] | None:
    """The locked answer, where the same was asked and it may not move. One without rows, which
    somebody took out, is none, unless it may be `empty`."""
    section = choice.section
    if choice.options.moves("toolchain", asker) or section.requests.get(asker) != request:
        return None
    debs = section.debs.get(asker, ())
    return debs if debs or empty else None


def dates_of(choice: Choice, answers: Mapping[str, Answer]) -> Mapping[str, str]:
    """The dates of the indices that the .debs were chosen from, by suite."""
    suites = {deb.suite for answer in answers.values() for deb in answer.debs}
    dates = dict(choice.section.indices)
    for answer in answers.values():
        dates |= answer.dates
    return {suite: date for suite, date in dates.items() if suite in suites}


def _pin_patch(
    choice: Choice, downloads: Downloads, package: str, patch: WantedPatch
) -> tuple[Digest, Digest | None]:
    """The canonical digest of a patch at a URL, and that of its bytes where they were read.

    Raises:
        FetchError: it is not pinned and cannot be fetched.
        IntegrityError: its canonical form is not the pinned one.
        RecipeError: it is no patch.
    """
    for locked in choice.section.patches:
        if (locked.package, locked.name) != (package, patch.written):
            continue
        moves = choice.options.moves(package, patch.written)
        if patch.spec.sha256 not in (None, locked.canonical) or moves:
            break
        return locked.canonical, locked.raw
    if patch.spec.sha256 is not None:
        return patch.spec.sha256, None
    from buildit.remote.fetch import Fetch

    want = Fetch(patch.written.rpartition("/")[2] or patch.written, (patch.written,))
    try:
        digest = downloads.fetcher().fetch(want)
    except FetchError as error:
        message = f"the patch {patch.written} cannot be fetched"
        hint = "check its URL and the network; a local copy under patches/ needs neither"
        details = (error.message, *error.details)
        raise FetchError(message, place=patch.place, hint=hint, details=details) from error
    raw = downloads.store.read(digest)
    if len(raw) > LARGEST_INPUT:
        raise IntegrityError(f"{patch.written} has {len(raw)} bytes", place=patch.place)
    content = _canonical_patch(raw, patch.written, patch)
    return downloads.store.put_bytes(content), digest_bytes(raw)


# -- a package's own files


def local_inputs(
    choice: Choice, evaluated: Evaluated, downloads: Downloads
) -> tuple[LocalInputs, tuple[Path, ...]]:
    """The digests of a package's own files and patches, whose bytes the store has afterwards; and
    every path that was looked at.

    Raises:
        RecipeError: a path is missing, unsafe or not a file; a patch is malformed.
        IntegrityError: a patch is not the one that its `sha256` pins.
        FetchError: a patch at a URL is not pinned and cannot be fetched.
    """
    store = downloads.store
    patches, looked = local_patches(choice, evaluated.package.name, evaluated.patches, downloads)
    keys: list[tuple[Digest, ...]] = []
    pinned: dict[int, SourceRef] = {}
    for number, source in enumerate(evaluated.sources):
        spec, directory = source.spec, Path(source.declared_in).parent
        if isinstance(spec, GitSpec):
            pinned[number] = pin_commit(
                choice, downloads, evaluated.package.name, source.place, spec
            )
            keys.append(())
            continue
        if isinstance(spec, PathSpec):
            pinned[number], walked = pin_directory(choice, downloads.store, source, spec)
            looked += walked
            keys.append(())
            continue
        named = spec.signature.keys_ if spec.signature else ()
        looked += [directory / key for key in named]
        keys.append(tuple(store.put_bytes(_read(directory, key, source.place)) for key in named))
    files, walked = _files(evaluated.package.directories, store)
    return LocalInputs(patches, files, tuple(keys), pinned), (*looked, *walked)


def local_patches(
    choice: Choice, package: str, wanted: Iterable[WantedPatch], downloads: Downloads
) -> tuple[tuple[tuple[Digest, Digest | None], ...], list[Path]]:
    """The canonical digest of each patch, and that of the bytes that were read of a URL; and the
    paths that were looked at.

    Raises:
        RecipeError, IntegrityError, FetchError: as `local_inputs`.
    """
    looked: list[Path] = []
    patches: list[tuple[Digest, Digest | None]] = []
    for patch in wanted:
        if "://" in patch.written:
            patches.append(_pin_patch(choice, downloads, package, patch))
            continue
        directory = Path(patch.declared_in).parent
        path = directory / patch.written
        looked.append(path)
        content = _canonical_patch(
            _read(directory, patch.written, patch.place), shown_place(path), patch
        )
        patches.append((downloads.store.put_bytes(content), None))
    return tuple(patches), looked


def _read(directory: Path, path: str, place: str) -> bytes:
    """The bytes of a regular file beneath `directory`."""
    try:
        with Root.open(directory) as root:
            fd = root.open_read(os.path.normpath(path))
        with os.fdopen(fd, "rb") as stream:
            data = stream.read(LARGEST_INPUT + 1)
    except IntegrityError as error:
        hint = "name a regular file beneath the directory of this file"
        message = f"{path!r} cannot be used: {error.message}"
        raise RecipeError(message, place=place, hint=hint) from error
    except OSError as error:
        message, hint = f"{path!r} cannot be read: {error.strerror}", "it is looked for in "
        raise RecipeError(message, place=place, hint=hint + shown_place(directory)) from error
    if len(data) > LARGEST_INPUT:
        raise RecipeError(f"{path!r} has more than {LARGEST_INPUT >> 20} MiB", place=place)
    return data


def _files(directories: tuple[str, ...], store: Store) -> tuple[tuple[FileInput, ...], list[Path]]:
    """`files/` of the chain, laid over each other, base first; and the paths looked at."""
    found: dict[str, FileInput] = {}
    looked: list[Path] = []
    for directory in directories:
        root = Path(directory) / _FILES
        looked.append(root)
        if not os.path.lexists(root):
            continue
        try:
            for path, file in _tree(root, store):
                looked.append(path)
                if file is not None:
                    found[file.path] = file
        except (IntegrityError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            message = f"the package's files/ cannot be read: {reason}"
            hint = "make it a directory of regular files that may be read"
            raise RecipeError(message, place=shown_place(root), hint=hint) from error
    return tuple(found[path] for path in sorted(found)), looked


def _tree(directory: Path, store: Store) -> Iterator[tuple[Path, FileInput | None]]:
    """Everything below `directory`; None for a directory."""
    if directory.is_symlink():
        # What it leads to is not beside the recipe, and a clone would not have it.
        message, hint = "files/ is a link", "make it a directory"
        raise RecipeError(message, place=shown_place(directory), hint=hint)
    with Root.open(directory) as root:
        for path, status in root.walk():
            if stat.S_ISDIR(status.st_mode):
                yield directory / path, None
                continue
            if not stat.S_ISREG(status.st_mode):
                message, place = "a package's files/ holds regular files only", directory / path
                hint = "make links and other nodes in the install step"
                raise RecipeError(message, place=shown_place(place), hint=hint)
            digest = _keep_file(store, root, path)
            yield directory / path, FileInput(path, bool(status.st_mode & 0o100), digest)


def _keep_file(store: Store, root: Root, path: str) -> Digest:
    """Put a regular file beneath `root` into the store."""
    with os.fdopen(root.open_read(path), "rb") as source:
        content = source.read(CHUNK)
        rest = source.read(1)
        if not rest:
            return store.put_bytes(content)
        with store.ingest() as sink:
            sink.write(content + rest)
            while chunk := source.read(CHUNK):
                sink.write(chunk)
            return sink.commit()


def _canonical_patch(data: bytes, name: str, patch: WantedPatch) -> bytes:
    """The canonical form of a patch, checked against the digest that the recipe pins.

    Raises:
        RecipeError: it is malformed.
        IntegrityError: its canonical form has another digest.
    """
    content = canonical_bytes(parse_patch(data, name, strip=patch.spec.strip))
    got = digest_bytes(content)
    if patch.spec.sha256 is not None and got != patch.spec.sha256:
        message = f"{patch.written} is not the patch that was pinned"
        hint = f"if you trust it, write sha256: {got}"
        details = (f"expected canonical sha256:{patch.spec.sha256}", f"got sha256:{got}")
        raise IntegrityError(message, place=patch.place, hint=hint, details=details)
    return content
