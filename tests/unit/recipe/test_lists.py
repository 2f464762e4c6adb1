"""Included lists: flat, with parameters, paths of their own, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from buildit.digest import Digest, digest_bytes
from buildit.errors import BuilditError, RecipeError
from buildit.model.listed import PackageFacts
from buildit.model.platform import named_platform
from buildit.recipe.container import Container
from buildit.recipe.lists import check_settled, load_container, no_fetching, of_this_machine
from buildit.recipe.packagefacts import KnownPackages
from buildit.recipe.yaml.node import Mapping
from buildit.recipe.yaml.read import parse_yaml

pytestmark = pytest.mark.unit

VARS = "- vars: {name: web, version: 1.0, port: '1'}\n"
HERE = named_platform("linux/arm64", place="test")

Lists = Callable[..., Container]


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lists:
    """Loads the container in `box`, of files by path; a text alone is its container.yaml."""
    monkeypatch.chdir(tmp_path)

    def load(container: str, files: dict[str, str] | None = None, **more: object) -> Container:
        for name, text in {**(files or {}), "box/container.yaml": VARS + dedent(container)}.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(dedent(text))
        fetch = more.get("fetch", no_fetching)
        assert callable(fetch)
        packages = more.get("packages")
        assert packages is None or isinstance(packages, KnownPackages)
        return load_container(Path("box"), packages, here=HERE, fetch=fetch)

    return load


def refused(lists: Lists, container: str, files: dict[str, str], **more: object) -> BuilditError:
    with pytest.raises(BuilditError) as caught:
        lists(container, files, **more)
    assert caught.value.hint
    return caught.value


def test_steps_of_a_list_stand_where_it_is_included(lists: Lists) -> None:
    found = lists(
        """\
        - env: {A: a}
        - include: lists/base.yaml
          with: {port: 80}
        - env: {B: "{{ port }}"}
        """,
        {"box/lists/base.yaml": '- env: {P: "{{ port }}"}\n- include: ../more.yaml\n'}
        | {"box/more.yaml": "- env: {C: c}\n"},
    )
    flat = [(one.place, dict(one.spec.env)) for one in found.steps if one.spec.env]
    assert flat == [
        ("box/container.yaml:2:3", {"A": "a"}),
        ("box/lists/base.yaml:1:3", {"P": "80"}),
        ("box/more.yaml:1:3", {"C": "c"}),
        ("box/container.yaml:5:3", {"B": "1"}),
    ]
    through = [one.through for one in found.steps if one.place == "box/more.yaml:1:3"]
    assert through == [("box/container.yaml:3:3", "box/lists/base.yaml:2:3")]
    assert found.files == (Path("box/lists/base.yaml"), Path("box/more.yaml"))


def test_parameters_come_over_what_the_list_says_itself(lists: Lists) -> None:
    base = """\
    - vars: {port: 80, user: "u{{ port }}", name: inner}
    - env: {P: "{{ port }}", U: "{{ user }}"}
    """
    found = lists(
        """\
        - include: base.yaml
        - include: base.yaml
          with: {port: "{{ name }}"}
        """,
        {"box/base.yaml": base},
    )
    said = [dict(one.spec.env) for one in found.steps if one.spec.env]
    assert said == [{"P": "80", "U": "u80"}, {"P": "web", "U": "uweb"}]
    assert dict(found.variables) == {"name": "web", "version": "1.0", "port": "1"}


def test_a_list_knows_the_platform_and_nothing_of_who_includes_it(lists: Lists) -> None:
    found = lists("- include: b.yaml\n", {"box/b.yaml": '- env: {A: "{{ os }}/{{ arch }}"}\n'})
    assert found.steps[-1].spec.env == {"A": "linux/arm64"}
    error = refused(lists, "- include: b.yaml\n", {"box/b.yaml": '\n- env: {A: "{{ port }}"}\n'})
    assert error.message == "the list lacks a value for 'port'"
    assert error.place == "box/container.yaml:2:3"
    assert error.details == ("it is asked for at box/b.yaml:2:16",)
    assert "with: {port: …}" in (error.hint or "")


def test_what_vars_say_of_the_platform_later_is_no_fact_before(lists: Lists) -> None:
    with pytest.raises(RecipeError, match="'arch' is not defined"):
        lists('- env: {A: "{{ arch }}"}\n- vars: {arch: amd64}\n')
    found = lists('- vars: {arch: amd64}\n- env: {A: "{{ os }}/{{ arch }}"}\n')
    assert found.steps[-1].spec.env == {"A": "linux/amd64"}


@pytest.mark.parametrize(
    ("given", "message", "place"),
    [
        ("{prot: 1}", "the list has no parameter 'prot'", ":3:10"),
        ("{arch: x}", "'arch' is known in every list", ":3:10"),
        ("{port: [1]}", "expected text", ":3:16"),
    ],
)
def test_parameters_that_a_list_does_not_have(
    lists: Lists, given: str, message: str, place: str
) -> None:
    text = f"- include: b.yaml\n  with: {given}\n"
    with pytest.raises(RecipeError) as caught:
        lists(text, {"box/b.yaml": '- env: {A: "{{ port }}"}\n'})
    assert message in caught.value.message
    assert caught.value.place == f"box/container.yaml{place}"


@pytest.mark.parametrize(
    ("container", "files", "message", "place"),
    [
        (
            "- include: a.yaml\n",
            {"box/a.yaml": "- include: b.yaml\n", "box/b.yaml": "- include: ./a.yaml\n"},
            "lists include each other: box/a.yaml includes box/b.yaml includes box/a.yaml",
            "box/b.yaml:1:12",
        ),
        (
            "- include: container.yaml\n",
            {},
            "lists include each other: box/container.yaml includes box/container.yaml",
            "box/container.yaml:2:12",
        ),
        ("- include: no.yaml\n", {}, "there is no list 'no.yaml'", "box/container.yaml:2:12"),
        ("- include: /a.yaml\n", {}, "expected a relative path", "box/container.yaml:2:12"),
        ("- with: {a: b}\n", {}, "`with` stands beside an `include`", "box/container.yaml:2:3"),
        (
            "- include: a.yaml\n",
            {"box/a.yaml": "- platforms: [linux/amd64]\n"},
            "an included list cannot say the `platforms`",
            "box/a.yaml:1:3",
        ),
        (
            "- include: a.yaml\n",
            {"box/a.yaml": "- vars: {arch: amd64}\n"},
            "an included list cannot say the arch",
            "box/a.yaml:1:16",
        ),
        (
            "- include: a.yaml\n",
            {"box/a.yaml": "a: b\n"},
            "expected a list of steps",
            "box/a.yaml:1:1",
        ),
        (
            "- include: a.yaml\n",
            {"box/a.yaml": "- env: {A: b}\n- sycn: {}\n"},
            "unknown key 'sycn'",
            "box/a.yaml:2:3",
        ),
    ],
)
def test_lists_that_cannot_be(
    lists: Lists, container: str, files: dict[str, str], message: str, place: str
) -> None:
    error = refused(lists, container, files)
    assert error.message.startswith(message)
    assert error.place == place


def test_a_mistake_in_a_list_says_who_includes_it(lists: Lists) -> None:
    files = {"box/a.yaml": "- include: b.yaml\n", "box/b.yaml": "- env: {A: '{{ x.y }}'}\n"}
    error = refused(lists, "- include: a.yaml\n  with: {}\n", files)
    assert error.message == "the list lacks a value for 'x'"
    files["box/b.yaml"] = "- sync: {src: x}\n"
    error = refused(lists, "- include: a.yaml\n", files)
    assert (error.place, error.message) == ("box/b.yaml:1:9", "the key 'dest' is missing")
    assert error.details == ("included at box/a.yaml:1:3", "included at box/container.yaml:2:3")


def test_lists_that_multiply_end(lists: Lists, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"box/{n}.yaml": f"- include: {n + 1}.yaml\n" * 10 for n in range(9)}
    files["box/9.yaml"] = "- env: {A: b}\n"
    assert "includes more than" in refused_without_hint(lists, files)
    monkeypatch.setattr("buildit.recipe.lists.MOST_STEPS", 100)
    with pytest.raises(RecipeError, match="more than 100 steps"):
        lists("- include: 0.yaml\n" * 3, {"box/0.yaml": "- env: {A: b}\n" * 40})


def refused_without_hint(lists: Lists, files: dict[str, str]) -> str:
    with pytest.raises(RecipeError) as caught:
        lists("- include: 0.yaml\n", files)
    return caught.value.message


def test_paths_of_a_list_are_its_own(lists: Lists) -> None:
    sync = "- sync: {src: ./x, dest: /x}\n"
    files = {"box/sub/a.yaml": sync, "shared/b.yaml": "- include: more/c.yaml\n" + sync}
    files["shared/more/c.yaml"] = sync
    found = lists("- include: sub/a.yaml\n- include: ../shared/b.yaml\n", files)
    where = [(str(one.base), str(one.root)) for one in found.steps if one.spec.sync]
    assert where == [("box/sub", "box"), ("shared/more", "shared"), ("shared", "shared")]


def test_only_steps_with_a_template_carry_variables(lists: Lists) -> None:
    found = lists("- sync: {src: x, dest: /x}\n- sync: {src: x, dest: /y, template: yes}\n")
    plain, template = found.steps[1:]
    assert plain.names == {}
    assert dict(template.names) == {
        "os": "linux",
        "arch": "arm64",
        "name": "web",
        "version": "1.0",
        "port": "1",
    }


# -- lists at URLs

URL = "https://example.org/lists/base.yaml"


def remote(lists: Lists, text: str, more: str = "") -> Container:
    content = dedent(text).encode()

    def fetch(url: str, digest: Digest, place: str) -> bytes:
        assert (url, digest, place) == (URL, digest_bytes(content), "box/container.yaml:2:12")
        return content

    step = f"- include: {{url: '{URL}', sha256: {digest_bytes(content)}}}\n"
    return lists(step + more, fetch=fetch)


def test_a_list_at_a_url(lists: Lists) -> None:
    found = remote(lists, '- env: {A: "{{ port }}"}\n', "  with: {port: 7}\n")
    assert found.steps[-1].spec.env == {"A": "7"}
    assert found.steps[-1].place == f"{URL}:1:3"
    assert (len(found.pinned), found.files) == (1, ())


@pytest.mark.parametrize(
    ("step", "column"),
    [
        ("sync: {src: /etc/passwd, dest: /x}", 3),
        ("package: {type: embedded, path: ./x}", 35),
        ("include: other.yaml", 12),
    ],
)
def test_a_list_at_a_url_names_nothing_of_this_machine(
    lists: Lists, step: str, column: int
) -> None:
    with pytest.raises(RecipeError) as caught:
        remote(lists, f"- {step}\n")
    assert caught.value.message == "a list at a URL may not name what lies on this machine"
    assert caught.value.place == f"{URL}:1:{column}"
    assert caught.value.details == ("included at box/container.yaml:2:3",)


@pytest.mark.parametrize(
    ("step", "wrong"),
    [
        ("run: {script: x, network: yes}", "yes"),
        ("run: {script: x, network: no}", None),
        ("run: {script: x, secrets: [token]}", ""),
        ("run: {script: x}", None),
        ("from: {oci: ../base.oci}", "../base.oci"),
        ("from: {container: ../other}", "../other"),
        ("from: {oci: 'oci:/srv/docker://x'}", "oci:/srv/docker://x"),
        ("from: {oci: 'docker://example.org/x:1'}", None),
        ("from: {suite: debian-12}", None),
        ("package: {atom: a/b}", None),
        ("env: {A: b}", None),
    ],
)
def test_what_a_list_at_a_url_may_say(step: str, wrong: str | None) -> None:
    node = parse_yaml(step, "list.yaml")
    assert isinstance(node, Mapping)
    found = of_this_machine(node)
    assert (None if found is None else getattr(found[0], "text", "")) == wrong


def test_a_list_of_no_text_is_refused_at_its_place(lists: Lists) -> None:
    content = b"- env: {A: \xff}\n"
    step = f"- include: {{url: '{URL}', sha256: {digest_bytes(content)}}}\n"
    with pytest.raises(RecipeError, match="byte 0xff is not UTF-8") as caught:
        lists(step, fetch=lambda *_: content)
    assert caught.value.place == f"{URL}:1:12"


# -- facts of packages

CHOSEN = {"app/tool": PackageFacts("2.0", "MIT", flags={"ssl": True, "tls": "openssl"})}
ASKING = """\
- env:
    V: "{{ packages['app/tool'].version }}"
    F: "{{ 'on' if packages['app/tool'].flags.ssl else 'off' }}"
    T: "{{ packages['app/tool'].flags.tls }}"
