"""What is installed of the rivals, and how they are called."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from bench.timing import BenchError, process

NIX_OPTIONS = (
    "--option",
    "sandbox",
    "true",
    # The builder is the machine's own shell; the sandbox has nothing else of the machine.
    "--option",
    "sandbox-paths",
    "/bin/sh /lib /lib64 /usr/lib",
    "--option",
    "substitute",
    "false",
    "--max-jobs",
    "2",
    "--no-out-link",
)

_PROBE = 'derivation { name = "probe"; system = builtins.currentSystem; builder = "/bin/sh"; \
args = [ "-c" "echo yes > $out" ]; }\n'


class Place(Protocol):
    """Where a probe may write."""

    @property
    def root(self) -> Path: ...

    def log(self, name: str) -> Path: ...


def nix_works(place: Place) -> bool:
    """Whether nix-build is here and can build in its sandbox."""
    if shutil.which("nix-build") is None:
        return False
    (place.root / "probe.nix").write_text(_PROBE)
    argv = ["nix-build", *NIX_OPTIONS, "--store", str(place.root / "nix"), "probe.nix"]
    try:
        process(argv, cwd=place.root, log=place.log("nix-probe.log"))
    except BenchError:
        return False
    return True


def installed(*names: str) -> tuple[str, ...]:
    """Those of the programs that are on PATH."""
    return tuple(name for name in names if shutil.which(name) is not None)
