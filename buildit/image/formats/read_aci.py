"""Read an App Container image back: its tree, and every rule that it breaks (appc spec aci.md)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from buildit.archive.decompress import decompressed
from buildit.archive.streams import Readable
from buildit.digest import CHUNK
from buildit.errors import BuilditError
from buildit.image.appspec import program_problem
from buildit.image.formats.aci import ACI
from buildit.image.formats.aci_rules import manifest_problems
from buildit.image.reading import Reading, SeenTree, budget_of, read_entries
from buildit.model.tree import Entry, Kind

_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_USTAR_AT = 257


class _Sha512:
    """Takes the SHA-512 of what is read through it."""

    __slots__ = ("_stream", "hash")

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.hash = hashlib.sha512()

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size) or b""
        self.hash.update(chunk)
        return chunk


def read_aci(path: Path) -> Reading:
    """Read all of an ACI.

    Raises:
        OSError: the file cannot be read.
    """
    problems = [] if path.suffix == ".aci" else ["the file name must end in .aci"]
    with path.open("rb") as stream:
        problems += _magic_problems(stream)
        try:
            with decompressed(
                stream, budget_of(os.fstat(stream.fileno()).st_size), str(path)
            ) as plain:
                hashed = _Sha512(plain)
                tree, manifest = _read(hashed, path.name, problems)
                while hashed.read(CHUNK):
                    pass
        except BuilditError as error:
            return Reading("aci", "", None, (*problems, error.message))
    entries = tree.entries(stacked=False)
    problems += [*tree.problems, *_manifest_problems(manifest, entries)]
    return Reading("aci", f"sha512-{hashed.hash.hexdigest()}", entries, tuple(problems))


def _magic_problems(stream: BinaryIO) -> list[str]:
    """appc tools tell the compression by these magics, and know no other."""
    head = stream.read(_USTAR_AT + 5)
    stream.seek(0)
    known = head.startswith(_MAGICS) or head[_USTAR_AT:] == b"ustar"
    return [] if known else ["it is neither a tar nor compressed with gzip, bzip2 or xz"]


def _read(plain: Readable, name: str, problems: list[str]) -> tuple[SeenTree, bytes | None]:
    tree = SeenTree()
    manifest: bytes | None = None
    has_rootfs = False
    members: list[Entry] = []
    for entry, content in read_entries(plain, name):
        if entry.path == "manifest" and entry.kind is Kind.FILE:
            manifest = content
        elif entry.path == "rootfs" and entry.kind is Kind.DIRECTORY:
            has_rootfs = True
            members.append(replace(entry, path=""))
        elif not entry.path:
            continue
        elif entry.path.startswith("rootfs/"):
            members.append(_without_rootfs(entry, problems))
        else:
            problems.append(f"{entry.path!r} is neither `manifest` nor beneath `rootfs/`")
    if not has_rootfs:
        problems.append("no directory entry `rootfs`")
    if manifest is None:
        problems.append("no regular file `manifest`")
    tree.lay(members)
    return tree, manifest


def _without_rootfs(entry: Entry, problems: list[str]) -> Entry:
    path = entry.path.removeprefix("rootfs/")
    if entry.kind is not Kind.HARDLINK:
        return replace(entry, path=path)
    if not entry.target.startswith("rootfs/"):
        problems.append(f"{entry.path!r} is a hard link to {entry.target!r}, outside the rootfs")
    return replace(entry, path=path, target=entry.target.removeprefix("rootfs/"))


def _manifest_problems(manifest: bytes | None, entries: tuple[Entry, ...]) -> list[str]:
    if manifest is None:
        return []
    try:
        document = json.loads(manifest)
    except (ValueError, RecursionError) as error:
        return [f"manifest: is not JSON: {error}"]
    problems = [f"manifest: {problem}" for problem in manifest_problems(document)]
    if problems or (started := ACI.start(document).program) is None:
        return problems
    tree = {entry.path: entry for entry in entries}

    def find(path: str) -> Entry | None:
        entry = tree.get(path)
        linked = entry is not None and entry.kind is Kind.HARDLINK
        return tree[entry.target] if entry is not None and linked else entry

    problem = program_problem(started, find)
    return [f"manifest: app.exec: {problem}"] if problem else []
