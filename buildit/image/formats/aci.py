"""Emit an image as an App Container image (appc spec aci.md): one tar, `manifest` first.

The merged tree is streamed from the layers of the store to the output; nothing is unpacked, and
memory does not grow with the image.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from buildit.archive.compress import GzipWriter
from buildit.archive.streams import Writable, write_all
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, canonical
from buildit.errors import RecipeError
from buildit.image.appspec import check_app, check_tree
from buildit.image.copying import BlobPath
from buildit.image.formats.aci_manifest import aci_manifest, directories, program
from buildit.image.layertar import Contents, add_member, contents_of, read_listing
from buildit.image.names import output_name
from buildit.image.replacing import replacing
from buildit.image.rootfs import Rootfs, merge
from buildit.model.image import Emission, Image
from buildit.model.tree import Entry, Kind

CODECS = ("gzip", "none")


def emit_aci(image: Image, blob: BlobPath, output: Path) -> Emission:
    """Write `NAME-VERSION-OS-ARCH.aci` into `output`, replacing what was there at once.

    Raises:
        RecipeError: the image, its app or its content breaks a rule, or layers clash.
        StoreError: a blob is missing, or the output cannot be written.
        IntegrityError: a blob is damaged.
    """
    check_aci(image)
    with replacing(output / output_name(image)) as fresh:
        written = write_aci(image, blob, fresh)
    return replace(written, path=output / output_name(image))


def check_aci(image: Image) -> dict[str, object]:
    """Refuse what can be told without the layers; returns the manifest.

    Raises:
        RecipeError: the image, its app or its content breaks a rule.
    """
    codec = image.compress or "gzip"
    if codec not in CODECS:
        raise RecipeError(
            f"an ACI cannot be compressed as {codec!r}: no App Container tool reads it",
            place=image.place or None,
            hint=f"`compress:` takes {', '.join(CODECS)}",
        )
    if image.app is not None:
        check_app(image.app, image.place)
    output_name(image)
    return aci_manifest(image)


def write_aci(image: Image, blob: BlobPath, fresh: Path) -> Emission:
    """Write the image to the path `fresh`, which does not exist yet.

    Raises:
        RecipeError, StoreError, IntegrityError, OSError: as `emit_aci`.
    """
    manifest = check_aci(image)
    listings = [read_listing(layer, blob) for layer in image.layers]
    rootfs = merge(image.layers, listings, image.epoch)
    check_tree(program(manifest), directories(manifest), rootfs.finder(), image.place)
    contents = contents_of(image.layers, listings, blob)
    codec = image.compress or "gzip"
    digest, image_id = _write(fresh, codec, canonical(manifest), image.epoch, rootfs, contents)
    return Emission(fresh, image.format, digest, image_id, rootfs.notices)


def _write(
    fresh: Path, codec: str, manifest: bytes, epoch: int, rootfs: Rootfs, contents: Contents
) -> tuple[Digest, str]:
    """Write the file; returns its digest and the image ID."""
    with fresh.open("xb") as file:
        stored = _Hashing(file, hashlib.sha256())
        with _compressing(stored, codec) as packed:
            plain = _Hashing(packed, hashlib.sha512())
            _write_tar(plain, manifest, epoch, rootfs, contents)
        os.fchmod(file.fileno(), 0o644)  # whatever the umask
    return Digest(stored.hash.hexdigest()), f"sha512-{plain.hash.hexdigest()}"


def _write_tar(
    out: Writable, manifest: bytes, epoch: int, rootfs: Rootfs, contents: Contents
) -> None:
    tar = TarWriter(out)
    head = Entry("manifest", Kind.FILE, 0o644, mtime=epoch, size=len(manifest))
    tar.add_file(head, io.BytesIO(manifest))
    tar.add(Entry("rootfs", Kind.DIRECTORY, 0o755, mtime=epoch))
    for member in rootfs.members:
        add_member(tar, _beneath_rootfs(member.entry), member, contents)
    tar.finish()


def _beneath_rootfs(entry: Entry) -> Entry:
    path = f"rootfs/{entry.path}"
    if entry.kind is Kind.HARDLINK:
        return replace(entry, path=path, target=f"rootfs/{entry.target}")
    return replace(entry, path=path)


@contextmanager
def _compressing(out: Writable, codec: str) -> Iterator[Writable]:
    if codec == "none":
        yield out
        return
    with GzipWriter(out) as writer:
        yield writer


class _Hashing:
    """Writes on while taking a digest of any algorithm; takes all bytes that it is given."""

    __slots__ = ("_out", "hash")

    def __init__(self, out: Writable, algorithm: hashlib._Hash) -> None:
        self._out = out
        self.hash = algorithm

    def write(self, chunk: bytes, /) -> int:
        self.hash.update(chunk)
        write_all(self._out, chunk)
        return len(chunk)
