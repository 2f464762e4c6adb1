"""A commit of git, and a directory that is built in place, really built."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from tests.gitting import upstream
from tests.integration.program import Program
from tests.integration.seeds import Seed
from tests.integration.world import write

CONTAINER = """\
- vars: {name: work, version: 1}
- package: {type: embedded, path: ./pkgs/app}
- app: {exec: [/usr/bin/app]}
- image: {type: oci}
"""
CONFIG = """\
trees: [./tree]
repository: {name: mine, upload-type: file, upload-path: ./bin, unsigned: yes}
"""
APP = {
    "Makefile": """\
app: main.o text.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ main.o text.o
main.o text.o: text.h
install: app
	install -D app $(DESTDIR)/usr/bin/app
""",
    "text.h": "extern const char *text;\n",
    "text.c": '#include "text.h"\nconst char *text = "one";\n',
    "main.c": '#include <stdio.h>\n#include "text.h"\nint main(void) { return puts(text) < 0; }\n',
}
RECIPE = """\
base: misc/app-1.0
"""
TREE = """\
description: A program
license: Apache-2.0
versions:
  1.0:
    sources: [{source}]
style: make
"""


def project(seed: Seed, here: Path, source: str) -> Path:
    write(
        here,
        {
            ".buildit-config.yaml": CONFIG,
            "tree/misc/app/pkg.yaml": TREE.format(source=source),
            "box/container.yaml": CONTAINER,
            "box/pkgs/app/pkg.yaml": RECIPE,
            "box/buildit.lock": seed.lock,
        },
    )
    return here / "box"


def built(program: Program, box: Path) -> list[str]:
    """Build; the files that were compiled."""
    program.run(str(box), "--output", str(box / "out"), timeout=600).good()
    log = program.run("log", "misc/app").good().out
    return re.findall(r"-c -o (\w+)\.o", log)


def plain(blob: bytes) -> bytes:
    return gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob


@pytest.fixture
def program(seed: Seed, here: Path) -> Program:
    return seed.program.with_store(seed.new_store(here / "stores"))


def test_a_directory_is_built_where_it_was_built(seed: Seed, here: Path, program: Program) -> None:
    box = project(seed, here, "{path: ../../../src}")
    write(here / "src", APP)
    assert built(program, box) == ["main", "text"]
    write(here / "src", {"text.c": APP["text.c"].replace("one", "two")})
    assert built(program, box) == ["text"]
    layer = (box / "out").rglob("blobs/sha256/*")
    assert any(b"\0two\0" in plain(path.read_bytes()) for path in layer)

    write(here / "src", {"text.c": "broken"})
    failed = program.run(str(box), "--output", str(box / "out"), timeout=600)
    assert failed.code == 1
    write(here / "src", {"text.c": APP["text.c"].replace("one", "three")})
    assert built(program, box) == ["text"]

    recipe = here / "tree/misc/app/pkg.yaml"
    recipe.write_text(recipe.read_text() + "environment: {CFLAGS: -O1}\n")
    assert built(program, box) == ["main", "text"]

    pushed = program.run("push", str(box))
    assert pushed.code == 2
    assert "is built from" in pushed.err
    locked = program.run(str(box), "--locked")
    assert locked.code == 3
    assert "not for release" in program.run("plan", str(box)).good().err


def test_a_commit_is_built_and_a_rebuild_gives_the_same_bytes(
    seed: Seed, here: Path, program: Program
) -> None:
    repository = upstream(here / "app")
    write(repository.path, APP)
    repository.commit("v1.0")
    box = project(seed, here, f"{{git: 'file://{repository.path}', tag: v1.0}}")
    assert built(program, box) == ["main", "text"]
    image = (box / "out/work-1-linux-amd64.oci/index.json").read_bytes()
    lock = (box / "buildit.lock").read_text()
    assert re.search(r"^git misc/app file:\S+ v1\.0 yes [0-9a-f]{40} [0-9a-f]{64}$", lock, re.M)
    again = program.with_store(seed.new_store(here / "other"))
    again.run(str(box), "--locked", "--output", str(here / "again"), timeout=600).good()
    assert (here / "again/work-1-linux-amd64.oci/index.json").read_bytes() == image

    repository.write("text.c", "other")
    repository.commit("v1.0")
    third = program.with_store(seed.new_store(here / "third"))
    moved = third.run(str(box), "--locked", "--output", str(here / "third-out"))
    assert moved.code == 5
    assert "the tag 'v1.0' has moved" in moved.err
