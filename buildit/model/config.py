"""What the configuration says, one frozen value for each part of a run that is handed it.

Only the use cases see `Config` as a whole; what lies below them gets the part that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildit.codec import to_plain
from buildit.model.address import Address
from buildit.model.use import FlagLayer


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one build. Sizes in bytes, times in seconds; `processes` counts threads too.

    `idle_seconds` is without a byte of output. `log_bytes` is kept as head and tail. `disk_bytes`
    is for all writable binds together, and for each single file. `installed_bytes` and
    `installed_files` are of what a package installs, holes of files and directories counted.
    """

    memory_bytes: int = 16 << 30
    processes: int = 8192
    seconds: float = 6 * 3600.0
    idle_seconds: float = 3600.0
    log_bytes: int = 64 << 20
    disk_bytes: int = 64 << 30
    installed_bytes: int = 4 << 30
    installed_files: int = 500_000


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """What signs: `ssh` is the path of a private key or `agent:SHA256:…`, `openpgp` a fingerprint
    (for `.aci` files), `agent` the socket of the SSH agent; each is empty where there is none."""

    ssh: str = ""
    openpgp: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True)
class TrustRule:
    """Packages whose `category/name` the glob `match` fits need `need` builders."""

    match: str
    need: int


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose builds are believed: those of the user's own key, and of the signers that are listed.

    `allowed_signers` is the OpenSSH file that holds for all repositories but those of
    `own_signers`. `unsigned`: some repository serves what is not signed, and may.
    """

    keys: SigningKeys = SigningKeys()
    allowed_signers: str = ""
    own_signers: Mapping[str, str] = field(default_factory=dict)
    agreement: tuple[TrustRule, ...] = ()
    unsigned: bool = False

    def signers_for(self, repository: str) -> str:
        """The file of those who are believed of what a repository serves; empty where none is."""
        return self.own_signers.get(repository, self.allowed_signers)


@dataclass(frozen=True, slots=True)
class Repository:
    """A binhost: where to take from and publish to; None where not."""

    name: str
    download: Address | None
    upload: Address | None
    unsigned: bool = False
    secrets: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of one run; every path is absolute.

    `jobs` builds or downloads run at once. `mirrors` are lists of base URLs by name, `distfiles`
    directories that are asked before them. `use` are the layers for all packages and `package_use`
    those for single ones, the winning one last. `origins` maps each setting to the `file:line` that
    decided it, or to what else did. `remarks` tell of what is written and not possible.
    """

    store: Path
    jobs: int
    trees: tuple[Path, ...] = ()
    repositories: tuple[Repository, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    distfiles: tuple[str, ...] = ()
    trust: Trust = Trust()
    limits: Limits = Limits()
    use: tuple[FlagLayer, ...] = ()
    package_use: Mapping[str, tuple[FlagLayer, ...]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """What a build needs once the plan is made, as JSON has it: without what planning reads."""
        kept = ("store", "jobs", "repositories", "mirrors", "distfiles", "trust", "limits")
        return {name: to_plain(getattr(self, name)) for name in kept}
