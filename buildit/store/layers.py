"""A tree packed into the store once: its layer, and the listing of what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from buildit.archive.contents import contents_blob
from buildit.archive.streams import Content
from buildit.archive.tar.write import write_tar
from buildit.digest import Digest
from buildit.model.tree import Entry
from buildit.store.blobs import Batch


@dataclass(frozen=True, slots=True)
class Packed:
    """`diff_id` and `size` (bytes) are of the layer's tar, `contents` is the blob of its listing.

    `entries` are those of the listing, files with their digests.
    """

    diff_id: Digest
    size: int
    contents: Digest
    entries: tuple[Entry, ...]


def put_layer(
    batch: Batch, entries: Iterable[Entry], content: Callable[[Entry], Content]
) -> Packed:
    """Write entries, in the order of layers, as one layer; `content` opens a file's bytes.

    Raises:
        StoreError: the store cannot be written.
        BuildError, IntegrityError, OSError: from `content`, or a file has other bytes than its
            entry says.
    """
    with batch.ingest() as sink:
        written = write_tar(entries, content, sink)
        diff_id, size = sink.commit(), sink.size
    return Packed(diff_id, size, batch.put_bytes(contents_blob(written)), written)
