"""A new container directory: written beside its place, planned there, and moved as a whole; what
lies there is never written over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.explaining import made_up
from buildit.commands.run import Options, Unbuilt, lock, prepare
from buildit.errors import (
    FetchError,
    IntegrityError,
    RecipeError,
    StoreError,
    UnsatisfiableError,
    UsageError,
)
from buildit.events import Reporter
from buildit.recipe.yaml.node import shown_place


@dataclass(frozen=True, slots=True)
class ImportedContainer:
    """A container directory that was written: its files by name, and what is to be looked at."""

    directory: Path
    files: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@contextmanager
def new_container(output: Path, files: Mapping[str, str], asked: str) -> Iterator[Path]:
    """The directory of a container of these files, which is at `output` afterwards, with all that
    was written into it meanwhile. An error at one of them is at what was `asked`.

    Raises:
        UsageError: something is there already.
        StoreError: it cannot be written.
    """
    check_free(output)
    above = output.absolute().parent
    try:
        above.mkdir(parents=True, exist_ok=True)
        with made_up(files, asked, beside=above) as directory:
            yield directory
            check_free(output)
            directory.chmod(0o777 & ~_umask())
            os.rename(directory, output.absolute())
    except OSError as error:
        message = f"the directory cannot be written: {error.strerror}"
        hint = "name another one with --output"
        raise StoreError(message, place=str(output), hint=hint) from error


def planned_container(directory: Path, options: Options, report: Reporter) -> tuple[str, ...]:
    """Plan a container that was just written, and keep its lock; what stands in the way is told,
    as the files can be mended."""
    try:
        lock(prepare(replace(options, directory=directory), report), report)
    except Unbuilt:
        return ()  # a build makes what it begins with first
    except (RecipeError, UnsatisfiableError, FetchError, IntegrityError) as error:
        hint = f" ({error.hint})" if error.hint else ""
        place = (error.place or "").rpartition(f"{directory.name}/")[2]
        return (f"it cannot be built yet: {place and f'{place}: '}{error.message}{hint}",)
    return ()


def check_free(output: Path) -> None:
    """Raises UsageError where something is at `output`; an empty directory is nothing."""
    if not os.path.lexists(output):
        return
    if output.is_dir() and not output.is_symlink() and not any(output.iterdir()):
        return
    message = f"{shown_place(output)} is there already"
    hint = "name another directory with --output, or move it away: nothing is written over"
    raise UsageError(message, place=shown_place(output), hint=hint)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
