"""Mistakes in the user's files: each is one message with its place, its cause and a next step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.refusing import (
    INTEGRITY,
    RECIPE,
    UNSATISFIABLE,
    assert_builds,
    assert_whole,
    place_of,
    refused,
)
from tests.integration.seeds import Seed
from tests.integration.world import GREET_YAML, Project, write

pytestmark = pytest.mark.sandbox

Edit = Callable[[Project], Path]
"""Makes one mistake and returns the file that the message has to name."""


def in_container(old: str, new: str) -> Edit:
    def edit(project: Project) -> Path:
        project.edit(project.container, old, new)
        return project.container

    return edit


def in_embedded(old: str, new: str) -> Edit:
    def edit(project: Project) -> Path:
        project.edit(project.embedded, old, new)
        return project.embedded

    return edit


def in_recipe(name: str, old: str, new: str) -> Edit:
    def edit(project: Project) -> Path:
        path = project.recipe(name)
        project.edit(path, old, new)
        return path

    return edit


def without_digest(project: Project) -> Path:
    path = project.recipe("libs/greet")
    lines = [line for line in path.read_text().splitlines() if "sha256" not in line]
    path.write_text("\n".join(lines) + "\n")
    return path


def bomb(project: Project) -> Path:
    """A billion laughs: 10 levels of 10 aliases."""
    lines = ["- vars: &a0 {name: tiny, version: '1'}"]
    lines += [f"- x: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    project.container.write_text("\n".join(lines) + "\n")
    return project.container


def deep(project: Project) -> Path:
    project.container.write_text("- " * 5000 + "x\n")
    return project.container


def unsafe_patch(project: Project) -> Path:
    text = project.patch.read_text().replace("+++ b/hello.c", "+++ b/../../../etc/hello.c")
    project.patch.write_text(text)
    return project.patch


def binary_in_config(project: Project) -> Path:
    project.config.write_bytes(b"trees: [\xff\xfe]\n")
    return project.config


CASES = [
    pytest.param(without_digest, RECIPE, (6, 9), ("sha256",), "", id="missing digest"),
    pytest.param(
        in_recipe("libs/greet", "sha256: ", "sha256: 12"), RECIPE, (7, 17), ("64",), "", id="digest"
    ),
    pytest.param(
        in_recipe("libs/greet", "style:", "stlye:"), RECIPE, (8, 1), ("stlye",), "style", id="key"
    ),
    pytest.param(
        in_embedded("[loud]", "[luod]"), RECIPE, (5, 14), ("luod",), "loud", id="unknown flag"
    ),
    pytest.param(
        in_container("app/notes", "app/note"),
        UNSATISFIABLE,
        (4, 3),
        ("app/note",),
        "app/notes",
        id="unknown package",
    ),
    pytest.param(
        in_embedded("hello-1.0", "hello-1.7"),
        UNSATISFIABLE,
        (1, 7),
        ("app/hello", "1.7"),
        "1.0",
        id="unknown version",
    ),
    pytest.param(
        in_container("- sync:", "- snyc:"), RECIPE, (5, 3), ("snyc",), "sync", id="unknown step"
    ),
    pytest.param(
        in_recipe("libs/greet", "style: make", "style: make\nstyle: cmake"),
        RECIPE,
        (9, 1),
        ("style", "twice"),
        "pkg.yaml:8:1",
        id="duplicate key",
    ),
    pytest.param(
        in_recipe("libs/greet", "style: make", "style: mkae"),
        RECIPE,
        (8, 8),
        ("mkae",),
        "make",
        id="unknown style",
    ),
    pytest.param(bomb, RECIPE, None, ("alias",), "", id="alias bomb"),
    pytest.param(deep, RECIPE, None, ("64",), "", id="deep nesting"),
    pytest.param(unsafe_patch, RECIPE, None, ("..",), "", id="unsafe path in a patch"),
    pytest.param(
        in_container("src: ./files", "src: ../../../../etc"),
        RECIPE,
        (5, 3),
        ("../../../../etc",),
        "",
        id="unsafe path in sync",
    ),
    pytest.param(
        in_container("./pkgs/hello", "./pkgs/helo"),
        RECIPE,
        None,
        ("pkg.yaml",),
        "",
        id="no package",
    ),
    pytest.param(
        in_embedded("patches/polite.patch", "patches/plite.patch"),
        RECIPE,
        (4, 3),
        ("plite.patch",),
        "",
        id="no patch",
    ),
    pytest.param(binary_in_config, RECIPE, None, ("UTF-8",), "", id="not UTF-8"),
    pytest.param(
        in_container("type: aci", "type: zip"), RECIPE, (7, 17), ("zip",), "aci", id="image type"
    ),
    pytest.param(
        in_container("tiny", "'{{ nmae }}'"), RECIPE, (2, 36), ("nmae",), "", id="template"
    ),
]


@pytest.mark.parametrize(("edit", "code", "place", "words", "hint"), CASES)
def test_mistake(
    seed: Seed,
    here: Path,
    edit: Edit,
    code: int,
    place: tuple[int, int] | None,
    words: tuple[str, ...],
    hint: str,
) -> None:
    project = seed.new_project(here / "project")
    lock = project.lock.read_text()
    path = edit(project)
    begun = time.monotonic()
    found = refused(seed.program, project, code)
    assert time.monotonic() - begun < 120
    assert all(word in f"{found.message}\n{found.details}" for word in words), found
    assert hint in f"{found.message}\n{found.hint}"
    if place is not None:
        assert place_of(found, path) == place, found
    assert path.name in found.message or path.parent.name in found.message, found
    assert project.lock.read_text() == lock, "the lock changed"


def test_cycle_names_its_whole_way(seed: Seed, here: Path) -> None:
    project = seed.new_project(here / "project")
    path = project.recipe("libs/greet")
    path.write_text(path.read_text() + "depends: {link: [app/hello]}\n")
    found = refused(seed.program, project, UNSATISFIABLE)
    text = f"{found.message}\n{found.details}"
    assert "cycle" in text
    assert "app/hello -> libs/greet -> app/hello" in text or (
        "libs/greet -> app/hello -> libs/greet" in text
    )


def test_contradictory_demands_name_both_sides(seed: Seed, here: Path) -> None:
    """notes wants hello without the flag that the container turns on."""
    project = seed.new_project(here / "project")
    path = project.recipe("app/notes")
    path.write_text(path.read_text() + 'depends: {run: ["app/hello[-loud]"]}\n')
    found = refused(seed.program, project, UNSATISFIABLE)
    text = f"{found.message}\n{found.details}"
    assert "loud" in text
    assert "app/hello" in text
    assert "tree/app/notes/pkg.yaml" in text
    assert "box/pkgs/hello/pkg.yaml:5" in text


def test_required_use_names_rule_and_origins(seed: Seed, here: Path) -> None:
    project = seed.new_project(here / "project")
    path = project.recipe("app/hello")
    project.edit(
        path,
        "use:\n",
        "required-use: [{if: loud, then: shout}]\n"
        "use:\n  shout: {default: off, description: Even more so}\n",
    )
    found = refused(seed.program, project, UNSATISFIABLE)
    text = f"{found.message}\n{found.details}\n{found.hint}"
    for word in ("loud", "shout", "box/pkgs/hello/pkg.yaml:5", "tree/app/hello/pkg.yaml"):
        assert word in text, found


def test_links_of_the_project_that_lead_out(seed: Seed, here: Path) -> None:
    """A link is kept as a link or refused; what it names never enters the image."""
    secret = here / "secret"
    secret.write_text("CANARY")
    project = seed.new_project(here / "project")
    (project.box / "pkgs/hello/patches/polite.patch").unlink()
    (project.box / "pkgs/hello/patches/polite.patch").symlink_to(secret)
    found = refused(seed.program, project, RECIPE)
    assert place_of(found, project.embedded) == (4, 3)
    assert "polite.patch" in found.message


def test_locked_says_what_would_move(seed: Seed, here: Path) -> None:
    project = seed.locked_project(here / "project")
    lock = project.lock.read_text()
    project.patch.write_text(project.patch.read_text().replace("dear reader", "gentle reader"))
    found = refused(seed.program, project, UNSATISFIABLE, "--locked")
    assert "patches/polite.patch moves from" in found.details
    assert "app/hello: what it is built from or with changed" in found.details
    assert project.lock.read_text() == lock


def test_damaged_lock(seed: Seed, here: Path) -> None:
    project = seed.locked_project(here / "project")
    lines = project.lock.read_text().splitlines()
    lines[5] = lines[5].replace(" ", "  ", 1)[:60]
    project.lock.write_text("\n".join(lines) + "\n")
    assert place_of(refused(seed.program, project, RECIPE), project.lock) == (6, 1)


def test_changed_pinned_patch(seed: Seed, here: Path) -> None:
    project = seed.new_project(here / "project")
    project.edit(
        project.embedded,
        "polite.patch: Greet the reader",
        f"polite.patch: {{description: Greet, sha256: {'0' * 64}}}",
    )
    found = refused(seed.program, project, INTEGRITY)
    assert place_of(found, project.embedded)[0] == 4
    assert "0" * 64 in found.details


def test_wrong_words_on_the_command_line(seed: Seed, here: Path) -> None:
    project = seed.new_project(here / "project")
    assert "--jbos" in refused(seed.program, project, RECIPE, "--jbos", "2").message
    found = refused(seed.program, project, RECIPE, "--use", "a b")
    assert "a b" in found.message
    project.container.unlink()
    assert "container.yaml" in refused(seed.program, project, RECIPE).message


def test_after_all_mistakes(seed: Seed, here: Path) -> None:
    """Runs last in this module: the store that saw them all is whole, and builds."""
    assert_builds(seed, seed.program, seed.locked_project(here / "project"), here / "out")
    assert_whole(seed.program, here)


def test_unused_packages_of_the_tree_do_no_harm(seed: Seed, here: Path) -> None:
    """A tree is somebody else's: only what is asked for is read."""
    project = seed.locked_project(here / "project")
    write(project.root, {"tree/libs/broken/pkg.yaml": GREET_YAML + "nonsense: [\n"})
    assert_builds(seed, seed.program, project, here / "out")
