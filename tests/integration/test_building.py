"""What a build finds: its sources where the recipe says, and in a state that it can work with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.compare import content
from tests.integration.seeds import Seed
from tests.integration.world import archive, sha256, sources

pytestmark = pytest.mark.sandbox


def test_further_sources_lie_in_directories_that_the_build_may_write(
    seed: Seed, here: Path
) -> None:
    """Whoever started it: root unpacks, and somebody else builds."""
    extra = archive("extra-1", {"word": "second source\n"})
    project = seed.new_project(here / "project")
    project.box.joinpath("distfiles").unlink()
    for name, data in {**sources(), "extra-1.tar.gz": extra}.items():
        target = project.box / "distfiles" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    project.edit(
        project.recipe("app/notes"),
        "  2.1: {}\n",
        "  2.1:\n    sources:\n"
        f"      - {{url: https://example.org/extra-1.tar.gz, sha256: {sha256(extra)},\n"
        "         directory: far/below}\n",
    )
    project.edit(
        project.recipe("app/notes"),
        '    mkdir -p "$to"',
        '    touch far/mark far/below/mark\n    mkdir -p "$to"',
    )
    project.edit(
        project.recipe("app/notes"), 'cp "$FILES/note.txt"', 'cp far/below/word "$FILES/note.txt"'
    )
    program = seed.program.with_store(seed.new_store(here))
    (oci,) = (
        path
        for path in program.run(str(project.box), "--output", str(here / "out")).good().images()
        if path.suffix == ".oci"
    )
    assert content(oci, "usr/share/notes/word") == b"second source\n"
