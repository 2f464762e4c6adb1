"""One entry of a file tree, as layers, artifacts and images share it; no I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from buildit.digest import Digest

YEAR_1980 = 315532800
"""1980-01-01 UTC in seconds: the oldest time that a zip can say, and that of what has none."""

MOST_LINKS = 40
"""As many as Linux follows on the way to a path, path_resolution(7)."""


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree.

    `path` is relative, `/`-separated, without `.`, `..`, empty parts or a trailing slash; the root
    itself is not an entry. It is text decoded with `surrogateescape`, so any bytes survive.
    `mode` holds the permission bits with set-id and sticky (at most 0o7777). `mtime` is in whole
    seconds. `target` is the link text of a symlink, or the path of the earlier entry of a hard
    link. `digest` and `size` are of a file's content (`size` is 0 and `digest` None elsewhere).
    `xattrs` maps names such as `security.capability` to values.
    """

    path: str
    kind: Kind
    mode: int
    mtime: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    digest: Digest | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def sort_key(entry: Entry) -> bytes:
    """The order of layers: parts of paths compared bytewise, so a directory's content follows it.

    The same in every locale. Plain order of whole paths would put `a-b` between `a` and `a/c`, and
    GNU tar, which sets a directory's time when it leaves it, would set it too early.
    """
    return entry.path.encode("utf-8", "surrogateescape").replace(b"/", b"\0")
