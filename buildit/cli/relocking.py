"""The lock from the command line: what may move, what moved."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from buildit.commands import preparing
from buildit.commands.locking import LOCK_FILE
from buildit.commands.run import Options
from buildit.errors import UsageError
from buildit.events import Notice, Reporter
from buildit.plan.lock import Section
from buildit.recipe.container import CONTAINER_FILE

EVERYTHING = "*"
TOOLCHAIN = "toolchain"


def announce(prepared: preparing.Prepared, report: Reporter) -> None:
    """Say what a build would change in the lock, without writing it.

    Raises:
        UnsatisfiableError: under `--locked`, where anything would change.
    """
    pins = prepared.pins
    if prepared.options.locked:
        preparing.lock(prepared, report)
    elif pins.platform not in pins.lock.sections:
        report(Notice(f"nothing is locked for {pins.platform} yet: a build writes {LOCK_FILE}"))
    else:
        for line in pins.moved():
            report(Notice(f"lock would change: {line}"))


def relock(
    options: Options, words: tuple[str, ...], report: Reporter, *, update: bool
) -> dict[str, object]:
    """Write the lock of a container; `words` are its directory, if first, and what may move.

    Returns the lock's path and what moved, in words.

    Raises:
        UsageError: names without `--update`, or a name that the container does not have.
        BuilditError: see `preparing.prepare` and `preparing.lock`.
    """
    directory, names = _split(words)
    if names and not update:
        raise UsageError(
            f"{names[0]!r} is not the directory of a container",
            hint=f"name one, or let it move: buildit lock --update {names[0]}",
        )
    chosen = (names or (EVERYTHING,)) if update else ()
    asked = replace(options, directory=directory, update=chosen)
    prepared = preparing.with_synced(preparing.prepare(asked, report))
    _check_names(names, prepared.pins.section, directory)
    preparing.lock(prepared, report)
    return {"lock": str(directory / LOCK_FILE), "changes": list(prepared.pins.moved())}


def _split(words: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    if words and (Path(words[0]) / CONTAINER_FILE).exists():
        return Path(words[0]), words[1:]
    return Path(), words


def _check_names(names: tuple[str, ...], section: Section, directory: Path) -> None:
    known = tuple(dict.fromkeys(_movable(section)))
    for name in names:
        if name not in (EVERYTHING, *known):
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"the lock has nothing called {name!r} that could move",
                place=str(directory / LOCK_FILE),
                hint=f"{guess}it has: {', '.join(known)}",
            )


def _movable(section: Section) -> Iterator[str]:
    yield TOOLCHAIN
    yield from (package.name for package in section.packages)
    yield from (patch.name for patch in section.patches if patch.raw is not None)
    yield from section.debs
