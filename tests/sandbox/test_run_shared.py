"""Layers of `run` steps on a binhost: found there by key, but for those that stay on a machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planning import Checkout, checkout
from tests.sandbox.test_run_steps import shell_base

pytestmark = pytest.mark.sandbox

CONFIG = """trees: [./pkgs]
repositories:
  - name: hub
    upload-type: file
    upload-path: hub
    download-type: file
    download-path: hub
    unsigned: yes
"""
CONTAINER = """- vars: {name: web, version: 1.0}
- from: {oci: oci:../base.oci}
- run: {script: "echo one > /srv/one; mkdir -m 700 /srv/d; chown 7:8 /srv/d"}
- run: {script: "cat /run/secrets/token > /tmp/x; echo two > /srv/two", secrets: [token]}
- image: {type: squashfs}
"""


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = checkout(tmp_path)
    shell_base(tmp_path / "base.oci")
    made.write(".buildit-config.yaml", CONFIG)
    made.write("container/container.yaml", CONTAINER)
    made.write("token", "hush, nobody may know")
    return made


def run(project: Checkout, store: str, *words: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(project.root)}
    env["BUILDIT_STORE"] = str(project.root / store)
    (project.root / store).mkdir(exist_ok=True)
    secret = ("--secret", f"id=token,src={project.root / 'token'}")
    given = () if words[0] == "push" else secret
    ended = subprocess.run(
        [sys.executable, "-m", "buildit", *words, *given],
        env=env,
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def run_records(directory: Path) -> set[bool]:
    """Of each record of a step that lies there, whether it has a secret."""
    files = (path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return {b'"secrets":["token"]' in one for one in files if b'"type":"run"' in one}


def test_others_take_what_a_step_left_but_for_one_with_a_secret(project: Checkout) -> None:
    first = run(project, "one", "container", "--output", "first")
    assert (
        len(re.findall(r"^  run .*: (building|built)", first, re.M)) == 4
    )  # a line as each begins, and one as it ends
    run(project, "one", "push", "container", "--output", "first")
    assert run_records(project.root / "one") == {True, False}
    assert run_records(project.root / "hub") == {False}
    second = run(project, "two", "container", "--output", "second")
    # the step with a secret runs again, over the layer that was taken
    assert second.count("building (first build)") == 1, second
    image = "web-1.0-linux-amd64.squashfs"
    made = [(project.root / one / image).read_bytes() for one in ("first", "second")]
    assert made[0] == made[1]
