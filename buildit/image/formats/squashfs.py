"""The merged tree as a squashfs: a file that Linux mounts as it is."""

from __future__ import annotations

from pathlib import Path

from buildit.digest import digest_file, oci_digest
from buildit.image import rules
from buildit.image.formats import oci
from buildit.image.formats.rootfs import check_tree_only, no_documents, without_app
from buildit.image.formats.table import Document, Format
from buildit.image.layertar import Contents
from buildit.image.merge import Rootfs
from buildit.image.output import BlobPath
from buildit.image.squash.write import check_entries, write_squashfs
from buildit.model.image import Emission, Image


def _write(image: Image, _: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path) -> Emission:
    """Write the file.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the file cannot be written.
    """
    members = {member.entry.path: member for member in rootfs.members()}
    contents = Contents(rootfs, blob)

    with fresh.open("xb") as out:
        entries = [member.entry for member in members.values()]
        write_squashfs(
            entries,
            lambda entry: contents.checked(members[entry.path]),
            image.epoch,
            SQUASHFS.codec(image),
            out,
        )
    fresh.chmod(0o644)  # whatever the umask
    digest = digest_file(fresh)
    return Emission(fresh, image.format, digest, oci_digest(digest), rootfs.notices)


SQUASHFS = Format(
    name="squashfs",
    title="a squashfs",
    codecs=("zstd", "gzip", "xz", "none"),
    spelling=oci.spelling,
    check=check_tree_only,
    plan=no_documents,
    write=_write,
    unspoken=without_app,
    check_entries=check_entries,
    stem=rules.file_reference,
    command="mount -o loop,ro {file} /mnt",
)
