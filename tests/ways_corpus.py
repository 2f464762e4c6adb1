"""Flockport recipes and manifests of real shape, in tests/integration: their directories, and what
the command line says of those that ask for something."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent / "integration"

FLOCKPORT = tuple(sorted(one.parent for one in _HERE.glob("flockport/*/Flockportfile")))
"""Each has `check` beside it: a script that is run in the image."""

MANIFESTS = tuple(sorted(one.parent for one in _HERE.glob("manifests/*/manifest.yaml")))
"""Each has its own tests (`script`)."""

VALUES = {
    "provision": ("project=web", "dependencies=[git, make]"),
    "old-style": ("release=11",),
    "matrix-of-one": ("flavour=plain", "levels=[low, high]"),
}
"""What `--set` says, by the name of the directory."""


def set_words(name: str) -> tuple[str, ...]:
    """The words of a command line for one of them."""
    return tuple(word for value in VALUES.get(name, ()) for word in ("--set", value))
