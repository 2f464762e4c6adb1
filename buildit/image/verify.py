"""`buildit verify`: read images back, independent of who wrote them, and compare their trees."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.compress import decompressed
from buildit.archive.contents import root_digest
from buildit.digest import Digest, digest_bytes, digest_stream, is_hex64, oci_digest
from buildit.errors import BuilditError, IntegrityError, UsageError
from buildit.image.aci import read_aci
from buildit.image.formats import oci
from buildit.image.formats.archives import MANIFEST
from buildit.image.formats.lxc import CONFIG, META, TREE
from buildit.image.formats.nspawn import ARCHIVE, SETTINGS_FILE
from buildit.image.formats.table import Document
from buildit.image.laying import joined_digest
from buildit.image.layout import (
    Layout,
    blob_place,
    described_of,
    described_platform,
    images_of,
    json_object,
    json_objects,
    json_of,
    named_of,
    opened_layout,
)
from buildit.image.output import UNPACKED
from buildit.image.packed import Packed, is_tar
from buildit.image.reading import (
    PROBLEMS_SHOWN,
    Hashed,
    Hasher,
    Reading,
    SeenTree,
    budget_of,
    read_directory,
    read_entries,
)
from buildit.image.squash.layout import MAGIC
from buildit.image.squash.read import read_squashfs
from buildit.model.tree import Entry

_FIELDS = ("kind", "mode", "uid", "gid", "size", "digest", "target", "mtime", "xattrs")


@dataclass(frozen=True, slots=True)
class Verified:
    """One image that was read, at a path or in a registry.

    `root` is the root digest of its tree, None where the tree could not be read. `problems` are
    rules of its format that it breaks, and bytes that are not what they are named for. `platform`
    is what an OCI image is for; where one file has images for several, each is one of these.
    """

    path: str
    format: str
    identifier: str
    root: Digest | None
    entries: int
    problems: tuple[str, ...]
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """`differences` are of each further image against the first, or against the one for its
    platform of the first that has most, by path; `alike` is whether there are none."""

    images: tuple[Verified, ...]
    differences: tuple[str, ...]
    alike: bool = True

    def passed(self) -> bool:
        """Every image is valid, and all hold the same tree."""
        sound = not self.differences and not any(image.problems for image in self.images)
        return sound and self.alike and all(image.root is not None for image in self.images)


def verify(paths: Sequence[Path]) -> Report:
    """Read images and unpacked directories to their last byte, and compare their trees.

    Raises:
        UsageError: no path is given, or one cannot be read.
    """
    return compared([(str(path), one) for path in paths for one in read_each(path)])


def compared(readings: Sequence[tuple[str, Reading]]) -> Report:
    """What was read, each with the path or the reference that people know it by.

    Raises:
        UsageError: nothing was.
    """
    if not readings:
        raise UsageError("nothing to verify", hint="buildit verify out/NAME.aci out/NAME.oci")
    images = tuple(
        Verified(
            name,
            each.format,
            each.identifier,
            None if each.entries is None else root_digest(each.entries),
            max(0, len(each.entries or ()) - 1),  # the root is none of them
            each.problems,
            each.platform,
        )
        for name, each in readings
    )
    others = {number: _other_of(number, images) for number in range(len(images))}
    unlike = {n: other for n, other in others.items() if images[n].root != images[other].root}
    differences = tuple(
        f"{images[number].path}: {line}"
        for number, other in unlike.items()
        for line in _differences(readings[other][1], readings[number][1])
    )
    return Report(images, differences, not unlike)


def _other_of(number: int, images: Sequence[Verified]) -> int:
    """The number of the image whose tree one must have: of the first path that has images for most
    platforms, that for the same; where one says no platform, any that is equal."""
    one, paths = images[number], [each.path for each in images]
    first = max(dict.fromkeys(paths), key=paths.count)
    own = [n for n, each in enumerate(images) if each.path == first]
    if number in own:
        return number
    for other in own:
        platforms = {one.platform, images[other].platform}
        if len(platforms) == 1 or ("" in platforms and images[other].root == one.root):
            return other
    return own[0]


def read_each(path: Path) -> tuple[Reading, ...]:
    """What is read of an image, and of the tree that it may have as files too: for each of its
    platforms, where it has several.

    Raises:
        UsageError: it cannot be read.
    """
    names = _platforms(path)
    return tuple(with_unpacked(path, read_image(path, name)) for name in names)


def _platforms(path: Path) -> tuple[str, ...]:
    """The platforms of an OCI image that is for several; else the empty name, once."""
    if path.suffix == ".aci" or (path.is_dir() and not (path / "oci-layout").exists()):
        return ("",)
    try:
        with opened_layout(path) as layout:
            found = images_of(layout, named_of(layout))
    except (BuilditError, OSError):
        return ("",)  # none, or what reading it will tell
    return tuple(dict.fromkeys(map(described_platform, found))) if len(found) > 1 else ("",)


def read_image(path: Path, platform: str = "", hasher: Hasher = sha256) -> Reading:
    """Read all of an image of any format, or of an unpacked tree; of an OCI image for several
    platforms that for one of them, by default this machine's. `hasher` takes the digests of its
    files.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if not path.is_dir():
            if path.exists() and not path.is_file():
                raise UsageError("it is neither a file nor a directory", place=str(path))
            return _reading_file(path, platform, hasher)
        if (path / "oci-layout").exists():
            return read_oci(path, platform, hasher)
        if (path / META).exists():
            return _read_beside("lxc", path, META, TREE, CONFIG, hasher)
        if (path / SETTINGS_FILE).exists():
            return _read_beside("nspawn", path, SETTINGS_FILE, ARCHIVE, SETTINGS_FILE, hasher)
        return read_directory(path, hasher)
    except UsageError:
        raise
    except OSError as error:
        hint = "name an image, in a file or a directory, or an unpacked tree"
        raise UsageError(f"cannot be read: {error.strerror}", place=str(path), hint=hint) from error
    except BuilditError as error:
        return Reading("directory", "", None, (error.message,))


