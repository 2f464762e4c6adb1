"""Whether two directories of images are the same bytes, and if not, what differs first."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from itertools import zip_longest
from pathlib import Path
from typing import Any


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory of images."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def first_difference(one: Path, other: Path) -> str | None:
    """None where all images are bit-identical, else the deepest first thing that differs."""
    mine, theirs = digests(one), digests(other)
    assert mine, f"{one} holds no image"
    if mine == theirs:
        return None
    for left, right in zip(sorted(one.glob("*.oci")), sorted(other.glob("*.oci")), strict=True):
        for a, b in zip_longest(_layers(left), _layers(right)):
            if a is None or b is None:
                return f"{left.name} has another number of layers"
            if a.name != b.name:
                return _in_tars(a, b)
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            return f"{name}: {mine.get(name)} and {theirs.get(name)}"
    return None


def manifest(layout: Path) -> dict[str, Any]:
    """The only manifest of an OCI layout."""
    index = json.loads((layout / "index.json").read_text())
    (descriptor,) = index["manifests"]
    loaded: dict[str, Any] = json.loads(_blob(layout, descriptor["digest"]).read_text())
    return loaded


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _layers(layout: Path) -> list[Path]:
    return [_blob(layout, layer["digest"]) for layer in manifest(layout)["layers"]]


def _in_tars(one: Path, other: Path) -> str:
    with tarfile.open(one) as left, tarfile.open(other) as right:
        for a, b in zip_longest(left, right):
            if a is None or b is None:
                return f"only one layer has {(a or b or tarfile.TarInfo()).name}"
            if a.isreg() and b.isreg() and (found := _in_contents(left, a, right, b)):
                return f"{a.name}: {found}"
            if a.get_info() != b.get_info():
                return f"{a.name}: {a.get_info()} and {b.get_info()}"
    return f"{one.name} and {other.name} differ outside of their entries"


def _in_contents(
    left: tarfile.TarFile, a: tarfile.TarInfo, right: tarfile.TarFile, b: tarfile.TarInfo
) -> str:
    mine, theirs = left.extractfile(a), right.extractfile(b)
    assert mine is not None
    assert theirs is not None
    x, y = mine.read(), theirs.read()
    if x == y:
        return ""
    pairs = enumerate(zip_longest(x, y))
    at = next(number for number, (p, q) in pairs if p != q)
    near = slice(max(0, at - 40), at + 40)
    return f"from byte {at}: {x[near]!r} and {y[near]!r}"


def tree(layout: Path) -> dict[str, tarfile.TarInfo]:
    """The merged tree of an image without whiteouts: paths with the entry that won."""
    merged: dict[str, tarfile.TarInfo] = {}
    for layer in _layers(layout):
        with tarfile.open(layer) as tar:
            merged |= {member.name.removeprefix("./").rstrip("/"): member for member in tar}
    return merged


def content(layout: Path, path: str) -> bytes:
    """The bytes of a regular file of an image."""
    found = b""
    for layer in _layers(layout):
        with tarfile.open(layer) as tar:
            for member in tar:
                if member.name.removeprefix("./") == path and member.isreg():
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found = stream.read()
    return found


def aci_names(aci: Path) -> set[str]:
    with gzip.open(aci) as stream, tarfile.open(fileobj=stream) as tar:
        return {member.name for member in tar}
