"""Which recipe a directory has, and what the command line says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.errors import RecipeError, UsageError
from buildit.model.recipe import RecipeOptions, kind_of_name
from buildit.recipe.container import Container
from buildit.recipe.lists import load_container
from buildit.recipe.ways.find import find_recipe, find_stack, named_recipe

pytestmark = pytest.mark.unit

YAML = """\
- vars: {name: web, version: 1.0, port: "80"}
- env: {PORT: "{{ port }}", TITLE: "{{ name }}-{{ version }}"}
- image: {type: aci}
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("box").mkdir()
    Path("box/container.yaml").write_text(YAML)
    return Path("box")


def loaded(box: Path, **said: object) -> Container:
    return load_container(box, wanted=RecipeOptions(**said))  # type: ignore[arg-type]


def test_the_first_of_the_known_names_is_the_recipe(box: Path) -> None:
    (box / "Dockerfile").write_text("FROM scratch\n")
    found = find_recipe(box, RecipeOptions())
    assert (found.path, found.kind) == (box / "container.yaml", "container")
    (box / "container.yaml").unlink()
    found = find_recipe(box, RecipeOptions())
    assert (found.path, found.kind) == (box / "Dockerfile", "dockerfile")
    looked = [one.name for one in found.looked]
    assert looked == [
        "stack.yaml",
        "container.yaml",
        "Containerfile",
        "Dockerfile",
    ]  # a new one is noticed


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("container.yaml", "container"),
        ("web.yaml", "container"),
        ("Dockerfile.alpine", "dockerfile"),
        ("web.dockerfile", "dockerfile"),
        ("Containerfile", "dockerfile"),
        ("web.manifest.yaml", "manifest"),
        ("manifest.yaml", "manifest"),
        ("Flockportfile", "flockport"),
        ("web.oci.tar", None),
        ("README.md", None),
    ],
)
def test_a_name_says_what_a_recipe_is(name: str, kind: str | None) -> None:
    assert kind_of_name(name) == kind


def test_a_recipe_names_its_directory(box: Path) -> None:
    found = named_recipe(box / "container.yaml", RecipeOptions())
    assert found == (box, RecipeOptions(file="container.yaml"))
    assert named_recipe(box, RecipeOptions()) == (box, RecipeOptions())
    with pytest.raises(UsageError, match="two recipes"):
        named_recipe(box / "container.yaml", RecipeOptions(file="other"))


def test_there_is_no_such_recipe(box: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe") as caught:
        loaded(box, file="Dockerfile.arm")
    assert caught.value.place == "box/Dockerfile.arm"


def test_the_command_line_says_variables(box: Path) -> None:
    found = loaded(box, values=(("port", "8080"),))
    assert found.variables["port"] == "8080"
    assert found.steps[1].spec.env == {"PORT": "8080", "TITLE": "web-1.0"}


def test_the_command_line_names_the_image(box: Path) -> None:
    found = loaded(box, name="shop", version="7")
    assert (found.variables["name"], found.variables["version"]) == ("shop", "7")
    assert found.steps[1].spec.env == {"PORT": "80", "TITLE": "shop-7"}
    with pytest.raises(RecipeError, match="name 'a b' cannot be part of a file name"):
        loaded(box, name="a b")


def test_the_command_line_chooses_the_images(box: Path) -> None:
    steps = loaded(box, formats=("oci", "lxc")).steps
    assert [one.spec.image.type for one in steps if one.spec.image] == ["oci", "lxc"]
    with pytest.raises(RecipeError, match="'ocy'"):
        loaded(box, formats=("ocy",))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"values": (("prot", "1"),)}, "no `vars` step has 'prot'"),
        ({"values": (("arch", "arm64"),)}, "--set says the arch"),
        ({"stage": "build"}, "the container has no stages"),
    ],
)
def test_what_the_command_line_may_not_say(
    box: Path, said: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        loaded(box, **said)
    assert caught.value.hint


def test_words_tell_two_questions_apart() -> None:
    said = [
        RecipeOptions(),
        RecipeOptions(file="a"),
        RecipeOptions(stage="a"),
        RecipeOptions(values=(("a", "b"),)),
        RecipeOptions(images=(("a", "b"),)),
        RecipeOptions(name="a"),
        RecipeOptions(version="a"),
        RecipeOptions(formats=("a",)),
        RecipeOptions(formats=("a", "b")),
    ]
    assert len({one.words() for one in said}) == len(said)


@pytest.mark.parametrize("name", ["Dockerfile.prod", "dockerfile", "wiki.flockport", "flockport"])
def test_a_recipe_under_another_name_is_told_of(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("FROM scratch\n")
    (tmp_path / "notes.yaml").write_text("a: b\n")
    with pytest.raises(UsageError) as caught:
        find_recipe(tmp_path, RecipeOptions())
    assert caught.value.hint == f"a recipe with another name is named: --file {name}"


def test_a_stack_comes_first_and_a_compose_file_last(box: Path) -> None:
    nothing = RecipeOptions()
    assert find_stack(box, nothing) is None
    (box / "compose.yml").write_text("")
    assert find_stack(box, nothing) is None  # beside the recipe of a container
    assert find_stack(box, RecipeOptions(file="compose.yml")) == box / "compose.yml"
    assert find_stack(box, RecipeOptions(file="container.yaml")) is None
    (box / "stack.yaml").write_text("")
    assert find_stack(box, nothing) == box / "stack.yaml"
    (box / "stack.yaml").unlink()
    (box / "container.yaml").unlink()
    assert find_stack(box, nothing) == box / "compose.yml"
    assert named_recipe(box / "compose.yml", nothing) == (box, RecipeOptions(file="compose.yml"))


def test_what_is_of_one_container_says_that_it_is_a_stack(box: Path) -> None:
    (box / "container.yaml").unlink()
    (box / "stack.yaml").write_text("")
    with pytest.raises(UsageError, match="box has a stack, and this is of one") as caught:
        find_recipe(box, RecipeOptions())
    assert caught.value.hint == "name the directory of one of those in stack.yaml"
