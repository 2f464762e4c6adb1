"""The maker of `from`: the layers of another image, as outputs that are plain tars.

A layer stays byte for byte what it is in the image, under its diff_id, and is written anew only
where it holds what no layer of ours may: a device or FIFO, which is left out. An ACI, whose tree
lies beneath `rootfs/`, becomes one layer. The record has digests alone: the same image from another
place is the same task.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from buildit.archive.admit import shown
from buildit.archive.compress import decompressed
from buildit.archive.contents import contents_blob, parse_contents
from buildit.archive.streams import Readable, Writable, write_all
from buildit.digest import CHUNK, Digest, is_hex64, oci_digest
from buildit.errors import BuildError, IntegrityError, UnsatisfiableError
from buildit.image.inheriting import (
    BaseImage,
    BaseLayer,
    find_base,
    layout_base,
    manifest_base,
    opened_base,
    told_of_base,
)
from buildit.image.layertar import Slice, read_offsets
from buildit.image.layout import Layout
from buildit.image.merge import GENERATED, LayerChange, MergedTree, linked
from buildit.image.reading import Hashed, budget_of, read_entries
from buildit.make.layer import put_layer
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.model.artifact import Output
from buildit.model.plan import About, ImageRef, Inputs, LayerRef, Task, Toolchain
from buildit.model.tree import Entry, Kind
from buildit.model.words import some
from buildit.plan.identity import SCHEME, step_task
from buildit.store.cas import Store

FROM = "from"
RULE = "1"
"""Version of how an image becomes layers; in the key."""

_WHITEOUT = ".wh."
_OVERLAYS = ("trusted.overlay.", "user.overlay.")
"""Attributes by which the kernel hides or redirects files (Documentation/filesystems/overlayfs)."""
_ROOTFS = "rootfs/"
_SHOWN = 5


def from_task(image: ImageRef, found: BaseImage) -> Task:
    """The task of an image that a container begins with: its key is of digests alone."""
    record = {
        "scheme": SCHEME,
        "type": FROM,
        "form": "rootfs" if image.kind == "aci" else "layers",
        "config": found.config,
        "layers": [one.diff_id for one in found.layers],
        "rules": {FROM: RULE},
    }
    # planning left these in the store, where it asked a registry for them
    own = ((one.diff_id, one.contents) for one in found.layers)
    below = tuple(LayerRef(diff_id, listed) for diff_id, listed in own if listed is not None)
    blobs = () if image.path else (image.digest, found.config)
    inputs = Inputs(image=image, blobs=blobs, below=below)
    about = About(origin=image.place, description=image.reference)
    outputs = (output_of(number) for number in range(len(found.layers)))
    return step_task(record, inputs, about, outputs, platform=image.platform)


def output_of(number: int) -> str:
    """The name of the output that is the layer of this number, from below."""
    return f"layer-{number:03}"


def read_from(record: str) -> tuple[Digest, tuple[Digest, ...]]:
    """The digests of the config and of the layers of a record.

    Raises:
        IntegrityError: it is no record of such a task.
    """
    try:
        data = json.loads(record)
        if (data["scheme"], data["type"], data["rules"]) != (SCHEME, FROM, {FROM: RULE}):
            raise ValueError("it is of another scheme")
        digests = (data["config"], *data["layers"])
        if not all(map(is_hex64, digests)):
            raise ValueError("it names what is no digest")
        return Digest(digests[0]), tuple(map(Digest, digests[1:]))
    except (KeyError, TypeError, ValueError) as error:
        text = f"not the record of a base that this buildit can make: {error}"
        raise IntegrityError(text, hint="plan it again with this buildit") from error


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """The image, where it is in a registry: its manifest, config and layers as blobs."""
    del toolchain
    image = task.inputs.image
    return Inputs(image=image) if image is not None and not image.path else Inputs()


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Take the layers in.

    Raises:
        RecipeError: the image cannot be read.
        IntegrityError: it is not what was planned, or holds what no layer may.
        BuildError: it changed since it was planned.
        StoreError: the store cannot be written.
    """
    del at_hand
    image = task.inputs.image
    if image is None:
        hint = "plan it again: `buildit plan`"
        raise UnsatisfiableError(f"{task.label} names no image", hint=hint)
    with told_of_base(image.reference, image.place):
        layers = _Layers(place)
        if image.kind == "aci":
            _check_planned(task, find_base(image.kind, Path(image.path), image.platform))
            work.mkdir(exist_ok=True)
            made = [layers.of_aci(Path(image.path), work / "plain.tar")]
        elif image.kind in ("container", "stage"):
            _check_layers(task)
            made = [layers.own(one, image.path) for one in task.inputs.below]
        else:
            with _opened(image, place.store) as (layout, found):
                _check_planned(task, found)
                numbered = enumerate(found.layers)
                made = [layers.take(layout, one, f"layer {number}") for number, one in numbered]
    if layers.left_out:
        count = len(layers.left_out)
        place.warn(task, [f"{count} left out: {some(layers.left_out, _SHOWN)}"])
    with place.store.batch() as batch:
        record = put_record(task, batch)
    outputs = {output_of(number): output for number, output in enumerate(made)}
    return Made(outputs, record, layers.epoch)


