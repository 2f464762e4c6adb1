"""ACI files: one image as a tar, and one that is split into an image for each package and its own.

A package's image depends on nothing but its layer: its bytes, and so its image ID, are the same in
every container that has the package.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildit.archive.compress import GzipWriter
from buildit.archive.streams import Writable, write_all
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, canonical
from buildit.errors import RecipeError
from buildit.image import rules
from buildit.image.formats.table import output_name
from buildit.image.layertar import add_members
from buildit.image.merge import Rootfs
from buildit.image.output import BlobPath
from buildit.image.rendering import cut
from buildit.model.image import Image, Layer
from buildit.model.tree import YEAR_1980, Entry, Kind

AC_VERSION = "0.8.11"


@dataclass(frozen=True, slots=True)
class AciFile:
    """What was written: the digest of the file, and the image ID (appc spec types.md)."""

    digest: Digest
    image_id: str


def write_aci(
    path: Path, manifest: Mapping[str, Any], rootfs: Rootfs, blob: BlobPath, epoch: int, codec: str
) -> AciFile:
    """Write an ACI as a new file; `epoch` is the time of what no layer brings, `codec` is `gzip` or
    `none`.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the file cannot be written.
    """
    with path.open("xb") as file:
        stored = _Hashing(file, hashlib.sha256())
        with nullcontext(stored) if codec == "none" else GzipWriter(stored) as packed:
            plain = _Hashing(packed, hashlib.sha512())
            tar = TarWriter(plain)
            content = canonical(manifest)
            head = Entry("manifest", Kind.FILE, 0o644, mtime=epoch, size=len(content))
            tar.add_file(head, io.BytesIO(content))
            tar.add(Entry("rootfs", Kind.DIRECTORY, 0o755, mtime=epoch))
            add_members(tar, rootfs, blob, "rootfs/")
            tar.finish()
        os.fchmod(file.fileno(), 0o644)  # whatever the umask
    return AciFile(Digest(stored.hash.hexdigest()), f"sha512-{plain.hash.hexdigest()}")


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


def named_values(members: Mapping[str, str]) -> list[dict[str, str]]:
    """Labels, annotations and variables as App Container writes them."""
    return [{"name": name, "value": value} for name, value in members.items()]


def platform_labels(image: Image) -> dict[str, str]:
    """Labels `os` and `arch`; none for a machine that App Container has no name for."""
    spelling = rules.machine(image).appc
    return {"os": image.os, "arch": spelling} if spelling is not None else {}


def image_name(layer: Layer) -> str:
    """The image name of a package's layer: `www-servers/nginx`, `debian/libc6`."""
    return rules.ac_identifier(layer.name.replace(":", "/"))


def package_manifest(image: Image, layer: Layer, epoch: int) -> dict[str, Any]:
    """The manifest of a package's image; of the container it has the platform alone."""
    return {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": image_name(layer),
        "labels": named_values({"version": layer.version, **platform_labels(image)}),
        "annotations": named_values({"created": rules.rfc3339(epoch)}),
    }


def write_split(
    image: Image,
    manifest: Mapping[str, Any],
    rootfs: Rootfs,
    blob: BlobPath,
    codec: str,
    fresh: Path,
    parts: Path,
) -> AciFile:
    """Write an ACI for each package into the new directory `parts`, and the container's own, which
    depends on them, as the new file `fresh`.

    Raises:
        RecipeError: the packages cannot be laid over each other to the same tree, or two of them
            would have one file name.
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: a file cannot be written.
    """
    found = cut(rootfs, image.place)
    parts.mkdir()
    parts.chmod(0o755)  # whatever the umask
    dependencies: list[dict[str, Any]] = []
    titles: dict[str, str] = {}
    for number, tree in found.packages:
        layer = rootfs.layers[number]
        epoch = max((each.mtime for each in rootfs.listings[number]), default=YEAR_1980)
        one = package_manifest(image, layer, epoch)
        version = layer.version.replace(":", "_")  # an epoch's; no list of files can hold it
        name = output_name(replace(image, name=one["name"], version=version))
        if (other := titles.setdefault(name, layer.title)) != layer.title:
            message = f"{other} and {layer.title} would both be the file {name}"
            hint = "leave `split` out, or one of the two"
            raise RecipeError(message, place=image.place or None, hint=hint)
        written = write_aci(parts / name, one, tree, blob, epoch, codec)
        dependency = {"imageName": one["name"], "imageID": written.image_id}
        dependencies.append({**dependency, "labels": one["labels"]})
    whole = {**manifest, "dependencies": dependencies} if dependencies else manifest
    return write_aci(fresh, whole, found.own, blob, image.epoch, codec)
