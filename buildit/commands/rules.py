"""The versions of our own rules that enter every key, in one place."""

from __future__ import annotations

from buildit.archive.contents import MERGED_USR
from buildit.archive.unpack import UNPACKER
from buildit.patch.form import CANONICAL_PATCH
from buildit.plan.identity import Rules

NORMALISER = "2"
"""Version of the rules of `make.capture.normalise` and of what stripping takes away."""
SPLITTER = "2"
"""Version of how `make.capture.capture` splits what was installed."""
PATCHER = "2"
"""Version of how `make.patching` applies patches, and of the time that their files get."""
UNPACKING = "3"
"""Raised when a .deb's outputs or their needs come out otherwise: links followed, what is unmet."""
SANDBOX = "2"
"""Raised when what a build can see of the sandbox changes: mounts, ids, environment, filters."""

RULES = Rules(
    normaliser=NORMALISER,
    splitter=SPLITTER,
    patcher=f"{PATCHER}.{CANONICAL_PATCH}",
    deb=f"{MERGED_USR}.{UNPACKING}",
    sandbox=SANDBOX,
    unpacker=UNPACKER,
)
