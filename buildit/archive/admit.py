"""What an archive may hold: limits on its size and shape, and one entry per path.

Names inside archives: what is accepted, how they are normalised and how messages show them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from buildit.errors import BuildError, IntegrityError
from buildit.model.tree import MOST_LINKS, Entry, Kind

SHOWN = 120
"""Characters of a hostile name that a message shows."""
REPACK = "check where the archive comes from; a sound one can be repacked with GNU tar"
"""The hint of a refusal that has no better one."""


def member_path(raw: bytes) -> str:
    """A member's name as a tree path: `./`, `//` and a trailing slash removed; "" is the root.

    Bytes that are not UTF-8 survive as surrogates (PEP 383), as `model.tree.Entry` has them.

    Raises:
        ValueError: the name is empty, absolute, holds `..` or a NUL; its text says which.
    """
    if not raw:
        raise ValueError("its name is empty")
    if b"\0" in raw:
        raise ValueError("its name holds a NUL byte")
    if raw.startswith(b"/"):
        raise ValueError("its name is absolute")
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ValueError("its name holds '..'")
    return b"/".join(parts).decode("utf-8", "surrogateescape")


def link_text(raw: bytes) -> str:
    """The text of a symbolic link, unchanged: it is data, nothing here follows it.

    Raises:
        ValueError: the text is empty or holds a NUL; no file system can hold such a link.
    """
    if not raw:
        raise ValueError("its link text is empty")
    if b"\0" in raw:
        raise ValueError("its link text holds a NUL byte")
    return raw.decode("utf-8", "surrogateescape")


def path_bytes(path: str) -> bytes:
    """A tree path as the file system has it, whatever the locale says."""
    return path.encode("utf-8", "surrogateescape")


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def parents(path: str) -> Iterator[str]:
    """The directories above a path, the nearest first, without the root."""
    while path := parent(path):
        yield path


def shown(path: str) -> str:
    """A name fit for one line of a terminal: escaped where it must be, shortened where long."""
    text = path if len(path) <= SHOWN else f"{path[:SHOWN]}…"
    return text if text.isprintable() and text.isascii() else ascii(text)[1:-1]


def refused(archive: str, path: str | None, reason: str, hint: str | None = None) -> IntegrityError:
    """The error of every archive that is not read: place is the archive, then the member."""
    message = reason if path is None else f"member {shown(path)!r} is refused: {reason}"
    return IntegrityError(message, place=archive, hint=hint or REPACK)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on one archive.

    `total_bytes` is of everything that comes out of the decoder; `entries` counts members; `depth`
    is path parts; `path_bytes` is the length of a path or link text in bytes; `ratio` is bytes out
    per byte in, once `ratio_free` bytes are out; `memory` is what a decoder may take, in bytes.
    `whiteouts`: it is a layer, where `d/.wh.x` beside a file `d` deletes nothing (umoci writes that
    where a directory became a file).
    """

    total_bytes: int = 64 << 30
    entries: int = 2_000_000
    depth: int = 100
    path_bytes: int = 4095
    ratio: int = 300
    ratio_free: int = 64 << 20
    memory: int = 256 << 20
    whiteouts: bool = False


Remark = Callable[[str], None]
"""Told of what a reading got over, one clause each. A reader that has a listener reads what GNU
tar and unzip read, and tells; without one, whatever two tools could read differently is refused."""

OURS = Budget(total_bytes=1 << 50, entries=50_000_000, depth=2048)
"""For tars that our own writer made and whose digest was checked."""


LARGER = "check where it comes from: no archive that this reader is for is that large"
"""The hint of a limit that was exceeded, where there is no better one."""


def over(archive: str, limit: str, value: int, what: str) -> BuildError:
    """The error of a limit that was exceeded; it names the limit as `Budget` does."""
    message = f"the archive exceeds the limit {limit} = {value} ({what})"
    return BuildError(message, place=archive, hint=LARGER)


_WHITEOUT = ".wh."  # OCI image-spec layer.md, "Whiteouts"


