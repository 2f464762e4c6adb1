"""What the configuration says, one frozen value for each part of a run that is handed it, and where
a binhost is: a directory of this machine, a web server, a directory behind SSH, a registry. Pure.

Only the use cases see `Config` as a whole; what lies below them gets the part that it needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from buildit.codec import to_plain
from buildit.errors import UsageError
from buildit.model.use import FlagLayer

# Neither may begin with a dash: they are arguments of ssh (CVE-2023-51385).
_SSH = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?P<path>[^\0\r\n]*))?"
)
_ANY = "write an absolute directory, https://host/path, ssh://user@host/path or oci://host/name"

OCI_SCHEME = "oci://"
OCI_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_OCI_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
OCI_NAME = re.compile(rf"(?=.{{1,255}}\Z){_OCI_PART}(?:/{_OCI_PART})*")
"""The name of a repository in a registry (distribution-spec, "Pulling manifests")."""


@dataclass(frozen=True, slots=True)
class Directory:
    """An absolute path of this machine."""

    path: str
    kind: Literal["directory"] = "directory"

    def __str__(self) -> str:
        return self.path

    def url(self, path: str) -> str:
        """What a transport is asked for: `path` below the root."""
        return f"{self.path.rstrip('/')}/{path}"


@dataclass(frozen=True, slots=True)
class Https:
    """A web server: `https://host[:port][/path]`."""

    root: str
    kind: Literal["https"] = "https"

    def __str__(self) -> str:
        return self.root

    def url(self, path: str) -> str:
        """As `Directory.url`."""
        return f"{self.root.rstrip('/')}/{path}"


@dataclass(frozen=True, slots=True)
class Ssh:
    """A login, and a directory there: relative to the login directory where it does not begin
    with a slash. `user` is empty and `port` is 0 where ssh's own configuration decides."""

    user: str
    host: str
    port: int
    path: str
    kind: Literal["ssh"] = "ssh"

    @property
    def login(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def known_as(self) -> str:
        """The name of the host in known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT")."""
        return f"[{self.host}]:{self.port}" if self.port not in (0, 22) else self.host

    @property
    def shown(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"ssh://{self.login}{port}/{self.path}"

    def __str__(self) -> str:
        return self.shown

    def url(self, path: str) -> str:
        """As `Directory.url`."""
        return f"{self.shown.rstrip('/')}/{path}" if self.path.strip("/") else self.shown + path

    def below(self, path: str) -> str:
        """`path` below the directory, as the server's file system has it."""
        root = self.path.rstrip("/") or ("/" if self.path else "")
        return f"{root.rstrip('/')}/{path}" if root else path


@dataclass(frozen=True, slots=True)
class Oci:
    """A repository of an OCI registry: its `host`, which may have a port, and its name there."""

    host: str
    name: str
    kind: Literal["oci"] = "oci"

    def __str__(self) -> str:
        return f"{OCI_SCHEME}{self.host}/{self.name}"

    def url(self, path: str) -> str:
        """As `Directory.url`; the registry itself knows no such paths."""
        return f"{self}/{path}"


Address = Directory | Https | Ssh | Oci


def parse_address(text: str) -> Address:
    """An absolute path, an `https://` URL, `ssh://user@host:port/path`, or `oci://host/name`.

    Raises:
        UsageError: it is something else.
    """
    if text.startswith("/"):
        return Directory(text)
    if text.startswith("https://") and len(text) > len("https://"):
        return Https(text)
    if text.startswith(OCI_SCHEME):
        host, _, name = text.removeprefix(OCI_SCHEME).partition("/")
        if OCI_HOST.fullmatch(host) and OCI_NAME.fullmatch(name):
            return Oci(host, name)
    found = parse_ssh(text) if text.startswith("ssh://") else None
    if found is None:
        raise UsageError("not the address of a binhost", place=text, hint=_ANY)
    return found


def parse_ssh(text: str) -> Ssh | None:
    """`user@host:port/path`, with or without `ssh://`; two slashes begin an absolute path. None
    where it is something else."""
    found = _SSH.fullmatch(text.removeprefix("ssh://"))
    port = int(found["port"] or 0) if found else 0
    if found is None or port > 65535 or ".." in (found["path"] or "").split("/"):
        return None
    return Ssh(found["user"] or "", found["host"], port, found["path"] or "")


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
class SecretSource:
    """Where the value of a secret is, never the value: `where` is an absolute path, or the name of
    a variable of the environment."""

    kind: Literal["file", "env"]
    where: str


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of one run; every path is absolute.

    `jobs` builds or downloads run at once. `mirrors` are lists of base URLs by name, `distfiles`
    directories that are asked before them. `use` are the layers for all packages and `package_use`
    those for single ones, the winning one last. `images` are what names of images stand for.
    `origins` maps each setting to the `file:line` that decided it, or to what else did. `remarks`
    tell of what is written and not possible. `secrets` are by their ids.
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
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """What a build needs once the plan is made, as JSON has it: without what planning reads."""
        places = ("store", "repositories", "mirrors", "distfiles", "secrets")
        kept = (*places, "jobs", "trust", "limits")
        return {name: to_plain(getattr(self, name)) for name in kept}
