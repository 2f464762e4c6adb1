"""What people and templates are told of a container: its steps as a list, what they say of its
images, and facts of its packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ListedStep:
    """A step as it is listed: `kind` is its key, `text` what it is about, `place` where it was
    written."""

    kind: str
    text: str
    place: str


@dataclass(frozen=True, slots=True)
class Saying:
    """What a step says of the image: `key` is such as `entrypoint` or `env PATH`. `later` is where
    a later step says otherwise, which wins; empty where this one counts."""

    key: str
    value: str
    place: str
    later: str = ""


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """What templates may ask of a package. `flags` are truth values, or texts of choices; `digest`
    is a .deb's SHA-256, else the key."""

    version: str
    license: str = ""
    homepage: str = ""
    description: str = ""
    flags: Mapping[str, bool | str] = field(default_factory=dict)
    digest: str = ""
