"""YAML to located nodes: texts stay texts, and what is refused is said with its place."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.recipe.schema import plain
from buildit.recipe.yaml import read as yamltext
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence, decoded_text, leaves
from buildit.recipe.yaml.read import parse_yaml
from tests.scale import examples

pytestmark = pytest.mark.unit


def test_scalars_stay_as_written() -> None:
    text = "a: 0644\nb: 1.10\nc: no\nd: on\ne: 2001-01-01\nf: 0x1F\ng: .nan\nh: 1_000\ni: '~'\n"
    written = ["0644", "1.10", "no", "on", "2001-01-01", "0x1F", ".nan", "1_000", "~"]
    assert plain(parse_yaml(text, "f")) == dict(zip("abcdefghi", written, strict=True))


def test_nothing_is_an_empty_text() -> None:
    text = "a:\nb: ~\nc: null\nd: ''\ne: [~, NULL]\nf: 'null'\n"
    given = ["", "", "", "", ["", ""], "null"]
    assert plain(parse_yaml(text, "f")) == dict(zip("abcdef", given, strict=True))


def test_places_count_from_one() -> None:
    node = parse_yaml("a: 1\nä:\n  - {x: y}\n", "pkg.yaml")
    assert isinstance(node, Mapping)
    assert node.place == Place("pkg.yaml", 1, 1)
    found = {path: str(leaf.place) for path, leaf in leaves(node)}
    assert found == {("a",): "pkg.yaml:1:4", ("ä", "0", "x"): "pkg.yaml:3:9"}
    inner = node.get("ä")
    assert isinstance(inner, Sequence)
    assert inner.place == Place("pkg.yaml", 3, 3)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: |\n  one\n    {two\n", (3, 5)),
        ("a: |\n\n  one\n\n  {two\n", (5, 3)),
        ("a: |-2\n    {one\n", (2, 5)),
        ("a: |2\n\n    one\n  {two", (4, 3)),
        ("a: | # comment\n  {one\n", (2, 3)),
        ("a: one {two\n", (1, 8)),
        ("a: 'one {two'\n", (1, 9)),
        ("a: >\n  one\n  {two\n", (1, 4)),
        ("a: one\n  {two\n", (1, 4)),
    ],
)
def test_places_inside_a_text(text: str, place: tuple[int, int]) -> None:
    ((_, leaf),) = leaves(parse_yaml(text, "f"))
    found = leaf.place_of(leaf.text.index("{"))
    assert (found.line, found.column) == place


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "f", "the file is empty"),
        ("# only\n", "f", "the file is empty"),
        ("--- ~\n", "f", "the file is empty"),
        ("a: 1\nb: 2\na: 3\n", "f:3:1", "the key 'a' is written twice"),
        ("a: {b: 1, 'b': 2}", "f:1:11", "the key 'b' is written twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "f:3:3", "merge keys (<<) are not accepted here"),
        ("a: !!str b", "f:1:4", "the tag 'tag:yaml.org,2002:str' is not accepted here"),
        ("a: !b {}", "f:1:4", "the tag '!b' is not accepted here"),
        ("! a: b", "f:1:1", "the tag '!' is not accepted here"),
        ("a: *b", "f:1:4", "the alias *b has no anchor &b before it"),
        ("&a [x, *a]", "f:1:8", "the alias *a stands inside of what it names"),
        ("- &a x\n- &a y\n", "f:2:3", "the anchor &a is defined twice"),
        ("? [a]\n: b", "f:1:3", "a key must be plain text"),
        ("? {a: b}\n: b", "f:1:3", "a key must be plain text"),
        ("- &a x\n- *a : y\n", "f:2:3", "a key must be plain text"),
        ("~: x", "f:1:1", "a key may not be empty"),
        ("'': x", "f:1:1", "a key may not be empty"),
        ("a: 1\n---\nb: 2\n", "f:2:1", "a second document begins here; a file holds one"),
        ("%YAML 1.2\n---\na: 1\n", "f:1:1", "a line that begins with % is not accepted here"),
        ('a: "\\0"', "f:1:4", "control character U+0000 is not allowed in a value"),
        ('a: "\\e[0m"', "f:1:4", "control character U+001B is not allowed in a value"),
        ("a:\tb", "f:1:4", "a tab stands before this value"),
        ("[" * 65, "f:1:65", "the document is nested deeper than 64 levels"),
        ("a: 1\n" + "  " * 3 + "b: 2\n", "f:2:8", None),
        ("a:\n\t- b\n", "f:2:1", None),
        ("a: b: c", "f:1:5", None),
        ("a: @b", "f:1:4", None),
        ("a: 'b", "f:1:6", None),
        ("a: [b", "f:1:6", None),
        ('"\\ud800"', "f:1:4", None),
        ('"\\UFFFFFFFF"', "f:1:4", None),
    ],
)
def test_what_is_refused(text: str, place: str, message: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "f")
    assert caught.value.place == place
    assert caught.value.message == message or (
        message is None and caught.value.message.startswith("this is not YAML: ")
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("name: {{ name }}\n", "put quotes around a value that begins with {{"),
        ("a:\n\t- b\n", "use spaces, not tabs; a value that needs one goes in quotes"),
        ("a: b: c", "put quotes around a value that holds ': '"),
        ("a: @b", "put quotes around a value that begins with '@'"),
        ("a: *b", "quote the value if it begins with '*'"),
        ("a: 1\na: 2", "the first one is at f:1:1; remove one of them"),
    ],
)
def test_hints(text: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "f")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "tag",
    [
        *("!!python/object/apply:os.system", "!!python/object/new:subprocess.Popen"),
        *("!!python/name:os.system", "!!python/module:os", "!!python/tuple", "!!binary", "!!set"),
        *("!!omap", "!!map", "!!seq", "!!int", "!!null", "!!timestamp", "!include", "!env", "!<x>"),
        *("!!python/object:yaml.YAMLObject", "!ruby/object:Gem::Installer", "!!js/function"),
    ],
)
@pytest.mark.parametrize("body", ["x", "[x]", "{x: y}"])
def test_no_tag_is_ever_accepted(tag: str, body: str) -> None:
    for text in (f"a: {tag} {body}", f"{tag} {body}", f"- {tag} {body}"):
        with pytest.raises(RecipeError, match=r"is not accepted here|this is not YAML"):
            parse_yaml(text, "f")


def test_aliases_share_what_they_name() -> None:
    text = "a: &x {k: [1, 2]}\nb: *x\nc: [*x, *x]\n"
    value = {"k": ["1", "2"]}
    assert plain(parse_yaml(text, "f")) == {"a": value, "b": value, "c": [value, value]}


def _laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.scale
@pytest.mark.parametrize(
    "text",
    [
        _laughs(10),
        _laughs(60),
        "a: &a [" + "x," * 2000 + "]\nb: [" + "*a," * 200_000 + "]",
        "[" * 5000,
        "[" * 1_000_000,
        "{a: " * 200_000,
        "- " * 400_000,
        "? " * 400_000,
        "[\n" * 400_000,
        "&a " * 300_000,
        "!a " * 300_000,
        "x,\n" * 300_000,
        "[" + "x," * 500_000 + "]",
        '"' + "a" * 1_000_000,
        "a: |" + "\n " * 300_000,
        "&a0 x\n" + "".join(f"- &a{n} x\n" for n in range(60_000)),
    ],
    ids=range(16),
)
def test_bombs_end_soon(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(RecipeError):
        parse_yaml(text[: 1 << 20], "f")
    # About one second; what is not linear in the text's length takes minutes.
    assert time.process_time() - started < 20.0


def test_the_budget_counts_aliases_expanded() -> None:
    list_of_1000 = "a: &a [" + "x, " * 999 + "]\n"
    parse_yaml(list_of_1000 + "b: [" + "*a, " * 98 + "]", "f")
    with pytest.raises(RecipeError, match="more than 100000 values, aliases expanded"):
        parse_yaml(list_of_1000 + "b: [" + "*a, " * 99 + "]", "f")
    with pytest.raises(RecipeError, match="deeper than 64 levels"):
        parse_yaml("a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a" + "]" * 30, "f")


_TREES = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_TREES.filter(bool))
@settings(max_examples=examples(50))
def test_json_reads_back_as_itself(tree: object) -> None:
    text = json.dumps(tree, ensure_ascii=False)
    if "\ufeff" not in text:
        assert plain(parse_yaml(decoded_text(text.encode(), "f"), "f")) == tree


_YAML = st.lists(
    st.sampled_from(
        [
            *(
                "a",
                "b",
                ": ",
                ":",
                "- ",
                "-",
                "\n",
                "\n",
                " ",
                "  ",
                "\t",
                "? ",
                "[",
                "]",
                "{",
                "}",
            ),
            *(
                ",",
                "&a ",
                "*a",
                "!",
                "!!str ",
                "'",
                '"',
                "|",
                ">",
                "#",
                "%",
                "---",
                "...",
                "\\",
                "~",
            ),
            *(
                "\r\n",
                "\0",
                "\ufeff",
                "ä",
                "<<: ",
                "@",
                "`",
                '"\\x"',
                "|2\n",
                "0644",
                "\u2028",
                "=>",
            ),
        ]
    ),
    max_size=24,
).map("".join)


def _read(content: bytes) -> Node | RecipeError:
    try:
        return parse_yaml(decoded_text(content, "f"), "f")
    except RecipeError as error:
        return error


@given(_YAML.map(str.encode) | st.binary(max_size=60))
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_a_document_or_one_error(content: bytes) -> None:
    found = _read(content)
    if isinstance(found, RecipeError):
        assert found.place is not None
        assert "\n" not in found.message
    else:
        for _, leaf in leaves(found):
            assert leaf.place.line <= content.count(b"\n") + 1


@given(_YAML)
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.too_slow])
def test_both_readers_of_pyyaml_give_the_same_nodes(text: str) -> None:
    if not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    found: list[Node | None] = []
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        try:
            found.append(yamltext.document(decoded_text(text.encode(), "f"), "f", loader))
        except (RecipeError, yaml.YAMLError, ValueError):
            found.append(None)
    fast, slow = found
    # Where only one of them reads a text without tabs, it is an oddity that no file needs.
    if (fast is not None and slow is not None) or "\t" in text:
        assert (fast and plain(fast)) == (slow and plain(slow))


def test_root_may_be_any_kind() -> None:
    assert parse_yaml("x", "f") == Scalar("x", Place("f", 1, 1))
    assert isinstance(parse_yaml("- x", "f"), Sequence)


ONE_ANSWER = {
    "a: [https://h/f?x=1]\n": ("f:1:5", "a value in brackets holds a '?'"),
    "a: {b?: c}\n": ("f:1:5", "a value in brackets holds a '?'"),
    "a: [?x, 'y?z']\n": None,
    "a: 1\t\n": ("f:1:5", "a tab stands here"),
    "a: [1, 2]\t\n": ("f:1:10", "a tab stands here"),
    "a:\t\n  b: 1\n": ("f:1:3", "a tab stands here"),
    "a: 'x'\t\n": ("f:1:7", "a tab stands here"),
    "a: 1\t# c\n": ("f:1:5", "a tab stands here"),
    "a: |\t\n  x\n": ("f:1:5", "a tab stands here"),
    "a: b\tc\n": ("f:1:5", "a tab stands here"),
    "a: b\n  \tc\n": ("f:2:3", "a tab stands here"),
    "a\t: 1\n": ("f:1:2", "a tab stands here"),
    "a: |\n  \tx\n": ("f:1:4", "this text begins with a tab"),
    "a: |\n  x\n  \ty\tz\n": None,
    "a: |2\n  \tx\n": None,
    'a: "x\ty" # c\td\n#\t\n': None,
    "a: 'b\n\tc'\n": None,
}


@pytest.mark.parametrize("loader", [yaml.CSafeLoader, yaml.SafeLoader])
@pytest.mark.parametrize("text", ONE_ANSWER)
def test_both_readers_give_one_answer(text: str, loader: type[yaml.SafeLoader]) -> None:
    expected = ONE_ANSWER[text]
    if expected is None:
        yamltext.document(text, "f", loader)
        return
    with pytest.raises((RecipeError, yaml.YAMLError)) as caught:
        yamltext.document(text, "f", loader)
    if isinstance(caught.value, RecipeError):
        assert (caught.value.place, caught.value.message) == expected


def test_a_line_of_only_a_tab_is_named() -> None:
    for text in ("a: 1\n\t\nb: 2\n", "a:\n\t\n  b: 2\n"):
        with pytest.raises(RecipeError) as caught:
            parse_yaml(text, "f")
        assert (caught.value.place, caught.value.message) == ("f:2:1", "a tab stands here")


def test_a_line_that_is_indented_by_mistake_is_told_so() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml("a: 1\n b: 2\n", "f")
    assert caught.value.hint == "indent this line as the one above, if both belong together"
