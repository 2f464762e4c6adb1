"""The containers that are built for a stack, as a command line would say them."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.run import Options
from buildit.commands.stacks import parts_of_stack, stack_at
from buildit.errors import RecipeError, UsageError
from buildit.model.recipe import RecipeOptions
from buildit.model.stack import ContainerStack

pytestmark = pytest.mark.unit

TEXT = """\
name: shop
containers:
  web: {path: ./web, ports: ["80:8080"], test: [{http: {path: /x}}, {exec: [/bin/true]}]}
  app: {path: ./app, file: Dockerfile, target: prod, build-args: {A: "1"}}
  again: {path: ./app, file: Dockerfile, target: prod, build-args: {A: "1"}, command: [x]}
  other: {path: ./app, file: Dockerfile, target: dev}
  db: {image: "oci:db.oci"}
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerStack:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stack.yaml").write_text(TEXT)
    found = stack_at(Options(Path()))
    assert found is not None
    return found


def test_each_container_is_built_once(stack: ContainerStack) -> None:
    parts = parts_of_stack(stack, Options(Path(), Path("out")), ("docker-archive",))
    assert [(one.name, one.members) for one in parts] == [
        ("web", ("web",)),
        ("app", ("app", "again")),
        ("other", ("other",)),
    ]
    app = parts[1].options
    assert (app.directory, app.output) == (Path("app"), Path("out/app"))
    assert app.recipe == RecipeOptions(
        "Dockerfile", "prod", (("A", "1"),), formats=("docker-archive",)
    )


def test_names_of_images_are_from_the_containers_own_directory(stack: ContainerStack) -> None:
    said = {
        "a": "oci:base.oci",
        "b": "docker-archive:../b.tar",
        "c": "docker://h.example.org/c:1",
        "d": "./ctx",
        "e": "debian:12",
    }
    asked = Options(Path(), recipe=RecipeOptions(images=tuple(said.items())))
    assert dict(parts_of_stack(stack, asked)[0].options.recipe.images) == {
        "a": "oci:../base.oci",
        "b": "docker-archive:../../b.tar",
        "c": "docker://h.example.org/c:1",
        "d": "./../ctx",
        "e": "debian:12",
    }


def test_tests_of_a_member_are_typed_over_its_ports(stack: ContainerStack) -> None:
    first, second = stack.member("web").tests
    assert [(one.port, one.path) for one in first.http] == [(8080, "/x")]
    assert second.commands[0].argv == ("/bin/true",)


def test_a_test_without_a_port_to_ask_is_named(tmp_path: Path) -> None:
    text = "containers:\n  a: {path: a, test: {http: {path: /}}}\n"
    (tmp_path / "stack.yaml").write_text(text)
    with pytest.raises(RecipeError, match="no port over TCP") as caught:
        stack_at(Options(tmp_path))
    assert str(caught.value.place).endswith("stack.yaml:2:29")


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        (RecipeOptions(stage="x"), "--target"),
        (RecipeOptions(values=(("a", "b"),)), "--set"),
        (RecipeOptions(name="x"), "--tag"),
    ],
)
def test_what_is_of_one_container_is_refused(
    stack: ContainerStack, asked: RecipeOptions, option: str
) -> None:
    with pytest.raises(UsageError, match=option):
        parts_of_stack(stack, Options(Path(), recipe=asked))
    with pytest.raises(UsageError, match="--until is of one container"):
        parts_of_stack(stack, Options(Path(), until="1"))
