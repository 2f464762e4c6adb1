"""Builds that fail, exceed a limit or are interrupted, and disks that are full."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.program import Done, Program, left_over
from tests.integration.refusing import (
    BUILD,
    INTERRUPTED,
    assert_builds,
    assert_whole,
    refusal,
    refused,
)
from tests.integration.seeds import Seed
from tests.integration.world import Project

pytestmark = pytest.mark.sandbox


@pytest.fixture
def program(seed: Seed, here: Path) -> Program:
    return seed.program.with_store(seed.new_store(here))


def doing(project: Project, script: str, limits: str = "") -> Project:
    """`notes` runs `script` first; `limits` is what the configuration says of them."""
    path = project.recipe("app/notes")
    project.edit(path, '    to="$DESTDIR', f'    {script}\n    to="$DESTDIR')
    if limits:
        project.config.write_text(f"{project.config.read_text()}limits: {{{limits}}}\n")
    return project


def then_good(seed: Seed, program: Program, here: Path) -> None:
    assert_whole(program, here)
    assert_builds(seed, program, seed.new_project(here / "good"), here / "out")
    assert_whole(program, here)


def test_failing_build(seed: Seed, here: Path, program: Program) -> None:
    """Its log is shown and kept, its siblings are kept too, and only it is built again."""
    script = "echo a word before; echo CAUSE >&2; sleep 3; exit 7"
    project = doing(seed.new_project(here / "project"), script)
    found = refused(program, project, BUILD)
    assert found.message == "app/notes-2.1: install failed with status 7"
    assert "CAUSE" in found.details
    assert "buildit log" in found.hint
    assert "buildit shell" in found.hint
    log = program.run("log").good()
    assert "a word before\nCAUSE\n" in log.out
    listed = program.run("store", "list").good()
    assert "libs/greet" in listed.out
    assert "app/hello" in listed.out
    assert_whole(program, here)
    good = seed.new_project(here / "good")
    done = program.run(str(good.box), "--output", str(here / "out")).good()
    assert "app/notes-2.1: built in" in done.err
    assert "libs/greet-1.0: built in" not in done.err


@pytest.mark.parametrize(
    ("script", "limits", "word"),
    [
        pytest.param("sleep 600", "time: 3s", "limits: time", id="time"),
        pytest.param(
            "perl -e '$x = \"x\" x 3e8; sleep 600'", "memory: 128M", "limits: memory", id="memory"
        ),
        pytest.param(
            "perl -e 'fork while 1'", "processes: 40", "limits: processes", id="processes"
        ),
    ],
)
def test_limit(
    seed: Seed, here: Path, program: Program, script: str, limits: str, word: str
) -> None:
    project = doing(seed.new_project(here / "project"), script, limits)
    begun = time.monotonic()
    found = refused(program, project, BUILD)
    assert time.monotonic() - begun < 300
    assert "app/notes-2.1" in found.message
    assert word in f"{found.message}\n{found.details}", found
    if word in found.message:
        assert f"limits: {{{word.removeprefix('limits: ')}: " in found.hint
    assert_whole(program, here)


def test_log_without_end_is_cut(seed: Seed, here: Path, program: Program) -> None:
    """A flood stops nothing, and fills nothing: the beginning and the end are kept."""
    script = "echo FIRST; yes flood | head -c 50000000; echo LAST; exit 1"
    project = doing(seed.new_project(here / "project"), script, "log: 1M")
    found = refused(program, project, BUILD)
    assert "LAST" in found.details
    log = program.run("log").good().out
    assert len(log) < 2 << 20
    assert "FIRST" in log
    assert "LAST" in log
    assert_whole(program, here)


def wait_for(process: subprocess.Popen[str], path: Path, what: str) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if any(path.glob(what)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} has no {what}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(seed: Seed, here: Path, program: Program, number: signal.Signals) -> None:
    project = doing(seed.new_project(here / "project"), "touch mark; sleep 600")
    out = here / "none"
    # whoever started these tests may ignore signals (nohup, `&` in sh), and that is inherited
    listening = program.started_by("env", "--default-signal=INT,TERM,HUP")
    with listening.start(str(project.box), "--output", str(out)) as process:
        try:
            wait_for(process, program.store / "tmp", "*/build/src/mark")
            begun = time.monotonic()
            process.send_signal(number)
            outs, errs = process.communicate(timeout=300)
        except BaseException:
            process.kill()
            raise
    assert time.monotonic() - begun < 60
    found = refusal(Done(process.returncode, outs, errs), INTERRUPTED)
    assert "interrupted" in found.message
    assert left_over(str(here)) == []
    assert os.listdir(program.store / "tmp") == []
    assert not out.exists()
    then_good(seed, program, here)


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("megabytes", [1, 8, 140])
def test_full_disk(seed: Seed, here: Path, megabytes: int) -> None:
    """Wherever the disk ends: while opening the store, fetching, or unpacking the toolchain."""
    project = seed.new_project(here / "project")
    with small_disk(here / "disk", f"size={megabytes}m,mode=755") as disk:
        program = seed.program.with_store(disk / "store")
        found = refused(program, project, BUILD)
        assert "No space left" in found.message, found
        assert "space" in found.hint or str(disk) in found.message, found
        assert program.run("store", "verify").code == 0
        assert os.listdir(program.store / "tmp") == []
        subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
        assert_builds(seed, program, project, here / "out")
        assert_whole(program, here / "nowhere")
    assert left_over(str(here)) == []


@pytest.mark.parametrize("kilobytes", [100, 600, 6000])
def test_disk_full_during_a_build(seed: Seed, here: Path, kilobytes: int) -> None:
    """The toolchain is there; the disk ends in a build, in packing, or in unpacking a library."""
    project = seed.new_project(here / "project")
    with small_disk(here / "disk", "size=2g,mode=755") as disk:
        trees = disk / "store/trees"
        trees.mkdir(parents=True)
        for name in (seed.toolchain, f"{seed.toolchain}.ok"):
            subprocess.run(["cp", "-a", seed.program.store / "trees" / name, trees], check=True)
        program = seed.program.with_store(disk / "store")
        program.run("store", "list").good()
        status = os.statvfs(disk)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize // 1024
        resize = ["mount", "-o", f"remount,size={used + kilobytes}k", str(disk)]
        subprocess.run(resize, check=True)
        found = refused(program, project, BUILD)
        text = f"{found.message}\n{found.details}"
        assert "No space left" in text or "disk" in text, found
        assert program.run("store", "verify").code == 0
        subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
        assert_builds(seed, program, project, here / "out")
        assert_whole(program, here / "nowhere")
    assert left_over(str(here)) == []


def test_a_nearly_full_disk_is_no_fault_of_the_recipe(seed: Seed, here: Path) -> None:
    """What is left belongs to the store itself (`launch_watch.RESERVE`)."""
    script = "head -c 4000000 /dev/urandom >big; sleep 30"
    project = doing(seed.new_project(here / "project"), script)
    with small_disk(here / "disk", "size=3g,mode=755") as disk:
        (disk / "store/trees").mkdir(parents=True)
        for path in (seed.program.store / "trees").glob(f"{seed.toolchain}*"):
            subprocess.run(["cp", "-a", path, disk / "store/trees"], check=True)
        program = seed.program.with_store(disk / "store")
        program.run("store", "list").good()
        status = os.statvfs(disk)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize // 1024
        resize = ["mount", "-o", f"remount,size={used + 200_000}k", str(disk)]
        subprocess.run(resize, check=True)
        found = refused(program, project, BUILD)
        assert re.search(r"the store's disk is nearly full \(1\d\d MB free\)", found.message), found
        assert "buildit store gc" in found.hint
        assert "limits" not in found.hint
        assert_whole(program, here / "nowhere")
    assert left_over(str(here)) == []


def test_full_disk_of_the_output(seed: Seed, here: Path) -> None:
    """The images do not fit: none is there afterwards, and the store has all packages."""
    project = seed.new_project(here / "project")
    with small_disk(here / "disk", "size=1m,mode=755") as disk:
        done = seed.program.run(str(project.box), "--output", str(disk / "out"))
        found = refusal(done, BUILD)
        assert "No space left" in found.message or "full" in found.message, found
        assert [path for path in (disk / "out").rglob("*") if path.is_file()] == []
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        assert_builds(seed, seed.program, project, disk / "out")


@pytest.mark.parametrize(
    ("script", "words", "place"),
    [
        ('truncate -s 4G "$to/hole"', "4.3 GB or more were installed", "usr/share/notes/hole"),
        ('cd "$to"; i=0; while [ $i -lt 1500 ]; do mkdir d; cd d; i=$((i+1)); done',
         "256 deep", "usr/share/notes/d/d/d/"),
        ('rm -r "$DESTDIR"/*; exit 0', "the package is empty", "app/notes-2.1"),
        ('install -D -m 4755 /bin/true "$DESTDIR/usr/bin/t"', "mode 4755", "usr/bin/t"),
    ],
)  # fmt: skip
def test_what_no_artifact_should_hold(
    seed: Seed, here: Path, program: Program, script: str, words: str, place: str
) -> None:
    project = seed.new_project(here / "project")
    recipe = project.recipe("app/notes")
    project.edit(
        recipe, '    cp "$FILES/note.txt" "$to/"', f'    cp "$FILES/note.txt" "$to/"; {script}'
    )
    found = refused(program, project, BUILD)
    assert words in found.message
    assert place in f"{found.message} {found.hint}"
    assert found.hint
    program.run("store", "gc").good()
    assert not list((program.store / "logs/failed").glob("*"))
