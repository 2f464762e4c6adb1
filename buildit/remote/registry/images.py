"""Images of a registry: found by name, chosen for a platform, pinned by digest, and brought into
the store; every document and every blob is compared with the digest that names it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from buildit.archive.compress import decompressed
from buildit.archive.streams import run_all
from buildit.digest import CHUNK, Digest, canonical, digest_bytes, oci_digest
from buildit.errors import IntegrityError
from buildit.events import Fetching, Reporter, silent
from buildit.image.formats.oci import LAYOUT, LAYOUT_BLOBS
from buildit.image.layout import MANIFEST_TYPES, Layout, blob_place, json_object, json_objects
from buildit.image.reading import budget_of
from buildit.image.verify import CONFIGS, LAYERS, diff_ids_of
from buildit.model.platform import build_platform
from buildit.remote.fetch import ATTEMPTS, LARGEST_DOWNLOAD, Abort, retried
from buildit.remote.registry.client import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LARGEST_MANIFEST,
    Registry,
    advised,
)
from buildit.remote.registry.reference import Reference
from buildit.remote.transport import LocationError

if TYPE_CHECKING:
    from buildit.image.formats.table import Document
    from buildit.store.blobs import Sink
    from buildit.store.cas import Store

_DEEPEST = 4
"""How many indexes may lead to an image: one may name others (image-spec image-index.md)."""
_AT_ONCE = 4
"""Blobs that are received at one time."""
_LONGEST_PAUSE = 10.0
_TICK = 0.1
_SHOWN = 5
_READ_HINT = "try again, or ask whoever runs it"


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A config or a layer: what people call it, its digest, its size in bytes, its media type."""

    title: str
    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """The image of one platform in a registry.

    `named` is how it was asked for, `at` names it by the digest of its manifest, of which
    `descriptor` is the entry of an index, perhaps made here.
    """

    named: Reference
    at: Reference
    descriptor: Document
    manifest: bytes
    config: RemoteBlob
    layers: tuple[RemoteBlob, ...]
    platform: str = ""
    """As the config has it (`linux/amd64`), in words that a file's name may have."""

    @property
    def blobs(self) -> tuple[RemoteBlob, ...]:
        """The config and the layers, each once."""
        return tuple({one.digest: one for one in (self.config, *self.layers)}.values())


# -- which image


def pinned(named: Reference, images: Mapping[str, Digest], *, update: bool = False) -> Reference:
    """What is asked for: the digest that a lock has for a reference, or the reference itself where
    it has none, or where that is to be found out anew."""
    digest = None if update else images.get(str(named))
    return named if digest is None else named.by_digest(oci_digest(digest))


def find_image(
    registry: Registry, platform: str, images: Mapping[str, Digest] | None = None
) -> RemoteImage:
    """The image at the registry's reference, for a platform (`linux/amd64`); where that is empty,
    of an index the one for this machine, and else whichever it is. `images` are those of a lock. A
    tag is asked for once: all that follows is by digest.

    Raises:
        LocationError: there is none, or the registry cannot be talked to.
        IntegrityError: it is not what its digest says, for another platform, or no image.
    """
    chosen = platform or str(build_platform(os.uname().machine))
    with advised(registry.at, _READ_HINT):
        image = _found(registry, chosen, pinned(registry.at, images or {}))
        found = _platform(image, remote_config(image, registry))
    # an index has led to an image for `chosen`, or has said nothing
    if found != chosen and (platform or image.descriptor.get("platform")):
        hint = f"name the platform that it is for: --platform {found}"
        message = f"the image is for {found}, not for {chosen}"
        raise IntegrityError(message, place=str(image.at), hint=hint)
    return replace(image, platform=found)


def _platform(image: RemoteImage, content: bytes) -> str:
    config = json_object(content, "config")
    words = (str(config.get("os", "")), str(config.get("architecture", "")))
    if not all(word.isalnum() and word.isascii() for word in words):
        raise IntegrityError(f"its config says a platform {words}", place=str(image.at))
    return "/".join(words)


