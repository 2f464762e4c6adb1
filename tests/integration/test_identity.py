"""What moves a package's HASH and what does not, through `buildit plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.program import Program
from tests.integration.seeds import Seed
from tests.integration.world import HELLO, POLITE, Project, archive, sha256

pytestmark = pytest.mark.sandbox

Edit = Callable[[Project], object]
HELLO_KEY, GREET_KEY, NOTES_KEY = "app/hello", "libs/greet", "app/notes"


def keys(program: Program, project: Project) -> dict[str, str]:
    """The key of every package of the plan, by name."""
    done = program.run("plan", str(project.box), "--json").good()
    return {node["name"]: node["key"] for node in json.loads(done.out)["packages"]}


def moved(seed: Seed, here: Path, edit: Edit) -> set[str]:
    """The packages whose keys an edit changes."""
    project = seed.new_project(here / "project")
    before = keys(seed.program, project)
    assert {HELLO_KEY, GREET_KEY, NOTES_KEY} <= set(before)
    edit(project)
    after = keys(seed.program, project)
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


def recipe(name: str, old: str, new: str) -> Edit:
    return lambda project: project.edit(project.recipe(name), old, new)


def patch_byte(project: Project) -> None:
    project.edit(project.patch, "dear reader", "dear Reader")


def new_source(project: Project) -> None:
    data = archive("hello-1.0", {**HELLO, "README": "one more byte"})
    path = project.recipe(HELLO_KEY)
    old = next(line for line in path.read_text().splitlines() if "sha256" in line)
    project.edit(path, old, f"        sha256: {sha256(data)}")


def other_toolchain(project: Project) -> None:
    """As after an update of Debian: one .deb of the lock is another."""
    lines = project.lock.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if " gcc-12 " in line)
    lines[at] = lines[at][:-64] + "0" * 64
    project.lock.write_text("\n".join(lines) + "\n")


def quiet_edits(project: Project) -> None:
    """Comments, order of keys, quotes, and words for people."""
    project.embedded.write_text(
        "# a comment\n"
        "use:\n  with:\n    - loud   # why\n"
        "patches: {'patches/polite.patch': {description: \"Another word\", upstream: no}}\n"
        'base: "app/hello-1.0"\n'
        "author: Somebody Else <else@example.org>\n"
    )
    project.edit(project.container, "# a comment\n", "# other words\n\n\n")
    project.edit(project.recipe(GREET_KEY), "A library that greets", "A polite library")
    project.edit(project.recipe(GREET_KEY), "license: Apache-2.0\n", "license: MIT\n")


def mail_header(project: Project) -> None:
    body = POLITE.partition("\n\n")[2]
    text = "From: Other <o@example.org>\nDate: Mon, 1 Jan 2001 00:00:00 +0000\nSubject: x\n\n"
    index = "diff --git a/hello.c b/hello.c\nindex 123..456 100644\n"
    project.patch.write_text(f"{text}{index}{body}-- \n2.0\n")


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        pytest.param(patch_byte, {HELLO_KEY}, id="byte of a patch"),
        pytest.param(new_source, {HELLO_KEY}, id="source"),
        pytest.param(other_toolchain, {HELLO_KEY, GREET_KEY, NOTES_KEY}, id="toolchain"),
        pytest.param(
            lambda p: p.edit(p.embedded, "use: {with: [loud]}\n", ""), {HELLO_KEY}, id="flag"
        ),
        pytest.param(
            lambda p: p.edit(
                p.container,
                "- package: {atom: app/notes}",
                "- use: {packages: {app/notes: [-extra]}}\n- package: {atom: app/notes}",
            ),
            {NOTES_KEY},
            id="flag that a script reads",
        ),
        pytest.param(
            lambda p: p.edit(p.root / "tree/app/notes/files/note.txt", "a note", "a Note"),
            {NOTES_KEY},
            id="byte of a file",
        ),
        pytest.param(
            lambda p: (p.root / "tree/app/notes/files/note.txt").chmod(0o755),
            {NOTES_KEY},
            id="x bit of a file",
        ),
        pytest.param(
            recipe(GREET_KEY, "style: make", "style: make\nenvironment: {CC: cc}"),
            {GREET_KEY, HELLO_KEY},
            id="environment of a library",
        ),
        pytest.param(
            recipe(NOTES_KEY, 'mkdir -p "$to"', 'mkdir  -p "$to"'), {NOTES_KEY}, id="step"
        ),
        pytest.param(quiet_edits, set(), id="comments, order, descriptions"),
        pytest.param(mail_header, set(), id="header of a patch"),
        pytest.param(
            recipe(
                GREET_KEY,
                "url: https://example.org/greet-1.0.tar.gz",
                "url: https://example.com/elsewhere/greet-1.0.tar.gz\n"
                "        mirrors: [https://example.net/greet-1.0.tar.gz]",
            ),
            set(),
            id="mirror",
        ),
        pytest.param(
            recipe(
                GREET_KEY, "style: make", "style: make\nuse: {x: {default: on, description: y}}"
            ),
            set(),
            id="flag that changes nothing",
        ),
        pytest.param(
            lambda p: p.edit(p.container, "version: 1.0-p1", "version: 1.0-p2"),
            set(),
            id="the container's own version",
        ),
    ],
)
def test_edit(seed: Seed, here: Path, edit: Edit, names: set[str]) -> None:
    assert moved(seed, here, edit) == names


def test_command_line_flag_moves_only_who_declares_it(seed: Seed, here: Path) -> None:
    project = seed.new_project(here / "project")
    before = keys(seed.program, project)
    done = seed.program.run("plan", str(project.box), "--json", "--use=-extra").good()
    after = {node["name"]: node["key"] for node in json.loads(done.out)["packages"]}
    assert {name for name in before if before[name] != after[name]} == {NOTES_KEY}


def test_place_of_the_project_is_no_input(seed: Seed, here: Path) -> None:
    first = keys(seed.program, seed.new_project(here / "one"))
    second = keys(seed.program, seed.new_project(here / "a longer name/of another/two"))
    assert first == second
