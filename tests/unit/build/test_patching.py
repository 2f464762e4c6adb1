"""What GNU patch says of a patch that does not apply, in our words: number, file, hunk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from buildit.build.patching import ALREADY, NO_GIT, REJECTED, Refused, apply_argv, refusal
from buildit.plan.steps import PATCHES_DIRECTORY

pytestmark = pytest.mark.unit

GOOD = "--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n one\n-two\n+TWO\n"


def applied(tmp_path: Path, *patches: str) -> tuple[int, list[str], str]:
    """Status and output of the script over a tree with one file, and the file afterwards."""
    if shutil.which("patch") is None:
        pytest.skip("GNU patch is not installed")
    tree, patches_at = tmp_path / "tree", tmp_path / "patches"
    tree.mkdir()
    patches_at.mkdir()
    (tree / "file").write_text("one\ntwo\n")
    for number, text in enumerate(patches):
        (patches_at / f"{number:04d}").write_text(text)
    argv = [word.replace(PATCHES_DIRECTORY, str(patches_at)) for word in apply_argv()]
    argv = [word.replace("/tmp/patch.log", f"{tmp_path}/log") for word in argv]
    argv = [word.replace("/tmp/rejects", f"{tmp_path}/rejects") for word in argv]
    done = subprocess.run(
        argv, cwd=tree, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    return done.returncode, done.stdout.splitlines(), (tree / "file").read_text()


def refused(tmp_path: Path, *patches: str) -> Refused:
    status, output, after = applied(tmp_path, *patches)
    assert status in (ALREADY, REJECTED, NO_GIT)
    if len(patches) == 1:
        assert after == "one\ntwo\n", "a patch that is refused changes nothing"
    return refusal(status, output)


def test_good_patch(tmp_path: Path) -> None:
    status, _, after = applied(tmp_path, GOOD)
    assert (status, after) == (0, "one\nTWO\n")


def test_context_that_differs_is_no_fuzz(tmp_path: Path) -> None:
    found = refused(tmp_path, GOOD.replace(" one", " One"))
    assert (found.number, found.reason) == (
        0,
        "does not apply: file: hunk #1 does not fit at line 1",
    )


def test_second_patch_is_the_one_that_is_named(tmp_path: Path) -> None:
    found = refused(tmp_path, GOOD, GOOD.replace("TWO", "2"))
    assert found.number == 1
    assert found.details == ()


def test_applied_already(tmp_path: Path) -> None:
    found = refused(tmp_path, GOOD, GOOD)
    assert (found.number, found.reason) == (1, "is already applied")


def test_absent_file_is_named_once(tmp_path: Path) -> None:
    found = refused(tmp_path, GOOD.replace("file", "absent"))
    assert (found.reason, found.details) == ("does not apply: absent does not exist", ())


def test_deleting_an_absent_file(tmp_path: Path) -> None:
    found = refused(tmp_path, "--- a/absent\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n")
    assert (found.reason, found.details) == ("is already applied", ())


def test_creating_a_file_that_is_there(tmp_path: Path) -> None:
    found = refused(tmp_path, "--- /dev/null\n+++ b/file\n@@ -0,0 +1,1 @@\n+three\n")
    assert found.reason == "does not apply: file already exists"


def test_several_files(tmp_path: Path) -> None:
    absent = GOOD.replace("file", "absent")
    found = refused(tmp_path, absent + GOOD.replace(" one", " One"))
    assert found.details == ("absent does not exist", "file: hunk #1 does not fit at line 1")
