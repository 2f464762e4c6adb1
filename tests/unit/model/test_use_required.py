from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.condition import (
    AllOf,
    AnyOf,
    AtMostOne,
    IfThen,
    Is,
    Not,
    OneOf,
    Requirement,
    Rule,
    check_required,
    holds,
    parse_portage,
    parse_required,
    rule_text,
    rule_words,
    smallest_repairs,
)
from buildit.model.use import (
    DEFAULT,
    Flag,
    FlagLayer,
    FlagValue,
    Setting,
    declare,
    flag_values,
    parse_assignment,
    resolve_flags,
)
from tests.scale import examples

pytestmark = pytest.mark.unit


def world(*flags: Flag, use: str = "") -> tuple[dict[str, Flag], dict[str, Setting]]:
    declared = dict(declare(flags))
    wishes = tuple(parse_assignment(text, "pkg.yaml:7") for text in use.split())
    return declared, dict(resolve_flags("p", declared, [FlagLayer("use", wishes)]))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("ssl", Is("ssl")),
        ("!ssl", Not(Is("ssl"))),
        ("a b", AllOf((Is("a"), Is("b")))),
        ("|| ( a b )", AnyOf((Is("a"), Is("b")))),
        ("^^ ( a b )", OneOf((Is("a"), Is("b")))),
        ("?? ( a b )", AtMostOne((Is("a"), Is("b")))),
        ("ssl? ( || ( a b ) )", IfThen(Is("ssl"), AnyOf((Is("a"), Is("b"))))),
        ("!ssl? ( !a )", IfThen(Not(Is("ssl")), Not(Is("a")))),
        ("tls=nss? ( a )", IfThen(Is("tls", "nss"), Is("a"))),
        ("( a b ) c", AllOf((AllOf((Is("a"), Is("b"))), Is("c")))),
    ],
)
def test_portage_notation(text: str, rule: Rule) -> None:
    assert parse_portage(text, place="p") == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a rule expected at column 1"),
        ("|| a", "'(' expected at column 4"),
        ("|| ( a b", "')' expected at column 9"),
        ("a )", "a ')' without '(' at column 3"),
        ("ssl? a", "'(' expected at column 6"),
        ("|| ( )", "an empty group at column 4"),
        ("(a)", "unexpected '(a)' at column 1"),
        ("a && b", "unexpected '&&' at column 3"),
        ("( " * 40, "nested deeper than 32"),
    ],
)
def test_malformed_notation_quotes_text_and_column(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_portage(text, place="pkg.yaml:4:2")
    assert message in caught.value.message
    assert caught.value.place == "pkg.yaml:4:2"


@pytest.mark.parametrize(
    ("value", "notation"),
    [
        ("ssl", "ssl"),
        (["a", "!b"], "a !b"),
        ({"all-of": ["a", "b"]}, "( a b )"),
        ({"any-of": ["a", "b"]}, "|| ( a b )"),
        ({"one-of": ["a", {"all-of": ["b", "c"]}]}, "^^ ( a ( b c ) )"),
        ({"at-most-one": ["a", "b"]}, "?? ( a b )"),
        ({"if": "ssl", "then": [{"one-of": ["a", "b"]}]}, "ssl? ( ^^ ( a b ) )"),
        ({"if": "!ssl", "then": "!a"}, "!ssl? ( !a )"),
    ],
)
def test_data(value: object, notation: str) -> None:
    assert parse_required(value, place="p") == parse_portage(notation, place="p")


def test_the_condition_of_data_may_be_an_expression() -> None:
    rule = parse_required({"if": "ssl && !a", "then": ["b"]}, place="p")
    assert not holds(rule, {"ssl": True, "a": False, "b": False})
    assert holds(rule, {"ssl": True, "a": True, "b": False})
    assert rule_text(rule) == "(ssl && !a)? ( b )"


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        3,
        {"any": ["a"]},
        {"any-of": []},
        {"any-of": "a"},
        {"if": "a"},
        {"if": "a", "then": ["b"], "else": ["c"]},
        {"one-of": ["a"], "any-of": ["b"]},
        {1: ["a"]},
    ],
)
def test_malformed_data(value: object) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_required(value, place="pkg.yaml:4:2")
    assert caught.value.place == "pkg.yaml:4:2"
    assert caught.value.hint


def test_deep_data_is_refused() -> None:
    value: object = "a"
    for _ in range(2000):
        value = {"all-of": [value]}
    with pytest.raises(RecipeError, match="nested deeper"):
        parse_required(value, place="p")


