"""Put back an emitted OCI layout that somebody deleted, from the store and its own documents.

Nothing is decided anew: the layers are the store's blobs, everything else is small and was kept
word for word. Only the standard library and what copies blobs is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from buildit.archive.workers import run_all
from buildit.digest import Digest, is_hex64
from buildit.errors import IntegrityError
from buildit.image.copying import copy_blob
from buildit.image.replacing import replacing_output

LARGEST_DOCUMENT = 1 << 18
COPIERS = 2
_BLOBS = Path("blobs", "sha256")


def recipe(layout: Path, store_blobs: Path) -> dict[str, Any] | None:
    """What `restore` needs of a layout, as JSON data; None where the store lacks a blob of it.

    `store_blobs` is the directory of the store's blobs. Layers are told from documents by where
    they are: what the store has with the same size is copied from there.

    Raises:
        OSError: the layout cannot be read.
    """
    blobs: dict[str, int] = {}
    documents: dict[str, str] = {}
    for path in sorted(layout.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            return None
        if path.is_dir():
            continue
        size = path.stat().st_size
        if path.parent == layout / _BLOBS and _has(store_blobs / path.name, size):
            blobs[path.name] = size
        elif size <= LARGEST_DOCUMENT:
            try:
                documents[str(path.relative_to(layout))] = path.read_bytes().decode("ascii")
            except UnicodeError:  # all that this emitter writes itself is canonical JSON
                return None
        else:
            return None
    return {"blobs": blobs, "documents": documents} if blobs else None


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def make_layout(fresh: Path) -> Path:
    """Make the directories of a layout at a path that does not exist yet; that of its blobs.

    Raises:
        OSError: it cannot be made.
    """
    for made in (fresh, fresh / "blobs", fresh / _BLOBS):
        made.mkdir()
        made.chmod(0o755)  # whatever the umask
    return fresh / _BLOBS


def write_documents(fresh: Path, documents: Mapping[str, bytes]) -> None:
    """Write small files of a layout, by their path in it. Raises OSError."""
    for name, content in documents.items():
        path = fresh / name
        path.write_bytes(content)
        path.chmod(0o644)


def restore(layout: Path, kept: Mapping[str, Any], store_blobs: Path) -> None:
    """Make the layout again, as it was when `recipe` looked at it.

    Raises:
        StoreError: a blob is gone, or the output cannot be written.
        IntegrityError: a blob has other bytes, or `kept` names no part of a layout.
        KeyError, TypeError, AttributeError: `kept` is no recipe.
    """
    for name in (*kept["blobs"], *kept["documents"]):
        path = layout / name
        document = path.parent in (layout, layout / _BLOBS) and path.name not in ("", "..", ".")
        if not (document if name in kept["documents"] else is_hex64(name)):
            raise _strange(layout, name)
    with replacing_output(layout) as fresh:
        directory = make_layout(fresh)
        works = [
            partial(copy_blob, store_blobs.joinpath, Digest(name), size, name, directory / name)
            for name, size in kept["blobs"].items()
        ]
        texts = kept["documents"].items()
        write_documents(fresh, {name: text.encode("ascii") for name, text in texts})
        run_all(works, COPIERS)


def _strange(layout: Path, name: str) -> IntegrityError:
    return IntegrityError(
        f"{name!r} is no part of an OCI layout",
        place=str(layout),
        hint="the cache of runs is damaged: delete cache/stamps in the store",
    )
