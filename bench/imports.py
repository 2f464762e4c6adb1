"""What a run of buildit imports, and the budget of each verb."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import graphs
from bench.room import Room
from bench.tables import Table, Verdict, rows
from bench.timing import Side, interleaved, process

BUDGET: Mapping[str, tuple[int, str]] = {
    "verify nowhere.aci": (9999, ""),
    "doctor": (9999, ""),
    "schema pkg": (9999, ""),
    "digest container.yaml": (9999, ""),
    "show nowhere": (9999, ""),
    "log": (9999, ""),
    "store list": (9999, ""),
    "store gc --dry-run": (9999, ""),
    "pages nowhere": (9999, ""),
    "trust": (9999, ""),
    "explain .": (9999, ""),
    "use .": (9999, ""),
    "plan . --offline": (9999, ""),
    "lock . --offline": (9999, ""),
    "why . --offline": (9999, ""),
    "push . --offline": (9999, ""),
    ". --output anew --offline": (9999, ""),
}
"""Command lines in the directory of a container of five packages that is built: how many modules
each may import, and the packages of others besides the standard library's."""


def verbs(room: Room, rounds: int) -> Table:
    """Time and modules of each verb; whether it finds what it is asked for does not matter."""
    files = {f"pkgs/{path}": text for path, text in graphs.recipes(5, "imports").items()}
    files["container.yaml"] = graphs.container("imports", ("bench/p0000",))
    box = room.place("imports", files)
    room.buildit(box)()
    log, env = room.log("verb.log"), room.environment()

    def side(words: str) -> Side:
        argv = [*room.program, *words.split()]
        return Side(words, lambda: process(argv, cwd=box, log=log, env=env, may_fail=True))

    found = interleaved([side(words) for words in BUDGET], rounds)
    verdicts, remarks = [], []
    for words, (most, allowed) in BUDGET.items():
        names = modules(room, [*room.program, *words.split()], box)
        verdicts.append(Verdict(words, len(names), "modules", most))
        others = foreign(names)
        if further := sorted({*others} - {*allowed.split()}):
            remarks.append(f"{words}: imports {', '.join(further)}, which is not in its budget.")
    return Table("imports", "what each verb imports", rows(found), tuple(verdicts), tuple(remarks))


def modules(room: Room, argv: Sequence[str | Path], directory: Path) -> list[str]:
    """The modules that a command line imports, in order (python -X importtime)."""
    log = room.log("importtime.log")
    env = {**room.environment(), "PYTHONPROFILEIMPORTTIME": "1"}
    process(argv, cwd=directory, log=log, env=env, may_fail=True)
    lines = log.read_text("utf-8", "replace").splitlines()
    told = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    return [name for name in told if name != "imported package"]


def foreign(names: Sequence[str]) -> tuple[str, ...]:
    """The top-level modules that are neither ours nor the standard library's."""
    tops = {name.partition(".")[0] for name in names}
    known = {*sys.stdlib_module_names, "buildit", "sitecustomize", "usercustomize"}
    return tuple(sorted(tops - known - _private(tops)))


def _private(tops: set[str]) -> set[str]:
    """Parts of the interpreter itself, and names that editable installs put on the path."""
    return {top for top in tops if top.startswith(("_", "zipimport"))}
