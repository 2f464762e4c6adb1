"""Read an OCI image layout back: its tree, and whatever does not fit (image-spec 1.1).

Every blob is read and hashed to its end, every layer's diff_id is checked, and no path leaves the
layout, whatever links somebody put into it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.decompress import decompressed
from buildit.archive.streams import Readable
from buildit.digest import CHUNK, digest_bytes, is_hex64, oci_digest
from buildit.errors import BuilditError, IntegrityError
from buildit.image.formats.oci import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, LAYOUT, MANIFEST_TYPE
from buildit.image.formats.oci_rules import config_problems
from buildit.image.formats.table import Document
from buildit.image.reading import Reading, SeenTree, budget_of, read_entries
from buildit.model.tree import Entry

_DOCUMENT_MOST = 4 << 20
_MAGICS = {"+gzip": b"\x1f\x8b", "+zstd": b"\x28\xb5\x2f\xfd"}


class _Sha256:
    """Takes the SHA-256 and the length of what is read through it."""

    __slots__ = ("_stream", "hash", "size")

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size) or b""
        self.hash.update(chunk)
        self.size += len(chunk)
        return chunk

    def digest(self) -> str:
        while self.read(CHUNK):
            pass
        return f"sha256:{self.hash.hexdigest()}"


@dataclass(slots=True)
class _Layout:
    """An open layout and what was found wrong with it."""

    root: Root
    problems: list[str] = field(default_factory=list)
    inflated: int = 0
    """Bytes that its layers had so far, unpacked."""

    def document(self, path: str) -> bytes:
        """Raises IntegrityError where the file is missing or absurdly large."""
        try:
            with open(self.root.open_read(path), "rb") as stream:
                content = stream.read(_DOCUMENT_MOST + 1)
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) > _DOCUMENT_MOST:
            raise IntegrityError(f"{path} is larger than {_DOCUMENT_MOST} bytes")
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


def read_oci(path: Path) -> Reading:
    """Read all of an OCI layout that holds one image.

    Raises:
        OSError: the directory cannot be opened.
    """
    identifier = ""
    with Root.open(path) as root:
        layout = _Layout(root)
        try:
            described = _described(layout)
            blob_place(described, "manifest")
            identifier = str(described["digest"])
            manifest = _object(layout.blob(described, "manifest"), "manifest")
            tree = _image(layout, manifest, described)
        except BuilditError as error:
            return Reading("oci", identifier, None, (*layout.problems, error.message))
    entries = tree.entries()
    return Reading("oci", identifier, entries, (*layout.problems, *tree.problems))


def _object(content: bytes, what: str) -> Document:
    try:
        value = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"the {what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"the {what} is not an object")
    return value


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is no JSON number")


def _objects(owner: Document, key: str, what: str) -> Sequence[Document]:
    members = owner.get(key)
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        raise IntegrityError(f"the {what} has no list of objects `{key}`")
    return members


def _described(layout: _Layout) -> Document:
    """The one image manifest that the index names."""
    mark = _object(layout.document("oci-layout"), "oci-layout file")
    if mark.get("imageLayoutVersion") != LAYOUT["imageLayoutVersion"]:
        layout.problems.append("oci-layout: the version of the layout is not 1.0.0")
    index = _object(layout.document("index.json"), "index")
    if index.get("schemaVersion") != 2 or index.get("mediaType", INDEX_TYPE) != INDEX_TYPE:
        layout.problems.append("index.json: is no image index")
    manifests = _objects(index, "manifests", "index")
    if len(manifests) != 1 or manifests[0].get("mediaType") != MANIFEST_TYPE:
        raise IntegrityError(f"the index names {len(manifests)} manifests, not one of an image")
    return manifests[0]


def _image(layout: _Layout, manifest: Document, described: Document) -> SeenTree:
    if (manifest.get("schemaVersion"), manifest.get("mediaType", MANIFEST_TYPE)) != (
        2,
        MANIFEST_TYPE,
    ):
        layout.problems.append("the manifest is of another media type than its descriptor")
    named = manifest.get("config")
    if not isinstance(named, dict) or named.get("mediaType") != CONFIG_TYPE:
        raise IntegrityError("the manifest names no image config")
    config = _object(layout.blob(named, "config"), "config")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list):
        raise IntegrityError("the config has no list `rootfs.diff_ids`")
    layers = _objects(manifest, "layers", "manifest")
    if len(layers) != len(diff_ids):
        raise IntegrityError(f"{len(layers)} layers, but {len(diff_ids)} diff_ids")
    _check_config(layout, config, described, len(layers))
    tree = SeenTree()
    for number, (descriptor, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
        tree.lay(_layer(layout, descriptor, diff_id, f"layer {number}"))
    return tree


def _check_config(layout: _Layout, config: Document, described: Document, layers: int) -> None:
    platform = described.get("platform")
    if not isinstance(platform, dict | None):
        layout.problems.append("index.json: the platform is no object")
    for key in ("os", "architecture"):
        if isinstance(platform, dict) and key in platform and platform[key] != config.get(key):
            layout.problems.append(f"config: {key} is not the one that the index says")
    written = {key: config[key] for key in ("created", "author", "config") if key in config}
    layout.problems += [f"config: {problem}" for problem in config_problems(written, {})]
    history = config.get("history")
    if isinstance(history, list):
        empty = [each for each in history if isinstance(each, dict) and each.get("empty_layer")]
        if len(history) - len(empty) != layers:
            layout.problems.append("config: the history does not tell of as many layers")


def _codec(magic: bytes) -> str:
    """The suffix of the media type that a blob with these first bytes should have."""
    return next((suffix for suffix, each in _MAGICS.items() if magic.startswith(each)), "")


def _layer(layout: _Layout, descriptor: Document, diff_id: object, what: str) -> list[Entry]:
    suffix = str(descriptor.get("mediaType")).removeprefix(LAYER_TYPE)
    if suffix not in ("", *_MAGICS):
        raise IntegrityError(f"{what} is of media type {descriptor.get('mediaType')!r}")
    path = blob_place(descriptor, what)
    try:
        descriptor_fd = layout.root.open_read(path)
    except OSError as error:
        raise IntegrityError(f"{what}: {path} cannot be read: {error.strerror}") from error
    with open(descriptor_fd, "rb") as stream:
        if os.fstat(descriptor_fd).st_size != descriptor.get("size"):
            raise IntegrityError(f"{what} is not of the digest and size that name it")
        magic = stream.peek(6)[:6]
        if _codec(magic) != suffix:
            layout.problems.append(f"{what} is not compressed as its media type says")
        stored = _Sha256(stream)
        budget = budget_of(os.fstat(stream.fileno()).st_size, layout.inflated)
        with decompressed(stored, budget, what) as unpacked:
            plain = _Sha256(unpacked)
            entries = [entry for entry, _ in read_entries(plain, what)]
            if plain.digest() != diff_id:
                layout.problems.append(f"{what} is not of its diff_id")
            layout.inflated += plain.size
        if stored.digest() != descriptor["digest"] or stored.size != descriptor.get("size"):
            layout.problems.append(f"{what} is not of the digest and size that name it")
    return entries
