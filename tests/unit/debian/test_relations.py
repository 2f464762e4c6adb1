from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.debian.relations import Relation, parse_relations
from tests.scale import examples

pytestmark = pytest.mark.unit


def test_a_field() -> None:
    text = "libc6 (>= 2.36), perl:any | perl5,  default-mta|mail-transport-agent, x (= 1:2-3~b),"
    assert parse_relations(text) == (
        (Relation("libc6", "", ">=", "2.36"),),
        (Relation("perl", "any"), Relation("perl5")),
        (Relation("default-mta"), Relation("mail-transport-agent")),
        (Relation("x", "", "=", "1:2-3~b"),),
    )
    assert parse_relations("") == ()


@pytest.mark.parametrize(
    "text", ["a b", "a (1)", "a (>= )", "a (>= 1", "A", "a (~ 1)", "a | ", "a [amd64]", "a (= x y)"]
)
def test_what_is_no_relation(text: str) -> None:
    with pytest.raises(ValueError, match="not a "):
        parse_relations(text)


@pytest.mark.parametrize(
    ("operator", "lower", "same", "higher"),
    [
        ("<<", True, False, False),
        ("<=", True, True, False),
        ("<", True, True, False),
        ("=", False, True, False),
        (">=", False, True, True),
        (">", False, True, True),
        (">>", False, False, True),
        ("", True, True, True),
    ],
)
def test_ranges(operator: str, lower: bool, same: bool, higher: bool) -> None:
    relation = Relation("a", "", operator, "2" if operator else "")
    assert [relation.admits(version) for version in ("2~", "2", "2.1")] == [lower, same, higher]


def test_provided() -> None:
    plain, versioned = Relation("awk"), Relation("awk", "", "=", "2")
    assert Relation("awk").admits_provided(plain)
    assert Relation("awk").admits_provided(versioned)
    assert Relation("awk", "", ">=", "1").admits_provided(versioned)
    assert not Relation("awk", "", ">=", "1").admits_provided(plain)
    assert not Relation("awk", "", ">=", "3").admits_provided(versioned)
    assert not Relation("gawk").admits_provided(plain)


relations = st.builds(
    lambda name, rest: Relation(name, *rest),
    st.sampled_from(["libc6", "g++", "2ping", "a.b-c"]),
    st.sampled_from([("", "", ""), ("any", "", ""), ("amd64", "<<", "1"), ("", ">=", "2:1.0~a-1")]),
)


@settings(max_examples=examples(30))
@given(st.lists(st.lists(relations, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple))
def test_round_trip(groups: tuple[tuple[Relation, ...], ...]) -> None:
    text = ", ".join(" | ".join(map(str, group)) for group in groups)
    assert parse_relations(text) == groups
