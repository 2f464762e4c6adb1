"""The layer blobs of an OCI layout: copied from the store, or merged and compressed anew.

Copies run in two threads beside the merging of the tree, which finds clashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.tarwrite import TarWriter, hashing_writer
from buildit.digest import Digest
from buildit.image.budget import LAYER_BUDGET, group
from buildit.image.compress import compress_layer
from buildit.image.copying import BlobPath, copy_blob, open_blob
from buildit.image.layertar import add_member, contents_of, read_listing
from buildit.image.rootfs import Rootfs, merge, merge_group
from buildit.model.image import Layer

_COPIERS = 2
_GENERATED = "directories that no package brings"


@dataclass(frozen=True, slots=True)
class Written:
    """One emitted layer: the digest of its tar, and of the blob that holds it, compressed or not.

    `size` is the blob's, in bytes. `title` names the packages and steps in it.
    """

    diff_id: Digest
    digest: Digest
    size: int
    title: str


@dataclass(frozen=True, slots=True)
class Blobs:
    """Where layers come from, the directory they go to, and how they lie there.

    `codec` is none, gzip or zstd.
    """

    store: BlobPath
    directory: Path
    codec: str


def write_layers(
    layers: Sequence[Layer], epoch: int, blobs: Blobs, budget: int = LAYER_BUDGET
) -> tuple[tuple[Written, ...], Rootfs]:
    """Write the blobs of an image's layers; returns them bottom first, and the merged tree.

    Raises:
        RecipeError: layers clash.
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the directory cannot be written.
    """
    # One layer is kept free for directories that some path needs and no package brings.
    groups = group([layer.size for layer in layers], max(1, budget - 1))
    jobs: dict[tuple[Digest, ...], Future[Written]] = {}
    with ThreadPoolExecutor(_COPIERS, "layer") as pool:
        try:
            for numbers in groups:
                members = layers[numbers.start : numbers.stop]
                name = tuple(layer.diff_id for layer in members)
                if name not in jobs:
                    jobs[name] = pool.submit(_write, members, len(jobs), blobs)
            rootfs = merge(layers, [read_listing(layer, blobs.store) for layer in layers], epoch)
            written = [*_write_generated(rootfs, blobs)]
            for numbers in groups:
                members = layers[numbers.start : numbers.stop]
                layer = jobs[tuple(layer.diff_id for layer in members)].result()
                written.append(replace(layer, title=", ".join(each.title for each in members)))
        finally:
            pool.shutdown(cancel_futures=True)
    return tuple(written), rootfs


def _write(layers: Sequence[Layer], number: int, blobs: Blobs) -> Written:
    if len(layers) > 1:
        return _write_merged(layers, blobs.directory / f"merged-{number}", blobs)
    layer = layers[0]
    if blobs.codec == "none":
        target = blobs.directory / layer.diff_id
        copy_blob(blobs.store, layer.diff_id, layer.size, layer.title, target)
        return Written(layer.diff_id, layer.diff_id, layer.size, layer.title)
    for encoding in layer.encodings:
        if encoding.codec == blobs.codec and blobs.store(encoding.digest).exists():
            target = blobs.directory / encoding.digest
            copy_blob(blobs.store, encoding.digest, encoding.size, layer.title, target)
            return Written(layer.diff_id, encoding.digest, encoding.size, layer.title)
    descriptor = open_blob(blobs.store, layer.diff_id, layer.size, layer.title)
    with open(descriptor, "rb") as source:
        partial = blobs.directory / f"layer-{number}"
        digest, size = compress_layer(source, layer.diff_id, blobs.codec, partial)
    return _named(partial, Written(layer.diff_id, digest, size, layer.title))


def _write_merged(layers: Sequence[Layer], partial: Path, blobs: Blobs) -> Written:
    listings = [read_listing(layer, blobs.store) for layer in layers]
    contents = contents_of(layers, listings, blobs.store)
    rootfs = merge_group(layers, listings)
    with partial.open("xb") as out, closing(hashing_writer(out)) as hashing:
        tar = TarWriter(hashing)
        for member in rootfs.members:
            add_member(tar, member.entry, member, contents)
        tar.finish()
        diff_id, size = hashing.digest(), hashing.size
    return _settled(partial, Written(diff_id, diff_id, size, ""), blobs)


def _write_generated(rootfs: Rootfs, blobs: Blobs) -> tuple[Written, ...]:
    entries = rootfs.generated()
    if not entries:
        return ()
    partial = blobs.directory / "generated"
    with partial.open("xb") as out, closing(hashing_writer(out)) as hashing:
        tar = TarWriter(hashing)
        for entry in entries:
            tar.add(entry)
        tar.finish()
        diff_id, size = hashing.digest(), hashing.size
    return (_settled(partial, Written(diff_id, diff_id, size, _GENERATED), blobs),)


def _settled(partial: Path, layer: Written, blobs: Blobs) -> Written:
    """A freshly written tar in its final form and under its name."""
    if blobs.codec == "none":
        partial.chmod(0o644)
        return _named(partial, layer)
    squeezed = partial.with_name(f"{partial.name}-{blobs.codec}")
    with partial.open("rb") as source:
        digest, size = compress_layer(source, layer.diff_id, blobs.codec, squeezed)
    partial.unlink()
    return _named(squeezed, replace(layer, digest=digest, size=size))


def _named(partial: Path, layer: Written) -> Written:
    partial.replace(partial.with_name(layer.digest))
    return layer
