"""Images that were emitted, brought to a registry (distribution-spec 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.archive.streams import run_all
from buildit.errors import IntegrityError, UsageError
from buildit.image.formats.table import Document
from buildit.image.layout import (
    Layout,
    blob_place,
    described_of,
    json_object,
    json_objects,
    opened_layout,
)
from buildit.image.rules import tag

if TYPE_CHECKING:
    from buildit.remote.registry.client import Registry
    from buildit.remote.registry.reference import Reference

_AT_ONCE = 4
"""Blobs that are sent at one time."""


@dataclass(frozen=True, slots=True)
class PushedImage:
    """What a push did: `reference` names the image by its digest, `sent` counts bytes, `blobs` what
    the registry did not have."""

    reference: Reference
    tag: str
    blobs: int
    sent: int


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size: int
    place: str


def push_image(path: Path, to: Reference, registry: Registry) -> PushedImage:
    """Send an OCI image, in a directory or an archive, to a repository: only the blobs that it
    lacks, then the manifest under its digest and its tag. Digests stay what they are.

    `to` has a tag, or the image's version becomes it.

    Raises:
        UsageError: `to` has a digest, or there is no image.
        IntegrityError: the image is not what it says, or the registry stores something else.
        FetchError: the registry cannot be talked to, or refuses.
    """
    if to.digest:
        hint = "name a tag; the digest follows from the image"
        raise UsageError("an image cannot be pushed to a digest", place=str(to), hint=hint)
    try:
        with opened_layout(path) as layout:
            described = described_of(layout)
            manifest = layout.blob(described, "manifest")
            blobs = _blobs(json_object(manifest, "manifest"))
            if layout.problems:
                raise IntegrityError(layout.problems[0])
            works = [partial(_brought, layout, blob, registry) for blob in blobs]
            sent = run_all(works, _AT_ONCE)
    except OSError as error:
        hint = "name an image of type oci or oci-archive"
        raise UsageError(f"cannot be read: {error.strerror}", place=str(path), hint=hint) from error
    except IntegrityError as error:
        error.place = error.place or str(path)
        raise
    digest, named = str(described["digest"]), to.tag or _tag(described)
    for target in (digest, named):
        registry.put_manifest(manifest, str(described["mediaType"]), target)
    new = [size for size in sent if size is not None]
    return PushedImage(to.by_digest(digest), named, len(new), sum(new))


def _blobs(manifest: Document) -> tuple[_Blob, ...]:
    """The config and the layers of a manifest, each once."""
    config = manifest.get("config")
    if not isinstance(config, dict):
        raise IntegrityError("the manifest names no image config")
    found: dict[str, _Blob] = {}
    for descriptor in (config, *json_objects(manifest, "layers", "manifest")):
        place, size = blob_place(descriptor, "blob"), descriptor.get("size")
        if type(size) is not int or size < 0:
            raise IntegrityError(f"the blob {descriptor['digest']} has no size")
        found[place] = _Blob(str(descriptor["digest"]), size, place)
    return tuple(found.values())


def _brought(layout: Layout, blob: _Blob, registry: Registry) -> int | None:
    """Bytes that were sent; None where the registry had the blob."""
    if registry.has_blob(blob.digest) is not None:
        return None
    registry.put_blob(blob.digest, blob.size, partial(layout.open, blob.place))
    return blob.size


def _tag(described: Document) -> str:
    annotations = described.get("annotations")
    name = (
        annotations.get("org.opencontainers.image.ref.name")
        if isinstance(annotations, dict)
        else ""
    )
    return tag(str(name).rpartition(":")[2]) if name else "latest"
