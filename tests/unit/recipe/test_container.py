from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from buildit.errors import BuilditError, RecipeError
from buildit.recipe.container import (
    AtomPackageStep,
    Container,
    DebianPackageStep,
    EmbeddedPackageStep,
)
from buildit.recipe.lists import load_container

pytestmark = pytest.mark.unit

VARS = "- vars: {author: me, name: web, version: 1.0-p1}\n"


def loaded(tmp_path: Path, text: str) -> Container:
    (tmp_path / "container.yaml").write_text(dedent(text))
    return load_container(tmp_path)


def test_the_users_example(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        - vars: {author: Sysadmin42, name: nginx-production, version: 1.22.1-p1, os: linux}
        - package: {type: embedded, path: ./pkgs/nginx}
        - sync: {src: ./files/nginx.conf, dest: /etc/nginx/, recursive: True, chmod: 0644}
        - image:
            type: aci
            content: |
              {"name": "{{ name }}-{{ version }}", "labels": [{"os": "{{ os }}"}]}
        """,
    )
    assert found.variables["version"] == "1.22.1-p1"
    package, sync, image = (step.spec for step in found.steps[1:])
    assert package.package == EmbeddedPackageStep(type="embedded", path="./pkgs/nginx")
    assert sync.sync is not None
    assert (sync.sync.chmod, sync.sync.recursive) == (0o644, True)
    assert image.image is not None
    assert image.image.content is None
    assert json.loads(found.steps[3].content) == {
        "name": "nginx-production-1.22.1-p1",
        "labels": [{"os": "linux"}],
    }


def test_steps_keep_their_order_and_place(tmp_path: Path) -> None:
    found = loaded(tmp_path, VARS + "- package: {atom: a/b}\n\n- package: {debian: nginx}\n")
    assert [step.spec.package for step in found.steps[1:]] == [
        AtomPackageStep(atom="a/b"),
        DebianPackageStep(debian="nginx"),
    ]
    assert [step.place.rpartition("container.yaml:")[2] for step in found.steps] == [
        "1:3",
        "2:3",
        "4:3",
    ]


def test_variables_hold_for_what_follows_and_the_last_wins(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        - vars: {name: web, version: 1.0, full: "{{ name }}-{{ version }}"}
        - sync: {src: "./{{ full }}", dest: /x}
        - vars: {name: other}
        - sync: {src: "./{{ name }}", dest: "/{{ full }}"}
        """,
    )
    first, second = (step.spec.sync for step in found.steps if step.spec.sync)
    assert (first.src, second.src, second.dest) == ("./web-1.0", "./other", "/web-1.0")
    assert found.variables["name"] == "other"


def test_a_value_is_never_a_template_twice(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        VARS
        + """- vars: {tricky: "{{ '{{ name }}' }}"}\n- sync: {src: "{{ tricky }}", dest: /x}\n""",
    )
    assert found.steps[2].spec.sync is not None
    assert found.steps[2].spec.sync.src == "{{ name }}"


def test_every_scalar_is_what_the_user_wrote(tmp_path: Path) -> None:
    found = loaded(tmp_path, "- vars: {name: no, version: 1.10, os: on, x: 0644, y: ~, z: 1e3}\n")
    assert dict(found.variables) == {
        "name": "no",
        "version": "1.10",
        "os": "on",
        "x": "0644",
        "y": "",
        "z": "1e3",
    }


def test_an_author_may_have_blanks(tmp_path: Path) -> None:
    found = loaded(tmp_path, "- vars: {author: Ada Lovelace, name: web, version: 1.0}\n")
    assert found.variables["author"] == "Ada Lovelace"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "a//b"),
        ("name", ".hidden"),
        ("name", "-rf"),
        ("name", "a b"),
        ("version", "1/2"),
        ("version", "x" * 61),
        ("os", "../linux"),
        ("arch", "amd 64"),
        ("author", "a/b"),
    ],
)
def test_names_that_cannot_be_part_of_a_file_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, VARS + f"- vars:\n    {name}: {value}\n")
    assert value in caught.value.message
    assert (caught.value.place or "").endswith(f"container.yaml:3:{7 + len(name)}")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("- x\n", ":1:3", "expected a step with one key"),
        ("- []\n", ":1:3", "expected a step with one key"),
        ("- {}\n", ":1:3", "expected exactly one key in a step, found none"),
        ("- vars: x\n", ":1:9", "vars: expected a mapping"),
        ("- vars: {a: [x]}\n", ":1:13", "expected text"),
        ("- vars: {1a: x}\n", ":1:10", "name of a variable"),
        ("- package: {path: ./x}\n", ":1:12", "the key 'type' is missing"),
        ("- package: {type: embeded, path: ./x}\n", ":1:19", "expected one of embedded"),
        ("- package: {atom: a/b, debian: x}\n", ":1:24", "unknown key 'debian'"),
        ("- sync: {src: x}\n", ":1:9", "the key 'dest' is missing"),
        ("- sync: {src: x, dest: x}\n", ":1:24", "expected an absolute path"),
        ("- sync: {src: x, dest: /x, chmod: 0999}\n", ":1:35", "expected"),
        ("- sync: {src: x, dest: /x, recursive: 1}\n", ":1:39", "expected on or off"),
        ("- app: {exec: []}\n", ":1:15", "expected at least 1"),
        ("- app: {exec: /bin/x}\n", ":1:15", "expected a list"),
        ("- users: {'a:b': {uid: 1, gid: 1}}\n", ":1:11", "expected the name of a user"),
        ("- users: {a: {uid: -1, gid: 1}}\n", ":1:20", "expected a whole number"),
        ("- groups: {a: {gid: 4294967295}}\n", ":1:21", "expected an id"),
        ("- image: {type: oci, compress: lzma}\n", ":1:32", "expected one of none, gzip, zstd"),
        ("- image: {type: aci, content: {a: b}}\n", ":1:31", "expected text"),
        ("- env: {A=B: x}\n", ":1:9", "name of a variable"),
        ("- use: ssl\n", ":1:8", "expected a list or a mapping"),
        ("- runs: {script: x}\n", ":1:3", "unknown key 'runs'"),
    ],
)
def test_a_mistake_is_one_error_at_its_place(
    tmp_path: Path, text: str, place: str, message: str
) -> None:
    with pytest.raises(BuilditError) as caught:
        loaded(tmp_path, text)
    assert message in caught.value.message
    assert (caught.value.place or "").endswith(f"container.yaml{place}")


def test_a_container_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(BuilditError, match=r"there is no container\.yaml") as caught:
        load_container(tmp_path)
    assert caught.value.exit_code == 2
    assert caught.value.place
