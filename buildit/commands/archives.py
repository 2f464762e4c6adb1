"""Archives that a sync step unpacks: whether a file is one, and its tree as a layer."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from buildit.archive.admit import Budget
from buildit.archive.compress import decompressed
from buildit.archive.tar.read import read_tar
from buildit.digest import CHUNK, Digest, is_hex64
from buildit.errors import BuildError, IntegrityError
from buildit.files import replacing
from buildit.image.layertar import Slice, read_offsets
from buildit.image.merge import GENERATED, LayerChange, MergedTree, linked
from buildit.image.reading import budget_of
from buildit.make.layer import put_layer
from buildit.model.artifact import Output
from buildit.model.tree import Entry
from buildit.store.cas import Store

_USTAR_AT = 257
_BLOCK = 512
_RULE = "1"
"""Version of how an archive becomes a layer."""


def holds_tar(stream: BinaryIO) -> bool:
    """Whether a file is a tar of POSIX or GNU, compressed or not, whatever it is called. It is read
    from its start; what cannot be decoded is none."""
    stream.seek(0)
    with suppress(BuildError, IntegrityError, OSError, EOFError):
        head = decompressed(stream, Budget(), "archive").read(_BLOCK)
        return head[_USTAR_AT : _USTAR_AT + 5] == b"ustar"
    return False


def archive_layer(stream: BinaryIO, digest: Digest, name: str, store: Store) -> Output:
    """The layer of an archive with this digest, made where the store has it not. Paths that lead
    out of it, twice the same ones and the like are refused, as in every archive.

    Raises:
        IntegrityError, BuildError: it holds what no layer may, or more than the limits allow.
        StoreError: the store cannot be written.
    """
    kept = store.cache("unpacked") / f"{digest}-{_RULE}"
    if (known := _known(kept, store)) is not None:
        return known
    stream.seek(0, os.SEEK_END)
    size = stream.tell()
    stream.seek(0)
    work = kept.with_name(f"{kept.name}.{os.getpid()}.tar")
    try:
        with work.open("w+b") as plain:
            source = decompressed(stream, budget_of(size), name)
            while part := source.read(CHUNK):
                plain.write(part)
            plain.flush()
            plain.seek(0)
            entries = [one for one, _ in read_tar(plain, budget_of(size), name) if one.path]
            _check(entries, name)
            plain.seek(0)
            starts = read_offsets(plain, name)

            def content(entry: Entry) -> Slice:
                return Slice(os.dup(plain.fileno()), starts[entry.path], entry.size)

            merged = MergedTree()
            merged.lay(LayerChange(tuple(entries)))
            own = {path: one for path, one in merged.tree.items() if one.layer != GENERATED}
            with store.batch() as batch:
                made = put_layer(batch, [member.entry for member in linked(own)], content)
    finally:
        work.unlink(missing_ok=True)
    with replacing(kept) as out:
        out.write(json.dumps([made.diff_id, made.size, made.contents]).encode())
    return made


def _check(entries: list[Entry], name: str) -> None:
    """Raises IntegrityError: a name would delete files, once it is in a layer."""
    for entry in entries:
        if any(part.startswith(".wh.") for part in entry.path.split("/")):
            message = f"{entry.path!r}: names that begin with .wh. delete files in image layers"
            raise IntegrityError(message, place=name, hint="pack it without that file")


def _known(kept: Path, store: Store) -> Output | None:
    try:
        diff_id, size, contents = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return None
    whole = is_hex64(diff_id) and is_hex64(contents) and type(size) is int
    if not whole or not (store.has(diff_id) and store.has(contents)):
        return None
    store.pin([Digest(diff_id), Digest(contents)])
    return Output(Digest(diff_id), size, Digest(contents))
