"""What a run of buildit imports."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.room import Room
from bench.timing import process


def modules(room: Room, directory: Path) -> list[str]:
    """The modules that building a container imports, in order (python -X importtime)."""
    log = room.log("importtime.log")
    env = {**room.environment(), "PYTHONPROFILEIMPORTTIME": "1"}
    process(room.argv(directory), cwd=room.root, log=log, env=env)
    lines = log.read_text("utf-8", "replace").splitlines()
    told = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    return [name for name in told if name != "imported package"]


def foreign(room: Room, directory: Path) -> tuple[str, ...]:
    """The top-level modules that are neither ours nor the standard library's."""
    tops = {name.partition(".")[0] for name in modules(room, directory)}
    known = {*sys.stdlib_module_names, "buildit", "sitecustomize", "usercustomize"}
    return tuple(sorted(tops - known - _private(tops)))


def _private(tops: set[str]) -> set[str]:
    """Parts of the interpreter itself, and names that editable installs put on the path."""
    return {top for top in tops if top.startswith(("_", "zipimport"))}
