from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.recipe.schema import plain
from buildit.recipe.trees import overlay
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence, leaves
from buildit.recipe.yaml.read import parse_yaml
from tests.scale import examples

pytestmark = pytest.mark.unit


def laid(base: str | None, over: str) -> Node:
    return overlay(parse_yaml(base, "base") if base else None, parse_yaml(over, "over"))


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ("{a: 1}", "{a: 2}", {"a": "2"}),
        ("{a: 1, b: 2}", "{c: 3}", {"a": "1", "b": "2", "c": "3"}),
        ("{a: {x: 1, y: 2}}", "{a: {y: 3}}", {"a": {"x": "1", "y": "3"}}),
        ("{a: [1, 2]}", "{a: [3, 1]}", {"a": ["1", "2", "3", "1"]}),
        ("{a: [1]}", "{a: []}", {"a": ["1"]}),
        ("{a: [1]}", "{a: {$prepend: [0]}}", {"a": ["0", "1"]}),
        ("{a: [1]}", "{a: {$append: [2]}}", {"a": ["1", "2"]}),
        ("{a: [1]}", "{a: {$prepend: [0], $append: [2]}}", {"a": ["0", "1", "2"]}),
        ("{a: [1, 2, 1]}", "{a: {$remove: [1], $append: [3]}}", {"a": ["2", "3"]}),
        ("{a: [1, {when: x}]}", "{a: {$remove: [1]}}", {"a": [{"when": "x"}]}),
        ("{a: [1]}", "{a: {$replace: [2]}}", {"a": ["2"]}),
        ("{a: [1]}", "{a: {$replace: text}}", {"a": "text"}),
        ("{a: {x: 1}}", "{a: {$replace: {y: 2}}}", {"a": {"y": "2"}}),
        ("{a: {x: 1, y: 2}}", "{a: {$remove: [x]}}", {"a": {"y": "2"}}),
        ("{a: {x: 1, y: 2}}", "{a: {$remove: [x], z: 3}}", {"a": {"y": "2", "z": "3"}}),
        ("{a: {x: {p: 1}}}", "{a: {$remove: [x], x: {q: 2}}}", {"a": {"x": {"q": "2"}}}),
        ("{b: 1}", "{a: {$prepend: [0]}}", {"b": "1", "a": ["0"]}),
        ("{b: 1}", "{a: {$replace: [0]}}", {"b": "1", "a": ["0"]}),
        ("{b: 1}", "{a: {x: {$append: [0]}}}", {"b": "1", "a": {"x": ["0"]}}),
        ("{a: [1]}", "{a: [{x: {$append: [0]}}]}", {"a": ["1", {"x": ["0"]}]}),
        (None, "{a: {x: {$replace: {$append: [0]}}}}", {"a": {"x": ["0"]}}),
        ("{a: {x: 1, y: 2}}", "{$remove: [a]}", {}),
    ],
)
def test_overlay(base: str | None, over: str, expected: object) -> None:
    assert plain(laid(base, over)) == expected


def test_keys_of_the_base_keep_their_order_and_new_ones_follow() -> None:
    merged = laid("{b: 1, a: 2, c: 3}", "{z: 4, a: 5, y: 6}")
    assert list(plain(merged)) == ["b", "a", "c", "z", "y"]


def test_every_leaf_says_where_it_was_written() -> None:
    merged = laid(
        "a: 1\nb: {x: 1, y: 2}\nc: [1]\nd: [7]\n", "b: {y: 3}\nc: [2]\nd: {$prepend: [6]}"
    )
    origins = {".".join(path): str(leaf.place) for path, leaf in leaves(merged)}
    assert origins == {
        "a": "base:1:4",
        "b.x": "base:2:8",
        "b.y": "over:1:8",
        "c.0": "base:3:5",
        "c.1": "over:2:5",
        "d.0": "over:3:16",
        "d.1": "base:4:5",
    }


def test_the_key_of_a_replaced_value_is_the_new_one() -> None:
    merged = laid("a: 1\nb: 2\n", "\nb: 3\n")
    assert isinstance(merged, Mapping)
    assert [str(key.place) for key, _ in merged.items] == ["base:1:1", "over:2:1"]


