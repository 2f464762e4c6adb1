"""Names inside archives: what is accepted, how they are normalised and how messages show them."""

from __future__ import annotations

from collections.abc import Iterator

from buildit.errors import IntegrityError

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


def refused(
    archive: str, member: str | None, reason: str, hint: str | None = None
) -> IntegrityError:
    """The error of every archive that is not read: place is the archive, then the member."""
    message = reason if member is None else f"member {shown(member)!r} is refused: {reason}"
    return IntegrityError(message, place=archive, hint=hint or REPACK)
