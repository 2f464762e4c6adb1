from __future__ import annotations

from dataclasses import replace

import pytest

from buildit.digest import BuildKey, Digest
from buildit.errors import UsageError
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import TrustRule
from buildit.trust.policy import Vote, decide, persons, rule_for, unused
from buildit.trust.signers import SELF

pytestmark = pytest.mark.unit

KEY, OTHER_KEY, LIBRARY = BuildKey("1" * 64), BuildKey("2" * 64), BuildKey("3" * 64)
RULES = (TrustRule("dev-libs/openssl", 3), TrustRule("dev-libs/*", 2), TrustRule("*", 1))


def artifact(diff_id: str = "a", name: str = "dev-libs/pcre2") -> Artifact:
    output = Output(Digest(diff_id * 64), 1, Digest("c" * 64))
    resolved = {LIBRARY: {RUNTIME: Digest("7" * 64)}}
    return Artifact(
        KEY, name, "1", "linux/amd64", {RUNTIME: output}, Digest("e" * 64), None, resolved
    )


def vote(who: str, builder: str = "", diff_id: str = "a", name: str = "dev-libs/pcre2") -> Vote:
    return Vote(who, (builder or who) * 8, artifact(diff_id, name))


@pytest.mark.parametrize(
    ("name", "need"),
    [
        ("dev-libs/openssl", 3),
        ("dev-libs/pcre2", 2),
        ("dev-libs-x/pcre2", 1),
        ("www-servers/nginx", 1),
        ("DEV-LIBS/pcre2", 1),
    ],
)
def test_the_first_rule_that_fits_holds(name: str, need: int) -> None:
    assert rule_for(name, RULES).need == need
    assert rule_for(name, ()).need == 1


def test_one_is_enough_where_no_rule_says_more() -> None:
    assert decide(vote("alice", name="app/x"), (), RULES) == ()


def test_two_must_say_the_same() -> None:
    alone = decide(vote("alice"), (), RULES)
    assert alone[0] == (
        "the policy wants 2 independent builders for dev-libs/pcre2 (rule 'dev-libs/*')"
    )
    assert "1 said so: alice" in alone
    assert not decide(vote("alice"), (vote("bob"),), RULES)


def test_one_s_own_build_counts() -> None:
    assert not decide(vote("alice"), (vote(SELF),), RULES)


@pytest.mark.parametrize(
    "second",
    [
        vote("alice", "another key of hers"),
        vote("bob", diff_id="b"),
        replace(vote("bob"), artifact=replace(artifact(), key=OTHER_KEY)),
        replace(vote("bob"), artifact=replace(artifact(), restated=OTHER_KEY)),
    ],
    ids=["the same person", "other bytes", "another key", "only repeats"],
)
def test_who_is_no_second_builder(second: Vote) -> None:
    assert decide(vote("alice"), (second,), RULES)


def test_who_only_repeats_is_believed_where_one_is_enough() -> None:
    repeated = replace(artifact(name="app/x"), restated=OTHER_KEY)
    assert not decide(Vote("alice", "k", repeated), (), RULES)
    repeated = replace(artifact(), restated=OTHER_KEY)
    found = decide(Vote("alice", "k", repeated), (vote("bob"),), RULES)
    assert "alice only repeats another build, which is no vote" in found
    assert not decide(Vote("alice", "k", repeated), (vote("bob"), vote("carol")), RULES)


def test_contradiction_is_named_and_does_not_veto() -> None:
    others = (vote("mallory", diff_id="b"), vote("bob"))
    assert not decide(vote("alice"), others, RULES)
    (*_, said) = decide(vote("alice"), others[:1], RULES)
    assert said == "other bytes were built by: mallory"
    found = decide(vote("mallory", diff_id="b"), (vote("alice"), vote("bob")), RULES)
    assert "other bytes were built by: alice, bob" in found


def test_other_dependencies_are_no_contradiction() -> None:
    elsewhere = replace(artifact("b"), resolved={LIBRARY: {RUNTIME: Digest("8" * 64)}})
    reasons = decide(vote("alice"), (Vote("bob", "k", elsewhere),), RULES)
    assert not any("other bytes" in reason for reason in reasons)


def counted(*lines: str) -> int:
    """How many builders the lines are, each with a key of its own unless `principals=key`."""
    pairs = [(text.partition("=")[0], text.encode()) for text in lines]
    pairs = [(who, key.partition(b"=")[2] or key) for who, key in pairs]
    return len(set(persons(pairs).values()))


@pytest.mark.parametrize(
    ("lines", "people"),
    [
        (("a@x", "b@x"), 2),
        (("a@x=k", "b@x=k"), 1),
        (("a@x,b@x", "a@x"), 1),
        (("a@x", "a@x,"), 1),
        (("a@x,b@x", "b@x,a@x"), 1),
        (("*", "a@x"), 1),
        (("*@x", "a@x"), 1),
        (("a?x", "a@x"), 1),
        (("a*", "*@x"), 1),
        (("*@x", "a@y"), 2),
        (("*@x", "*@y"), 2),
        (("A@x", "a@x"), 1),
        (("a@\uff58", "a@x"), 1),
        (("!a@x,b@x", "a@x"), 1),
        (("a@x", "b@x", "a@x,b@x"), 1),
        (("a@x=1", "b@x=1", "b@x=2", "c@x=2", "d@x"), 2),
        (("a@x", "b@x", "*@y,c@z", "d@y"), 3),
        (("*a*a*a*a*a*a*a*a*b", "a" * 200), 2),
    ],
)
def test_who_could_be_counted_twice_is_one_builder(lines: tuple[str, ...], people: int) -> None:
    assert counted(*lines) == people
    assert counted(*reversed(lines)) == people


def test_a_builder_is_called_as_the_first_line_has_it_and_not_yourself() -> None:
    assert persons([(SELF, b"1"), ("me@x", b"1"), ("me@x", b"2"), ("b@x", b"3")]) == {
        b"1": "me@x",
        b"2": "me@x",
        b"3": "b@x",
    }
    assert persons([(SELF, b"1")]) == {b"1": SELF}


def test_rules_that_fit_nothing_here_are_told_of_and_case_is_an_error() -> None:
    rules = (TrustRule("x/app", 2), TrustRule("y/*", 2), TrustRule("*", 1))
    assert unused(rules, ["x/app"]) == ("y/*",)
    assert unused(rules, ["y/b"]) == ("x/app",)
    with pytest.raises(UsageError, match="does not fit x/app: case counts"):
        unused((TrustRule("x/App", 2),), ["x/app", "debian:dash"])