def _found(registry: Registry, platform: str, at: Reference) -> RemoteImage:
    named = registry.at
    target, locked = at.target or "latest", at != named
    descriptor: Document = {}
    for _ in range(_DEEPEST):
        found = registry.manifest(target)
        if found is None:
            raise _absent(registry, target, locked=locked)
        content, served = found
        document = json_object(content, f"manifest {target}")
        media_type = str(document.get("mediaType") or served)
        digest = oci_digest(digest_bytes(content))
        if descriptor and len(content) != descriptor.get("size"):
            raise _wrong(named, f"the index says another size of the manifest {digest}")
        if "manifests" not in document:
            descriptor = {**descriptor, "mediaType": media_type, "digest": digest}
            descriptor["size"] = len(content)
            return _image(named, descriptor, content, document)
        if "layers" in document:
            raise _wrong(named, f"{digest} is an index and a manifest at once")
        descriptor = _of_platform(named, document, platform)
        target = str(descriptor["digest"])
    raise _wrong(named, f"more than {_DEEPEST} indexes, one in the other, lead to no image")


def stored_image(named: Reference, digest: Digest, store: Store) -> RemoteImage | None:
    """The image whose manifest has a digest, where the store has that and the config; nothing is
    asked for.

    Raises:
        IntegrityError: it is no image.
        StoreError: the store cannot be read.
    """
    if not store.has(digest):
        return None
    content = store.read(digest)
    document = json_object(content, f"manifest {digest}")
    descriptor = {
        "mediaType": str(document.get("mediaType") or IMAGE_MANIFEST),
        "digest": oci_digest(digest),
        "size": len(content),
    }
    image = _image(named, descriptor, content, document)
    return image if store.has(image.config.digest) else None


def _of_platform(named: Reference, index: Document, platform: str) -> Document:
    """The first entry of an index that fits (image-spec image-index.md: the first should win)."""
    entries = json_objects(index, "manifests", "index")
    seen: dict[str, None] = {}
    for entry in entries:
        said = entry.get("platform")
        known = said if isinstance(said, dict) else {}
        name = f"{known.get('os', '')}/{known.get('architecture', '')}"
        if name == platform or (not known and len(entries) == 1):
            blob_place(entry, "manifest")
            return entry
        seen[name if known else "no platform"] = None
    there = ", ".join([*seen][:_SHOWN]) or "nothing"
    hint = "name one of them: --platform OS/ARCH"
    message = f"the index has no image for {platform}, but {there}"
    raise IntegrityError(message, place=str(named), hint=hint)


def _image(
    named: Reference, descriptor: Document, content: bytes, document: Document
) -> RemoteImage:
    digest, media_type = str(descriptor["digest"]), descriptor["mediaType"]
    if media_type not in MANIFEST_TYPES:
        raise _wrong(named, f"the manifest is of media type {media_type!r:.100}, not of an image")
    config = document.get("config")
    if not isinstance(config, dict) or config.get("mediaType") not in CONFIGS:
        kind = document.get("artifactType") or (config or {}).get("mediaType")
        raise _wrong(named, f"it is no image, but an artifact of type {kind!r:.100}")
    layers = json_objects(document, "layers", "manifest")
    blobs = [_blob(named, layer, f"layer {number}") for number, layer in enumerate(layers)]
    for blob in blobs:
        if blob.media_type not in LAYERS:
            raise _wrong(named, f"{blob.title} is of media type {blob.media_type!r:.100}")
    found = _blob(named, config, "config", LARGEST_MANIFEST)
    return RemoteImage(named, named.by_digest(digest), descriptor, content, found, tuple(blobs))


