"""A package's own files into the store: patches in canonical form, `files/`, OpenPGP keys.

Paths come from recipes, so each is opened beneath the directory of the file that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.digest import CHUNK, Digest, digest_bytes
from buildit.errors import IntegrityError, RecipeError
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch
from buildit.plan.evaluate import Evaluated, WantedPatch
from buildit.plan.identity import FileInput
from buildit.plan.tasks import Gathered
from buildit.recipe.trees import shown
from buildit.store.cas import Store

MOST_BYTES = 64 << 20
"""The largest patch, key or file of a package's own."""

FILES = "files"

PinPatch = Callable[[str, WantedPatch], tuple[Digest, Digest | None]]
"""(package, patch at a URL) -> canonical digest, digest of the bytes fetched where known."""


def is_url(written: str) -> bool:
    return "://" in written


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Reads local inputs; everything read is noted in `consulted`, for the stamp."""

    store: Store
    pin_patch: PinPatch
    consulted: list[Path]

    def gather(self, evaluated: Evaluated) -> Gathered:
        """The digests of all local inputs of a package; afterwards the store has their bytes.

        Raises:
            RecipeError: a path is missing, unsafe or not a file; a patch is malformed.
            IntegrityError: a patch is not the one that its `sha256` pins.
        """
        name = evaluated.package.name
        patches = []
        for patch in evaluated.patches:
            if is_url(patch.written):
                patches.append(self.pin_patch(name, patch))
            else:
                patches.append((self._patch(patch), None))
        keys = []
        for source in evaluated.sources:
            signature = source.spec.signature
            named = signature.keys_ if signature else ()
            directory = Path(source.declared_in).parent
            keys.append(
                tuple(
                    self.store.put_bytes(self.read(directory, key, source.place)) for key in named
                )
            )
        return Gathered(tuple(patches), self._files(evaluated.package.directories), tuple(keys))

    def _patch(self, patch: WantedPatch) -> Digest:
        directory = Path(patch.declared_in).parent
        data = self.read(directory, patch.written, patch.place)
        name = shown(directory / patch.written)
        return self.store.put_bytes(canonical_patch(data, name, patch))

    def read(self, directory: Path, path: str, place: str) -> bytes:
        """The bytes of a regular file beneath `directory`."""
        self.consulted.append(directory / path)
        try:
            with Root.open(directory) as root:
                fd = root.open_read(os.path.normpath(path))
            with os.fdopen(fd, "rb") as stream:
                data = stream.read(MOST_BYTES + 1)
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
                hint=f"it is looked for in {shown(directory)}",
            ) from error
        if len(data) > MOST_BYTES:
            raise RecipeError(f"{path!r} has more than {MOST_BYTES >> 20} MiB", place=place)
        return data

    def _files(self, directories: tuple[str, ...]) -> tuple[FileInput, ...]:
        """`files/` of the chain, laid over each other, base first."""
        found: dict[str, FileInput] = {}
        for directory in directories:
            root = Path(directory) / FILES
            self.consulted.append(root)
            if not os.path.lexists(root):
                continue
            try:
                found |= {file.path: file for file in self._tree(root)}
            except (IntegrityError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error.message
                raise RecipeError(
                    f"the package's files/ cannot be read: {reason}",
                    place=shown(root),
                    hint="make it a directory of regular files that may be read",
                ) from error
        return tuple(found[path] for path in sorted(found))

    def _tree(self, directory: Path) -> Iterator[FileInput]:
        if directory.is_symlink():
            # What it leads to is not beside the recipe, and a clone would not have it.
            raise RecipeError(
                "files/ is a link", place=shown(directory), hint="make it a directory"
            )
        with Root.open(directory) as root:
            for path, status in root.walk():
                self.consulted.append(directory / path)
                if stat.S_ISDIR(status.st_mode):
                    continue
                place = shown(directory / path)
                if not stat.S_ISREG(status.st_mode):
                    raise RecipeError(
                        "a package's files/ holds regular files only",
                        place=place,
                        hint="make links and other nodes in the install step",
                    )
                digest = keep_file(self.store, root, path)
                yield FileInput(path, bool(status.st_mode & 0o100), digest)


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