def test_a_violation_shows_rule_values_origins_and_repairs() -> None:
    declared, values = world(
        Flag("ssl", origin="pkgs/p/pkg.yaml:3"),
        Flag("openssl", origin="pkgs/p/pkg.yaml:4"),
        Flag("gnutls", origin="pkgs/p/pkg.yaml:5"),
        use="+ssl",
    )
    rule = parse_required("ssl? ( ^^ ( openssl gnutls ) )", place="p")
    with pytest.raises(UnsatisfiableError) as caught:
        check_required("a/p", [Requirement(rule, "pkgs/p/pkg.yaml:9:3")], declared, values)
    error = caught.value
    assert str(error) == (
        "pkgs/p/pkg.yaml:9:3: a/p: its flags break the rule 'ssl? ( ^^ ( openssl gnutls ) )'"
    )
    assert error.details == (
        "rule: with ssl: exactly one of openssl, gnutls (pkgs/p/pkg.yaml:9:3)",
        "ssl is on (pkg.yaml:7)",
        "openssl is off (pkgs/p/pkg.yaml:4)",
        "gnutls is off (pkgs/p/pkg.yaml:5)",
        "smallest changes that satisfy every rule:",
        "  use: {with: [openssl]}",
        "  use: {with: [gnutls]}",
        "  use: {without: [ssl]}",
    )
    assert error.hint == "in pkg.yaml: use: {with: [openssl]} (or another one above)"
    assert error.exit_code == 3


def test_satisfied_flags_pass() -> None:
    declared, values = world(Flag("a", True), Flag("b"))
    check_required("p", [Requirement(OneOf((Is("a"), Is("b"))), "x:1")], declared, values)


def test_repairs_satisfy_all_rules_not_only_the_broken_one() -> None:
    declared, values = world(Flag("a"), Flag("b"), Flag("c", True), Flag("tls", "x", ("x", "y")))
    rules = [parse_portage(text, place="p") for text in ("|| ( a b )", "a? ( !c )", "b? ( tls=y )")]
    repairs = smallest_repairs(rules, declared, values)
    assert [str(repair) for repair in repairs] == [
        "use: {with: [a], without: [c]}",
        "use: {with: [b, tls=y]}",
    ]


def test_rules_that_nothing_satisfies_say_so() -> None:
    declared, values = world(Flag("a"))
    rules = [Requirement(Is("a"), "x:1"), Requirement(Not(Is("a")), "x:2")]
    with pytest.raises(UnsatisfiableError) as caught:
        check_required("p", rules, declared, values)
    assert caught.value.hint is not None
    assert "look at the rules" in caught.value.hint


@pytest.mark.scale
def test_the_search_ends_with_many_flags() -> None:
    names = [f"f{i}" for i in range(60)]
    declared, values = world(*(Flag(name) for name in names))
    rules = [AllOf(tuple(Is(name) for name in names))]
    start = time.monotonic()
    assert smallest_repairs(rules, declared, values) == ()
    assert time.monotonic() - start < 60


def test_words() -> None:
    rule = parse_portage("a? ( || ( b ( c d ) ) ?? ( e !f ) )", place="p")
    assert rule_words(rule) == ("with a: (at least one of b, (c and d)) and (at most one of e, !f)")


LEAVES: st.SearchStrategy[Rule] = st.sampled_from("abcde").map(Is) | st.sampled_from("abcde").map(
    lambda flag: Not(Is(flag))
)
RULES: st.SearchStrategy[Rule] = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(
            lambda group, rules: group(tuple(rules)),
            st.sampled_from([AllOf, AnyOf, OneOf, AtMostOne]),
            st.lists(inner, min_size=2, max_size=3),
        )
        | st.builds(IfThen, LEAVES, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=examples(30))
@given(RULES)
def test_text_survives(rule: Rule) -> None:
    again = parse_portage(rule_text(rule), place="p")
    assert again == rule or AllOf((again,)) == rule


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(RULES, min_size=1, max_size=3), st.lists(st.booleans(), min_size=5, max_size=5))
def test_repairs_are_right_and_smallest(rules: list[Rule], bits: list[bool]) -> None:
    flags: dict[str, FlagValue] = dict(zip("abcde", bits, strict=True))
    declared = dict(declare(Flag(name) for name in "abcde"))
    values = {name: Setting(value, "x", DEFAULT) for name, value in flags.items()}
    if all(holds(rule, flags) for rule in rules):
        return
    every = [
        dict(zip("abcde", (bool(n >> i & 1) for i in range(5)), strict=True)) for n in range(32)
    ]
    fitting = [w for w in every if all(holds(rule, w) for rule in rules)]
    repairs = smallest_repairs(rules, declared, values)
    assert bool(repairs) is bool(fitting)
    nearest = min((sum(w[k] != flags[k] for k in w) for w in fitting), default=0)
    for repair in repairs:
        assert len(repair.changes) == nearest
        changed = dict(flag_values(values)) | dict(repair.changes)
        assert all(holds(rule, changed) for rule in rules)