def with_unpacked(path: Path, reading: Reading) -> Reading:
    """With problems where an image has its tree as files too, and it is another one. Only root may
    read all of it; for others it is left."""
    if reading.format not in ("lxc", "nspawn") or os.geteuid() != 0:
        return reading
    if not (path / UNPACKED).is_dir():
        return reading
    unpacked = read_directory(path / UNPACKED)
    found = [f"{UNPACKED}: {problem}" for problem in unpacked.problems]
    found += [f"{UNPACKED}: {line}" for line in _differences(reading, unpacked)]
    more = len(found) - PROBLEMS_SHOWN
    told = found[:PROBLEMS_SHOWN] + ([f"{UNPACKED}: and {more} more paths"] if more > 0 else [])
    return replace(reading, problems=(*reading.problems, *told))


def _reading_file(path: Path, platform: str, hasher: Hasher) -> Reading:
    """By what it holds, and by its name only where that says nothing: an ACI without its manifest
    is a faulty ACI, not a tree."""
    if path.suffix == ".aci":
        return read_aci(path, hasher)
    with path.open("rb") as stream:
        if stream.peek(4)[:4] == MAGIC.to_bytes(4, "little"):
            return read_squash(path, hasher)
        packed = Packed.of(stream, path) if is_tar(stream) else None
        names = packed.files if packed is not None else ()
        if packed is not None and "oci-layout" in names:
            return read_layout("oci-archive", Layout(packed.open, hasher=hasher), platform)
        if packed is not None and MANIFEST in names:
            return read_docker(packed, hasher)
    return (read_aci if "manifest" in names else read_rootfs)(path, hasher)


def _differences(first: Reading, other: Reading) -> Iterator[str]:
    if first.entries is None or other.entries is None:
        return
    ours, theirs = ({each.path: each for each in one} for one in (first.entries, other.entries))
    for path in sorted(ours.keys() | theirs.keys()):
        shown = path or "/"
        if path not in theirs:
            yield f"{shown!r} is missing"
        elif path not in ours:
            yield f"{shown!r} is only here"
        elif changed := _changed(ours[path], theirs[path]):
            yield f"{shown!r}: {changed}"


def _changed(ours: Entry, theirs: Entry) -> str:
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in _FIELDS]
    return ", ".join(
        f"{name} {_shown(name, new)} instead of {_shown(name, old)}"
        for name, old, new in pairs
        if old != new
    )


def _shown(name: str, value: object) -> str:
    return f"{value:04o}" if name == "mode" else str(value)[:40]


# -- OCI layouts (image-spec 1.1)
#
# Every blob is read and hashed to its end, every layer's diff_id is checked, and no path leaves the
# layout, whatever links somebody put into it.

