"""Where a binhost is: a directory of this machine, a web server, a directory behind SSH. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from buildit.errors import UsageError

# Neither may begin with a dash: they are arguments of ssh (CVE-2023-51385).
_SSH = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?P<path>[^\0\r\n]*))?"
)
_ANY = "write an absolute directory, https://host/path or ssh://user@host/path"


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


Address = Directory | Https | Ssh


def parse_address(text: str) -> Address:
    """An absolute path, an `https://` URL, or `ssh://user@host:port/path`.

    Raises:
        UsageError: it is something else.
    """
    if text.startswith("/"):
        return Directory(text)
    if text.startswith("https://") and len(text) > len("https://"):
        return Https(text)
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