def _blob(
    named: Reference, descriptor: Document, what: str, largest: int = LARGEST_DOWNLOAD
) -> RemoteBlob:
    digest, size = blob_place(descriptor, what).rpartition("/")[2], descriptor.get("size")
    if type(size) is not int or not 0 <= size <= largest:
        raise _wrong(named, f"{what} has {size!r:.40} bytes; up to {largest} are taken")
    return RemoteBlob(what, Digest(digest), size, str(descriptor.get("mediaType")))


def _wrong(named: Reference, message: str) -> IntegrityError:
    hint = "tell whoever pushed it, or whoever runs the registry"
    return IntegrityError(message, place=str(named), hint=hint)


def _absent(registry: Registry, target: str, *, locked: bool) -> LocationError:
    hint: str | None = "look at the name: the registry has no such repository, or no tags in it"
    if locked:
        hint = "it was deleted there: pin another one by `buildit lock --update`"
    elif tags := registry.tags():
        hint = f"its tags: {', '.join(tags[:_SHOWN])}" + (", …" if len(tags) > _SHOWN else "")
    reason = f"the registry has no image {target}"
    return LocationError(str(registry.at), reason, hint=hint, absent=True)


# -- into the store


def remote_config(image: RemoteImage, registry: Registry) -> bytes:
    """The config, which says what is in the image.

    Raises:
        LocationError, IntegrityError: as `bring`.
    """
    work = partial(registry.blob, oci_digest(image.config.digest), image.config.size)
    with advised(image.at, _READ_HINT):
        return retried(work, ATTEMPTS, Abort(), _LONGEST_PAUSE)


class BlobPlace(Protocol):
    """Where blobs come to: the store, or the blobs of a layout."""

    def has(self, digest: Digest) -> bool: ...

    def ingest(self) -> Sink: ...


def bring_stored(
    image: RemoteImage, registry: Registry, store: Store, report: Reporter = silent
) -> None:
    """Bring the manifest, the config and the layers into the store.

    Raises:
        LocationError, IntegrityError, StoreError: as `bring`.
    """
    digest = digest_bytes(image.manifest)
    store.pin([digest, *(one.digest for one in image.blobs)])
    store.put_bytes(image.manifest)
    bring(image, registry, store, report)


def bring(
    image: RemoteImage, registry: Registry, place: BlobPlace, report: Reporter = silent
) -> tuple[int, int]:
    """Bring the config and the layers to a place, as they are served; counts of the blobs and bytes
    that it lacked. What breaks off is asked for again from there.

    Raises:
        LocationError: the registry does not serve them.
        IntegrityError: it serves other bytes under a digest.
        StoreError: the place cannot be written.
    """
    missing = [one for one in image.blobs if not place.has(one.digest)]
    abort = Abort()
    works = [partial(_received, image, one, registry, place, abort, report) for one in missing]
    with advised(image.at, _READ_HINT):
        run_all(works, _AT_ONCE, abort.all)
    return len(missing), sum(one.size for one in missing)


def _received(
    image: RemoteImage,
    blob: RemoteBlob,
    registry: Registry,
    place: BlobPlace,
    abort: Abort,
    report: Reporter,
) -> None:
    title = f"{image.named.name} {blob.title}"
    with place.ingest() as sink:
        work = partial(_more, registry, blob, title, sink, abort, report)
        retried(work, ATTEMPTS, abort, _LONGEST_PAUSE)
        try:
            sink.commit(blob.digest)
        except IntegrityError as error:
            message = f"the registry serves other bytes as {blob.title}: {error.message}"
            hint = "it is broken, or somebody stands in between; nothing of it was kept"
            raise IntegrityError(message, place=str(image.at), hint=hint) from error
    report(Fetching(title, blob.size, blob.size, done=True))