_MOST_LAYERS = 256
_SUFFIXES = {"+gzip": b"\x1f\x8b", "+zstd": b"\x28\xb5\x2f\xfd"}
_DOCKER = "application/vnd.docker"
CONFIGS = (oci.CONFIG_TYPE, f"{_DOCKER}.container.image.v1+json")
LAYERS = {
    **{oci.LAYER_TYPE + suffix: suffix for suffix in ("", *_SUFFIXES)},
    f"{_DOCKER}.image.rootfs.diff.tar.gzip": "+gzip",
    f"{_DOCKER}.image.rootfs.diff.tar": "",
}
"""Media types of layers and how those are compressed; registries have images of Docker's types
(distribution, image manifest v2 schema 2), which hold the same."""


def read_oci(path: Path, platform: str = "", hasher: Hasher = sha256) -> Reading:
    """Read all of the image in an OCI layout, as `read_image`.

    Raises:
        OSError: the directory cannot be opened.
    """
    with opened_layout(path) as layout:
        layout.hasher = hasher
        return read_layout("oci", layout, platform)


def read_layout(form: str, layout: Layout, platform: str = "") -> Reading:
    """Read all of a layout, wherever its files come from; `form` is the format's name, `platform`
    as of `read_image`.

    Raises:
        UsageError: it has none for this platform.
    """
    identifier = ""
    try:
        described = described_of(layout, platform)
        blob_place(described, "manifest")
        identifier = str(described["digest"])
        manifest = json_object(layout.blob(described, "manifest"), "manifest")
        tree = _image(layout, manifest, described)
    except UsageError:
        raise
    except BuilditError as error:
        return Reading(form, identifier, None, (*layout.problems, error.message))
    entries, problems = tree.entries(), (*layout.problems, *tree.problems)
    said = layout.config, described_platform(described)
    return Reading(form, identifier, entries, problems, *said)


def _image(layout: Layout, manifest: Document, described: Document) -> SeenTree:
    described_as = described.get("mediaType")
    if manifest.get("schemaVersion") != 2 or manifest.get("mediaType", described_as) != (
        described_as
    ):
        layout.problems.append("the manifest is of another media type than its descriptor")
    named = manifest.get("config")
    if not isinstance(named, dict) or named.get("mediaType") not in CONFIGS:
        raise IntegrityError("the manifest names no image config")
    layout.config = layout.blob(named, "config")
    config = json_object(layout.config, "config")
    layers = json_objects(manifest, "layers", "manifest")
    diff_ids = diff_ids_of(config, len(layers))
    _check_config(layout, config, described, len(layers))
    tree = SeenTree()
    for number, (descriptor, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
        what = f"layer {number}"
        suffix = LAYERS.get(str(descriptor.get("mediaType")))
        if suffix is None:
            raise IntegrityError(f"{what} is of media type {descriptor.get('mediaType')!r}")
        stored = _Stored(blob_place(descriptor, what), diff_id, suffix, descriptor)
        tree.lay(_layer(layout, stored, what))
    return tree


def diff_ids_of(config: Document, layers: int) -> list[object]:
    """What a config says of each of so many layers; raises IntegrityError where it does not."""
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list):
        raise IntegrityError("the config has no list `rootfs.diff_ids`")
    if layers > _MOST_LAYERS:
        raise IntegrityError(f"{layers} layers are more than any engine mounts")
    if layers != len(diff_ids):
        raise IntegrityError(f"{layers} layers, but {len(diff_ids)} diff_ids")
    return diff_ids


