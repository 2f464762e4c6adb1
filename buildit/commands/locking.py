"""The lock on disk: what would move, and its atomic replacement."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.digest import BuildKey, Digest
from buildit.errors import StoreError
from buildit.files import replacing
from buildit.model.artifact import Artifact
from buildit.plan.lock import Lock, Section, changes, format_lock, parse_lock
from buildit.recipe.yaml.text import read_text

LOCK_FILE = "buildit.lock"

_LARGEST = 64 << 20
"""Bytes of a lock: a line of about 120 for each synced file."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The lock of a container, and the section of its platform as it would be now."""

    lock: Lock
    section: Section
    platform: str

    def moved(self) -> tuple[str, ...]:
        """What would change in the lock, in words."""
        return changes(self.lock.section(self.platform), self.section)

    def changed(self) -> Lock:
        return self.lock.with_section(self.platform, self.section)


def read_lock(directory: Path) -> tuple[Lock, Path]:
    """The lock beside a container, empty where there is none.

    Raises:
        RecipeError: it is no lock of this format.
    """
    path = directory / LOCK_FILE
    if not os.path.lexists(path):
        return Lock(), path
    file = os.path.relpath(path)
    shown = str(path) if file.startswith("..") else file
    return parse_lock(read_text(path, shown, _LARGEST), shown), path


def _at_hand(section: Section, done: Mapping[BuildKey, Artifact]) -> dict[tuple[str, str], Digest]:
    """The diff_ids of the packages that are at hand, by package and output."""
    return {
        (package.name, name): output.diff_id
        for package in section.packages
        if package.key in done
        for name, output in done[package.key].outputs.items()
    }


def with_outputs(section: Section, done: Mapping[BuildKey, Artifact]) -> Section:
    """The section with the diff_ids of the packages that are at hand."""
    return replace(section, outputs={**section.outputs, **_at_hand(section, done)})


def differing(section: Section, done: Mapping[BuildKey, Artifact]) -> tuple[str, ...]:
    """Outputs that are not the bytes that the lock has for the same key, in words."""
    return tuple(
        f"{name[0]} ({name[1]}): locked sha256:{section.outputs[name]}, at hand sha256:{diff_id}"
        for name, diff_id in sorted(_at_hand(section, done).items())
        if section.outputs.get(name, diff_id) != diff_id
    )


def write_lock(directory: Path, lock: Lock) -> None:
    """Replace the lock beside a container, where its text changes.

    Raises:
        StoreError: it cannot be written.
    """
    path = directory / LOCK_FILE
    text = format_lock(lock)
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text("utf-8") == text:
            return
    try:
        with replacing(path, sync=True) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise StoreError(
            f"the lock cannot be written: {error.strerror}",
            place=str(path),
            hint="make the container's directory writable, or build a copy of it",
        ) from error
