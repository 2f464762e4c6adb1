"""The same input gives the same bytes, whoever builds, where, when and how (issue, "Same input").

One container of three packages is built once as a reference; each test builds all of it anew in a
store of its own with one thing changed, and compares every file of both images.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.compare import first_difference
from tests.integration.program import Program
from tests.integration.seeds import Seed
from tests.integration.shuffling import shuffled
from tests.integration.world import Project

pytestmark = pytest.mark.sandbox

Change = Callable[[Program], Program]
BUILT = ("libs/greet-1.0: built", "app/hello-1.0: built", "app/notes-2.1: built")


def built_anew(seed: Seed, program: Program, project: Project, out: Path) -> None:
    """Build, be sure that nothing was reused, and compare with the first images."""
    done = program.run(str(project.box), "--output", str(out)).good()
    assert all(word in done.err for word in BUILT), done.err
    assert [image.name for image in done.images()] == sorted(os.listdir(seed.out))
    assert first_difference(seed.out, out) is None
    shutil.rmtree(out)


DEAF = """trap '' INT QUIT USR1 PIPE; ulimit -S -c unlimited; exec "$@" """
"""Signals that a build would inherit."""


def faked(shift: str) -> Change:
    return lambda program: program.started_by("faketime", "-f", shift)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: replace(p, umask=0o077), id="umask 077"),
        pytest.param(lambda p: replace(p, umask=0o000), id="umask 000"),
        pytest.param(lambda p: p.started_by("nohup", "sh", "-c", DEAF, "sh"), id="deaf"),
        pytest.param(lambda p: p.with_env(TZ="Pacific/Kiritimati"), id="TZ east"),
        pytest.param(lambda p: p.with_env(TZ="America/St_Johns"), id="TZ west"),
        pytest.param(lambda p: p.with_env(LC_ALL="C", LANG="C"), id="LC_ALL C"),
        pytest.param(lambda p: p.with_env(LC_ALL="C.UTF-8"), id="LC_ALL C.UTF-8"),
        pytest.param(lambda p: p.with_env(LC_ALL="de_DE.UTF-8", LANGUAGE="de"), id="LC_ALL de_DE"),
        pytest.param(lambda p: p.with_env(PYTHONHASHSEED="1"), id="hash seed 1"),
        pytest.param(lambda p: p.with_env(PYTHONHASHSEED="4294967295"), id="hash seed 2^32-1"),
        pytest.param(
            lambda p: p.with_env(
                CFLAGS="-O0 -g", CC="false", MAKEFLAGS="-k", USE="x", LD_LIBRARY_PATH="/nowhere"
            ),
            id="compiler's environment",
        ),
        pytest.param(faked("-20y"), id="clock -20 years"),
        pytest.param(faked("+10y"), id="clock +10 years"),
    ],
)
def test_variation_of_the_process(seed: Seed, here: Path, change: Change) -> None:
    program = change(seed.program.with_store(seed.new_store(here)))
    if "faketime" in program.before and shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    built_anew(seed, program, seed.locked_project(here / "project"), here / "out")


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_number_of_jobs(seed: Seed, here: Path, jobs: str) -> None:
    program = seed.program.with_store(seed.new_store(here))
    project = seed.locked_project(here / "project")
    done = program.run(str(project.box), "--output", str(here / "out"), "--jobs", jobs).good()
    assert all(word in done.err for word in BUILT)
    assert first_difference(seed.out, here / "out") is None


def test_other_directory_and_home(seed: Seed, here: Path) -> None:
    """From a deep directory with blanks, by a relative path, with another HOME."""
    deep = here / "a directory" / ("deep-" * 20) / "ünï"
    project = seed.locked_project(deep)
    program = seed.program.with_store(seed.new_store(here)).with_env(HOME=str(here / "no home"))
    done = program.run("box/", "--output", "../out", cwd=project.root).good()
    assert all(word in done.err for word in BUILT)
    assert first_difference(seed.out, deep.parent / "out") is None


def test_clone_with_another_umask(seed: Seed, here: Path) -> None:
    """A clone's own modes and times are no input, apart from x bits."""
    project = seed.locked_project(here / "project")
    for path in project.root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
            os.utime(path, (1, 1))
    program = seed.program.with_store(seed.new_store(here))
    built_anew(seed, program, project, here / "out")


def test_ordinary_user(seed: Seed, here: Path) -> None:
    """Somebody else, with a home and a store of his own, who unpacks the toolchain himself."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    own = seed.strangers_place(here / "own")
    project = seed.locked_project(own / "project")
    subprocess.run(["chown", "-R", "--no-dereference", "65534:65534", own], check=True)
    program = seed.program.as_stranger(own).with_store(own / "store")
    built_anew(seed, program, project, own / "out")
    assert {path.lstat().st_uid for path in own.rglob("*")} == {65534}


def test_directory_order(seed: Seed, here: Path) -> None:
    project = seed.locked_project(here / "project")
    with shuffled(project.root, here / "mount") as mount:
        orders = {tuple(os.listdir(mount / "box/files/data")) for _ in range(20)}
        assert len(orders) > 1, "disorderfs shuffles nothing here"
        program = seed.program.with_store(seed.new_store(here))
        built_anew(seed, program, Project(mount), here / "out")


def test_two_builds_of_one_store_agree(seed: Seed, here: Path) -> None:
    """Emitting again from the store gives the same files, and so does another output directory."""
    project = seed.locked_project(here / "project")
    for name in ("one", "two"):
        done = seed.program.run(str(project.box), "--output", str(here / name)).good()
        assert "built in" not in done.err
        assert first_difference(seed.out, here / name) is None