def _more(
    registry: Registry, blob: RemoteBlob, title: str, sink: Sink, abort: Abort, report: Reporter
) -> None:
    """What is missing of a blob; a registry may begin anew instead of going on."""
    if sink.size == blob.size:
        return
    name, told = oci_digest(blob.digest), 0.0
    with registry.open_blob(name, sink.size, blob.size) as answer, abort.covering(answer):
        known = sink.size - answer.offset
        for chunk in _gathered(answer.chunks):
            abort.check()
            sink.write(memoryview(chunk)[known:])
            known = max(0, known - len(chunk))
            if time.monotonic() - told >= _TICK:
                told = time.monotonic()
                report(Fetching(title, sink.size, blob.size))
    if sink.size < blob.size:
        reason = f"it serves {sink.size} bytes of {blob.title}, which has {blob.size}"
        raise LocationError(str(registry.at), reason, transient=True)


def _gathered(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces: TLS gives 16 KiB at a time, and what came is not lost where
    the next does not come."""
    pieces: list[bytes] = []
    length = 0
    try:
        for chunk in chunks:
            pieces.append(chunk)
            length += len(chunk)
            if length >= CHUNK:
                yield b"".join(pieces)
                pieces, length = [], 0
    except LocationError:
        yield b"".join(pieces)
        raise
    yield b"".join(pieces)


def plain_layers(image: RemoteImage, store: Store) -> tuple[Digest, ...]:
    """The layers as plain tars in the store, by their diff_ids, bottom first; `bring` them before.

    Raises:
        IntegrityError: one is damaged, unpacks to more than it may, or is not of its diff_id.
        StoreError: the store cannot be written.
    """
    config = json_object(store.read(image.config.digest), "config")
    found: list[Digest] = []
    unpacked = 0
    for blob, diff_id in zip(image.layers, diff_ids_of(config, len(image.layers)), strict=True):
        digest = Digest(blob_place({"digest": diff_id}, "diff_id").rpartition("/")[2])
        store.pin([digest])
        if not store.has(digest):
            unpacked += _unpacked(image, blob, digest, store, unpacked)
        found.append(digest)
    return tuple(found)


def _unpacked(
    image: RemoteImage, blob: RemoteBlob, diff_id: Digest, store: Store, before: int
) -> int:
    budget = budget_of(blob.size, before)
    with (
        store.checked(blob.digest) as stored,
        decompressed(stored, budget, f"{image.named} {blob.title}") as plain,
        store.ingest() as sink,
    ):
        while chunk := plain.read(CHUNK):
            sink.write(chunk)
        try:
            sink.commit(diff_id)
        except IntegrityError as error:
            raise _wrong(image.named, f"{blob.title} is not of its diff_id {diff_id}") from error
        return sink.size


# -- as a layout


def layout_descriptor(image: RemoteImage) -> Document:
    """How the index of a layout names the image, with the reference that it was pulled by where
    that has a tag."""
    descriptor: dict[str, Any] = {**image.descriptor}
    if image.named.tag:
        plain = replace(image.named, digest="")
        descriptor["annotations"] = {
            "io.containerd.image.name": str(plain).removeprefix("oci://"),
            "org.opencontainers.image.ref.name": image.named.tag,
        }
    return descriptor


def layout_documents(image: RemoteImage) -> dict[str, bytes]:
    """The files of an OCI layout of the image, but for its config and layers."""
    manifests = [layout_descriptor(image)]
    index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": manifests}
    return {
        f"{LAYOUT_BLOBS}/{digest_bytes(image.manifest)}": image.manifest,
        "oci-layout": canonical(LAYOUT),
        "index.json": canonical(index),
    }


def layout_of(image: RemoteImage, store: Store) -> Layout:
    """The image as a layout, read from the store that it was brought into."""
    documents = layout_documents(image)

    def opened(path: str) -> io.BufferedReader:
        if path in documents:
            return io.BufferedReader(io.BytesIO(documents[path]))
        return io.BufferedReader(open(store.path(Digest(path.rpartition("/")[2])), "rb", 0))

    return Layout(opened)
