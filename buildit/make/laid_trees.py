"""Layers as the trees that an overlay takes: with owners, deletions as the kernel marks them."""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import replace
from functools import partial
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.contents import parse_contents
from buildit.archive.tar.read import read_tar
from buildit.archive.unpack import AnyMembers, Writer
from buildit.digest import Digest, canonical, digest_bytes
from buildit.errors import UsageError
from buildit.image.merge import LayerChange, directories_above
from buildit.image.reading import FOREIGN
from buildit.make.difference import OPAQUE, OVERLAY
from buildit.model.tree import Entry
from buildit.sandbox.spaces import IdMap, in_namespace
from buildit.store.cas import Store
from buildit.store.trees import boot

WHOLE, HIDING = b"whole\n", b"hiding\n"
"""Beside a tree; the second where nothing below it is to be seen, which no overlay looks for at its
top."""


def laid_name(digest: Digest, ids: IdMap) -> str:
    """What a tree is called that belongs to these ids, for one boot of the machine."""
    # files that are not synced count for one boot of the machine
    who = canonical([boot().decode(), *map(list, ids.uids), *map(list, ids.gids)])
    return f"{digest[:48]}-{digest_bytes(who)[:12]}"


def lay_layer(ids: IdMap, store: Store, diff_id: Digest, work: Path) -> bytes:
    """Lay `tree` in a directory: a layer of the store; what is kept beside it.

    Raises:
        StoreError, CorruptBlob, UsageError: it cannot be read, or has owners beyond the ids.
    """
    with store.seekable(diff_id) as stream:
        name = f"the layer {diff_id[:12]}"
        # It may be a base's, as somebody else wrote it; its devices were left out with a word.
        return lay_members(ids, name, read_tar(stream, FOREIGN, name, nodes=lambda _: None), work)


def lay_directories(ids: IdMap, listing: bytes, work: Path) -> bytes:
    """As `lay_layer`: the directories of a listing (`archive.contents`). Raises as it."""
    return lay_members(ids, "directories", [(one, None) for one in parse_contents(listing)], work)


def lay_members(ids: IdMap, name: str, members: AnyMembers, work: Path) -> bytes:
    """As `lay_layer`, of members: deletions as the kernel marks them. Raises as it."""
    tree = work / "tree"
    tree.mkdir(0o755)
    tree.chmod(0o755)
    if ids.become is not None:
        os.chown(tree, *ids.become)
    in_namespace(ids, partial(_write, members, ids, name), work)
    return HIDING if OPAQUE in os.listxattr(tree) else WHOLE


def _write(members: AnyMembers, ids: IdMap, name: str) -> None:
    deleted: set[str] = set()
    opaque: set[str] = set()
    with Root.open(Path("tree")) as into:
        writer = Writer(into, None, name, exact=True)
        for entry, content in members:
            change = LayerChange.of((entry,))
            deleted.update(change.deleted)
            opaque.update(change.opaque)
            if change.entries:
                writer.write(_owned(entry, ids, name), content)
        _mark_deletions(into, writer, deleted, opaque)
        writer.finish()


def _mark_deletions(into: Root, writer: Writer, deleted: set[str], opaque: set[str]) -> None:
    """Deletions are of what lies below, wherever in the layer they stand: what it has itself at the
    same path stays (image-spec layer.md, "Whiteouts")."""
    hidden = deleted | opaque
    for path in sorted(hidden):
        if path and not hidden.isdisjoint({"", *directories_above([path])}):
            continue  # all of that is hidden
        if path in opaque:
            writer.ensure(path)
            into.mark(path, OPAQUE, b"y")
            continue
        writer.ensure(posixpath.dirname(path))
        try:
            there = into.lstat(path)
        except FileNotFoundError:
            into.whiteout(path)
            continue
        if stat.S_ISDIR(there.st_mode):
            into.mark(path, OPAQUE, b"y")


def _owned(entry: Entry, ids: IdMap, name: str) -> Entry:
    """An entry as it can be laid down: what an overlay goes by is never an archive's to say."""
    xattrs = {key: value for key, value in entry.xattrs.items() if not key.startswith(OVERLAY)}
    if not ids.several():
        return replace(entry, uid=0, gid=0, xattrs=xattrs)
    if not ids.has(entry.uid, entry.gid):
        message = f"/{entry.path} of {name} belongs to {entry.uid}:{entry.gid}, beyond the range "
        raise UsageError(f"{message}of ids here", hint="see /etc/subuid and /etc/subgid")
    return replace(entry, xattrs=xattrs)
