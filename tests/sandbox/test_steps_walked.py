"""`build --step` on a real terminal (a pseudo-terminal of its own): run, skip, shell, quit before
each step, over a base of a few programs."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sandbox.test_run_steps import shell_base

pytestmark = pytest.mark.sandbox

LIST = """\
- vars: {name: box, version: "1"}
- from: {oci: "oci:../base"}
- env: {LANG: C.UTF-8}
- run: {script: "echo one > /srv/one"}
- sync: {src: ./page, dest: /srv/page}
- run: {script: "FIRST cat /srv/* > /srv/all"}
- test: {script: "test -e /srv/one"}
- entrypoint: [/usr/bin/cat]
- image: {type: oci}
"""
QUESTION = re.compile(r"\[q\]uit: $")
CODE = "import sys; from buildit.__main__ import main; sys.exit(main())"


class Terminal:
    """buildit on the other side of a terminal: what it said so far, and what is typed."""

    def __init__(self, box: Path, master: int, process: subprocess.Popen[bytes]) -> None:
        self.box, self.master, self.process, self.said = box, master, process, ""

    def until(self, what: str, seconds: float = 120) -> str:
        """What it says up to a text that matches, from the last one on."""
        end, seen = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            ready, _, _ = select.select([self.master], [], [], 0.2)
            try:
                part = os.read(self.master, 4096) if ready else b""
            except OSError:  # EIO: nobody is there any more
                part, end = b"", 0
            seen += part.decode("utf-8", "replace").replace("\r\n", "\n")
            if re.search(what, seen):
                self.said += seen
                return seen
        raise AssertionError(f"no {what!r} in what it said: {self.said}\n---\n{seen}")

    def question(self) -> str:
        return self.until(QUESTION.pattern)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Its exit status, and the rest of what it says."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                ready, _, _ = select.select([self.master], [], [], 0.2)
                part = os.read(self.master, 4096) if ready else b""
            except OSError:
                break
            self.said += part.decode("utf-8", "replace").replace("\r\n", "\n")
            if not part and self.process.poll() is not None:
                break
        return self.process.wait(30)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    shell_base(tmp_path / "base")
    made = tmp_path / "box"
    made.mkdir()
    (made / "container.yaml").write_text(LIST.replace("FIRST ", ""))
    (made / "page").write_text("a page\n")
    return made


def environment(box: Path) -> dict[str, str]:
    return {**os.environ, "BUILDIT_STORE": str(box.parent / "store"), "TERM": "xterm"}


@contextmanager
def walked(box: Path, *words: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "box", "--step", *words],
        cwd=box.parent,
        env=environment(box),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(box, master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def plainly(box: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", CODE, *words]
    return subprocess.run(
        argv,
        cwd=box.parent,
        env=environment(box),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def image(box: Path) -> bytes:
    (index,) = (box.parent / "out").glob("*.oci/index.json")
    return index.read_bytes()


def test_all_that_runs_is_the_image_of_a_build(box: Path) -> None:
    with walked(box) as at:
        first = at.question()
        assert "Step 2 of 9: from oci:../base (box/container.yaml:2:3)" in first
        assert "skip" not in first  # there is no image without its base
        assert "shell" not in first.rpartition("Step 2")[2].replace("shell_base", "")
        at.type("s\n")
        assert "'s' is none of these." in at.question()
        at.type("\n")  # the first answer
        assert "Step 4 of 9: run echo one > /srv/one (box/container.yaml:4:3)" in at.question()
        at.type("r\n")
        assert "Step 5 of 9: sync" in at.question()
        at.type("run\n")
        assert "Step 6 of 9: run cat /srv/*" in at.question()
        at.type("h\n")
        at.until(r"\$ ")
        at.type("ls /srv; cat /srv/one > /srv/spoiled; exit\n")
        seen = at.question()
        assert "one" in seen
        assert "page" in seen
        at.type("r\n")
        assert "Step 7 of 9: test" in at.question()
        at.type("R\n")
        assert at.end() == 0, at.said
    assert "Packaging box-1 as OCI" in at.said
    by_hand = image(box)
    again = plainly(box, "box")
    assert again.returncode == 0
    assert image(box) == by_hand
    assert "built" not in again.stderr


def test_what_was_skipped_is_in_no_image(box: Path) -> None:
    with walked(box, "--push") as at:
        for answer in "r", "s", "r", "r":
            at.question()
            at.type(f"{answer}\n")
        assert "Step 7 of 9: test" in at.question()
        at.type("r\n")  # fails: the page alone is in it
        failed = at.question()
        assert "warning: box/container.yaml:7:3: " in failed
        at.type("h\n")
        at.until(r"\$ ")
        at.type("cat /srv/all; exit\n")
        assert "a page" in at.question()
        at.type("s\n")
        assert at.end() == 0, at.said
    assert "skipped: step 4, run echo one > /srv/one (box/container.yaml:4:3)" in at.said
    assert "skipped: step 7, test" in at.said
    assert "a step was skipped: no image is written, nothing is published" in at.said
    assert not (box.parent / "out").exists()
    # and a build does not believe any of it
    done = plainly(box, "box")
    assert done.returncode == 0, done.stderr
    assert "run cat /srv/* > /srv/all: built" in done.stderr


def test_a_step_that_fails_is_asked_about_again(box: Path) -> None:
    (box / "container.yaml").write_text(
        LIST.replace("FIRST", "echo half > /srv/half; test -e /fix;")
    )
    with walked(box) as at:
        for _ in range(3):
            at.question()
            at.type("r\n")
        at.question()
        at.type("r\n")
        failed = at.question()
        assert "warning: box/container.yaml:6:3: run failed with status 1" in failed
        assert "Step 6 of 9" in failed  # the same question
        at.type("h\n")
        at.until(r"\$ ")
        at.type("cat /srv/half; exit\n")
        assert "half\n" in at.question()
        at.type("q\n")
        assert at.end() == 0
    assert "left before step 6, run echo half" in at.said
    assert not (box.parent / "out").exists()


def test_the_end_of_the_input_and_an_interrupt(box: Path) -> None:
    with walked(box) as at:
        at.question()
        at.type("\x04")
        assert at.end() == 0
        assert "left before step 2" in at.said
    with walked(box) as at:
        at.question()
        os.kill(at.process.pid, 2)
        assert at.end() == 130
    assert not (box.parent / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--step",), "--step asks before each step, and there is no terminal"),
        (("--step", "--json"), "--step asks people, and --json is for programs"),
        (("--step", "--until", "run"), "--step goes on as long as you say"),
    ],
)
def test_who_cannot_be_asked(box: Path, words: tuple[str, ...], said: str) -> None:
    done = plainly(box, "box", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "hint" in done.stderr
