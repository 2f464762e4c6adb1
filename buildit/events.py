"""What happens during a run, as data; `cli.screen` and `--json` are two renderers of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from buildit.digest import BuildKey, Digest


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: each kind of it is a class below."""


@dataclass(frozen=True, slots=True)
class OfTask(Event):
    """What happened to one task."""

    key: BuildKey
    name: str


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A container build begins: `label` is `Author/name-version`."""

    label: str


@dataclass(frozen=True, slots=True)
class Processing(Event):
    """A package that the container names: where it is defined, and its key."""

    origin: str
    platform: str
    key: BuildKey


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """What is about to happen, before it does."""

    reused: int
    builds: int
    unpacks: int


@dataclass(frozen=True, slots=True)
class Fetching(Event):
    """Bytes of one download so far; `total` is None while unknown."""

    name: str
    received: int
    total: int | None
    done: bool = False


@dataclass(frozen=True, slots=True)
class LocationFailed(Event):
    """A location did not serve what was asked; the next one is tried."""

    name: str
    location: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reused(OfTask):
    origin: str


@dataclass(frozen=True, slots=True)
class Recalled(OfTask):
    """A build that need not be made: another key had the same inputs, byte for byte."""

    origin: str


@dataclass(frozen=True, slots=True)
class Missing(OfTask):
    """No known location has the key."""


@dataclass(frozen=True, slots=True)
class Building(OfTask):
    """`reason` says why: `first build`, `patch #2 changed`, …"""

    reason: str


@dataclass(frozen=True, slots=True)
class PhaseStarted(OfTask):
    phase: str


@dataclass(frozen=True, slots=True)
class Built(OfTask):
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildFailed(OfTask):
    message: str


@dataclass(frozen=True, slots=True)
class Packaging(Event):
    name: str
    format: str


@dataclass(frozen=True, slots=True)
class Emitted(Event):
    name: str
    format: str
    path: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Uploading(Event):
    """`what` (packages, images) on its way to a repository: bytes so far, and in all."""

    repository: str
    what: str
    sent: int
    total: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class OfMember(Event):
    """What happened to one container of a stack that runs here."""

    name: str


@dataclass(frozen=True, slots=True)
class MemberKept(OfMember):
    """It runs already, as it ought to."""


@dataclass(frozen=True, slots=True)
class MemberStarted(OfMember):
    """`again` where there was one before: why it is another one now."""

    again: str = ""


@dataclass(frozen=True, slots=True)
class MemberReady(OfMember):
    seconds: float


@dataclass(frozen=True, slots=True)
class MemberEnded(OfMember):
    """`again` where podman starts it once more."""

    status: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class MemberRemoved(OfMember):
    """It has ended, and is gone."""


@dataclass(frozen=True, slots=True)
class MemberTested(OfMember):
    """A test of the running stack; `problem` is empty where it holds."""

    said: str
    problem: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StackReady(Event):
    """All of a stack can be used; `addresses` are what can be opened from this machine."""

    name: str
    addresses: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """One line that the user should see; `warning` where it may need action."""

    message: str
    warning: bool = False


Reporter = Callable[[Event], None]


def silent(event: Event) -> None:
    """The reporter of library use and of most tests."""
