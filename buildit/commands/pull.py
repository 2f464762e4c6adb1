"""Images of a registry, read where they are, or written down as a layout with their digests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import IntegrityError
from buildit.events import Reporter, silent
from buildit.image import output
from buildit.image.reading import Reading
from buildit.image.verify import read_layout
from buildit.remote.registry.client import Registry
from buildit.remote.registry.images import (
    RemoteImage,
    bring,
    find_image,
    layout_documents,
    layout_of,
)
from buildit.remote.registry.reference import Reference
from buildit.store.cas import Store


@dataclass(frozen=True, slots=True)
class PulledImage:
    """What a pull did: `reference` names the image by its digest; `blobs` and `received` (bytes)
    count what the store did not have."""

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
    bring(image, registry, store, report)
    return read_layout("oci", layout_of(image, store))


def pull_image(
    registry: Registry, platform: str, store: Store, folder: Path, report: Reporter = silent
) -> PulledImage:
    """Bring an image of a registry into a directory of `folder`: an OCI layout of the very bytes
    that the registry has. What lay there is replaced, once all has come.

    Raises:
        LocationError, IntegrityError, StoreError: as `find_image` and `bring`.
    """
    image = find_image(registry, platform)
    blobs, received = bring(image, registry, store, report)
    shown = _platform(image, store)
    named = image.named
    mark = named.tag or str(image.descriptor["digest"]).removeprefix("sha256:")[:12]
    name = f"{named.name.rpartition('/')[2]}-{mark}-{shown.replace('/', '-')}.oci"
    with output.replacing_output(folder / name) as fresh:
        place = output.make_layout(fresh)
        for one in {one.digest: one for one in (image.config, *image.layers)}.values():
            output.copy_blob(store.path, one.digest, one.size, one.title, place / one.digest)
        output.write_documents(fresh, layout_documents(image))
    return PulledImage(folder / name, image.at, shown, blobs, received)


def _platform(image: RemoteImage, store: Store) -> str:
    """As its config says, in words that a file's name may have."""
    content = store.read(image.config.digest)
    try:
        config = json.loads(content)
        words = (str(config["os"]), str(config["architecture"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError("its config says no platform", place=str(image.at)) from error
    if not all(word.isalnum() and word.isascii() for word in words):
        raise IntegrityError(f"its config says a platform {words}", place=str(image.at))
    return "/".join(words)
