"""Whole builds with `test` steps, over a base: what a failing one stops, and what is not done anew;
and which tasks of such a container a binhost has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildit.sandbox.usernet import no_user_network
from tests.planning import Checkout, checkout
from tests.sandbox.test_image_tests import SERVER
from tests.sandbox.test_run_steps import shell_base

pytestmark = pytest.mark.sandbox

HEAD = """\
- vars: {name: web, version: 1.0}
- from: {oci: oci:../base.oci}
- test:
    http: {path: /health, contains: up}
    file: {path: /srv/server, mode: 0644, owner: 'www:www', contains: accept}
- sync: {src: server, dest: /srv/server, owner: 'www:www'}
- users: {www: {uid: 101, gid: 102, home: /srv}}
- groups: {www: {gid: 102}}
- entrypoint: [/usr/bin/perl, /srv/server]
- user: www
- ports: [8080]
"""
IMAGES = "- image: {type: oci}\n- image: {type: aci}\n"


@dataclass
class World:
    """A container over a base that has Perl and a shell, and a binhost in a directory."""

    project: Checkout

    def write(self, steps: str) -> None:
        self.project.write("container/container.yaml", HEAD + steps + IMAGES)

    def __call__(self, *words: str) -> tuple[int, str]:
        root = self.project.root
        done = subprocess.run(
            [sys.executable, "-m", "buildit", *words],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(root),
                "BUILDIT_STORE": str(root / "store"),
            },
            cwd=root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def images(self) -> list[str]:
        return sorted(one.name for one in (self.project.root / "out").glob("*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    project = checkout(tmp_path)
    shell_base(tmp_path / "base.oci")
    project.write("container/server", SERVER.replace("sleep $ENV{LATE} if $ENV{LATE};", ""))
    project.write(
        ".buildit-config.yaml",
        "trees: [./pkgs]\n"
        f"repositories: [{{name: depot, upload-type: file, upload-path: {tmp_path}/depot, "
        f"download-type: file, download-path: {tmp_path}/depot, unsigned: yes}}]\n",
    )
    return World(project)


def test_a_build_is_tested_once_and_a_failing_test_stops_it(world: World) -> None:
    world.write("- test: {exec: [perl, -e, 'print $<'], stdout: {equals: '102'}}\n")
    code, told = world("build", "container", "--offline", "--push")
    assert code == 1, told
    assert "the test failed: expected stdout to equal '102', got '101'" in told
    assert "container.yaml:12:3" in told
    assert world.images() == []
    assert not (world.project.root / "depot").exists() or not [
        *(world.project.root / "depot").rglob("*.oci")
    ]
    world.write("- test: {exec: [perl, -e, 'print $<'], stdout: {equals: '101'}}\n")
    code, told = world("build", "container", "--offline")
    assert code == 0, told
    assert len(world.images()) == 2
    images = (world.project.root / "store").parent / "out"
    for one in images.iterdir():  # made anew from the same layers, without a test
        subprocess.run(["rm", "-r", str(one)], check=True)
    code, told = world("build", "container", "--offline")
    assert code == 0, told
    assert "test" not in told
    assert len(world.images()) == 2
    code, told = world("plan", "container", "--offline", "--json")
    assert code == 0, told
    steps = [one for one in json.loads(told[told.index("{") :])["steps"] if one["kind"] == "test"]
    assert [one["text"] for one in steps] == ["GET /health, /srv/server", "perl -e print $<"]


def test_steps_and_tests_are_no_tasks_of_a_binhost(world: World) -> None:
    if (problem := no_user_network()) is not None:
        pytest.skip(f"{problem[0]} ({problem[1]})")
    world.write(
        "- run: {script: 'echo made > /srv/made', network: yes}\n"
        "- test: {file: {path: /srv/made, equals: made}}\n"
    )
    code, told = world("build", "container", "--push")
    assert code == 0, told
    assert "1 command with a network: nothing pins what is fetched" in told
    store, depot = world.project.root / "store", world.project.root / "depot"

    def steps(root: Path) -> list[str]:
        return [one.name for one in root.glob("k/*/*/*.json") if b"step:" in one.read_bytes()]

    assert steps(store) != []
    assert [*depot.rglob("*.oci")] != []
    assert steps(depot) == []
    # another store makes it itself, whatever a binhost says of its key
    for one in store.glob("k/*/*"):
        target = depot / one.relative_to(store)
        if not target.exists():
            subprocess.run(["cp", "-a", str(one), str(target.parent)], check=False)
    subprocess.run(["cp", "-a", str(store / "b"), str(depot)], check=False)
    store.rename(store.with_name("former"))
    (world.project.root / "out").rename(world.project.root / "former-out")
    code, told = world("build", "container")
    assert code == 0, told
    assert "1 command with a network: nothing pins what is fetched" in told
    assert "depot" not in told
