from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.model.condition import (
    AllOf,
    AnyOf,
    AtMostOne,
    IfThen,
    Is,
    Not,
    OneOf,
    Rule,
    check_flags,
    condition_text,
    holds,
    parse_condition,
)
from buildit.model.use import FlagValue
from tests.scale import examples

pytestmark = pytest.mark.unit

FLAGS: dict[str, FlagValue] = {
    "ssl": True,
    "gnutls": False,
    "tls": "openssl",
    "a": True,
    "b": False,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssl", True),
        ("!ssl", False),
        ("!!ssl", True),
        ("gnutls", False),
        ("ssl && !gnutls", True),
        ("ssl&&!gnutls", True),
        ("tls=openssl", True),
        ("!tls=gnutls", True),
        ("gnutls || ssl", True),
        ("ssl || gnutls && b", True),
        ("(ssl || gnutls) && b", False),
        ("!(ssl && gnutls)", True),
        (["ssl", "!gnutls"], True),
        (["ssl", "gnutls"], False),
    ],
)
def test_conditions(text: str | list[str], expected: bool) -> None:
    assert holds(parse_condition(text), FLAGS) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a flag expected at column 1"),
        ("ssl &&", "a flag expected at column 7"),
        ("ssl gnutls", "'&&', '||' or the end expected at column 5"),
        ("ssl & x", "a flag expected at column 5"),
        ("(ssl", "')' expected at column 5"),
        ("ssl)", "'&&', '||' or the end expected at column 4"),
        ("not ssl", "'&&', '||' or the end expected at column 5"),
        ("+ssl", "a flag expected at column 1"),
        ("!" * 40 + "a", "nested deeper than 32"),
        ("(" * 5000, "a condition longer than"),
    ],
)
def test_malformed_condition_quotes_text_and_column(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_condition(text, place="pkg.yaml:5:3")
    assert message in caught.value.message
    assert caught.value.place == "pkg.yaml:5:3"


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(RecipeError, match="empty list of conditions"):
        parse_condition([])


def test_unknown_flags_and_choices_are_refused() -> None:
    declared = {"ssl": (), "tls": ("openssl", "gnutls")}
    check_flags(parse_condition("ssl && tls=gnutls"), declared)
    for text, message, hint in [
        ("sll", "a condition on 'sll', which is not declared", "did you mean 'ssl'?"),
        ("tls=nss", "a condition on 'tls', which has no choice 'nss'", "openssl, gnutls"),
        ("tls", "a condition on 'tls', which has no on and off", "write tls=CHOICE"),
        ("ssl=x", "a condition on ssl=x, but 'ssl' is a switch", "write ssl or !ssl"),
    ]:
        with pytest.raises(RecipeError) as caught:
            check_flags(parse_condition(text), declared, place="p:1")
        assert caught.value.message == message
        assert caught.value.hint is not None
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (AllOf(()), True),
        (AnyOf((Is("a"), Is("b"))), True),
        (AnyOf((Is("b"),)), False),
        (OneOf((Is("a"), Is("b"))), True),
        (OneOf((Is("a"), Is("ssl"))), False),
        (OneOf((Is("b"), Is("gnutls"))), False),
        (AtMostOne((Is("b"), Is("gnutls"))), True),
        (AtMostOne((Is("a"), Is("ssl"))), False),
        (IfThen(Is("b"), Is("gnutls")), True),
        (IfThen(Is("a"), Is("gnutls")), False),
        # a child whose condition is false does not count (PMS 8.2)
        (AnyOf((IfThen(Is("b"), Is("a")), Is("gnutls"))), False),
        (OneOf((IfThen(Is("b"), Is("a")), Is("ssl"))), True),
        (AtMostOne((IfThen(Is("b"), Is("a")), Is("ssl"))), True),
    ],
)
def test_groups(rule: Rule, expected: bool) -> None:
    assert holds(rule, FLAGS) is expected


LEAVES = st.sampled_from("abc").map(Is) | st.sampled_from("xy").map(lambda c: Is("tls", c))
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, min_size=2, max_size=3).map(lambda rules: AllOf(tuple(rules)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda rules: AnyOf(tuple(rules)))
    ),
    max_leaves=8,
)


@settings(max_examples=examples(30))
@given(CONDITIONS)
def test_text_survives(rule: Rule) -> None:
    assert parse_condition(condition_text(rule)) == rule


@settings(max_examples=examples(30))
@given(st.text(alphabet="ab=!&|() \n", max_size=12))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        rule = parse_condition(text)
    except RecipeError:
        return
    assert parse_condition(condition_text(rule)) == rule
