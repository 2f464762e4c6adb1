"""Tests of a finished image, as `test` steps say them: plain data, which the record of a task has.

A tuple of tests holds when each of them does; of what may be there once, it has one or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextTest:
    """What a text must be: it `contains`, `equals` or `matches` (`how`) another."""

    how: str
    text: str


@dataclass(frozen=True, slots=True)
class CommandTest:
    """A command, its exit status, and what it writes."""

    argv: tuple[str, ...]
    status: int
    stdout: tuple[TextTest, ...] = ()
    stderr: tuple[TextTest, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpTest:
    """The answer of the started app to a GET. `headers` have lower case names."""

    port: int
    path: str
    host: str
    tls: bool
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: tuple[TextTest, ...] = ()


@dataclass(frozen=True, slots=True)
class FileTest:
    """A path of the image, without a leading slash. `kind` is `file`, `directory` or `link`, `mode`
    octal text, `owner` a user and a group with `:` between, or a user, whose first group it is
    then; each is empty where it does not matter."""

    path: str
    exists: bool = True
    kind: str = ""
    mode: str = ""
    owner: str = ""
    target: str = ""
    sha256: str = ""
    content: tuple[TextTest, ...] = ()

    @property
    def of_link(self) -> bool:
        """Whether the link is meant that the path names, and not where it leads."""
        return self.kind == "link" or bool(self.target)


@dataclass(frozen=True, slots=True)
class ImageTest:
    """A `test` step of the plan; `timeout` is in seconds, `said` is how people know it."""

    said: str
    place: str
    commands: tuple[CommandTest, ...] = ()
    http: tuple[HttpTest, ...] = ()
    files: tuple[FileTest, ...] = ()
    timeout: int = 30

    @property
    def runs(self) -> bool:
        """Whether a program of the image runs for it."""
        return bool(self.commands or self.http)
