"""The listing of a tree: canonical JSON of its entries, and one digest over it."""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Mapping
from functools import cache
from operator import ge
from typing import Any, TypeVar

from buildit.archive.tar.admit import member_path, path_bytes
from buildit.digest import Digest, canonical, digest_bytes, is_hex64
from buildit.errors import IntegrityError
from buildit.model.tree import Entry, Kind, sort_key

CONTENTS_FORMAT = 1
_T = TypeVar("_T", str, int)


def contents_blob(entries: Iterable[Entry]) -> bytes:
    """The listing of entries, in the bytewise order of their paths.

    `{"entries": [{"kind": …, "mode": "0644", "mtime": 0, "path": …, …}], "format": 1}`; what is at
    its default (owner 0:0, no link target, no attributes) is left out. Values of attributes are
    hex. Names that are not UTF-8 keep their bytes as lone surrogates (PEP 383).
    """
    rows = [_row(entry) for entry in sorted(entries, key=sort_key)]
    return canonical({"entries": rows, "format": CONTENTS_FORMAT})


def parse_contents(data: bytes) -> tuple[Entry, ...]:
    """The entries of a listing.

    Raises:
        IntegrityError: it is not exactly what `contents_blob` writes of valid entries.
    """
    try:
        value = json.loads(data)
        if value["format"] != CONTENTS_FORMAT:
            raise ValueError(f"format {value['format']!r} is not {CONTENTS_FORMAT}")
        entries = tuple(map(_entry, value["entries"]))
        keys = [sort_key(entry) for entry in entries]
        if any(map(ge, keys, keys[1:])):
            raise ValueError("a path appears twice, or before another that it follows")
        if len(value) != 2 or canonical(value) != data:
            raise ValueError("it is not in canonical form")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"a listing of contents is damaged: {error}",
            hint="run `buildit store verify`; it sets damaged objects aside",
        ) from error
    return entries


def root_digest(entries: Iterable[Entry]) -> Digest:
    """One digest of a merged tree: equal where paths, kinds, modes, owners, times, sizes,
    contents, links and attributes are, whatever format carried them."""
    return digest_bytes(contents_blob(entries))


def _row(entry: Entry) -> dict[str, object]:
    row: dict[str, object] = {
        "path": entry.path,
        "kind": entry.kind.value,
        "mode": f"{entry.mode:04o}",
        "mtime": entry.mtime,
    }
    if entry.kind is Kind.FILE:
        if entry.digest is None:
            raise ValueError(f"a file without digest cannot be listed: {entry.path!r}")
        row["size"] = entry.size
        row["sha256"] = entry.digest
    if entry.target:
        row["target"] = entry.target
    if entry.uid or entry.gid:
        row["uid"], row["gid"] = entry.uid, entry.gid
    if entry.xattrs:
        row["xattrs"] = {key: value.hex() for key, value in entry.xattrs.items()}
    return row


def _entry(row: Mapping[str, Any]) -> Entry:
    """One row, typed, which must be exactly what `_row` makes of the entry."""
    path = _text(row, "path")
    rooted = f"/{path}/"
    unusual = "//" in rooted or "/." in rooted or "\0" in rooted
    if unusual and member_path(path_bytes(path)) != path:
        raise ValueError(f"{path!r} is no plain path")
    kind = Kind(row["kind"])
    target = _text(row, "target") if kind in _LINKS else ""
    file, owned = kind is Kind.FILE, "uid" in row
    if file and not is_hex64(_text(row, "sha256")):
        raise ValueError(f"{path!r} has no digest")
    uid, gid = (_natural(row, "uid"), _natural(row, "gid")) if owned else (0, 0)
    xattrs = {}
    for key, value in row.get("xattrs", {}).items():
        xattrs[key] = binascii.unhexlify(value)
        if xattrs[key].hex() != value:
            raise ValueError(f"{path!r} has an attribute in capitals")
    members = 4 + 2 * file + bool(target) + 2 * bool(uid or gid) + bool(xattrs)
    if len(row) != members:
        raise ValueError(f"{path!r} has superfluous members")
    return Entry(
        path,
        kind,
        _mode(_text(row, "mode")),
        _typed(row, "mtime", int, "number"),
        uid,
        gid,
        _natural(row, "size") if file else 0,
        target,
        Digest(row["sha256"]) if file else None,
        xattrs,
    )


_LINKS = (Kind.SYMLINK, Kind.HARDLINK)


@cache
def _mode(text: str) -> int:
    mode = int(text, 8)
    if not 0 <= mode <= 0o7777 or f"{mode:04o}" != text:
        raise ValueError(f"{text!r} is no mode")
    return mode


def _typed(row: Mapping[str, Any], key: str, kind: type[_T], what: str) -> _T:
    value = row[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is no {what}")
    return value


def _text(row: Mapping[str, Any], key: str) -> str:
    return _typed(row, key, str, "text")


def _natural(row: Mapping[str, Any], key: str) -> int:
    value = _typed(row, key, int, "number")
    if value < 0:
        raise ValueError(f"{key} is negative")
    return value
