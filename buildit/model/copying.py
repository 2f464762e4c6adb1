"""What is copied into an image from elsewhere than the project."""

from __future__ import annotations

from dataclasses import dataclass

from buildit.digest import BuildKey, Digest


@dataclass(frozen=True, slots=True)
class CopyOrigin:
    """An image that files are taken of: the outputs of its task are its layers, bottom first;
    `reference` names it to people."""

    key: BuildKey
    outputs: tuple[str, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file of a URL: its bytes are a blob of the store."""

    url: str
    digest: Digest
    size: int
