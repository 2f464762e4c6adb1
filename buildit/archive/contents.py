"""What a tree holds, by its entries alone, without a file system: their listing as canonical JSON,
and one digest over it; where paths lead through symbolic links, and the links of a merged /usr
(DESIGN 2.4).
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import ge
from typing import Any, TypeVar

from buildit.archive.admit import member_path, path_bytes
from buildit.digest import Digest, canonical, digest_bytes, is_hex64
from buildit.errors import IntegrityError
from buildit.model.tree import MOST_LINKS, Entry, Kind, sort_key

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
        hint = "run `buildit store verify`; it sets damaged objects aside"
        raise IntegrityError(f"a listing of contents is damaged: {error}", hint=hint) from error
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


EntryAt = Callable[[str], Entry | None]
"""The entry at a path without leading slash; None where the tree has none."""

MERGED_USR = "1"
"""The version of this transform; part of every key that a .deb enters."""

TOPS = ("bin", "lib", "lib32", "lib64", "sbin")
TOP_LINKS = frozenset((*TOPS, "libx32"))
"""Names of links into /usr that a merged tree may have, whoever made it."""

RUN_LINKS: Mapping[str, str] = {"var/lock": "../run/lock", "var/run": "../run"}
"""As `sys-apps/baselayout` has them, too."""
MERGED_LINKS = tuple(Entry(top, Kind.SYMLINK, 0o777, target=f"usr/{top}") for top in TOPS)
"""What a tree needs beside merged packages, less those whose target it does not have."""


def merged_path(path: str) -> str:
    """Where a path of an unmerged tree lies in a merged one."""
    return f"usr/{path}" if path.partition("/")[0] in TOPS else path


_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Way:
    """How the kernel walks a path with the tree as root, path_resolution(7).

    `links` are those that it passes, in order. `end` is where it leads: the root is "", a loop of
    links None; places that the tree lacks are taken as directories. `named` is whether an entry
    has the path's own name, and be it a link that leads on. `missing` is the first place that the
    tree lacks, `through` the first that is neither directory nor link although the path goes on
    beneath it; both empty where there is none. `escapes` is whether, without the tree as root, it
    would leave the tree: by an absolute link, or by `..` above the root.
    """

    links: tuple[str, ...]
    end: str | None
    named: bool
    missing: str = ""
    through: str = ""
    escapes: bool = False


def way(path: str, get: EntryAt, merged: Mapping[str, str] = _NOTHING, *, last: bool = True) -> Way:
    """Walk a path; `merged` are links of the root that are taken for granted. Without `last`, a
    link that the path itself names, with nothing after it, is not followed."""
    rest = path.split("/")[::-1]
    at: list[str] = []
    links: list[str] = []
    missing = through = ""
    named = escapes = False
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            escapes = escapes or not at
            del at[-1:]
            continue
        if not at and part in merged:
            at = merged[part].split("/")
            continue
        at.append(part)
        here = "/".join(at)
        entry = get(here)
        if entry is None:
            missing = missing or here
            continue
        named = named or not any(each not in ("", ".") for each in rest)
        if entry.kind is Kind.SYMLINK and (rest or last):
            links.append(here)
            if len(links) > MOST_LINKS:
                return Way(tuple(links), None, named, missing, through, escapes)
            absolute = entry.target.startswith("/")
            escapes = escapes or absolute
            at = [] if absolute else at[:-1]
            rest += entry.target.split("/")[::-1]
        elif entry.kind is not Kind.DIRECTORY and rest:
            through = through or here
    end = "/".join(at)
    named = named or not end or get(end) is not None
    return Way(tuple(links), end, named, missing, through, escapes)


# -- files of a chroot that no package has

HOSTS = "127.0.0.1 localhost\n127.0.0.1 buildit\n::1 localhost\n::1 buildit\n"
"""A line for each name: the first of a line is the canonical one, which `hostname -f` says."""

NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n"
    "protocols: files\nnetworks: files\nethers: files\nrpc: files\n"
)
"""Files only: a build has no network."""