@pytest.mark.parametrize(
    ("base", "over", "place", "message", "hint"),
    [
        (
            "{a: 1}",
            "{a: [1]}",
            "over:1:5",
            "a list cannot be laid over the value at base:1:5",
            "$r",
        ),
        (
            "{a: [1]}",
            "{a: 1}",
            "over:1:5",
            "a value cannot be laid over the list at base:1:5",
            "$r",
        ),
        ("{a: [1]}", "{a: {x: 1}}", "over:1:5", "a map cannot be laid over the list", "$replace"),
        ("{a: {x: 1}}", "{a: [x]}", "over:1:5", "a list cannot be laid over the map", "$replace"),
        ("{a: [1]}", "{a: {$add: [1]}}", "over:1:6", "unknown verb '$add'", "$prepend, $append"),
        ("{a: [1]}", "{a: {$remove: [2]}}", "over:1:16", "the base has no '2'", "it has: 1"),
        ("{a: []}", "{a: {$remove: [2]}}", "over:1:16", "the base has no '2'", "it has: nothing"),
        ("{a: {x: 1}}", "{a: {$remove: [y]}}", "over:1:16", "the base has no 'y'", "it has: x"),
        ("{b: 1}", "{a: {$remove: [x]}}", "over:1:5", "what the base does not have", "$remove"),
        ("{a: 1}", "{a: {$remove: [x]}}", "over:1:5", "cannot change the value", "$replace"),
        ("{a: {x: 1}}", "{a: {$append: [x]}}", "over:1:5", "cannot change the map", "$replace"),
        ("{a: [1]}", "{a: {$append: x}}", "over:1:15", "expected a list", "[x, y]"),
        ("{a: [1]}", "{a: {$remove: [[x]]}}", "over:1:16", "takes a list of names", "name"),
        ("{a: [1]}", "{a: {$append: [2], x: 1}}", "over:1:5", "cannot be mixed", "verbs"),
        ("{a: [1]}", "{a: {$replace: [2], $append: [1]}}", "over:1:5", "stands alone", "verb"),
        ("{a: {x: 1}}", "{a: {$replace: {}, y: 1}}", "over:1:5", "stands alone", "verb"),
    ],
)
def test_what_does_not_fit_is_one_error(
    base: str, over: str, place: str, message: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        laid(base, over)
    assert caught.value.place == place
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


HERE = Place("f", 1, 1)
SCALARS = st.text(st.characters(categories=["L"]), max_size=3).map(lambda t: Scalar(t, HERE))
NODES: st.SearchStrategy[Node] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: Sequence(tuple(items), HERE))
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda items: Mapping(tuple((Scalar(k, HERE), v) for k, v in items.items()), HERE)
        )
    ),
    max_leaves=8,
)
MAPS = NODES.filter(lambda node: isinstance(node, Mapping))


@settings(max_examples=examples(25))
@given(MAPS)
def test_an_empty_map_changes_nothing(node: Node) -> None:
    assert plain(overlay(node, Mapping((), HERE))) == plain(node)
    assert plain(overlay(Mapping((), HERE), node)) == plain(node)


@settings(max_examples=examples(25))
@given(NODES, NODES)
def test_replace_always_gives_the_new_value(base: Node, over: Node) -> None:
    edit = Mapping(((Scalar("$replace", HERE), over),), HERE)
    assert plain(overlay(base, edit)) == plain(over)


@pytest.mark.scale
@settings(max_examples=examples(25))
@given(MAPS, MAPS)
def test_two_maps_merge_or_name_the_first_misfit(base: Node, over: Node) -> None:
    if fits(base, over):
        assert set(plain(overlay(base, over))) == {*plain(base), *plain(over)}
    else:
        with pytest.raises(RecipeError, match="cannot be laid over"):
            overlay(base, over)


def fits(base: Node, over: Node) -> bool:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        below = {key.text: value for key, value in base.items}
        return all(fits(below[k.text], v) for k, v in over.items if k.text in below)
    return type(base) is type(over)
