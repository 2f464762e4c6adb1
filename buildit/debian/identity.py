"""What determines a toolchain's tree: its .debs, and the versions of what we do to them; pure."""

from __future__ import annotations

from collections.abc import Iterable

from buildit.archive.merged import MERGED_USR
from buildit.digest import Digest, canonical, digest_bytes
from buildit.model.task import DebRef

FIXUPS = "3"
"""The version of `debian.toolchain`'s choice of files and fix-ups; part of every build's key."""


def toolchain_identity(debs: Iterable[DebRef]) -> Digest:
    """The name of the merged tree of these .debs. Only their digests count, not their order."""
    record = {
        "scheme": "buildit-toolchain-1",
        "debs": sorted({deb.digest for deb in debs}),
        "fixups": FIXUPS,
        "merged-usr": MERGED_USR,
    }
    return digest_bytes(canonical(record))
