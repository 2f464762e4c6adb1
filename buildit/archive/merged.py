"""Merged /usr, as a change of names: pure, entry by entry. DESIGN 2.4."""

from __future__ import annotations

from dataclasses import replace

from buildit.archive.tar.admit import refused, shown
from buildit.model.tree import Entry, Kind

MERGED_USR = "1"
"""The version of this transform; part of every key that a .deb enters."""

TOPS = ("bin", "lib", "lib32", "lib64", "sbin")
TOP_LINKS = frozenset((*TOPS, "libx32"))
"""Names of links into /usr that a merged tree may have, whoever made it."""

MERGED_LINKS = tuple(Entry(top, Kind.SYMLINK, 0o777, target=f"usr/{top}") for top in TOPS)
"""What a tree needs beside merged packages, less those whose target it does not have."""


def merged_path(path: str) -> str:
    """Where a path of an unmerged tree lies in a merged one."""
    return f"usr/{path}" if path.partition("/")[0] in TOPS else path


def merged_text(path: str, text: str) -> str:
    """The text of the link that was at `path`, so that it leads to the same file after the move.

    Absolute texts and those that neither end moves stay as they are, byte for byte.
    """
    if text.startswith("/"):
        return text
    old = _resolved(path, text)
    new = merged_path(old)
    if merged_path(path) == path and new == old:
        return text
    return _relative(merged_path(path), new)


class Merge:
    """Applies the transform to one package's entries, in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, Entry] = {}
        self._sources: dict[str, str] = {}

    def admit(self, entry: Entry) -> Entry | None:
        """The entry where it now lies; None where nothing is to be made.

        Raises:
            IntegrityError: it meets an entry of another kind, or a link with another text.
        """
        path = entry.path
        if path in TOPS and entry.kind is Kind.SYMLINK:
            if entry.target.strip("/") != f"usr/{path}":
                reason = f"it is a link to {shown(entry.target)!r}, not to 'usr/{path}'"
                raise refused(self._name, path, reason)
            return None
        moved = _moved(entry)
        if moved.kind is Kind.SYMLINK and _leads_to_itself(moved):
            return None  # `lib/x -> /usr/lib/x` beside the file: one name now
        if moved.kind is Kind.HARDLINK and moved.target == moved.path:
            return None
        before = self._seen.setdefault(moved.path, moved)
        if before is moved:
            self._sources[moved.path] = path
            return moved
        same = before.kind is moved.kind and before.target == moved.target
        if not same or before.size != moved.size:
            reason = f"it and {shown(self._sources[moved.path])!r} meet in /usr and differ"
            raise refused(self._name, path, reason, "take another version of the package")
        return None

    def same_file(self, entry: Entry) -> str | None:
        """The earlier path, as the package has it, of a file whose bytes must be compared."""
        earlier = self._sources.get(merged_path(entry.path))
        return earlier if entry.kind is Kind.FILE and earlier != entry.path else None


def _moved(entry: Entry) -> Entry:
    path = merged_path(entry.path)
    match entry.kind:
        case Kind.SYMLINK:
            return replace(entry, path=path, target=merged_text(entry.path, entry.target))
        case Kind.HARDLINK:
            return replace(entry, path=path, target=merged_path(entry.target))
        case _:
            return entry if path == entry.path else replace(entry, path=path)


def _leads_to_itself(link: Entry) -> bool:
    return merged_path(_resolved(link.path, link.target)) == link.path


def _resolved(path: str, text: str) -> str:
    """Where a link's text leads by names alone, as in a chroot: `..` of the root is the root."""
    parts = [] if text.startswith("/") else path.split("/")[:-1]
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _relative(path: str, target: str) -> str:
    above, wanted = path.split("/")[:-1], target.split("/")
    if not target:
        return "/".join([".."] * len(above)) or "."
    shared = 0
    while shared < min(len(above), len(wanted) - 1) and above[shared] == wanted[shared]:
        shared += 1
    return "/".join([".."] * (len(above) - shared) + wanted[shared:])
