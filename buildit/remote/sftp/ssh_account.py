"""Where a directory behind SSH is: `user@host:port/path`; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildit.remote.transport import LocationError

# Neither may begin with a dash: they are arguments of ssh (CVE-2023-51385).
_ACCOUNT = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?P<path>[^\0\r\n]*))?"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A login, and a directory there: relative to the login directory where it does not begin
    with a slash. `user` is empty and `port` is 0 where ssh's own configuration decides."""

    user: str
    host: str
    port: int
    path: str

    @property
    def login(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def shown(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"ssh://{self.login}{port}/{self.path}"

    @property
    def known_as(self) -> str:
        """The name of the host in known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT")."""
        return f"[{self.host}]:{self.port}" if self.port not in (0, 22) else self.host

    def below(self, path: str) -> str:
        """A path of the server: `path` below the directory."""
        root = self.path.rstrip("/") or ("/" if self.path else "")
        return f"{root.rstrip('/')}/{path}" if root else path


def parse_account(text: str) -> Account:
    """Read `user@host:port/path`, with or without `ssh://`; two slashes begin an absolute path.

    Raises:
        LocationError: it is not that.
    """
    found = _ACCOUNT.fullmatch(text.removeprefix("ssh://"))
    port = int(found["port"] or 0) if found else 0
    if found is None or port > 65535 or ".." in (found["path"] or "").split("/"):
        raise LocationError(
            text, "not a directory behind SSH", hint="write user@host/path or user@host:port//path"
        )
    return Account(found["user"] or "", found["host"], port, found["path"] or "")
