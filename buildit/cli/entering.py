"""A shell in the tree of a failed build, in the sandbox that it failed in."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from buildit.cli.results import printable
from buildit.digest import is_hex64, parse_digest
from buildit.errors import StoreError, UsageError
from buildit.make.build_directory import BuildDirectory, KeptJail
from buildit.model.config import Limits
from buildit.sandbox.run import shell
from buildit.store.cas import Store
from buildit.store.failures import FailedBuild

_SHOWN = 30
"""Most lines shown of the script that failed."""

BASH = ("bash", "--norc", "--noprofile", "-i")
SH = ("sh", "-i")
"""Where the toolchain has no bash; dash complains of its terminal at its end."""


def room_of(failure: FailedBuild, store: Store, limits: Limits) -> tuple[Path, KeptJail]:
    """The work directory of a failed build and its jail, with all trees of it in place.

    Raises:
        UsageError: no tree was kept, or it failed before there was a sandbox.
        StoreError: a tree of its root was collected meanwhile.
    """
    label = f"{failure.name}-{failure.version}"
    if failure.work is None:
        raise UsageError("no tree of the build was kept", place=label, hint="see `buildit log`")
    room = BuildDirectory(failure.work, store.root / "trees", (), label, limits, threading.Event())
    kept = room.read_jail()
    for name in kept.jail.lowers:
        _bring(name, store, label)
    return failure.work, kept


def _bring(name: str, store: Store, label: str) -> None:
    """Have a tree of the root in place: those of layers can be unpacked again."""
    if is_hex64(name) and store.has(parse_digest(name)):
        store.tree(parse_digest(name))
    elif not (store.root / "trees" / name).is_dir():
        raise StoreError(
            f"the tree {name[:12]} of its root was collected meanwhile",
            place=label,
            hint="build it again, then enter it",
        )


def introduction(failure: FailedBuild, kept: KeptJail) -> Iterator[str]:
    """What a person who enters should know: where it failed, and what ran there."""
    yield failure.message
    yield f"sources: /build/src  installed: /build/out  inputs: /input  (kept in {failure.work})"
    argv = kept.commands.get(failure.phase)
    if argv is None:
        return
    lines = shlex.join(argv).splitlines()
    yield f"{failure.phase} ran:"
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  … and {len(lines) - _SHOWN} more lines"


def enter(failure: FailedBuild, store: Store, limits: Limits) -> int:
    """Run a shell there on this terminal; returns its exit status.

    Raises:
        UsageError, StoreError: see `room_of`; there is no terminal.
        BuildError: the sandbox could not be set up.
    """
    work, kept = room_of(failure, store, limits)
    for line in introduction(failure, kept):
        os.write(2, f"{printable(line)}\n".encode("utf-8", "replace"))
    prompt = {"PS1": f"[{failure.name}] $PWD $ ", "TERM": os.environ.get("TERM", "dumb")}
    jail = replace(kept.jail, env={**kept.jail.env, **prompt})
    trees = store.root / "trees"
    has_bash = any((trees / lower / "usr/bin/bash").is_file() for lower in jail.lowers)
    command = BASH if has_bash else SH
    return shell(jail, command, trees=trees, work=work, limits=limits).status
