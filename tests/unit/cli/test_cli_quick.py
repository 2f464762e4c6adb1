"""Replays: right only as long as nothing changed, and with nothing heavy imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.cli.containers import keep_run
from buildit.cli.quick import replay
from buildit.commands import stamp
from buildit.commands.sync import Own, watched
from buildit.model.plan import SyncStep

pytestmark = pytest.mark.unit

TOP = Path(__file__).parents[3]
PLAN = "plan-of-box"
ARGV = ["box", "--output", "out"]
LINES = ["Building a/box-1", "Packaging box-1 as OCI...   [OK]"]
PAST = 60


def age(root: Path) -> None:
    """Make everything look old: a file that was just written could still change unseen."""
    before = time.time() - PAST
    for path in (root, *root.rglob("*")):
        os.utime(path, (before, before), follow_symlinks=False)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was kept: its inputs, its image and its package's statement."""
    here = tmp_path / "here"
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    (here / "box" / "files" / "deep").mkdir(parents=True)
    monkeypatch.chdir(here)
    for name in ("box/container.yaml", "box/buildit.lock", "box/files/deep/a", "box/files/b"):
        Path(name).write_text(name)
    Path("box/files/link").symlink_to("b")
    Path("out/x.oci/blobs/sha256").mkdir(parents=True)
    for name in ("index.json", "oci-layout", "blobs/sha256/ab"):
        (Path("out/x.oci") / name).write_text(name)
    (tmp_path / "store/k/ab/abcd").mkdir(parents=True)
    age(here)
    began = time.time_ns() + 100_000_000
    planned = stamp.record([Path("box/container.yaml"), Path("box/buildit.lock"), Path("absent")])
    stamp.write(PLAN, planned, {"plan": "…"})
    noted(began, str(tmp_path / "store/k/ab/abcd"))
    return here


def noted(began: int, statement: str, argv: list[str] = ARGV) -> None:
    step = SyncStep("files", "/srv", True, "", 0, 0, "container.yaml:1:1")
    seen = watched(Path("box").absolute(), step, Own("", re.compile("(?!)")))
    keep_run(argv, began, PLAN, seen, LINES, ["out/x.oci"], [statement])


def test_a_replay_says_what_a_run_would(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(ARGV) == 0
    assert capsys.readouterr() == ("out/x.oci\n", "".join(f"{line}\n" for line in LINES))
    assert replay(["build", *ARGV]) == 0


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["box"],
        ["box", "--output", "else"],
        [*ARGV, "--json"],
        [*ARGV, "--help"],
        ["plan", *ARGV],
        ["build"],
    ],
)
def test_another_question_has_no_replay(argv: list[str], kept: Path) -> None:
    assert replay(argv) is None


def edit(path: str) -> Callable[[], object]:
    return lambda: Path(path).write_text("edited")


def relink() -> None:
    os.symlink("deep/a", "other")
    os.rename("other", "box/files/link")


CHANGES: dict[str, Callable[[], object]] = {
    "container": edit("box/container.yaml"),
    "lock": edit("box/buildit.lock"),
    "absent file appears": edit("absent"),
    "synced file": edit("box/files/deep/a"),
    "new synced file": edit("box/files/deep/new"),
    "synced file gone": lambda: Path("box/files/b").unlink(),
    "synced link": relink,
    "mode of a synced file": lambda: Path("box/files/b").chmod(0o755),
    "image blob": lambda: Path("out/x.oci/blobs/sha256/ab").unlink(),
    "image index": edit("out/x.oci/index.json"),
    "image renamed": lambda: Path("out").rename("was"),
    "package collected": lambda: Path("../store/k/ab/abcd").rmdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_change_makes_it_run_for_real(change: Callable[[], object], kept: Path) -> None:
    change()
    assert replay(ARGV) is None


def test_the_same_bytes_written_anew_are_looked_at(kept: Path) -> None:
    text = Path("box/container.yaml").read_text()
    Path("box/container.yaml").write_text(text)
    assert replay(ARGV) is None


@pytest.mark.parametrize("name", ["HOME", "XDG_CONFIG_HOME"])
def test_other_settings_are_another_question(
    name: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "/elsewhere")
    assert replay(ARGV) is None


def test_another_directory_is_another_question(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept / "box")
    assert replay(ARGV) is None


def test_a_gone_directory_has_no_replay(kept: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert replay(ARGV) is None


def test_a_run_during_which_a_file_changed_is_not_kept(kept: Path, tmp_path: Path) -> None:
    stamp.forget(stamp_of(ARGV))
    Path("box/files/b").write_text("edited while it ran")
    noted(time.time_ns() - 1_000_000_000, str(tmp_path))
    assert replay(ARGV) is None
    assert not (stamp.directory() / PLAN).exists()


def test_its_own_lock_is_what_a_run_may_write(kept: Path, tmp_path: Path) -> None:
    began = time.time_ns() - 1_000_000_000
    for path in Path("box/files").rglob("*"):
        assert path.lstat().st_ctime_ns > began  # made by this test, just now
    stamp.write(PLAN, stamp.record([Path("box/buildit.lock")]), {"plan": "…"})
    keep_run(ARGV, began, PLAN, [], LINES, ["out/x.oci"], [])
    assert replay(ARGV) == 0
    locked = [*ARGV, "--locked"]
    keep_run(locked, began, PLAN, [], LINES, ["out/x.oci"], [])
    assert replay(locked) is None


def stamp_of(argv: list[str]) -> str:
    """The name of the only stamp that is not the plan's."""
    (name,) = {path.name for path in stamp.directory().iterdir()} - {PLAN}
    return name


@pytest.mark.parametrize("result", ['{"screen": 5}', '{"screen": ["a"], "paths": [1]}', "[]", "{"])
def test_a_garbled_stamp_is_a_miss(result: str, kept: Path) -> None:
    path = stamp.directory() / stamp_of(ARGV)
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good).replace(json.dumps(good["result"]), result))
    assert replay(ARGV) is None


HEAVY = ("click", "rich", "yaml", "jinja2", "pydantic", "requests", "cryptography", "dataclasses")
PROBE = f"""
import sys
sys.argv = ["buildit", *{ARGV!r}]
from buildit.__main__ import main
try:
    main()
except SystemExit as done:
    heavy = sorted(set({HEAVY!r}) & set(sys.modules))
    ours = sorted(name for name in sys.modules if name.startswith("buildit."))
    print(done.code, heavy, ours)
"""


def test_nothing_heavy_is_imported(kept: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = ["__main__", "cli", "cli.quick", "commands", "commands.stamp", "home"]
    assert done.stdout.splitlines() == ["out/x.oci", f"0 [] {[f'buildit.{n}' for n in ours]}"]
