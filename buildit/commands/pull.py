"""Images of a registry, read where they are, or written down as a layout with their digests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import Digest
from buildit.errors import IntegrityError, UsageError
from buildit.events import Reporter, silent
from buildit.image import output
from buildit.image.layout import named_of, opened_layout
from buildit.image.reading import Reading
from buildit.image.verify import read_layout
from buildit.remote.registry.client import Registry
from buildit.remote.registry.images import (
    RemoteImage,
    bring,
    bring_stored,
    find_image,
    layout_descriptor,
    layout_documents,
    layout_of,
)
from buildit.remote.registry.reference import Reference
from buildit.store.blobs import Pending, Sink
from buildit.store.cas import Store
from buildit.store.disk import token


@dataclass(frozen=True, slots=True)
class PulledImage:
    """What a pull did: `reference` names the image by its digest; `blobs` and `received` (bytes)
    count what came from there."""

    path: Path
    reference: Reference
    platform: str
    blobs: int
    received: int


def read_remote(
    registry: Registry, platform: str, store: Store, report: Reporter = silent
) -> Reading:
    """Read all of an image of a registry, through the store.

    Raises:
        LocationError, IntegrityError, StoreError: as `find_image` and `bring`.
    """
    image = find_image(registry, platform)
    bring_stored(image, registry, store, report)
    return read_layout("oci", layout_of(image, store))


def pull_image(
    registry: Registry, platform: str, store: Store, folder: Path, report: Reporter = silent
) -> PulledImage:
    """Bring an image of a registry into a directory of `folder`: an OCI layout of the very bytes
    that the registry has. What was pulled there by the same reference is replaced, once all has
    come.

    Raises:
        LocationError, IntegrityError, StoreError: as `find_image` and `bring`.
        UsageError: something else lies there.
    """
    image = find_image(registry, platform)
    named = image.named
    mark = named.tag or str(image.descriptor["digest"]).removeprefix("sha256:")[:12]
    name = f"{named.name.rpartition('/')[2]}-{mark}-{image.platform.replace('/', '-')}.oci"
    _check_place(folder / name, image)
    with output.replacing_output(folder / name) as fresh:
        place = _LayoutBlobs(output.make_layout(fresh), store)
        for one in image.blobs:
            if store.has(one.digest):
                target = place.folder / one.digest
                output.copy_blob(store.path, one.digest, one.size, one.title, target)
        blobs, received = bring(image, registry, place, report)
        output.write_documents(fresh, layout_documents(image))
    return PulledImage(folder / name, image.at, image.platform, blobs, received)


def _check_place(path: Path, image: RemoteImage) -> None:
    """Raises UsageError where there is what this pull has not put there: an image of another
    repository has the same name as one's own."""
    if not os.path.lexists(path):
        return
    try:
        with opened_layout(path) as layout:
            kept = named_of(layout)
    except (OSError, IntegrityError, UsageError):
        kept = {}
    pulled = layout_descriptor(image)
    if kept.get("digest") == pulled["digest"]:
        return
    if "annotations" in pulled and kept.get("annotations") == pulled["annotations"]:
        return  # the tag has moved
    message = f"something else lies there: it was not pulled from {image.named}"
    raise UsageError(message, place=str(path), hint="name another directory: --output DIR")


@dataclass(frozen=True, slots=True)
class _LayoutBlobs:
    """The blobs of a layout that is being written: each is written and hashed once."""

    folder: Path
    store: Store

    def has(self, digest: Digest) -> bool:
        return (self.folder / digest).exists()

    def ingest(self) -> Sink:
        return Sink(self.folder / token(), self.store.disk, self._deliver)

    def _deliver(self, blob: Pending) -> None:
        os.fchmod(blob.fd, 0o644)  # whatever the umask
        os.rename(blob.temporary, self.folder / blob.digest)
        blob.close()
