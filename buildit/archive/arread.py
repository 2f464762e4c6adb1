"""The outer form of a .deb: an `ar` archive, read strictly. Source: deb(5), ar(5)."""

from __future__ import annotations

from collections.abc import Iterator

from buildit.archive.streams import Readable, Window, read_up_to
from buildit.archive.tar.names import refused

_MAGIC = b"!<arch>\n"
_HEADER = 60


def read_ar(stream: Readable, name: str) -> Iterator[tuple[str, Window]]:
    """Members' names and bytes, in order; each is read before the next is asked for.

    Raises:
        IntegrityError: it is no `ar` archive, is truncated, or a header is malformed.
    """
    if read_up_to(stream, len(_MAGIC)) != _MAGIC:
        raise refused(name, None, "it is no .deb: its first line is not '!<arch>'")
    while header := read_up_to(stream, _HEADER):
        member, size = _parsed(header, name)
        content = Window(stream, size, name, member)
        yield member, content
        content.drain()
        if size % 2 and read_up_to(stream, 1) not in (b"\n", b""):
            raise refused(name, member, "it is not followed by a newline")


def _parsed(header: bytes, name: str) -> tuple[str, int]:
    digits = header[48:58].rstrip(b" ")
    raw = header[:16].rstrip(b" ").removesuffix(b"/")
    if len(header) < _HEADER or header[58:60] != b"`\n":
        raise refused(name, None, "an ar header is truncated or malformed")
    if not digits.isdigit() or not raw.isascii() or not raw.decode().isprintable() or not raw:
        raise refused(name, None, "an ar header has no plain name or size")
    return raw.decode(), int(digits)
