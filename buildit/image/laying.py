"""A merged tree as files on the disk, with its owners, modes and attributes: what LXC and nspawn
run. Only root may give files away, so only root lays one down; an archive beside it has the tree
whoever builds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.unpack import Writer
from buildit.digest import CHUNK, Digest
from buildit.image.layertar import Contents
from buildit.image.merge import Rootfs
from buildit.image.output import UNPACKED, BlobPath
from buildit.model.tree import Entry, Kind
from buildit.store.disk import has_uid


def laid(
    rootfs: Rootfs, epoch: int, blob: BlobPath, image: Path, otherwise: str
) -> tuple[str, ...]:
    """Lay the tree of an image down in its directory, where this process may; `otherwise` is what
    else people are told.

    Raises:
        StoreError, IntegrityError, OSError: as `_lay`.
    """
    if not _may_own(rootfs):
        return (otherwise,)
    _lay(rootfs, epoch, blob, image / UNPACKED)
    return ()


def _may_own(rootfs: Rootfs) -> bool:
    """Whether this process may give files to all owners of a tree."""
    if os.geteuid() != 0:
        return False
    owners = {(member.entry.uid, member.entry.gid) for member in rootfs.tree.values()}
    maps = [Path(f"/proc/self/{one}_map").read_text("ascii") for one in ("uid", "gid")]
    return all(has_uid(maps[0], uid) and has_uid(maps[1], gid) for uid, gid in owners)


def _lay(rootfs: Rootfs, epoch: int, blob: BlobPath, target: Path) -> None:
    """Lay a tree down as a new directory, the bytes of files straight from the store's layers. The
    directory above it is closed to others: set-id programs of the tree are for nobody here.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged, or the disk is full.
        OSError: the directory cannot be made.
    """
    target.parent.chmod(0o700)
    target.mkdir()
    contents = Contents(rootfs, blob)
    with Root.open(target) as into:
        writer = Writer(into, None, str(target), exact=True)
        writer.write(Entry("", Kind.DIRECTORY, 0o755, mtime=epoch), None)
        for member in rootfs.members():
            if member.entry.kind is not Kind.FILE:
                writer.write(member.entry, None)
                continue
            with contents.checked(member) as content:
                writer.write(member.entry, content)
        writer.finish()


def unpacking(archive: str) -> str:
    """The line of shell that lays the tree of an archive down beside it, as root."""
    attributes = "--numeric-owner --xattrs --xattrs-include='*'"
    return f"mkdir {UNPACKED} && tar -C {UNPACKED} {attributes} -xpf {archive}"


def joined_digest(files: Iterable[Path]) -> Digest:
    """Of files behind each other. Raises OSError."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                whole.update(chunk)
    return Digest(whole.hexdigest())
