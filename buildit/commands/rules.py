"""The versions of our own rules that enter every key, in one place."""

from __future__ import annotations

from buildit.archive.contents import MERGED_USR
from buildit.archive.unpack import UNPACKER
from buildit.patch.form import CANONICAL_PATCH
from buildit.plan.identity import Rules

RULES = Rules(
    # of `make.capture.normalise`, and of what stripping takes away
    normaliser="2",
    # of how `make.capture.capture` splits what was installed
    splitter="2",
    # of how `make.patching` applies patches, and of the time that their files get
    patcher=f"2.{CANONICAL_PATCH}",
    # raised when a .deb's outputs or their needs come out otherwise: links followed, what is unmet
    deb=f"{MERGED_USR}.3",
    # raised when what a build can see of the sandbox changes: mounts, ids, environment, filters,
    # links of alternatives
    sandbox="3",
    unpacker=UNPACKER,
)
