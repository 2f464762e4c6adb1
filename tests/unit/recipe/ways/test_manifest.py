"""Templated manifests as steps: rendered whole, then read as data; places are the template's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from buildit.errors import RecipeError, UsageError
from buildit.recipe.lists import load_container
from buildit.recipe.ways.manifest import read_manifest
from tests.unit.recipe.ways.reading import foreign, steps

pytestmark = pytest.mark.unit

RUN = {"as-app": "yes", "network": "yes"}


def read(text: str, **said: Any) -> list[tuple[int, Any]]:
    return steps(read_manifest, foreign(text, "manifest.yaml", **said))


def as_test(*commands: str) -> dict[str, Any]:
    shown = "".join(f"printf '%s\\n' '$ {one}' >&2\n{one}\n" for one in commands)
    return {"test": {"script": f"# {'; '.join(commands)}\n{shown}", "timeout": "1h"}}


WHOLE = """\
# {{ project }}
language: debian:12
env: {MODE: "{{ mode | default('fast') }}"}
install:
{% for name in dependencies %}
  - apt-get install -y {{ name }}
{% endfor %}
  - |
    mkdir /srv/{{ project }}
    touch /srv/{{ project }}/made
{% if arch == 'arm64' %}
  - echo small
{% endif %}
before_script: test -d /srv
script:
  - test -e /srv/{{ project }}/made
"""


def test_a_manifest_is_rendered_whole() -> None:
    said = (("project", "web"), ("dependencies", "[git, 'make']"))
    found = read(WHOLE, values=said, facts={"arch": "amd64", "os": "linux"})
    assert found == [
        (2, {"from": {"suite": "debian-12"}}),
        (2, {"entrypoint": []}),
        (3, {"env": {"MODE": "fast"}}),
        (6, {"run": {"script": "apt-get install -y git\n", "as-app": "yes", "debs": ["git"]}}),
        (6, {"run": {"script": "apt-get install -y make\n", "as-app": "yes", "debs": ["make"]}}),
        (8, {"run": {"script": "mkdir /srv/web\ntouch /srv/web/made\n", "as-app": "yes"}}),
        (16, as_test("test -d /srv", "test -e /srv/web/made")),
    ]


def test_what_was_asked_for_is_known() -> None:
    said = (("project", "web"), ("dependencies", "[git]"))
    facts = {"arch": "amd64", "os": "linux", "hostname": "build1"}
    done = read_manifest(foreign(WHOLE, values=said, facts=facts))
    assert done.facts == {"project": "web", "dependencies": '["git"]', "arch": "amd64"}


def test_a_plain_manifest_keeps_its_columns() -> None:
    done = read_manifest(foreign("language: a:1\ninstall: [one, two]\n"))
    assert [str(one.place) for one in done.steps.items] == [
        "box/recipe:1:11",
        "box/recipe:2:11",
        "box/recipe:2:16",
    ]


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ("{A: 1, B: x y}", {"A": "1", "B": "x y"}),
        ("A=1 B='x y'", {"A": "1", "B": "x y"}),
        ("[A=1 B=2]", {"A": "1", "B": "2"}),
        ("{global: [A=1, B=2]}", {"A": "1", "B": "2"}),
        ("{global: {A: 1}}", {"A": "1"}),
    ],
)
def test_environment(env: str, found: dict[str, str]) -> None:
    done = read(f"language: a:1\nenv: {env}\n")[1:]
    assert {k: v for _, one in done for k, v in one["env"].items()} == found


def test_files_come_before_commands() -> None:
    text = "language: a:1\ninstall: make\nfiles: {./src: /usr/src/app}\n"
    assert read(text)[1:] == [
        (3, {"sync": {"src": ["./src"], "dest": "/usr/src/app"}}),
        (2, {"run": {"script": "make\n", **RUN}}),
    ]


def test_manifests_include_manifests() -> None:
    files = {
        "common/base.manifest.yaml": "language: debian:12\ninstall: ['base {{ mode }}']\n"
        "include: deeper.manifest.yaml\n",
        "common/deeper.manifest.yaml": "install: deep\nscript: [one]\n",
        "tool.manifest.yaml": "install: tool {{ tool }} {{ version }}\n",
    }
    text = """