def _check_config(layout: Layout, config: Document, described: Document, layers: int) -> None:
    platform = described.get("platform")
    if not isinstance(platform, dict | None):
        layout.problems.append("index.json: the platform is no object")
    for key in ("os", "architecture"):
        if isinstance(platform, dict) and key in platform and platform[key] != config.get(key):
            layout.problems.append(f"config: {key} is not the one that the index says")
    written = {key: config[key] for key in ("created", "author", "config") if key in config}
    layout.problems += [f"config: {problem}" for problem in oci.config_problems(written, {})]
    history = config.get("history")
    if isinstance(history, list):
        empty = [each for each in history if isinstance(each, dict) and each.get("empty_layer")]
        if len(history) - len(empty) != layers:
            layout.problems.append("config: the history does not tell of as many layers")


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a layer lies, and what is said of it; None where the format says nothing."""

    place: str
    diff_id: object
    suffix: str | None = None
    descriptor: Document | None = None


def _layer(layout: Layout, said: _Stored, what: str) -> list[Entry]:
    wrong = f"{what} is not of the digest and size that name it"
    with layout.opened(said.place, what) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        if said.descriptor is not None and size != said.descriptor.get("size"):
            raise IntegrityError(wrong)
        magic = stream.peek(6)[:6]
        found = next((one for one, each in _SUFFIXES.items() if magic.startswith(each)), "")
        if said.suffix not in (None, found):
            layout.problems.append(f"{what} is not compressed as its media type says")
        stored = Hashed(stream)
        layout.stored += 0 if said.place in layout.places else size
        layout.places.add(said.place)
        budget = budget_of(layout.stored, layout.inflated)
        with decompressed(stored, budget, what) as unpacked:
            plain = Hashed(unpacked)
            entries = [entry for entry, _ in read_entries(plain, what, layout.hasher)]
            if f"sha256:{plain.digest()}" != said.diff_id:
                layout.problems.append(f"{what} is not of its diff_id")
            layout.inflated += plain.size
        digest = f"sha256:{stored.digest()}"
        if said.descriptor is not None and (digest, size) != (
            said.descriptor["digest"],
            stored.size,
        ):
            layout.problems.append(wrong)
    return entries


# -- what `docker save` writes (moby, image/spec/v1.2), and trees in one tar


def read_docker(packed: Packed, hasher: Hasher = sha256) -> Reading:
    """Read all of a docker archive that holds one image."""
    identifier = ""
    layout = Layout(packed.open, hasher=hasher)
    try:
        images = json_of(layout.document(MANIFEST), MANIFEST)
        if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
            raise IntegrityError(f"{MANIFEST} does not name one image")
        image: Document = images[0]
        name, layers = image.get("Config"), image.get("Layers")
        if not isinstance(name, str) or not isinstance(layers, list):
            raise IntegrityError(f"{MANIFEST} names no config and layers")
        content = layout.document(name)
        identifier = oci_digest(digest_bytes(content))
        if is_hex64(name.removesuffix(".json")) and name != f"{identifier[7:]}.json":
            layout.problems.append("the config is not of the digest that names it")
        config = json_object(content, "config")
        diff_ids = diff_ids_of(config, len(layers))
        _check_config(layout, config, {}, len(layers))
        tree = SeenTree()
        for number, (place, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
            tree.lay(_layer(layout, _Stored(str(place), diff_id), f"layer {number}"))
    except BuilditError as error:
        return Reading("docker-archive", identifier, None, (*layout.problems, error.message))
    entries = tree.entries()
    problems = (*layout.problems, *tree.problems)
    return Reading("docker-archive", identifier, entries, problems, content)


def _document(directory: Path, name: str) -> bytes:
    """A small file of an image. Raises OSError or IntegrityError, as it may be anything else."""
    with Root.open(directory) as root:
        return Layout(root.open_file).document(name)


def _check_plain(path: Path, *names: str) -> None:
    """Raises IntegrityError or OSError where a file of an image is a link, a FIFO or a device."""
    with Root.open(path) as root:
        for name in names:
            root.open_file(name).close()


def _read_beside(
    form: str, path: Path, first: str, archive: str, start: str, hasher: Hasher
) -> Reading:
    """Read the tree of an image that is an archive beside other files: its identifier is the digest
    of `first` and the archive behind each other, `start` the file that says what it runs.

    Raises:
        IntegrityError, OSError: one cannot be read, or is no plain file.
    """
    _check_plain(path, first, archive)
    reading = read_rootfs(path / archive, hasher)
    digest = joined_digest((path / first, path / archive))
    told = _document(path, start)
    return replace(reading, format=form, identifier=oci_digest(digest), start=told)


def read_squash(path: Path, hasher: Hasher = sha256) -> Reading:
    """Read all of a squashfs; its identifier is the digest of the file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        identifier = oci_digest(digest_stream(stream))
        most = budget_of(stream.tell()).total_bytes
        tree = SeenTree()
        try:
            tree.lay(list(read_squashfs(stream, most, hasher)))
        except BuilditError as error:
            return Reading("squashfs", identifier, None, (error.message,))
    return Reading("squashfs", identifier, tree.entries(stacked=False), tuple(tree.problems))


def read_rootfs(path: Path, hasher: Hasher = sha256) -> Reading:
    """Read all of a tree that is one tar, plain or compressed; its identifier is the plain one's.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            with decompressed(stream, budget_of(size), str(path)) as unpacked:
                plain = Hashed(unpacked)
                tree = SeenTree()
                tree.lay([entry for entry, _ in read_entries(plain, path.name, hasher)])
                identifier = f"sha256:{plain.digest()}"
        except BuilditError as error:
            return Reading("rootfs", "", None, (error.message,))
    return Reading("rootfs", identifier, tree.entries(stacked=False), tuple(tree.problems))
