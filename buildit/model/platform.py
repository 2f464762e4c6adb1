"""What is built for: operating system, architecture and the names that others give it."""

from __future__ import annotations

from dataclasses import dataclass

from buildit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Platform:
    """`arch` in Go's (OCI's) spelling; `baseline` is the lowest CPU that the result runs on."""

    os: str
    arch: str
    baseline: str
    triplet: str
    debian: str

    def __str__(self) -> str:
        return f"{self.os}/{self.arch}"


PLATFORMS = {
    "linux/amd64": Platform("linux", "amd64", "x86-64", "x86_64-linux-gnu", "amd64"),
    "linux/arm64": Platform("linux", "arm64", "armv8-a", "aarch64-linux-gnu", "arm64"),
}
_MACHINES = {one.triplet.partition("-")[0]: one for one in PLATFORMS.values()}


def platform(os: str, arch: str, *, place: str | None = None) -> Platform:
    """The platform of that name; appc's and uname's spellings are understood.

    Raises:
        UsageError: buildit cannot build for it.
    """
    name = f"{os}/{arch}"
    found = PLATFORMS.get(name) or (_MACHINES.get(arch) if os == "linux" else None)
    if found is None:
        hint = f"known platforms: {', '.join(PLATFORMS)}"
        raise UsageError(f"cannot build for {name}", place=place, hint=hint)
    return found


def build_platform(machine: str) -> Platform:
    """The platform of the machine that we run on, by its `uname -m`.

    Raises:
        UsageError: buildit does not know the machine.
    """
    found = _MACHINES.get(machine)
    if found is None:
        hint = f"known: {', '.join(_MACHINES)}"
        raise UsageError(f"cannot build on a {machine} machine", hint=hint)
    return found
