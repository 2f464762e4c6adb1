"""What a run of buildit imports, and the budget of each verb."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import graphs
from bench.room import Room
from bench.tables import Table, Verdict, rows
from bench.timing import Side, interleaved, process

_READING = "click annotated_types pydantic pydantic_core typing_extensions typing_inspection yaml"

BUDGET: Mapping[str, tuple[int, str]] = {
    ". --output anew --offline": (70, ""),
    "verify nowhere.aci": (200, "click"),
    "doctor": (330, _READING),
    "schema pkg": (320, _READING),
    "digest container.yaml": (370, _READING),
    "show nowhere": (350, _READING),
    "log": (350, _READING),
    "store list": (330, _READING),
    "store gc --dry-run": (330, _READING),
    "pages nowhere": (370, _READING),
    "trust": (330, _READING),
    "explain .": (390, f"{_READING} resolvelib"),
    "use .": (390, f"{_READING} resolvelib"),
    "plan . --offline": (460, f"{_READING} resolvelib"),
    "lock . --offline": (450, f"{_READING} resolvelib"),
    "why . --offline": (470, f"{_READING} resolvelib"),
    "push . --offline": (470, f"{_READING} resolvelib"),
}
"""Command lines in the directory of a container of five packages that is built: how many modules
each may import, and the packages of others besides the standard library's. The first one finds
nothing to do from its second round on, which is when its modules are counted."""


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
    # `copy` tries `org.python.core`, which only Jython has
    known = {"org", *sys.stdlib_module_names, "buildit", "sitecustomize", "usercustomize"}
    return tuple(sorted(tops - known - _private(tops)))


def _private(tops: set[str]) -> set[str]:
    """Parts of the interpreter itself, and names that editable installs put on the path."""
    return {top for top in tops if top.startswith(("_", "zipimport"))}