"""


def test_facts_are_stand_ins_until_they_are_known(lists: Lists) -> None:
    first = lists(ASKING)
    assert first.pending
    assert first.steps[-1].spec.env == {"V": "0", "F": "off", "T": ""}
    second = lists(ASKING, packages=KnownPackages(CHOSEN))
    assert not second.pending
    assert second.steps[-1].spec.env == {"V": "2.0", "F": "on", "T": "openssl"}


@pytest.mark.parametrize("asked", ["['app/tool'].digest", "['debian:tini'].version"])
def test_what_only_pins_tell_is_asked_for_again(lists: Lists, asked: str) -> None:
    text = f'- env: {{A: "{{{{ packages{asked} }}}}"}}\n'
    assert lists(text, packages=KnownPackages(CHOSEN)).pending
    known = {**CHOSEN, "debian:tini": PackageFacts("0.19"), "app/tool": PackageFacts("2")}
    whole = lists(text, packages=KnownPackages(known, pinned=True))
    assert not whole.pending
    assert whole.steps[-1].spec.env == {"A": "" if "digest" in asked else "0.19"}
    with pytest.raises(RecipeError, match="there is no key"):
        lists(text, packages=KnownPackages({}, pinned=True))


def test_a_misspelt_fact_is_named(lists: Lists) -> None:
    for known in (KnownPackages(), KnownPackages(CHOSEN), KnownPackages(CHOSEN, pinned=True)):
        with pytest.raises(RecipeError, match="there is no key 'verison'") as caught:
            lists("""- env: {A: "{{ packages['app/tool'].verison }}"}\n""", packages=known)
        assert "did you mean 'version'?" in (caught.value.hint or "")


def test_facts_cannot_decide_which_list_is_included(lists: Lists) -> None:
    text = """- include: "{{ packages['app/tool'].version }}.yaml"\n"""
    files = {"box/0.yaml": "- env: {A: a}\n", "box/2.0.yaml": "- env: {A: b}\n"}
    first = lists(text, files)
    with pytest.raises(RecipeError, match="not known before the packages are chosen"):
        check_settled(first, lists(text, files, packages=KnownPackages(CHOSEN)))


def test_facts_cannot_decide_what_a_container_begins_with(lists: Lists) -> None:
    text = """- from: {oci: "docker://example.org/x:{{ packages['app/tool'].version }}"}\n"""
    first = lists(text)
    with pytest.raises(RecipeError, match="not known before the packages are chosen"):
        check_settled(first, lists(text, packages=KnownPackages(CHOSEN)))
