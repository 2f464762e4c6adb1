"""A package's own files into the store: patches in canonical form, `files/`, OpenPGP keys.

Paths come from recipes, so each is opened beneath the directory of the file that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.digest import CHUNK, Digest, digest_bytes
from buildit.errors import IntegrityError, RecipeError
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch
from buildit.plan.evaluate import Evaluated, WantedPatch
from buildit.plan.identity import FileInput
from buildit.plan.tasks import LocalInputs
from buildit.recipe.yaml.text import shown_place
from buildit.store.cas import Store

LARGEST_INPUT = 64 << 20
"""The largest patch, key or file of a package's own."""

_FILES = "files"

PinPatch = Callable[[str, WantedPatch], tuple[Digest, Digest | None]]
"""(package, patch at a URL) -> canonical digest, digest of the bytes fetched where known."""


def is_url(written: str) -> bool:
    return "://" in written


def local_inputs(
    evaluated: Evaluated, store: Store, pin_patch: PinPatch
) -> tuple[LocalInputs, tuple[Path, ...]]:
    """The digests of all local inputs of a package, whose bytes the store has afterwards; and
    every path that was looked at.

    Raises:
        RecipeError: a path is missing, unsafe or not a file; a patch is malformed.
        IntegrityError: a patch is not the one that its `sha256` pins.
    """
    name = evaluated.package.name
    looked: list[Path] = []
    patches: list[tuple[Digest, Digest | None]] = []
    for patch in evaluated.patches:
        if is_url(patch.written):
            patches.append(pin_patch(name, patch))
            continue
        path = Path(patch.declared_in).parent / patch.written
        looked.append(path)
        data = _read(Path(patch.declared_in).parent, patch.written, patch.place)
        patches.append((store.put_bytes(canonical_patch(data, shown_place(path), patch)), None))
    keys = []
    for source in evaluated.sources:
        directory = Path(source.declared_in).parent
        named = source.spec.signature.keys_ if source.spec.signature else ()
        looked += [directory / key for key in named]
        keys.append(tuple(store.put_bytes(_read(directory, key, source.place)) for key in named))
    files, walked = _files(evaluated.package.directories, store)
    return LocalInputs(tuple(patches), files, tuple(keys)), (*looked, *walked)


def _read(directory: Path, path: str, place: str) -> bytes:
    """The bytes of a regular file beneath `directory`."""
    try:
        with Root.open(directory) as root:
            fd = root.open_read(os.path.normpath(path))
        with os.fdopen(fd, "rb") as stream:
            data = stream.read(LARGEST_INPUT + 1)
    except IntegrityError as error:
        raise RecipeError(
            f"{path!r} cannot be used: {error.message}",
            place=place,
            hint="name a regular file beneath the directory of this file",
        ) from error
    except OSError as error:
        raise RecipeError(
            f"{path!r} cannot be read: {error.strerror}",
            place=place,
            hint=f"it is looked for in {shown_place(directory)}",
        ) from error
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
            raise RecipeError(
                f"the package's files/ cannot be read: {reason}",
                place=shown_place(root),
                hint="make it a directory of regular files that may be read",
            ) from error
    return tuple(found[path] for path in sorted(found)), looked


def _tree(directory: Path, store: Store) -> Iterator[tuple[Path, FileInput | None]]:
    """Everything below `directory`; None for a directory."""
    if directory.is_symlink():
        # What it leads to is not beside the recipe, and a clone would not have it.
        raise RecipeError(
            "files/ is a link", place=shown_place(directory), hint="make it a directory"
        )
    with Root.open(directory) as root:
        for path, status in root.walk():
            if stat.S_ISDIR(status.st_mode):
                yield directory / path, None
                continue
            if not stat.S_ISREG(status.st_mode):
                raise RecipeError(
                    "a package's files/ holds regular files only",
                    place=shown_place(directory / path),
                    hint="make links and other nodes in the install step",
                )
            digest = keep_file(store, root, path)
            yield directory / path, FileInput(path, bool(status.st_mode & 0o100), digest)


def keep_file(store: Store, root: Root, path: str) -> Digest:
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


def canonical_patch(data: bytes, name: str, patch: WantedPatch) -> bytes:
    """The canonical form of a patch, checked against the digest that the recipe pins.

    Raises:
        RecipeError: it is malformed.
        IntegrityError: its canonical form has another digest.
    """
    canonical = canonical_bytes(parse_patch(data, name, strip=patch.spec.strip))
    got = digest_bytes(canonical)
    if patch.spec.sha256 is not None and got != patch.spec.sha256:
        raise IntegrityError(
            f"{patch.written} is not the patch that was pinned",
            place=patch.place,
            hint=f"if you trust it, write sha256: {got}",
            details=(f"expected canonical sha256:{patch.spec.sha256}", f"got sha256:{got}"),
        )
    return canonical
