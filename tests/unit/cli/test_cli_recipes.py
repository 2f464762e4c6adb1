"""explain and use: over a small tree, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from buildit.cli.recipes import recipe_lines
from buildit.digest import digest_bytes
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit

TREE = """\
description: A tool
use:
  ssl: {default: on, description: TLS}
  tls: {default: openssl, choices: [openssl, gnutls], description: Which TLS}
configure: [--prefix=/usr]
depends: {link: [{when: ssl, atom: dev/lib}]}
steps:
  install: |
    make install
    true
versions:
  1.0: {}
  2.0: {configure: [--two]}
"""
LIB = "description: A library\nversions: {3.1: {}}\n"
OWN = "base: app/tool-2.0\nconfigure: {$append: [--own]}\nuse: {with: [tls=gnutls]}\n"
BOX = """\
- vars: {name: box, version: 1}
- package: {type: embedded, path: ./pkgs/tool}
- use: [-ssl]
"""

EXPLAINED = """\
# app/tool-2.0, from ./pkgs/tool
# asked for: app/tool (box/container.yaml:2:3)
description: A tool               # tree/app/tool/pkg.yaml:1
use:
  ssl:
    default: on                   # tree/app/tool/pkg.yaml:3
    description: TLS              # tree/app/tool/pkg.yaml:3
  tls:
    default: openssl              # tree/app/tool/pkg.yaml:4
    choices:
      - openssl                   # tree/app/tool/pkg.yaml:4
      - gnutls                    # tree/app/tool/pkg.yaml:4
    description: Which TLS        # tree/app/tool/pkg.yaml:4
configure:
  - --prefix=/usr                 # tree/app/tool/pkg.yaml:5
  - --two                         # tree/app/tool/pkg.yaml:13
  - --own                         # box/pkgs/tool/pkg.yaml:2
depends:
  link:
    - when: ssl                   # tree/app/tool/pkg.yaml:6
      atom: dev/lib               # tree/app/tool/pkg.yaml:6
steps:
  install: |                      # tree/app/tool/pkg.yaml:8
    make install
    true
"""


@pytest.fixture
def box(command: Command) -> Command:
    files = {
        ".buildit-config.yaml": "trees: [./tree]\n",
        "tree/app/tool/pkg.yaml": TREE,
        "tree/dev/lib/pkg.yaml": LIB,
        "box/pkgs/tool/pkg.yaml": OWN,
        "box/container.yaml": BOX,
    }
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    return command


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_explain_shows_where_each_leaf_is_from(box: Command) -> None:
    said = box("explain", "box")
    assert (said.code, said.err) == (0, "")
    assert words(said.out) == words(EXPLAINED)
    columns = {line.index("  # ") for line in said.out.splitlines() if "  # " in line}
    assert len(columns) == 1


def test_what_explain_shows_is_yaml_of_the_merged_recipe(box: Command) -> None:
    read = yaml.safe_load(box("explain", "box").out)
    assert read["configure"] == ["--prefix=/usr", "--two", "--own"]
    assert read["steps"]["install"] == "make install\ntrue\n"


def test_explain_as_json(box: Command) -> None:
    (found,) = json.loads(box("explain", "box", "--json").out)
    assert (found["name"], found["version"]) == ("app/tool", "2.0")
    last = [leaf for leaf in found["leaves"] if leaf["value"] == "--own"]
    assert last == [
        {"path": ["configure", "2"], "value": "--own", "place": "box/pkgs/tool/pkg.yaml:2:23"}
    ]


@pytest.mark.parametrize("name", ["dev/lib", "lib"])
def test_explain_a_dependency(name: str, box: Command) -> None:
    assert box("explain", "box", name, "--use", "ssl").out.startswith(
        "# dev/lib-3.1, from tree/dev"
    )


def test_a_dependency_of_a_flag_that_is_off_is_not_there(box: Command) -> None:
    said = box("explain", "box", "lib")
    assert said.code == 2
    assert "no single package is called 'lib' here" in said.err


def test_explain_a_package_without_a_container(box: Command) -> None:
    assert box("explain", "tree/app/tool").out.startswith("# app/tool-2.0, from")
    assert box("explain", "tree/app/tool", "1.0").out.startswith("# app/tool-1.0, from")
    assert box("explain", "box/pkgs/tool").out.startswith("# app/tool-2.0, from box/pkgs/tool\n")
    said = box("explain", "tree/app/tool", "9")
    assert (said.code, said.out) == (2, "")
    assert "app/tool has no version 9\nhint: it has: 2.0, 1.0" in said.err


def test_use_lists_flags_with_their_origin(box: Command) -> None:
    said = box("use", "box")
    assert words(said.out) == [
        "app/tool-2.0",
        "ssl is off container (box/container.yaml:3:3) TLS",
        "tls is gnutls use (box/pkgs/tool/pkg.yaml:3:14) Which TLS",
    ]


def test_a_flag_that_no_package_has_is_a_mistake(box: Command) -> None:
    said = box("use", "box", "--use", "-sssl")
    assert (said.code, said.out) == (2, "")
    assert "--use -sssl: no package of this container declares the flag 'sssl'" in said.err
    assert "did you mean 'ssl'? valid here: ssl, tls" in said.err
    Path("box/container.yaml").write_text(BOX.replace("-ssl", "-ssl, tsl=gnutls"))
    said = box("use", "box")
    assert said.err.startswith("buildit: error: box/container.yaml:3:3: no package of this")
    assert "the flag 'tsl'\nhint: did you mean 'tls'?" in said.err


def test_the_command_line_wins(box: Command) -> None:
    found = json.loads(box("use", "box", "--use", "ssl", "--use", "tls=openssl", "--json").out)
    tool = next(one for one in found if one["name"] == "app/tool")
    assert [(f["flag"], f["value"], f["layer"]) for f in tool["flags"]] == [
        ("ssl", True, "command line"),
        ("tls", "openssl", "command line"),
    ]
    assert [one["name"] for one in found] == ["dev/lib", "app/tool"]


PLACE = Place("f", 1, 1)
texts = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
nodes: st.SearchStrategy[Node] = st.recursive(
    texts.map(lambda text: Scalar(text, PLACE)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: Sequence(tuple(items), PLACE))
        | st.dictionaries(texts, inner, max_size=3).map(
            lambda items: Mapping(
                tuple((Scalar(key, PLACE), value) for key, value in items.items()), PLACE
            )
        )
    ),
    max_leaves=8,
)


def as_texts(node: Node) -> object:
    match node:
        case Scalar(text):
            return text
        case Sequence(items):
            return [as_texts(item) for item in items]
        case Mapping(items):
            return {key.text: as_texts(value) for key, value in items}


@given(nodes)
def test_the_text_reads_back_as_the_same_recipe(node: Node) -> None:
    text = "\n".join(recipe_lines(node))
    assert yaml.load(text, yaml.BaseLoader) == as_texts(node)


# -- what the steps of a container say

SAYING = """\
- include: base.yaml
  with: {port: 443}
