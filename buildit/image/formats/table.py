"""The formats: what an `image` step may ask for. A new one is a module with a `Format`, and a row.

A format is a value. `check` and `plan` are pure: of an image they make its documents, as a client
finds them, and the descriptors of its layers. `write` puts both where a target wants them, from the
store's blobs; other targets (an archive for docker, a registry) are other ways to write one plan.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from buildit.archive.contents import parse_contents
from buildit.digest import Digest, is_hex64
from buildit.errors import RecipeError
from buildit.image.merge import Rootfs, merge
from buildit.image.output import BlobPath, replacing_output, small_blob
from buildit.image.rendering import left_of
from buildit.image.rules import FILE_PART, NAME_MAX, check_app, check_tree, machine
from buildit.model.image import Architecture, Emission, Image
from buildit.model.tree import Entry

Document = Mapping[str, Any]
"""The manifest or config of a format, as JSON data without what describes the layers."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """One emitted layer: the digest of its tar, and of the blob that holds it, compressed or not.

    `size` is the blob's, in bytes. `title` names the packages and steps in it.
    """

    diff_id: Digest
    digest: Digest
    size: int
    title: str


@dataclass(frozen=True, slots=True)
class Plan:
    """An image without its bytes: `documents` by their path in it, and its layers, bottom first.

    `digest` is of the document that names all others; empty where the format names an image by the
    bytes of a whole file.
    """

    documents: Mapping[str, bytes]
    layers: tuple[LayerBlob, ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ForPlatform:
    """One of the images of a file or directory that holds several, with its document and tree."""

    image: Image
    document: Document
    rootfs: Rootfs


@dataclass(frozen=True, slots=True)
class Start:
    """What a document says of the start: `program` is an absolute path, None where there is none
    to check; `directories` what each is to people, and its path; `accounts` pairs of `user` or
    `group` and a name or number."""

    program: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[tuple[str, str], ...] = ()
    accounts: tuple[tuple[str, str], ...] = ()
    only: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Format:
    """`check` refuses what can be told without the layers and gives the document; `plan` completes
    it with layers; `write` makes the image at a path that does not exist yet.

    `codecs` are what `compress` takes, the first is the format's own; `title` and `only` are of the
    message that refuses others. `suffix` ends file names, the name where it is empty, and `endings`
    what follows it by codec. `empty` is whether an image may have no layers. `spelling` is a
    machine's name in file names, `stem` what a file may be called. `unspoken` are remarks about
    what the format cannot hold, `check_entries` refuses a tree for it. `signed` is whether OpenPGP
    signatures lie beside it, `discovered` whether App Container discovery finds it, `splits`
    whether it can be an image for each package. `command` is a line of shell that brings one to
    run, with `{file}` and `{name}`, both quoted. `together` makes one of images for several
    platforms, where the format can hold them.
    """

    name: str
    title: str
    codecs: tuple[str, ...]
    spelling: Callable[[Architecture], str]
    check: Callable[[Image], Document]
    plan: Callable[[Image, Document, Sequence[LayerBlob]], Plan]
    write: Callable[[Image, Document, Rootfs, BlobPath, Path], Emission]
    start: Callable[[Document], Start] = lambda _: Start()
    stem: Callable[[str], str] = str
    unspoken: Callable[[Image], Iterator[str]] = lambda _: iter(())
    check_entries: Callable[[Iterable[Entry]], None] = lambda _: None
    only: str = ""
    suffix: str = ""
    endings: Mapping[str, str] = field(default_factory=dict)
    empty: bool = False
    signed: bool = False
    discovered: bool = False
    splits: bool = False
    command: str = ""
    together: Callable[[Sequence[ForPlatform], BlobPath, Path], Emission] | None = None

    def codec(self, image: Image) -> str:
        """How the image is compressed.

        Raises:
            RecipeError: the format knows no such codec.
        """
        codec = image.compress or self.codecs[0]
        if codec not in self.codecs:
            message = f"{self.title} cannot be compressed as {codec!r}{self.only}"
            raise _refused(image, message, f"`compress:` takes {', '.join(self.codecs)}")
        return codec


def _aci() -> Format:
    from buildit.image.formats.aci import ACI

    return ACI


def _oci() -> Format:
    from buildit.image.formats.oci import OCI

    return OCI


def _oci_archive() -> Format:
    from buildit.image.formats.archives import OCI_ARCHIVE

    return OCI_ARCHIVE


def _docker_archive() -> Format:
    from buildit.image.formats.archives import DOCKER_ARCHIVE

    return DOCKER_ARCHIVE


def _rootfs() -> Format:
    from buildit.image.formats.rootfs import ROOTFS

    return ROOTFS


def _squashfs() -> Format:
    from buildit.image.formats.squashfs import SQUASHFS

    return SQUASHFS


def _lxc() -> Format:
    from buildit.image.formats.lxc import LXC

    return LXC


def _nspawn() -> Format:
    from buildit.image.formats.nspawn import NSPAWN

    return NSPAWN


FORMATS: Mapping[str, Callable[[], Format]] = {
    "aci": _aci,
    "oci": _oci,
    "oci-archive": _oci_archive,
    "docker-archive": _docker_archive,
    "rootfs": _rootfs,
    "lxc": _lxc,
    "squashfs": _squashfs,
    "nspawn": _nspawn,
}


def is_discovered(name: str) -> bool:
    """Whether App Container discovery finds images of the format of this name."""
    return name in FORMATS and FORMATS[name]().discovered


def command_of(name: str, file: str, title: str) -> str:
    """The line of shell that brings a published image of the format of this name to run; empty
    where there is none. `title` is a word that it may be called by."""
    command = FORMATS[name]().command if name in FORMATS else ""
    return command.format(file=shlex.quote(file), name=shlex.quote(title))


def format_of(image: Image) -> Format:
    """Raises RecipeError where the format is unknown."""
    make = FORMATS.get(image.format)
    if make is None:
        message = f"unknown image format {image.format!r}"
        raise _refused(image, message, f"`type:` takes {', '.join(FORMATS)}")
    return make()


SEVERAL = "multi"
"""In the place of ARCH in the name of an image for several platforms."""


def output_name(image: Image, *, several: bool = False) -> str:
    """`NAME-VERSION-OS-ARCH.SUFFIX`, with `-` for each `/` of the name, and `SEVERAL` as the ARCH
    of one that holds `several`.

    The architecture is spelt as the format does, so that App Container's simple discovery finds
    the file (appc spec discovery.md of 0.6, "Simple Discovery").

    Raises:
        RecipeError: name, version or os cannot be part of a file name, or the format or the codec
            is unknown.
    """
    form = format_of(image)
    parts = {"name": image.name.replace("/", "-"), "version": image.version, "os": image.os}
    for part_name, part in parts.items():
        if FILE_PART.fullmatch(part) is None:
            hint = f"set `{part_name}` in `vars`: letters and digits, then also . _ + ~ : @ -"
            raise _refused(image, f"{part_name} {part!r} cannot be part of a file name", hint)
    arch = SEVERAL if several else form.spelling(machine(image))
    stem = form.stem("-".join((*parts.values(), arch)))
    name = f"{stem}.{form.suffix or form.name}{form.endings.get(form.codec(image), '')}"
    if len(name) > NAME_MAX - len("..partial") - 8:
        message = f"the output's name has {len(name)} bytes, more than a file system takes"
        raise _refused(image, message, "shorten `name` or `version` in `vars`")
    return name


def check(image: Image) -> Document:
    """Refuse an image for what can be told without its layers; returns its manifest or config.

    Raises:
        RecipeError: the format is unknown, or the image breaks one of its rules.
    """
    form = format_of(image)
    form.codec(image)
    output_name(image)
    if image.split and not form.splits:
        raise _refused(image, f"{form.title} cannot be split", "leave `split` out: it is of `aci`")
    if image.app is not None:
        check_app(image.app, image.place)
    return form.check(image)


def start_of(image: Image) -> Start:
    """What an image says of its start. Raises RecipeError as `check`."""
    return format_of(image).start(check(image))


def rootfs_of(image: Image, blob: BlobPath) -> Rootfs:
    """The merged tree of an image's layers.

    Raises:
        RecipeError: layers clash.
        StoreError, IntegrityError: a listing is missing or damaged.
    """
    listings = [
        parse_contents(small_blob(blob, each.contents, each.title)) for each in image.layers
    ]
    return merge(image.layers, listings, image.epoch)


def emit_all(
    images: Sequence[Image], blob: BlobPath, output: Path, rootfs: Rootfs | None = None
) -> tuple[Emission, ...]:
    """Write the images into the directory `output`, each in its format: all of them or none.

    `blob` says where the store keeps a digest's bytes. `rootfs` is the merged tree of their
    layers, where it is known.

    Raises:
        RecipeError: a format is unknown, an image breaks one of its rules, or layers clash.
        StoreError, IntegrityError: the store lacks a blob, or has it damaged.
    """
    return emit_groups([[(image, rootfs)] for image in images], blob, output)


def emit_groups(
    groups: Sequence[Sequence[tuple[Image, Rootfs | None]]], blob: BlobPath, output: Path
) -> tuple[Emission, ...]:
    """As `emit_all`: each group is one output, of several images where they are for several
    platforms and the format holds them together; each image with its merged tree, where it is
    known.

    Raises:
        RecipeError: as `emit_all`, and where the images of a group differ in what is one for all.
        StoreError, IntegrityError: as `emit_all`.
    """
    emissions = []
    for group in groups:
        _check_alike([image for image, _ in group])
    for image in (image for group in groups for image, _ in group):
        check(image)
        if not image.layers and not format_of(image).empty:
            hint = "add a `package` or `sync` step before the image step"
            raise _refused(image, "the image holds nothing", hint)
        for layer in image.layers:
            if not is_hex64(layer.diff_id):  # it becomes a file name
                raise ValueError(f"not a digest: {layer.diff_id!r}")
    made = [
        [ForPlatform(one, check(one), tree or rootfs_of(one, blob)) for one, tree in group]
        for group in groups
    ]
    for part in (part for parts in made for part in parts):
        form = format_of(part.image)
        start = form.start(part.document)
        seen = left_of(part.rootfs, start.only)
        check_tree(start.program, start.directories, seen.find, part.image.place)
        form.check_entries(member.entry for member in part.rootfs.tree.values())
    with ExitStack() as together:
        for parts in made:
            image, form = parts[0].image, format_of(parts[0].image)
            target = output / output_name(image, several=len(parts) > 1)
            fresh = together.enter_context(replacing_output(target, parts=image.split))
            if len(parts) > 1 and form.together is not None:
                written = form.together(parts, blob, fresh)
            else:
                (part,) = parts
                written = form.write(part.image, part.document, part.rootfs, blob, fresh)
            emissions.append(replace(written, path=target))
    return tuple(emissions)


def _check_alike(images: Sequence[Image]) -> None:
    """Refuse one index of images that a client would take for something else."""
    first = images[0]
    for one in images[1:]:
        for what in ("name", "version", "format", "compress", "split"):
            here, there = getattr(first, what), getattr(one, what)
            if here != there:
                message = (
                    f"its {what} is {here!r} for {first.os}/{first.arch} "
                    f"and {there!r} for {one.os}/{one.arch}"
                )
                hint = "one index has one; move both sections of the lock: buildit lock --update"
                raise _refused(one, message, hint)


def _refused(image: Image, message: str, hint: str) -> RecipeError:
    return RecipeError(message, place=image.place or None, hint=hint)
