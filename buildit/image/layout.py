"""The documents of an OCI layout, in a directory or in one file; every path and size is checked
before it is followed (image-spec image-layout.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import BufferedReader
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.digest import digest_bytes, is_hex64, oci_digest
from buildit.errors import IntegrityError, UsageError
from buildit.image.formats import oci
from buildit.image.formats.table import Document
from buildit.image.packed import Packed, is_tar
from buildit.image.reading import Hasher
from buildit.image.rules import doubles, no_constant
from buildit.model.platform import build_platform

MANIFEST_TYPES = (oci.MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
"""Of the manifest of one image: registries have Docker's too, which says the same."""
LARGEST_INDEX_BYTES = 4 << 20
"""Bytes of an index, a manifest or a config."""


@dataclass(slots=True)
class Layout:
    """The files of a layout, opened by their paths in it, and what was found wrong with it."""

    open: Callable[[str], BufferedReader]
    problems: list[str] = field(default_factory=list)
    stored: int = 0
    """Bytes of the layers so far, each blob once however often it is named."""
    inflated: int = 0
    """Bytes that all of them had, unpacked."""
    places: set[str] = field(default_factory=set)
    hasher: Hasher = sha256
    """Takes the digests of the files in its layers."""
    config: bytes = b""
    """The config of the image that was read."""

    @contextmanager
    def opened(self, path: str, what: str = "") -> Iterator[BufferedReader]:
        try:
            with self.open(path) as stream:
                yield stream
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror}"
            raise IntegrityError(f"{what}: {reason}" if what else reason) from error

    def document(self, path: str) -> bytes:
        """Raises IntegrityError where the file is missing or absurdly large."""
        with self.opened(path) as stream:
            content = stream.read(LARGEST_INDEX_BYTES + 1)
        if len(content) > LARGEST_INDEX_BYTES:
            raise IntegrityError(f"{path} is larger than {LARGEST_INDEX_BYTES} bytes")
        return content

    def blob(self, descriptor: Document, what: str) -> bytes:
        content = self.document(blob_place(descriptor, what))
        actual = oci_digest(digest_bytes(content))
        if actual != descriptor["digest"] or len(content) != descriptor.get("size"):
            self.problems.append(f"the {what} is not of the digest and size that name it")
        return content


def blob_place(descriptor: Document, what: str) -> str:
    """Where a descriptor's blob lies; only SHA-256, only 64 hex digits, before it is a path.

    Raises:
        IntegrityError: the digest is something else.
    """
    algorithm, _, hexdigits = str(descriptor.get("digest")).partition(":")
    if algorithm != "sha256" or not is_hex64(hexdigits):
        raise IntegrityError(f"the {what}'s digest {descriptor.get('digest')!r} is not SHA-256")
    return f"blobs/sha256/{hexdigits}"


def json_of(content: bytes, what: str) -> object:
    try:
        return json.loads(content, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"the {what} is not JSON: {error}") from error


def json_object(content: bytes, what: str) -> Document:
    value = json_of(content, what)
    if not isinstance(value, dict):
        raise IntegrityError(f"the {what} is not an object")
    return value


def json_objects(owner: Document, key: str, what: str) -> Sequence[Document]:
    members = owner.get(key)
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        raise IntegrityError(f"the {what} has no list of objects `{key}`")
    return members


def named_of(layout: Layout) -> Document:
    """What `index.json` names: one image, or one index of images for several platforms.

    Raises:
        IntegrityError: it names neither, or several; or a document is missing or malformed.
    """
    mark = json_object(layout.document("oci-layout"), "oci-layout file")
    if mark.get("imageLayoutVersion") != oci.LAYOUT["imageLayoutVersion"]:
        layout.problems.append("oci-layout: the version of the layout is not 1.0.0")
    index = json_object(layout.document("index.json"), "index")
    if index.get("schemaVersion") != 2 or index.get("mediaType", oci.INDEX_TYPE) != oci.INDEX_TYPE:
        layout.problems.append("index.json: is no image index")
    manifests = json_objects(index, "manifests", "index")
    known = (*MANIFEST_TYPES, oci.INDEX_TYPE)
    if len(manifests) != 1 or manifests[0].get("mediaType") not in known:
        raise IntegrityError(f"the index names {len(manifests)} manifests, not one of an image")
    return manifests[0]


MOST_PLATFORMS = 32
"""Images that an index may name: each is read to its last byte."""


def images_of(layout: Layout, named: Document) -> tuple[Document, ...]:
    """The image that is named, or each of the index that is (image-spec image-index.md).

    Raises:
        IntegrityError: the index names other than images, or absurdly many.
    """
    if named["mediaType"] != oci.INDEX_TYPE:
        return (named,)
    index = json_object(layout.blob(named, "index of platforms"), "index of platforms")
    if index.get("schemaVersion") != 2 or index.get("mediaType", oci.INDEX_TYPE) != oci.INDEX_TYPE:
        layout.problems.append("index of platforms: is no image index")
    manifests = json_objects(index, "manifests", "index of platforms")
    if not 0 < len(manifests) <= MOST_PLATFORMS:
        raise IntegrityError(f"the index of platforms names {len(manifests)} images")
    if any(each.get("mediaType") not in MANIFEST_TYPES for each in manifests):
        raise IntegrityError("the index of platforms names what is no image")
    for name in doubles(described_platform(each) for each in manifests):
        layout.problems.append(f"index of platforms: two images are for {name or 'no platform'}")
    return tuple(manifests)


def described_platform(described: Document) -> str:
    """`linux/arm64`, as an index says it of an image; empty where it does not."""
    platform = described.get("platform")
    if not isinstance(platform, dict):
        return ""
    return f"{platform.get('os')}/{platform.get('architecture')}"


def described_of(layout: Layout, platform: str = "") -> Document:
    """The manifest of the image in a layout; where there are several, of the one for a platform,
    this machine's where none is named.

    Raises:
        IntegrityError: as `named_of` and `images_of`.
        UsageError: none is for this platform.
    """
    found = {described_platform(each): each for each in images_of(layout, named_of(layout))}
    if len(found) == 1 and (not platform or "" in found):
        return next(iter(found.values()))
    wanted = platform or str(build_platform(os.uname().machine))
    if wanted not in found:
        hint = f"name one with --platform: {', '.join(sorted(found))}"
        raise UsageError(f"it holds no image for {wanted}", hint=hint)
    return found[wanted]


@contextmanager
def opened_layout(path: Path) -> Iterator[Layout]:
    """The layout in a directory or in a plain tar.

    Raises:
        OSError: it cannot be opened.
        UsageError: the file is no tar.
    """
    if path.is_dir():
        with Root.open(path) as root:
            yield Layout(root.open_file)
        return
    with path.open("rb") as stream:
        if not is_tar(stream):
            hint = "name an image of type oci or oci-archive"
            raise UsageError("it is neither an OCI layout nor a plain tar of one", hint=hint)
        yield Layout(Packed.of(stream, path).open)
