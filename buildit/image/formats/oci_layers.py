"""The layer blobs of an OCI layout: copied from the store, or merged and compressed anew.

Copies run in two threads beside the survey of the tree, which finds clashes. What only other ways
need (tars, codecs) is imported there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from buildit.digest import Digest
from buildit.image.budget import LAYER_BUDGET, group
from buildit.image.copying import BlobPath, copy_blob, open_blob, read_small
from buildit.image.crew import Crew
from buildit.image.survey import Survey, survey
from buildit.model.image import Layer
from buildit.model.tree import Entry
from buildit.store.checked import checked_stream

_COPIERS = 2
_DIRECTORIES = "directories, as the whole image has them"


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
) -> tuple[tuple[Written, ...], Survey]:
    """Write the blobs of an image's layers; returns them bottom first, and what is known of the
    merged tree.

    Raises:
        RecipeError: layers clash.
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the directory cannot be written.
    """
    # One layer is kept free for the directories.
    groups = group([layer.size for layer in layers], max(1, budget - 1))
    parts = [tuple(layers[numbers.start : numbers.stop]) for numbers in groups]
    # The same layers twice are one blob.
    once = {tuple(layer.diff_id for layer in part): part for part in parts}
    works = [partial(_write, part, number, blobs) for number, part in enumerate(once.values())]
    with Crew(works, _COPIERS) as crew:
        listings = [read_small(blobs.store, each.contents, each.title) for each in layers]
        found = survey(layers, listings, epoch, groups)
        written = dict(zip(once, crew.results(), strict=True))
    named = [
        replace(
            written[tuple(layer.diff_id for layer in part)],
            title=", ".join(layer.title for layer in part),
        )
        for part in parts
    ]
    return (*named, _write_directories(found.restated, epoch, blobs)), found


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
    from buildit.archive.compress import compress_layer

    descriptor = open_blob(blobs.store, layer.diff_id, layer.size, layer.title)
    with checked_stream(open(descriptor, "rb"), layer.diff_id, lambda: None) as source:
        unnamed = blobs.directory / f"layer-{number}"
        digest, size = compress_layer(source, layer.diff_id, blobs.codec, unnamed)
    return _named(unnamed, Written(layer.diff_id, digest, size, layer.title))


def _write_merged(layers: Sequence[Layer], unnamed: Path, blobs: Blobs) -> Written:
    from buildit.image.layertar import write_merged

    diff_id, size = write_merged(layers, blobs.store, unnamed)
    return _settled(unnamed, Written(diff_id, diff_id, size, ""), blobs)


def _write_directories(entries: Sequence[Entry], epoch: int, blobs: Blobs) -> Written:
    """The uppermost layer: `/` itself, which no other layer has, and what is to be restated."""
    from buildit.image.layertar import write_directories

    unnamed = blobs.directory / "directories"
    diff_id, size = write_directories(entries, epoch, unnamed)
    return _settled(unnamed, Written(diff_id, diff_id, size, _DIRECTORIES), blobs)


def _settled(unnamed: Path, layer: Written, blobs: Blobs) -> Written:
    """A freshly written tar in its final form and under its name."""
    if blobs.codec == "none":
        unnamed.chmod(0o644)
        return _named(unnamed, layer)
    from buildit.archive.compress import compress_layer

    squeezed = unnamed.with_name(f"{unnamed.name}-{blobs.codec}")
    with unnamed.open("rb") as source:
        digest, size = compress_layer(source, layer.diff_id, blobs.codec, squeezed)
    unnamed.unlink()
    return _named(squeezed, replace(layer, digest=digest, size=size))


def _named(unnamed: Path, layer: Written) -> Written:
    unnamed.replace(unnamed.with_name(layer.digest))
    return layer