include:
  - common/base.manifest.yaml
  - {path: tool.manifest.yaml, with: {tool: make, mode: other}}
install: own
script: two
"""
    said = (("mode", "m"), ("version", "1"))
    done = foreign(text, "manifest.yaml", files, values=said)
    found = [(one.place.file, one.place.line) for one in read_manifest(done).steps.items]
    assert found == [
        ("box/common/base.manifest.yaml", 1),
        ("box/common/base.manifest.yaml", 1),
        ("box/common/deeper.manifest.yaml", 1),
        ("box/common/base.manifest.yaml", 2),
        ("box/tool.manifest.yaml", 1),
        ("box/manifest.yaml", 5),
        ("box/common/deeper.manifest.yaml", 2),
    ]
    scripts = [one[1]["run"]["script"] for one in steps(read_manifest, done)[2:6]]
    assert scripts == ["deep\n", "base m\n", "tool make 1\n", "own\n"]
    assert steps(read_manifest, done)[6][1] == as_test("one", "two")
    # what one manifest gives another is nothing that the command line gave
    assert read_manifest(done).facts == {"mode": "m", "version": "1"}


def test_the_outer_language_counts() -> None:
    files = {"a.yaml": "language: a:1", "b.yaml": "language: b:1"}
    text = "include: [a.yaml, b.yaml]\n"
    with pytest.raises(RecipeError, match=r"two bases are included: 'a:1' .* and 'b:1'"):
        read(text, files=files)
    assert read(f"{text}language: c:1", files=files) == [(2, {"from": {"oci": "c:1"}})]


def test_manifests_that_include_each_other() -> None:
    files = {"a.yaml": "include: sub/b.yaml", "sub/b.yaml": "install: x\ninclude: ../a.yaml"}
    with pytest.raises(RecipeError) as caught:
        read("language: x:1\ninclude: a.yaml", files=files)
    error = caught.value
    told = "a.yaml includes sub/b.yaml includes a.yaml"
    assert error.message == f"manifests include each other: {told}"
    assert error.place == "box/sub/b.yaml:2:10"
    assert error.details == ("included at box/a.yaml:1:10", "included at box/manifest.yaml:2:10")
    with pytest.raises(RecipeError, match=r"manifest\.yaml includes manifest"):
        read("include: manifest.yaml", files={"manifest.yaml": ""})


def test_a_manifest_that_lies_elsewhere_is_told_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text("language: a:1\ninclude: ../other.yaml\n")
    with pytest.raises(RecipeError, match="lies outside of the directory") as caught:
        load_container(tmp_path)
    assert (caught.value.place or "").endswith("manifest.yaml:2:10")
    (tmp_path / "manifest.yaml").write_text("language: a:1\ninclude: other.yaml\n")
    (tmp_path / "other.yaml").write_bytes(b"install: \xff\n")
    with pytest.raises(RecipeError, match="is not UTF-8") as caught:
        load_container(tmp_path)
    assert (caught.value.place or "").endswith("other.yaml:1:10")


def test_remarks() -> None:
    text = "language: a:1\nsudo: false\ninstall:\n- cd /srv\n- cd /srv && make\n- export A=1\n"
    assert read_manifest(foreign(text)).remarks == (
        "box/recipe:2: `sudo` means nothing here",
        (
            "box/recipe:4: `cd` holds for its own command alone: "
            "join them with &&, or write them in one text"
        ),
        (
            "box/recipe:6: `export` holds for its own command alone: "
            "join them with &&, or write them in one text"
        ),
    )


@pytest.mark.parametrize(
    ("text", "place", "said", "hint"),
    [
        ("", "", "empty", ""),
        ("- a\n- b", "1:1", "expected a manifest, a map", "language: debian:12"),
        ("just text", "1:1", "expected a manifest, a map", "language: debian:12"),
        ("install: x", "1:1", "the manifest has no `language`", "language: debian:12"),
        ("language: [a]", "1:11", "expected the name of a base, found a list", "language:"),
        ("language: ''", "1:11", "expected the name of a base, found nothing", "language:"),
        ("langauge: a:1", "1:1", "unknown key 'langauge'", "did you mean language?"),
        ("language: a\ndeploy: x", "2:1", "`deploy` is nothing that a build here has", "push"),
        ("language: a\nservices: [mysql]", "2:1", "`services` is nothing", "stack.yaml"),
        ("language: a\nmatrix: {}", "2:1", "`matrix` is nothing", "--set"),
        ("language: a\ninstall: [a: b]", "2:11", "expected a command of `install`", "quotes"),
        ("language: a\nenv: [A=1, A=2]", "2:12", "several builds to travis", "as a map"),
        ("language: a\nenv: {secure: x}", "2:7", "an encrypted variable", "secrets"),
        ("language: a\nenv: A", "2:6", "expected NAME=VALUE, found 'A'", "NAME"),
        ("language: a\nenv: {A b: c}", "2:7", "cannot be the name of a variable", ""),
        ("language: a\nenv: {global: [A=1], B: 2}", "2:22", "beside `global`", "global"),
        ("language: a\nfiles: [x]", "2:8", "expected what goes where, found a list", "files:"),
        ("language: a\nbefore_script: x", "2:16", "there is no `script`", "script"),
        ("language: a\ninclude: {with: {}}", "2:10", "the include has no `path`", "path"),
        ("language: a\ninclude: {pth: x}", "2:11", "unknown key 'pth'", "`path` and `with`"),
        ("language: a\ninclude: /etc/x", "2:10", "expected a relative path", "from the directory"),
        ("language: a\ninclude: x.yaml", "2:10", "there is no manifest 'x.yaml'", "beside"),
        ("language: a\ninstall: {{ who }}", "2:13", "'who' is not defined", "--set who="),
        ("language: a\n{% set x = 1 %}", "2:1", "templates may not use {% set %}", ""),
        ("language: a\n{% for x in y", "2:1", "the template cannot be read", ""),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, place: str, said: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert said in caught.value.message
    assert (caught.value.place or "").startswith(f"box/manifest.yaml:{place}".rstrip(":"))
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "place", "said", "line"),
    [
        # a value changes what the text is: the line of the template, and what became of it
        ("{{ x }}", "1:", "expected a manifest, a map", ""),
        ("language: a\n\n{{ x }}", "3:", "", "- one"),
        ("language: a\ninstall:\n  - b\n {{ x }}\n", "4:", "", "- one"),
        ("language: a\ninstall: {{ x }}", "2:", "", "install: - one"),
    ],
)
def test_what_renders_to_something_else(text: str, place: str, said: str, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text, values=(("x", "- one"),))
    assert said in caught.value.message
    assert (caught.value.place or "").startswith(f"box/manifest.yaml:{place}")
    if line:
        assert f"after rendering, the line is: {line}" in caught.value.details


def test_a_key_that_a_value_makes() -> None:
    with pytest.raises(RecipeError, match="unknown key 'evil'") as caught:
        read("language: a\n{{ x }}: y", values=(("x", "evil"),))
    assert caught.value.place == "box/manifest.yaml:2:1"
    # it may also be right
    assert read("language: a\n{{ x }}: y", values=(("x", "install"),))[1:] == [
        (2, {"run": {"script": "y\n", **RUN}})
    ]


def test_a_template_has_a_budget() -> None:
    rounds = "[1,2,3,4,5,6,7,8,9,10]"
    loops = "".join(f"{{% for a{n} in {rounds} %}}" for n in range(7))
    text = f"language: a\n{loops}x{'{% endfor %}' * 7}"
    with pytest.raises(RecipeError, match=r"takes too long|larger than"):
        read(text)


def test_parameters_that_nothing_asks_for() -> None:
    with pytest.raises(UsageError, match="the template asks for no 'projct'") as caught:
        read("language: '{{ project }}'", values=(("project", "a:1"), ("projct", "b")))
    assert "did you mean 'project'?" in (caught.value.hint or "")
    with pytest.raises(RecipeError, match="expected a list of texts") as wrong:
        read("language: a\ninstall: {{ x }}", values=(("x", "[{a: b}]"),))
    assert wrong.value.place == "--set x"
    with pytest.raises(UsageError, match="a manifest has no stages"):
        read("language: a", stage="x")
