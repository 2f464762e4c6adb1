from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.model.atom import Version
from tests.scale import examples

pytestmark = pytest.mark.unit


def v(text: str) -> Version:
    return Version.parse(text)


VERSIONS = st.builds(
    "{}{}{}{}{}".format,
    st.integers(0, 12).map(str) | st.sampled_from(["00", "01", "010"]),
    st.lists(st.from_regex(r"\.[0-9]{1,3}", fullmatch=True), max_size=3).map("".join),
    st.sampled_from(["", "a", "b", "w"]),
    st.lists(st.from_regex(r"_(alpha|beta|pre|rc|p)[0-9]{0,2}", fullmatch=True), max_size=2).map(
        "".join
    ),
    st.sampled_from(["", "-r0", "-r1", "-r12"]),
)


@pytest.mark.parametrize(
    "chain",
    [
        "1.0_alpha < 1.0_alpha1 < 1.0_beta < 1.0_pre < 1.0_rc1 < 1.0_rc2 < 1.0 < 1.0_p < 1.0_p1",
        "1.1.1 < 1.1.1a < 1.1.1w < 1.1.2 < 3.0.15",
        "10.5 < 10.42 < 11",
        "1.0 < 1.0-r1 < 1.0-r2 < 1.0-r10 < 1.0.0",
        "1.01 < 1.1 < 1.2 < 1.10",
        "1.001 < 1.01 < 1.011 < 1.02 < 1.1",
        "1_alpha_p < 1_alpha_p1 < 1_beta_rc < 1_beta",
        "1.0_rc_alpha < 1.0_rc < 1.0_rc_p",
        "1.2_p1_alpha < 1.2_p1 < 1.2_p1_p1 < 1.2_p2",
        "1.2 < 1.2a < 1.2.0",
        "9223372036854775807 < 9223372036854775808 < 99999999999999999999",
    ],
)
def test_order_of_pms(chain: str) -> None:
    versions = [v(text) for text in chain.split(" < ")]
    assert versions == sorted(versions)
    assert all(a < b for a, b in pairwise(versions))


