"""The merged tree alone, as one tar: for a chroot, `lxc`, `docker import`, a virtual machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from buildit.archive.compress import compress_layer
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, oci_digest
from buildit.image import rules
from buildit.image.formats import oci
from buildit.image.formats.table import Document, Format, LayerBlob, Plan
from buildit.image.layertar import add_members, write_tree
from buildit.image.merge import Rootfs
from buildit.image.output import BlobPath
from buildit.model.image import Emission, Image


def check_tree_only(image: Image) -> Document:
    """A tree has no document.

    Raises:
        RecipeError: the user wrote one.
    """
    rules.no_content(image, "a tree of files")
    return {}


def without_app(image: Image) -> Iterator[str]:
    if image.app is not None:
        yield f"the {image.format} image holds no `app`: who starts it says which program"


def no_documents(_: Image, _document: Document, _layers: Sequence[LayerBlob] = ()) -> Plan:
    return Plan({})


def write_rootfs(rootfs: Rootfs, epoch: int, blob: BlobPath, target: Path) -> tuple[Digest, int]:
    """Write the plain tar of a tree, its root first, as a new file; its digest and size in bytes.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the file cannot be written.
    """

    def fill(tar: TarWriter) -> None:
        tar.add_root(0o755, epoch)
        add_members(tar, rootfs, blob)

    return write_tree(target, fill)


def _write(image: Image, _: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path) -> Emission:
    """Write the file.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the file cannot be written.
    """
    codec = ROOTFS.codec(image)
    plain = fresh if codec == "none" else fresh.with_name("plain")
    digest, _size = write_rootfs(rootfs, image.epoch, blob, plain)
    identifier = oci_digest(digest)
    if codec != "none":
        with plain.open("rb") as source:
            digest, _size = compress_layer(source, digest, codec, fresh)
    fresh.chmod(0o644)  # whatever the umask
    return Emission(fresh, image.format, digest, identifier, rootfs.notices)


ROOTFS = Format(
    name="rootfs",
    title="a root file system",
    codecs=("none", "gzip", "zstd"),
    spelling=oci.spelling,
    check=check_tree_only,
    plan=no_documents,
    write=_write,
    unspoken=without_app,
    stem=rules.file_reference,
    suffix="rootfs.tar",
    endings={"gzip": ".gz", "zstd": ".zst"},
)
