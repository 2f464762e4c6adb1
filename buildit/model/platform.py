"""What is built for: operating system, architecture and the names that others give it."""

from __future__ import annotations

import re
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

    @property
    def machine(self) -> str:
        """What `uname -m` says there."""
        return self.triplet.partition("-")[0]


PLATFORMS = {
    "linux/amd64": Platform("linux", "amd64", "x86-64", "x86_64-linux-gnu", "amd64"),
    "linux/arm64": Platform("linux", "arm64", "armv8-a", "aarch64-linux-gnu", "arm64"),
}
_MACHINES = {one.machine: one for one in PLATFORMS.values()}
_NAMES = {**PLATFORMS, "linux/arm64/v8": PLATFORMS["linux/arm64"]}
_NAMES |= {f"linux/{name}": one for name, one in _MACHINES.items()}


def named_platform(name: str, *, place: str | None = None) -> Platform:
    """The platform of a name such as `linux/arm64`, in upper or lower case, as OCI's clients read
    it; its only variant (`linux/arm64/v8`), and the architecture as uname has it, mean the same.

    Raises:
        UsageError: buildit cannot build for it.
    """
    return _found(name, _NAMES.get(name.lower()), place)


_NAME = re.compile(r"[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?")


def spelled_platform(name: str, *, place: str | None = None) -> str:
    """`linux/arm64` for all that `named_platform` takes for it; others, of which images can be
    read, in lower case.

    Raises:
        UsageError: it is none.
    """
    lower = name.lower()
    if _NAME.fullmatch(lower) is None:
        hint = f"write OS/ARCH, such as {next(iter(PLATFORMS))}"
        raise UsageError(f"{name!r} is no platform", place=place, hint=hint)
    return str(_NAMES.get(lower) or lower)


def platform(os: str, arch: str, *, place: str | None = None) -> Platform:
    """The platform of that name; appc's and uname's spellings are understood.

    Raises:
        UsageError: buildit cannot build for it.
    """
    name = f"{os}/{arch}"
    return _found(name, PLATFORMS.get(name) or _MACHINES.get(arch if os == "linux" else ""), place)


def _found(name: str, found: Platform | None, place: str | None) -> Platform:
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


# -- programs of another architecture, run by QEMU's user emulation


@dataclass(frozen=True, slots=True)
class Emulation:
    """How programs of a platform run on a machine of another one.

    `program` is QEMU's name for it (`qemu-aarch64`), `header` the first 20 bytes of such an ELF
    file that count (gABI 4, "ELF Header"; the mask lets any OS ABI and the types 2 and 3 pass) as
    binfmt_misc takes them. `cpu` is the model of the platform's baseline, so that what is built
    there cannot come to need more.
    """

    program: str
    cpu: str
    header: str
    mask: str

    def registration(self, interpreter: str) -> str:
        """What is written to `register` of binfmt_misc (Linux, admin-guide/binfmt-misc.rst).

        Flags: P and O keep argv[0] and hand over the open file, C takes the credentials of the
        file, F opens the interpreter at once, so that no root needs to have it.
        """
        return f":{self.program}:M::{self.header}:{self.mask}:{interpreter}:POCF"


_IDENT = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00"
_MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe" + r"\xff" * 3
EMULATIONS = {
    "linux/amd64": Emulation("qemu-x86_64", "qemu64", _IDENT + r"\x3e\x00", _MASK),
    "linux/arm64": Emulation("qemu-aarch64", "cortex-a53", _IDENT + r"\xb7\x00", _MASK),
}
CPU_VARIABLE = "QEMU_CPU"
"""The variable that QEMU reads its `cpu` from."""