@pytest.mark.parametrize(
    ("a", "b"),
    [("1.0", "1.0-r0"), ("1_p", "1_p0"), ("01", "1"), ("1.10", "1.10-r00"), ("1.010", "1.01")],
)
def test_equal_under_pms(a: str, b: str) -> None:
    assert v(a) == v(b)
    assert hash(v(a)) == hash(v(b))
    assert str(v(a)) == a


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", "its end"),
        ("1.", "'.' at column 2"),
        ("1.2x3", "'3' at column 5"),
        ("1.22.1-p1", "'-' at column 7"),
        ("v1.2", "'v' at column 1"),
        ("1.2_foo", "'_' at column 4"),
        ("1.2-r", "'-' at column 4"),
        ("1 ", "' ' at column 2"),
        ("1\n", "'\\n' at column 2"),
        ("\u0661.\u0662", "'\u0661' at column 1"),
    ],
)
def test_malformed_version_quotes_text_and_column(text: str, column: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Version.parse(text, place="pkg.yaml:3:3")
    assert str(caught.value) == f"pkg.yaml:3:3: malformed version {text!r}: unexpected {column}"
    assert caught.value.hint


def test_hints_for_what_people_write() -> None:
    with pytest.raises(RecipeError) as caught:
        v("1.22.1-p1")
    assert caught.value.hint is not None
    assert "1.22.1_p1" in caught.value.hint
    with pytest.raises(RecipeError) as caught:
        v("v3.0")
    assert caught.value.hint == "write 3.0; the sources keep upstream's own text"


def test_a_version_has_an_end() -> None:
    with pytest.raises(RecipeError, match="longer than 200"):
        v("1" * 100_000)


@pytest.mark.parametrize(
    ("pattern", "version", "expected"),
    [
        ("1.2", "1.2", True),
        ("1.2", "1.2.3", True),
        ("1.2", "1.2a", True),
        ("1.2", "1.2_rc1", True),
        ("1.2", "1.2-r3", True),
        ("1.2", "1.20", False),
        ("1.2", "1", False),
        ("1.2a", "1.2a_p1", True),
        ("1.2a", "1.2b", False),
        ("1.2a", "1.2.3a", False),
        ("1.2_rc1", "1.2_rc1-r1", True),
        ("1.2_rc1", "1.2_rc12", False),
        ("1.2_rc1", "1.2_rc1_p1", True),
        ("1.2-r1", "1.2-r1", True),
        ("1.2-r1", "1.2-r12", False),
        ("2.0_rc", "2.0_rc1", True),
        ("2.0_rc", "2.0_rc", True),
        ("2.0_rc", "2.0_rc1_p2", True),
        ("2.0_rc", "2.0_pre1", False),
        ("2.0_rc", "2.0", False),
        ("2.0_rc1_p", "2.0_rc1_p3", True),
        ("2.0_rc1_p", "2.0_rc2_p3", False),
        ("1.1-r0", "1.1-r1", False),
        ("1.1-r0", "1.1.5", False),
        ("1.1-r0", "1.1_rc1", False),
        ("1.1-r0", "1.1", True),
        ("1.1-r0", "1.1-r0", True),
    ],
)
def test_prefix_counts_components(pattern: str, version: str, expected: bool) -> None:
    assert v(version).has_prefix(v(pattern)) is expected


def test_same_upstream_ignores_the_revision_alone() -> None:
    assert v("1.2-r1").same_upstream(v("1.2-r7"))
    assert not v("1.2a").same_upstream(v("1.2"))


@settings(max_examples=examples(30))
@given(VERSIONS)
def test_text_survives(text: str) -> None:
    assert str(v(text)) == text
    assert v(text).has_prefix(v(text))
    assert v(text).same_upstream(v(text))


@pytest.mark.scale
@settings(max_examples=examples(30))
@given(st.lists(VERSIONS, min_size=3, max_size=3))
def test_order_is_total(texts: list[str]) -> None:
    a, b, c = sorted(v(text) for text in texts)
    assert a <= b <= c
    assert a <= c
    assert (a == b) is (not a < b)
    assert (a < b) is (b > a)


@settings(max_examples=examples(30))
@given(st.tuples(VERSIONS, VERSIONS))
def test_order_agrees_with_algorithm_3_1(pair: tuple[str, str]) -> None:
    a, b = pair
    expected = _pms(a, b)
    actual = (v(a) > v(b)) - (v(a) < v(b))
    assert actual == expected


def _pms(a: str, b: str) -> int:
    """PMS 3.3 word for word: an independent second implementation."""
    (an, al, asuf, ar), (bn, bl, bsuf, br) = _parts(a), _parts(b)
    steps = [
        _sign(int(an[0]), int(bn[0])),
        *(_further(x, y) for x, y in zip(an[1:], bn[1:], strict=False)),
        _sign(len(an), len(bn)),
        _sign(al, bl),
        *(_suffix(x, y) for x, y in zip(asuf, bsuf, strict=False)),
        _longer(asuf, bsuf),
        -_longer(bsuf, asuf),
        _sign(ar, br),
    ]
    return next((step for step in steps if step), 0)


def _sign(x: int | str, y: int | str) -> int:
    return (x > y) - (x < y)  # type: ignore[operator]


def _further(x: str, y: str) -> int:
    if x.startswith("0") or y.startswith("0"):
        return _sign(x.rstrip("0"), y.rstrip("0"))
    return _sign(int(x), int(y))


def _suffix(x: tuple[str, int], y: tuple[str, int]) -> int:
    order = ["alpha", "beta", "pre", "rc", "p"]
    return _sign(order.index(x[0]), order.index(y[0])) or _sign(x[1], y[1])


def _longer(a: list[tuple[str, int]], b: list[tuple[str, int]]) -> int:
    if len(a) <= len(b):
        return 0
    return 1 if a[len(b)][0] == "p" else -1


def _parts(text: str) -> tuple[list[str], str, list[tuple[str, int]], int]:
    text, _, revision = text.partition("-r")
    numbers, *suffixes = text.split("_")
    letter = numbers[-1] if numbers[-1].isalpha() else ""
    pairs = []
    for suffix in suffixes:
        name = suffix.rstrip("0123456789")
        pairs.append((name, int(suffix[len(name) :] or 0)))
    return numbers.rstrip("abw").split("."), letter, pairs, int(revision or 0)
