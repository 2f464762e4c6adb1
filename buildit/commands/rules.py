"""The versions of our own rules that enter every key, in one place."""

from __future__ import annotations

from buildit.archive.links import MERGED_USR
from buildit.archive.source import UNPACKER
from buildit.make.capture.normalise import NORMALISER
from buildit.make.capture.split import SPLITTER
from buildit.make.patching import PATCHER
from buildit.patch.form import CANONICAL_PATCH
from buildit.plan.identity import Rules

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
