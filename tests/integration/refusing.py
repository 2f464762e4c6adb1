"""What every refusal has to be: one clear message, the documented exit code, nothing left over."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.integration.compare import first_difference
from tests.integration.program import Done, Program, left_over
from tests.integration.seeds import Seed
from tests.integration.world import Project

BUILD, RECIPE, UNSATISFIABLE, NETWORK, INTEGRITY, INTERRUPTED = 1, 2, 3, 4, 5, 130
PREFIX = "buildit: error: "


@dataclass(frozen=True, slots=True)
class Refusal:
    """The parts of the one message: what and where, further lines, the next step."""

    message: str
    details: str
    hint: str


def refusal(done: Done, code: int) -> Refusal:
    """Take a refusal apart, being sure that it is one message and no traceback."""
    everything = f"{done.out}\n{done.err}"
    assert done.code == code, f"exit {done.code} instead of {code}\n{everything}"
    assert "Traceback" not in everything, everything
    assert done.out == "", f"stdout is for images only: {done.out}"
    lines = done.err.splitlines()
    at = [number for number, line in enumerate(lines) if line.startswith(PREFIX)]
    assert len(at) == 1, f"{len(at)} messages\n{everything}"
    hints = [number for number, line in enumerate(lines) if line.startswith("hint: ")]
    assert hints == [len(lines) - 1], f"the hint is the last line, once\n{everything}"
    details = "\n".join(lines[at[0] + 1 : hints[0]])
    return Refusal(lines[at[0]].removeprefix(PREFIX), details, lines[-1].removeprefix("hint: "))


def refused(program: Program, project: Project, code: int, *words: str) -> Refusal:
    """The refusal of a build, which leaves no image."""
    out = project.root / "refused"
    found = refusal(program.run(str(project.box), "--output", str(out), *words), code)
    assert not out.exists() or os.listdir(out) == [], "an image was written"
    return found


def place_of(found: Refusal, path: Path) -> tuple[int, int]:
    """Line and column that the message names in the file; a patch has lines only."""
    match = re.match(rf"(?:\S*/)?{re.escape(path.name)}:(\d+)(?::(\d+))?: ", found.message)
    assert match is not None, f"no file:line:column of {path.name} in {found.message!r}"
    named = found.message.partition(":")[0].rpartition("../")[2]
    assert str(path).endswith(named), f"{named} is not {path}"
    return int(match[1]), int(match[2] or 0)


def assert_whole(program: Program, place: Path) -> None:
    """The store verifies, and nothing of an earlier command lives, is mounted or lies about."""
    verified = program.run("store", "verify")
    assert verified.code == 0, f"{verified.out}\n{verified.err}"
    for name in ("tmp", "leases"):
        left = os.listdir(program.store / name)
        assert left == [], f"{name}/ holds {left}"
    left = [*left_over(str(place)), *left_over(str(program.store))]
    assert left == [], f"left over: {left}"


def assert_builds(seed: Seed, program: Program, project: Project, out: Path) -> None:
    """The next good run works, and gives what a run without an accident gives."""
    program.run(str(project.box), "--output", str(out)).good()
    difference = first_difference(seed.out, out)
    assert difference is None, difference
