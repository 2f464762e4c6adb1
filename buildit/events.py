"""What happens during a run, as data; `cli.screen` and `--json` are two renderers of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from buildit.digest import BuildKey, Digest


@dataclass(frozen=True, slots=True)
class Started:
    """A container build begins: `label` is `Author/name-version`."""

    label: str


@dataclass(frozen=True, slots=True)
class Processing:
    """A package that the container names: where it is defined, and its key."""

    origin: str
    platform: str
    key: BuildKey


@dataclass(frozen=True, slots=True)
class Planned:
    """What is about to happen, before it does."""

    reused: int
    builds: int
    unpacks: int


@dataclass(frozen=True, slots=True)
class Fetching:
    """Bytes of one download so far; `total` is None while unknown."""

    name: str
    received: int
    total: int | None
    done: bool = False


@dataclass(frozen=True, slots=True)
class LocationFailed:
    """A location did not serve what was asked; the next one is tried."""

    name: str
    location: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reused:
    key: BuildKey
    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """A build that need not be made: another key had the same inputs, byte for byte."""

    key: BuildKey
    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class Missing:
    """No known location has the key."""

    key: BuildKey
    name: str


@dataclass(frozen=True, slots=True)
class Building:
    """`reason` says why: `first build`, `patch #2 changed`, …"""

    key: BuildKey
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    key: BuildKey
    name: str
    phase: str


@dataclass(frozen=True, slots=True)
class Built:
    key: BuildKey
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildFailed:
    key: BuildKey
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Packaging:
    name: str
    format: str


@dataclass(frozen=True, slots=True)
class Emitted:
    name: str
    format: str
    path: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Uploading:
    """`what` (packages, images) on its way to a repository: bytes so far, and in all."""

    repository: str
    what: str
    sent: int
    total: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """One line that the user should see; `warning` where it may need action."""

    message: str
    warning: bool = False


Event = (
    Started
    | Processing
    | Planned
    | Fetching
    | LocationFailed
    | Reused
    | Recalled
    | Missing
    | Building
    | PhaseStarted
    | Built
    | BuildFailed
    | Packaging
    | Emitted
    | Uploading
    | Notice
)

Reporter = Callable[[Event], None]


def silent(event: Event) -> None:
    """The reporter of library use and of most tests."""