- workdir: /var/www
- env: {A: two words}
"""
SAID = """\
# what the steps say of the image; of two the later one counts
  entrypoint: [/bin/a, 443] # box/base.yaml:1:15
# workdir: /srv # box/base.yaml:2:12, not: box/container.yaml:6:12
  workdir: /var/www # box/container.yaml:6:12
  env A: "two words" # box/container.yaml:7:12
"""


@pytest.fixture
def saying(box: Command) -> Command:
    Path("box/container.yaml").write_text(BOX + SAYING)
    Path("box/base.yaml").write_text("- entrypoint: [/bin/a, '{{ port }}']\n- workdir: /srv\n")
    return box


def test_explain_says_which_step_counts(saying: Command) -> None:
    said = saying("explain", "box")
    assert (said.code, said.err) == (0, "")
    recipe, blank, lines = said.out.partition("\n\n")
    assert blank
    assert words(recipe) == words(EXPLAINED)
    assert words(lines) == words(SAID)
    # of one package it is the recipe alone
    assert "what the steps say" not in saying("explain", "box", "tool").out


def test_explain_says_it_as_json(saying: Command) -> None:
    *_, last = json.loads(saying("explain", "box", "--json").out)
    assert [(one["key"], one["later"]) for one in last["image"]] == [
        ("entrypoint", ""),
        ("workdir", "box/container.yaml:6:12"),
        ("workdir", ""),
        ("env A", ""),
    ]


def test_explain_says_where_it_cannot_know_yet(box: Command) -> None:
    asking = """- labels: {digest: "{{ packages['app/tool'].digest }}"}\n"""
    Path("box/container.yaml").write_text(BOX + asking)
    assert "stand in for those that `plan` knows" in box("explain", "box").out


def test_a_list_at_a_url_is_asked_for_where_it_is_needed(box: Command) -> None:
    text = "- workdir: /far\n"
    digest = digest_bytes(text.encode())
    step = f"- include: {{url: 'https://list.invalid/a.yaml', sha256: {digest}}}\n"
    Path("box/container.yaml").write_text(BOX + "- entrypoint: [/bin/a]\n" + step)
    said = box("plan", "box", "--offline")
    assert (said.code, said.out) == (4, "")
    assert "box/container.yaml:5:12" in said.err
    Path("box/distfiles").mkdir()
    Path("box/distfiles/a.yaml").write_text(text)
    said = box("explain", "box")
    assert "workdir: /far # https://list.invalid/a.yaml:1:12" in words(said.out)[-1]
    Path("box/distfiles/a.yaml").unlink()
    assert box("explain", "box").out == said.out  # the store has it now
