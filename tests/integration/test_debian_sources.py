"""A Debian source package as base: patched, built, run; what is wrong is said with the way out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian_in_images import run_in
from tests.integration.compare import first_difference
from tests.integration.refusing import RECIPE, UNSATISFIABLE, refusal
from tests.integration.seeds import Seed
from tests.integration.world import write

pytestmark = pytest.mark.sandbox

PATCH = """\
--- a/src/tini.c
+++ b/src/tini.c
@@ -101,5 +101,5 @@
 #define KILL_PROCESS_GROUP_GROUP_ENV_VAR "TINI_KILL_PROCESS_GROUP"
\x20
-#define TINI_VERSION_STRING "tini version " TINI_VERSION TINI_GIT
+#define TINI_VERSION_STRING "our tini version " TINI_VERSION TINI_GIT
\x20
\x20
"""
CONTAINER = """\
- vars: {name: tini, version: 1}
- package: {type: embedded, path: ./pkgs/tini%s}
- image: {type: oci}
"""
PATCHED = "base: debian:tini=0.19.0-1\npatches: {ours.patch: Says whose it is}\n"


def container(seed: Seed, here: Path, recipe: str, further: str = "") -> Path:
    box = here / "box"
    files = {"pkg.yaml": recipe, "ours.patch": PATCH}
    write(
        box,
        {
            "container.yaml": CONTAINER % further,
            **{f"pkgs/tini/{name}": text for name, text in files.items()},
        },
    )
    (box / "buildit.lock").write_text(seed.lock)
    return box


def test_a_patched_source_is_built_runs_and_is_found_again(seed: Seed, here: Path) -> None:
    program, box, out = seed.program, container(seed, here, PATCHED), str(here / "out")
    first = program.run(str(box), "--output", out).good()
    (image,) = first.images()
    assert "debian-source:tini-0.19.0-1+buildit1: built in" in first.err
    done = run_in(image, here / "bundle", ["/usr/bin/tini", "--version"])
    assert done.stdout.startswith("our tini version 0.19.0")
    locked = (box / "buildit.lock").read_text()
    assert "deb debian-source:tini tini_0.19.0-1.dsc 0.19.0-1 source bookworm pool/" in locked
    write(box, {"pkgs/tini/pkg.yaml": f"# a comment\n{PATCHED}description: Init for containers\n"})
    again = program.run(str(box), "--output", out, "--offline").good()
    assert ": building" not in again.err
    shown = program.run("show", "debian-source:tini", cwd=box).good().out
    assert "tini" in shown


def test_root_and_an_ordinary_user_build_the_same(seed: Seed, here: Path) -> None:
    """Somebody else, who lays out the chroot himself; only what is fetched is shared."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    box, out = container(seed, here, PATCHED), here / "out"
    seed.program.run(str(box), "--output", str(out)).good()
    own = seed.strangers_place(here / "own")
    shutil.copytree(seed.program.store / "blobs", own / "store" / "blobs")
    shutil.copytree(box, own / "box")
    subprocess.run(["chown", "-R", "--no-dereference", "65534:65534", own], check=True)
    program = seed.program.as_stranger(own).with_store(own / "store")
    done = program.run(str(own / "box"), "--output", str(own / "out"), "--offline").good()
    assert "debian-source:tini-0.19.0-1+buildit1: built in" in done.err
    assert first_difference(out, own / "out") is None
    locks = [(one / "buildit.lock").read_text() for one in (box, own / "box")]
    assert locks[0] == locks[1], "the digests of all outputs are in it"


@pytest.mark.parametrize(
    ("recipe", "further", "code", "message", "hint"),
    [
        (
            "base: debian:tinii\n",
            "",
            UNSATISFIABLE,
            "pkgs/tini/pkg.yaml:1:7: no suite has such a source package",
            " or tini or ",
        ),
        (
            "base: debian:libjq1\n",
            "",
            UNSATISFIABLE,
            "is a binary package, which the source package jq makes",
            "write base: debian:jq",
        ),
        (
            "base: debian:tini=0.18\n",
            "",
            UNSATISFIABLE,
            "there is 0.19.0-1",
            "write base: debian:tini=0.19.0-1",
        ),
        (
            "base: debian:tini\nuse: {without: [docs]}\n",
            "",
            RECIPE,
            "pkg.yaml:2:17: the Debian source tini declares no build profile 'nodocs'",
            "valid here: ",
        ),
        (
            "base: debian:tini\n",
            ", packages: [tinny]",
            UNSATISFIABLE,
            "the Debian source tini makes no package 'tinny'",
            "'tini'",
        ),
        (
            "base: debian:zlib\n",
            "",
            UNSATISFIABLE,
            "pkgs/tini/pkg.yaml:1:7: the Debian source zlib makes ",
            "name those that the image takes, `packages: […]`: ",
        ),
        (
            "base: debian:tini\ndepends: {build: [debian:libldap-devv]}\n",
            "",
            UNSATISFIABLE,
            "pkg.yaml:1:7: debian:tini=0.19.0-1: what its build needs cannot be had: no suite has ",
            "libldap-dev?",
        ),
    ],
)
def test_what_cannot_be_had_is_said_with_what_can(
    seed: Seed, here: Path, recipe: str, further: str, code: int, message: str, hint: str
) -> None:
    box = container(seed, here, recipe, further)
    before = (box / "buildit.lock").read_text()
    found = refusal(seed.program.run("plan", str(box)), code)
    assert message in found.message
    assert hint in found.hint
    assert (box / "buildit.lock").read_text() == before
