"""Early cut-off by the command line: what uses a library that comes out the same is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.seeds import Seed

pytestmark = pytest.mark.sandbox


def test_a_library_rebuilt_with_identical_bytes_rebuilds_nothing_above(
    seed: Seed, here: Path
) -> None:
    project = seed.locked_project(here / "project")
    program = seed.program.with_store(seed.new_store(here))
    first = program.run(str(project.box), "--output", str(here / "a")).good()
    assert "app/hello-1.0: built" in first.err
    # The library's build sees another environment: another key, and the same bytes come out.
    project.edit(
        project.recipe("libs/greet"),
        "style: make\n",
        "style: make\nenvironment: {COMMENT: changed}\n",
    )
    second = program.run(str(project.box), "--output", str(here / "b")).good()
    assert "libs/greet-1.0: building (environment.COMMENT" in second.err
    assert "libs/greet-1.0: built" in second.err
    assert "app/hello-1.0: not rebuilt: taken from the local store as " in second.err
    assert "app/hello-1.0: building" not in second.err
    for before, after in zip(first.images(), second.images(), strict=True):
        if before.is_file():
            assert before.read_bytes() == after.read_bytes(), "the image is the same"
    third = program.run(str(project.box), "--output", str(here / "b")).good()
    assert "not rebuilt" not in third.err, "now it is found by its own key"
    assert "building" not in third.err


def test_a_library_that_comes_out_otherwise_rebuilds_what_uses_it(seed: Seed, here: Path) -> None:
    project = seed.locked_project(here / "project")
    program = seed.program.with_store(seed.new_store(here))
    program.run(str(project.box), "--output", str(here / "a")).good()
    project.edit(
        project.recipe("libs/greet"), "style: make\n", "style: make\nconfigure: [CFLAGS=-O0]\n"
    )
    second = program.run(str(project.box), "--output", str(here / "b")).good()
    assert "libs/greet-1.0: built" in second.err
    assert "app/hello-1.0: built" in second.err
    assert "not rebuilt" not in second.err


def test_a_second_machine_recalls_from_a_binhost_that_never_saw_the_key(
    seed: Seed, here: Path
) -> None:
    project = seed.locked_project(here / "project")
    place = f"upload-type: file, upload-path: {here}/bin, download-type: file"
    line = f"repository: {{name: near, {place}, download-path: {here}/bin, unsigned: yes}}\n"
    project.config.write_text("trees: [./tree]\n" + line)
    (here / "one").mkdir()
    first = seed.program.with_store(seed.new_store(here / "one"))
    first.run(str(project.box), "--push", "--output", str(here / "a")).good()
    project.edit(
        project.recipe("libs/greet"),
        "style: make\n",
        "style: make\nenvironment: {COMMENT: changed}\n",
    )
    second = seed.program.with_store(seed.new_store(here))
    done = second.run(str(project.box), "--output", str(here / "b")).good()
    assert "libs/greet-1.0: built" in done.err
    assert "app/hello-1.0: not rebuilt: taken from 'near' as " in done.err
    assert "app/hello-1.0: building" not in done.err
