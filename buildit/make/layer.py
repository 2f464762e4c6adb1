"""The makers of `sync`, `accounts`, `directories`, `links`, `symlinks`, `texts` and `modes`: layers
that no package brings.

Their record is the layer itself, entry by entry as it is laid down, and the bytes of generated
files; of the files of the project it has the digests. No path of the machine is in it, so the same
files in another checkout are the same task.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

from buildit.archive.beneath import Root
from buildit.archive.contents import contents_blob, parse_contents
from buildit.archive.streams import Content
from buildit.archive.tar.write import write_tar
from buildit.digest import canonical
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.image.layertar import Slice
from buildit.image.output import BlobPath, open_blob
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.model.artifact import RUNTIME, Output
from buildit.model.plan import About, Inputs, LayerFile, Task, Toolchain
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import SCHEME, step_task
from buildit.store.blobs import Batch, CorruptBlob

LAYER = "1"
"""Version of how entries become a layer; in the key."""


def layer_task(
    kind: str,
    entries: Iterable[Entry],
    texts: Mapping[str, bytes] | None = None,
    sources: Mapping[str, str] | None = None,
    about: About | None = None,
    copies: tuple[LayerFile, ...] = (),
    root: str = "",
) -> Task:
    """The task of a layer with these entries, files with their digests.

    `texts` are generated files by their path in the layer; `sources` says of the others where they
    lie in the project, or beneath `root` where there is one, and `copies` which layers of the store
    have their bytes. `about` has where the step was written, and what of the project it takes.
    """
    listed = json.loads(contents_blob(entries))["entries"]
    decoded = {path: text.decode() for path, text in (texts or {}).items()}
    layer = {"entries": listed, "texts": decoded, "rules": {"layer": LAYER}}
    inputs = Inputs(files=tuple(sorted((sources or {}).items())), copies=copies, root=root)
    return step_task({"scheme": SCHEME, "type": kind, **layer}, inputs, about or About())


def read_layer(record: str) -> tuple[tuple[Entry, ...], Mapping[str, bytes]]:
    """The entries of a record and its generated files.

    Raises:
        IntegrityError: it is no record of a layer.
    """
    try:
        data = json.loads(record)
        if (data["scheme"], data["rules"]) != (SCHEME, {"layer": LAYER}):
            raise ValueError("it is of another scheme")
        texts = {path: text.encode() for path, text in data["texts"].items()}
        return parse_contents(canonical({"entries": data["entries"], "format": 1})), texts
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"not the record of a layer that this buildit can make: {error}"
        raise IntegrityError(text, hint="plan it again with this buildit") from error


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """Nothing: its files are in the project, or in its record."""
    del task, toolchain
    return Inputs()


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Pack the layer.

    Raises:
        RecipeError: a file of the project cannot be read.
        BuildError: one changed since it was planned.
        StoreError: the store cannot be written.
    """
    del at_hand, work
    entries, texts = read_layer(task.record)
    epoch = max((entry.mtime for entry in entries if entry.kind is Kind.FILE), default=0)
    sources, about = dict(task.inputs.files), task.about
    copies = {one.path: one for one in task.inputs.copies}
    where = Path(task.inputs.root) if task.inputs.root else place.project
    project = opened_project(where, about.description, about.origin)
    with project if sources else nullcontext() as root, place.store.batch() as batch:

        def content(entry: Entry) -> Content:
            if entry.path in texts:
                return io.BytesIO(texts[entry.path])
            if (copy := copies.get(entry.path)) is not None:
                return Copied(copy, entry, place.store.path)
            if root is None:
                raise IntegrityError(f"the record has no bytes for {entry.path!r}")
            return cast(Content, root.open_file(sources[entry.path]))

        output = put_layer(batch, entries, content)
        return Made({RUNTIME: output}, put_record(task, batch), epoch)


class Copied(Slice):
    """A file of a layer of the store; closing tells whether its bytes are the entry's."""

    def __init__(self, copy: LayerFile, entry: Entry, blob: BlobPath) -> None:
        self._wrong = CorruptBlob(copy.layer, f"what {entry.path!r} is a copy of")
        super().__init__(
            open_blob(blob, copy.layer, copy.layer_size, self._wrong.what), copy.start, entry.size
        )
        self._digest, self._hash, self._left = entry.digest, hashlib.sha256(), entry.size

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = super().readinto(buffer)
        self._hash.update(buffer[:count])
        self._left -= count
        return count

    def close(self) -> None:
        """Raises CorruptBlob where all was read and is not of the digest that the entry gives."""
        wrong = not (self.closed or self._left) and self._hash.hexdigest() != self._digest
        super().close()
        if wrong:
            raise self._wrong


def put_layer(
    batch: Batch,
    entries: Iterable[Entry],
    content: Callable[[Entry], Content],
    *,
    whiteouts: bool = False,
) -> Output:
    """Write entries, in the order of layers, as one layer; `content` opens a file's bytes,
    `whiteouts` is as of `write_tar`.

    Raises:
        StoreError: the store cannot be written.
        BuildError, IntegrityError, OSError: from `content`, or a file has other bytes than its
            entry says.
    """
    with batch.ingest() as sink:
        written = write_tar(entries, content, sink, whiteouts=whiteouts)
        diff_id, size = sink.commit(), sink.size
    return Output(diff_id, size, batch.put_bytes(contents_blob(written)))


@contextmanager
def opened_project(project: Path, src: str, place: str) -> Iterator[Root]:
    """The project's directory; what goes wrong with it is an error of the step at `place`, which
    takes `src`."""
    try:
        with Root.open(project) as root:
            yield root
    except (BuildError, IntegrityError) as error:
        hint = "sync regular files and directories beneath the container's directory"
        raise RecipeError(f"{src!r} cannot be synced: {error}", place=place, hint=hint) from error
    except OSError as error:
        text, hint = f"{src!r} cannot be synced: {error.strerror}", f"it is looked for in {project}"
        raise RecipeError(text, place=place, hint=hint) from error
