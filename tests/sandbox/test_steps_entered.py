"""`build --until`, `shell DIR --at`, and the states of steps in `plan`, over a base of a few
programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from buildit.model.tree import Kind
from tests.base_images import Foreign, folder, member, symbolic, tar
from tests.sandbox.test_run_steps import programs

pytestmark = pytest.mark.sandbox

LIST = """\
- vars: {name: box, version: "1", os: linux, arch: amd64}
- from: {oci: "oci:../base"}
- run: {script: "echo one > /srv/one"}
- directories: [{path: /srv/made, mode: 0750}]
- run: {script: "echo two > /srv/two; rm /srv/one; LAST"}
- app: {exec: [/usr/bin/cat]}
- image: {type: oci}
"""


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """The directory of a container over a base with a shell."""
    entries, texts = programs()
    made = [folder("srv"), folder("etc"), member("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")]
    for one in entries:
        match one.kind:
            case Kind.DIRECTORY:
                made.append(folder(one.path))
            case Kind.SYMLINK:
                made.append(symbolic(one.path, one.target))
            case _:
                made.append(member(one.path, texts[one.path], 0o755))
    layer = tar(*sorted(made, key=lambda one: one[0].name))
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    Foreign((layer,), {}, arch).layout(tmp_path / "base")
    (tmp_path / "box").mkdir()
    text = LIST.replace("arch: amd64", f"arch: {arch}").replace("LAST", "true")
    (tmp_path / "box/container.yaml").write_text(text)
    return tmp_path / "box"


def buildit(box: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """In the directory above the container."""
    code = "import sys; from buildit.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=box.parent,
        env={**os.environ, "BUILDIT_STORE": str(box.parent / "store")},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def states(box: Path) -> list[str]:
    found = json.loads(buildit(box, "plan", "box", "--json").stdout)["steps"]
    assert [one["number"] for one in found] == list(range(1, 8))
    assert all(bool(one["key"]) == (one["state"] not in ("", UNKNOWN)) for one in found)
    return [one["state"] for one in found]


UNKNOWN = "known when what is below is built"


def test_each_step_can_be_built_to_and_entered(box: Path) -> None:
    assert states(box) == ["", "take", UNKNOWN, "", UNKNOWN, "", ""]
    until = buildit(box, "box", "--until", "3")
    assert (until.returncode, until.stdout) == (0, "")
    assert "built up to step 3, run echo one > /srv/one (box/container.yaml:3:3)" in until.stderr
    assert "buildit shell box --at 3" in until.stderr
    assert not (box.parent / "out").exists()
    first = buildit(box, "shell", "box", "--at", "container.yaml:3", typed="cat /srv/*; ls /srv")
    assert (first.returncode, first.stdout) == (0, "one\none\n")
    early = buildit(box, "shell", "box")
    assert early.returncode == 2
    assert "hint: build it first: buildit build box" in early.stderr

    whole = buildit(box, "box")
    assert whole.returncode == 0
    assert "  run echo one" not in whole.stderr  # nothing runs that ran
    assert "  run echo two > /srv/two; rm /srv/one; true: building" in whole.stderr
    assert states(box) == ["", "store", "store", "", "store", "", ""]
    spoil = "cat /srv/two; rm -r /srv; exit 5"
    for _ in "twice":  # what is written is thrown away
        entered = buildit(box, "shell", "box", typed=spoil)
        assert (entered.returncode, entered.stdout) == (5, "two\n")
    between = buildit(box, "shell", "box", "--at", "directories", typed="stat -c %a /srv/*")
    assert between.stdout == "750\n644\n"


def test_a_step_that_failed_is_entered_as_it_was_left(box: Path) -> None:
    file = box / "container.yaml"
    file.write_text(file.read_text().replace("true", "false"))
    failed = buildit(box, "box")
    assert failed.returncode == 1
    assert "box/container.yaml:5:3: run failed with status 1" in failed.stderr
    assert not (box.parent / "out").exists()
    assert states(box) == ["", "store", "store", "", "to run", "", ""]
    look = "cat /srv/two; ls /srv; echo more > /srv/two"
    for words in (["box"], [], ["box"]):
        entered = buildit(box, "shell", *words, typed=look)
        assert (entered.returncode, entered.stdout) == (0, "two\nmade\ntwo\n")
        assert "it ran: /bin/sh -ec echo two" in entered.stderr
    refused = buildit(box, "shell", "box", "--at", "5")
    key = re.search(r"hint: see what it left: buildit shell ([0-9a-f]+)", refused.stderr)
    assert key is not None
    assert buildit(box, "shell", key[1], typed="cat /srv/two").stdout == "two\n"
    assert "two" not in buildit(box, "shell", "box", "--at", "4", typed="ls /srv").stdout
    assert buildit(box, "log").stdout.startswith("=== run\n")


NO_STEPS = (
    (["box", "--until", "run"], "2 steps are called 'run'"),
    (["box", "--until", "8"], "there is no step 8: the container has 7"),
    (["box", "--until", "3", "--push"], "there is nothing to publish"),
    (["shell", "box", "--at", "nothing"], "no step is called 'nothing'"),
    (["shell", "--at", "3"], "there is no container.yaml in ."),
)


def test_what_is_no_step(box: Path) -> None:
    for words, said in NO_STEPS:
        refused = buildit(box, *words)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert "hint: " in refused.stderr


def test_a_step_that_leaves_something_else_each_time_is_named(box: Path) -> None:
    file = box / "container.yaml"
    again = buildit(box, "box", "--until", "5", "--rebuild")
    assert again.returncode == 0
    assert again.stderr.count("run again, it left the same") == 2
    chance = "cat /proc/sys/kernel/random/uuid > /srv/two; echo 1 > /srv/same"
    file.write_text(file.read_text().replace("true", chance))
    assert buildit(box, "box", "--until", "5").returncode == 0
    told = buildit(box, "box", "--until", "5", "--rebuild")
    assert told.returncode == 1
    assert "box/container.yaml:5:3: run echo two" in told.stderr
    assert re.findall("not reproducible: (.*)", told.stderr) == ["/srv/two"]
