"""Layers compressed on the way to a binhost, where that saves enough to be worth the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from buildit.archive.compress import compress_layer
from buildit.digest import Digest
from buildit.model.artifact import Artifact, Encoding, Output
from buildit.store.cas import Store

CODEC = "zstd"
LEAST = 4 << 10
"""Bytes of the smallest layer that is compressed."""
WORTH = 0.9
"""A compressed form travels where it has at most this part of the plain one's bytes."""
SAMPLE = 1 << 20


def pack(
    artifact: Artifact, store: Store, directory: Path
) -> tuple[Artifact, Mapping[Digest, Path]]:
    """The artifact with the zstd form of its layers, whose files are in `directory`.

    Raises:
        IntegrityError: a layer of the store is corrupt.
        OSError: the directory cannot be written.
    """
    files: dict[Digest, Path] = {}
    outputs: dict[str, Output] = {}
    for name, output in artifact.outputs.items():
        form = _encoded(output, store, directory, files)
        outputs[name] = replace(output, encodings=(form,)) if form else output
    return (replace(artifact, outputs=outputs) if files else artifact), files


def _encoded(
    output: Output, store: Store, directory: Path, files: dict[Digest, Path]
) -> Encoding | None:
    if output.size < LEAST or not _promising(output, store):
        return None
    path = directory / f"{output.diff_id}.{CODEC}"
    path.unlink(missing_ok=True)
    with store.checked(output.diff_id) as layer:
        digest, size = compress_layer(layer, output.diff_id, CODEC, path)
    if size > output.size * WORTH:
        path.unlink()
        return None
    files[digest] = path
    return Encoding(CODEC, digest, size)


def _promising(output: Output, store: Store) -> bool:
    """Whether a piece of a large layer, from its middle, shrinks; most of a build's do."""
    if output.size < 8 * SAMPLE:
        return True
    import zlib

    with store.open_blob(output.diff_id) as layer:
        layer.seek(output.size // 2)
        piece = layer.read(SAMPLE)
    return len(zlib.compress(piece, 1)) < len(piece) * WORTH