def _check_planned(task: Task, found: BaseImage) -> None:
    if read_from(task.record) != (found.config, tuple(one.diff_id for one in found.layers)):
        raise BuildError("it changed since it was planned", hint="run the same command again")


def _check_layers(task: Task) -> None:
    """Those of a container of this machine are the record's. Raises BuildError."""
    if read_from(task.record)[1] != tuple(one.diff_id for one in task.inputs.below):
        raise BuildError("it changed since it was planned", hint="run the same command again")


@contextmanager
def _opened(image: ImageRef, store: Store) -> Iterator[tuple[Layout, BaseImage]]:
    """The image on this machine, or of blobs that were fetched into the store."""
    if image.path:
        path = Path(image.path)
        with opened_base(image.kind, path) as layout:
            if image.kind == "oci":
                yield layout, layout_base(layout, image.platform)
            else:
                yield layout, find_base(image.kind, path, image.platform)
        return
    layout = stored_layout(store)
    yield layout, manifest_base(layout, stored_manifest(image.digest, store))


def stored_layout(store: Store) -> Layout:
    """The blobs of a store as those of a layout."""

    def opened(path: str) -> BufferedReader:
        return store.path(Digest(path.rpartition("/")[2])).open("rb")

    return Layout(opened)


def stored_manifest(digest: Digest, store: Store) -> Mapping[str, object]:
    """A descriptor of a manifest that the store has."""
    return {"digest": oci_digest(digest), "size": store.size(digest)}


class _Copied:
    """Bytes that are written elsewhere as they are read."""

    def __init__(self, stream: Readable, out: Writable) -> None:
        self._stream, self._out = stream, out

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size) or b""
        if chunk:
            write_all(self._out, chunk)
        return chunk


@dataclass(slots=True)
class _Layers:
    """Takes the layers of one image in turn. `left_out` are devices and FIFOs; `epoch` is the
    latest time of a file, in seconds since 1970."""

    place: BuildPlace
    left_out: list[str] = field(default_factory=list)
    epoch: int = 0
    stored: int = 0
    inflated: int = 0

    def take(self, layout: Layout, layer: BaseLayer, title: str) -> Output:
        """One layer of a layout or archive."""
        store, before = self.place.store, len(self.left_out)
        store.pin([layer.diff_id])
        if store.has(layer.diff_id):
            with store.checked(layer.diff_id) as plain:
                entries = self._scan(plain, title)
        else:
            entries = self._bring(layout, layer, title)
        size = store.size(layer.diff_id) or 0
        self.inflated += size
        listing = _listing(entries)
        with store.batch() as batch:
            if len(self.left_out) == before:
                return Output(layer.diff_id, size, batch.put_bytes(contents_blob(listing)))
            with store.seekable(layer.diff_id) as stream:
                content = _content(stream, title)
                return put_layer(batch, listing, content, whiteouts=True)

    def own(self, layer: LayerRef, directory: str) -> Output:
        """A layer that a build of another container left, as that listed it: nothing of it is read
        here but its entries."""
        store = self.place.store
        store.pin([layer.diff_id, layer.contents])
        size = store.size(layer.diff_id)
        if size is None or not store.has(layer.contents):
            hint = f"build it again: buildit {directory}"
            raise BuildError("a layer of it is no longer in the store", hint=hint)
        files = (one for one in parse_contents(store.read(layer.contents)) if one.kind is Kind.FILE)
        self.epoch = max(self.epoch, *(one.mtime for one in files), 0)
        return Output(layer.diff_id, size, layer.contents)

    def _bring(self, layout: Layout, layer: BaseLayer, title: str) -> list[Entry]:
        wrong = f"{title} is not of the digest and size that name it"
        with layout.opened(layer.place, title) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if layer.size not in (None, size):
                raise IntegrityError(wrong)
            self.stored += size
            budget, hashed = budget_of(self.stored, self.inflated), Hashed(stream)
            with decompressed(hashed, budget, title) as plain, self.place.store.ingest() as sink:
                copied = _Copied(plain, sink)
                entries = self._scan(copied, title)
                while copied.read(CHUNK):
                    pass
                if layer.digest not in (None, hashed.digest()):
                    raise IntegrityError(wrong)
                try:
                    sink.commit(layer.diff_id)
                except IntegrityError as error:
                    raise IntegrityError(f"{title} is not of its diff_id") from error
        return entries

    def of_aci(self, path: Path, plain: Path) -> Output:
        """The tree of an ACI; `plain` is where its tar may lie for a while."""
        budget = budget_of(path.stat().st_size)
        with path.open("rb") as stream, plain.open("w+b") as out:
            with decompressed(stream, budget, path.name) as tar:
                found = self._scan(_Copied(tar, out), path.name, whiteouts=False)
            out.flush()
            out.seek(0)
            content = _content(out, path.name, _ROOTFS)
            listing = _listing([*_beneath_rootfs(found)])
            with self.place.store.batch() as batch:
                return put_layer(batch, listing, content)

    def _scan(self, plain: Readable, title: str, *, whiteouts: bool = True) -> list[Entry]:
        """The entries of a layer, checked."""
        entries = []
        for entry, _ in read_entries(plain, title, nodes=self._left_out):
            if problem := _problem(entry, whiteouts=whiteouts):
                raise IntegrityError(f"{title}: {shown(entry.path)!r} {problem}")
            if entry.path:  # engines make the root themselves
                entries.append(entry)
            if entry.kind is Kind.FILE:
                self.epoch = max(self.epoch, entry.mtime)
        files = {one.path for one in entries if one.kind in (Kind.FILE, Kind.HARDLINK)}
        void = {one.path for one in entries if _deletes_in(one.path, files)}
        self.left_out += [f"{shown(path)!r}, which deletes beneath a file" for path in sorted(void)]
        return [one for one in entries if one.path not in void] if void else entries

    def _left_out(self, remark: str) -> None:
        self.left_out.append(remark.removeprefix("member ").replace(" is left out: it is", " is"))


