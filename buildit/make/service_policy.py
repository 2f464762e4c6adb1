"""What forbids maintainer scripts to start services while a `run` step runs: a policy-rc.d
(invoke-rc.d(8), deb-systemd-invoke(1p)), seen inside over the layers below. A step may replace or
remove it; untouched it is in no layer. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from buildit.archive.contents import way
from buildit.digest import digest_bytes
from buildit.image.merge import directories_above
from buildit.model.tree import Entry, Kind

POLICY = b"#!/bin/sh\nexit 101\n"
"""Whatever is to be done is forbidden."""

_PLACE, _READER = "usr/sbin/policy-rc.d", "usr/bin/dpkg"


def service_policy(below: Callable[[str], Entry | None]) -> tuple[Entry, ...]:
    """The file, with the directories above it as they are in a tree, in the order of layers; empty
    where the tree has no dpkg, or a policy of its own."""
    end = way(_PLACE, below).end
    if not end or below(end) is not None or below(_READER) is None:
        return ()
    above = [below(one) for one in sorted(directories_above([end]))]
    folders = [one for one in above if one is not None and one.kind is Kind.DIRECTORY]
    if len(folders) < len(above):
        return ()
    size, digest = len(POLICY), digest_bytes(POLICY)
    return (*folders, Entry(end, Kind.FILE, 0o755, size=size, digest=digest))
