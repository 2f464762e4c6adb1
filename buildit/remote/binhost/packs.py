"""The small blobs of one artifact in one file: record, listings, log. Pure.

A member is a line `<sha256> <size>` and its bytes. A pack proves nothing and need not be there:
each member is compared with its own name, and what is missing or wrong is asked for by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from buildit.digest import Digest, digest_bytes

PACK_LIMIT = 1 << 20
"""Bytes of a pack."""
MEMBER_LIMIT = 256 << 10
"""Bytes of one member; a longer log is asked for by itself."""
_HEAD = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,7})\n")


def pack_of(members: Iterable[bytes]) -> bytes:
    """The members that fit, in this order; empty where fewer than two do."""
    found: dict[Digest, bytes] = {}
    size = 0
    for content in members:
        whole = b"%s %d\n%s" % (digest_bytes(content).encode(), len(content), content)
        if len(content) <= MEMBER_LIMIT and size + len(whole) <= PACK_LIMIT:
            found.setdefault(digest_bytes(content), whole)
            size += len(whole)
    return b"".join(found.values()) if len(found) > 1 else b""


def members_of(pack: bytes) -> Iterator[tuple[Digest, bytes]]:
    """The members whose bytes are right; what is no member ends it."""
    at = 0
    while head := _HEAD.match(pack, at):
        at = head.end() + int(head[2])
        content = pack[head.end() : at]
        if digest_bytes(content) == head[1].decode():
            yield Digest(head[1].decode()), content