class Gate:
    """Admits the members of one archive in turn, or raises."""

    def __init__(self, budget: Budget, archive: str, remark: Remark | None = None) -> None:
        self._budget = budget
        self._archive = archive
        self._remark = remark
        self._count = 0
        self._kinds: dict[str, Kind] = {}
        self._parents: set[str] = set()
        self.link_texts: dict[str, str] = {}  # of the symbolic links that were admitted
        self._known_parent = ""

    def admit(self, entry: Entry) -> None:
        """Check one entry against the limits and the entries before it.

        With a listener a later member replaces an earlier one, as tar(1) and unzip(1) do it.

        Raises:
            BuildError: a limit of the budget is exceeded.
            IntegrityError: a file's path appears twice, lies below a file or link, replaces a
                directory that is not empty, or a hard link names no earlier file.
        """
        self.count(entry.path)
        self._limits(entry)
        self._shape(entry)
        self._kinds[entry.path] = entry.kind
        self.link_texts.pop(entry.path, None)
        if entry.kind is Kind.SYMLINK:
            self.link_texts[entry.path] = entry.target

    def count(self, path: str) -> None:
        """Count a member, of whatever kind.

        Raises:
            BuildError: there are too many.
        """
        self._count += 1
        if self._count > self._budget.entries:
            raise over(self._archive, "entries", self._budget.entries, f"at {shown(path)!r}")

    def through_links(self, path: str) -> str:
        """Where a listener's member goes that lies below a link of the archive, as tar writes it.

        By names alone, and only where the link's text is relative and has no `..`: it cannot lead
        out. Any other path comes back as it is, and `admit` refuses it.
        """
        if self._remark is None or not self.link_texts:
            return path
        gone = path
        for _ in range(MOST_LINKS):
            link = next((above for above in parents(gone) if above in self.link_texts), None)
            if link is None:
                break
            parts = self.link_texts[link].split("/")
            if parts[0] == "" or ".." in parts:
                return path
            above = [part for part in (*link.split("/")[:-1], *parts) if part not in ("", ".")]
            gone = "/".join((*above, gone[len(link) + 1 :]))
        if gone != path:
            self._remark(f"member {shown(path)!r} lies below a link: it is {shown(gone)!r}")
        return gone

    def _limits(self, entry: Entry) -> None:
        budget = self._budget
        longest = max(len(path_bytes(entry.path)), len(path_bytes(entry.target)))
        if longest > budget.path_bytes:
            what = f"a name of {longest} bytes: {shown(entry.path)!r}"
            raise over(self._archive, "path_bytes", budget.path_bytes, what)
        depth = entry.path.count("/") + 1
        if depth > budget.depth:
            what = f"{depth} parts: {shown(entry.path)!r}"
            raise over(self._archive, "depth", budget.depth, what)

    def _shape(self, entry: Entry) -> None:
        path = entry.path
        before = self._kinds.get(path)
        directory = entry.kind is Kind.DIRECTORY
        if not directory and path in self._parents:
            raise refused(self._archive, path, "an earlier member lies below it as a directory")
        if before is not None and not (directory and before is Kind.DIRECTORY):
            if self._remark is None:
                raise refused(self._archive, path, "its path appears twice")
            self._remark(f"member {shown(path)!r} is there again: the later one counts")
        if self._budget.whiteouts and path.rpartition("/")[2].startswith(_WHITEOUT):
            self._deleting(path)
        elif parent(path) != self._known_parent:
            self._ancestors(path)
        files = (Kind.FILE, Kind.HARDLINK)
        if entry.kind is Kind.HARDLINK and self._kinds.get(entry.target) not in files:
            reason = f"it is a hard link to {shown(entry.target)!r}, which is no earlier file"
            raise refused(self._archive, path, reason)

    def _deleting(self, path: str) -> None:
        if any(self._kinds.get(above) is Kind.SYMLINK for above in parents(path)):
            raise refused(self._archive, path, "it deletes what lies behind a link")

    def _ancestors(self, path: str) -> None:
        self._known_parent = parent(path)
        for above in parents(path):
            if above in self._parents:
                return
            kind = self._kinds.get(above)
            if kind is not None and kind is not Kind.DIRECTORY:
                reason = f"it lies below {shown(above)!r}, which is a {kind}"
                raise refused(self._archive, path, reason)
            self._parents.add(above)