def _deletes_in(path: str, files: Set[str]) -> bool:
    """Whether a whiteout names something beneath a file of the same layer."""
    if not posixpath.basename(path).startswith(_WHITEOUT):
        return False
    while path := posixpath.dirname(path):
        if path in files:
            return True
    return False


def _problem(entry: Entry, *, whiteouts: bool) -> str:
    """What is wrong with an entry of a layer (image-spec layer.md, "Whiteouts"); empty where
    nothing is."""
    for name in entry.xattrs:
        if name.startswith(_OVERLAYS):
            return f"has the attribute {name}, which hides files in an overlay file system"
    above, name = posixpath.split(entry.path)
    if f"/{_WHITEOUT}" in f"/{above}":
        return "lies in a directory that is a whiteout by its name"
    if posixpath.basename(entry.target).startswith(_WHITEOUT) and entry.kind is Kind.HARDLINK:
        return "is a hard link to a whiteout"
    if not name.startswith(_WHITEOUT):
        return ""
    if not whiteouts:
        return "would delete files, as it is named, once it is in a layer"
    if entry.kind is not Kind.FILE or entry.size:
        return f"is a whiteout by its name, and is a {entry.kind} of {entry.size} bytes"
    if name.removeprefix(_WHITEOUT) in ("", ".", ".."):
        return "is a whiteout of nothing"
    return ""


def _listing(entries: Iterable[Entry]) -> list[Entry]:
    """Entries in the order of layers, where the first name of a file is the file."""
    merged = MergedTree()
    merged.lay(LayerChange(tuple(entries)))
    own = {path: one for path, one in merged.tree.items() if one.layer != GENERATED}
    return [member.entry for member in linked(own)]


def _content(stream: BinaryIO, title: str, below: str = "") -> Callable[[Entry], Slice]:
    """Opens the bytes of files in a tar, which have paths beneath `below` there."""
    starts = read_offsets(stream, title)

    def content(entry: Entry) -> Slice:
        return Slice(os.dup(stream.fileno()), starts[below + entry.path], entry.size)

    return content


def _beneath_rootfs(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The tree of an ACI, without its root."""
    for entry in entries:
        if not entry.path.startswith(_ROOTFS):
            continue
        inner = replace(entry, path=entry.path.removeprefix(_ROOTFS))
        if entry.kind is Kind.HARDLINK:
            if not entry.target.startswith(_ROOTFS):
                text = f"{shown(entry.path)!r} is a hard link to a file outside of its rootfs"
                raise IntegrityError(text)
            inner = replace(inner, target=entry.target.removeprefix(_ROOTFS))
        yield inner
