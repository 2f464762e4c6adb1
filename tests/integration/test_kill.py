"""kill -9 at random moments and at every durability point of a real build, then a run to the end.

BUILDIT_KILLS says how many random moments; 8 without it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from buildit.store.disk import POINTS, VARIABLE
from tests.integration.compare import first_difference
from tests.integration.program import Program, left_over
from tests.integration.refusing import assert_whole
from tests.integration.seeds import Seed
from tests.integration.world import Project

pytestmark = pytest.mark.sandbox

KILLS = int(os.environ.get("BUILDIT_KILLS", "8"))
MANY = 30
"""From so many random moments on, every durability point is tried here too; else those where
something becomes visible. tests/sandbox/test_store_crash.py is at all of them each time."""
FAILING = ("failure-create", "failure-write", "failure-sync", "failure-move")
ELSEWHERE = ("corrupt-move", "collect-remove")
"""Points that no build comes to; tests/sandbox/test_store_crash.py is at them."""


def signing_key(directory: Path) -> Path:
    """A throw-away Ed25519 key for OpenSSH."""
    key = directory / "id_ed25519"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)]
    subprocess.run(argv, check=True)
    return key


def forget_builds(store: Path) -> None:
    """Leave nothing of a store but its trees."""
    for name in ("k", "n", "blobs/sha256", "logs", "roots", "cache"):
        shutil.rmtree(store / name, ignore_errors=True)
        (store / name).mkdir()


def to_the_end(seed: Seed, program: Program, project: Project, out: Path) -> None:
    """One more run must give the same images, and leave nothing of the run before."""
    program.run(str(project.box), "--output", str(out)).good()
    difference = first_difference(seed.out, out)
    assert difference is None, difference
    assert_whole(program, out.parent)
    assert sorted(os.listdir(out)) == sorted(os.listdir(seed.out)), "a temporary file is left"
    assert [name for name in os.listdir(project.box) if name.startswith(".")] == []
    shutil.rmtree(out)


def test_random_moments(seed: Seed, here: Path) -> None:
    program = seed.program.with_store(seed.new_store(here))
    project = seed.new_project(here / "project")
    begun = time.monotonic()
    to_the_end(seed, program, project, here / "out")
    length = time.monotonic() - begun
    chance = random.Random(os.environ.get("BUILDIT_KILLS_SEED", "1"))
    killed = 0
    for number in range(KILLS):
        forget_builds(program.store)
        project.lock.write_text(seed.lock + seed.dates)
        moment = length * (number + chance.random()) / KILLS
        started = time.monotonic()
        with program.start(str(project.box), "--output", str(here / "out")) as process:
            try:
                process.communicate(timeout=moment)
                # the machine was busier before: moments lie within what a run takes now
                length = min(length, time.monotonic() - started)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
                process.communicate()
        left = left_over(str(here))
        assert left == [], f"after {moment:.2f} s: {left}"
        to_the_end(seed, program, project, here / "out")
    assert killed >= KILLS // 2, f"only {killed} runs were killed: they ended before"


def points() -> list[str]:
    visible = ("-publish", "-directory", "-move", "-fill")
    return [
        point
        for point in POINTS
        if point not in ELSEWHERE and (KILLS >= MANY or point.endswith(visible))
    ]


@pytest.mark.parametrize("point", points())
def test_durability_point(seed: Seed, here: Path, point: str) -> None:
    """Killed the first time that a signed build, or one that fails, comes to the point."""
    program = seed.program.with_store(seed.new_store(here))
    project = seed.new_project(here / "project")
    key = signing_key(here)
    project.config.write_text(f"{project.config.read_text()}signing-key: {key}\n")
    notes = project.recipe("app/notes")
    good = notes.read_text()
    if point in FAILING:
        project.edit(notes, '    to="$DESTDIR', '    exit 1\n    to="$DESTDIR')
    killing = program.with_env(**{VARIABLE: f"{point}:1:kill"})
    done = killing.run(str(project.box), "--output", str(here / "out"))
    assert done.code == -signal.SIGKILL, f"{point} was not reached\n{done.err}"
    assert left_over(str(here)) == []
    notes.write_text(good)
    to_the_end(seed, program, project, here / "out")


@pytest.mark.parametrize("effect", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(
    "point", ["blob-write", "blob-sync", "blob-publish", "statement-publish", "tree-publish"]
)
def test_refusing_disk(seed: Seed, here: Path, point: str, effect: str) -> None:
    """An error where bytes become durable is told, and is never taken for success."""
    program = seed.program.with_store(seed.new_store(here))
    project = seed.new_project(here / "project")
    failing = program.with_env(**{VARIABLE: f"{point}:2:{effect}"})
    done = failing.run(str(project.box), "--output", str(here / "out"))
    assert done.code == 1, f"exit {done.code}\n{done.err}"
    assert "buildit: error: " in done.err
    assert "hint: " in done.err
    assert done.out == ""
    to_the_end(seed, program, project, here / "out")
