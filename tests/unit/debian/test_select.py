from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from buildit.debian.packages import Indices, PackageIndex, build_index, select
from buildit.errors import UnsatisfiableError
from buildit.model.plan import DebRef
from tests.debian_maker import paragraph as p

pytestmark = pytest.mark.unit


class Choose(Protocol):
    def __call__(self, wanted: str, *suites: tuple[str, ...]) -> tuple[DebRef, ...]: ...


@pytest.fixture
def choose(tmp_path: Path) -> Iterator[Choose]:
    """Select from suites `s0`, `s1`, …, each a tuple of paragraphs."""
    opened: list[PackageIndex] = []

    def run(wanted: str, *suites: tuple[str, ...]) -> tuple[DebRef, ...]:
        for number, paragraphs in enumerate(suites):
            path = tmp_path / f"{len(opened)}.index"
            build_index(io.BytesIO("\n".join(paragraphs).encode()), path, "Packages")
            opened.append(PackageIndex(path, f"s{number}"))
        return select(wanted.split(), Indices(tuple(opened[-len(suites) :]), {}))

    yield run
    for index in opened:
        index.close()


def names(debs: tuple[DebRef, ...]) -> str:
    return " ".join(deb.name for deb in debs)


def test_closure_over_depends_and_pre_depends_alone(choose: Choose) -> None:
    suite = (
        p("aa", depends="bb (>= 1)", pre_depends="cc", recommends="rr", suggests="ss"),
        p("bb", depends="aa"),
        p("cc"),
        p("rr"),
        p("ee", essential="yes"),
    )
    assert names(choose("aa", suite)) == "aa bb cc"
    assert names(choose("aa aa bb", suite)) == "aa bb cc"
    assert choose("", suite) == ()


def test_the_highest_version_over_all_suites(choose: Choose) -> None:
    main = (p("aa", "1.9"), p("aa", "1.10~rc1"))
    security = (p("aa", "1.10"), p("bb", "1"))
    (chosen,) = choose("aa", main, security)
    assert (chosen.version, chosen.suite) == ("1.10", "s1")
    assert (chosen.path, chosen.size) == ("pool/main/a/aa/aa_1.10_amd64.deb", 1000)
    (pinned,) = choose("aa=1.9", main, security)
    assert (pinned.version, pinned.suite) == ("1.9", "s0")


def test_equal_versions_come_from_the_first_suite(choose: Choose) -> None:
    (chosen,) = choose("aa", (p("aa"),), (p("aa"),))
    assert chosen.suite == "s0"


def test_alternatives(choose: Choose) -> None:
    suite = (p("aa", depends="nn | bb | cc"), p("bb"), p("cc"), p("dd", depends="cc | bb"))
    assert names(choose("aa", suite)) == "aa bb"
    assert names(choose("aa cc", suite)) == "aa cc"
    assert names(choose("aa dd", suite)) == "aa bb dd"


def test_an_alternative_in_another_version(choose: Choose) -> None:
    suite = (p("aa", depends="bb (>= 2) | cc"), p("bb", "1"), p("cc"))
    assert names(choose("aa", suite)) == "aa cc"


def test_virtual_packages(choose: Choose) -> None:
    suite = (
        p("aa", depends="awk"),
        p("gawk", provides="awk"),
        p("mawk", provides="awk (= 2)", priority="required"),
        p("vv", depends="awk (>= 1)"),
        p("ww", depends="awk (>= 3)"),
    )
    assert names(choose("aa", suite)) == "aa mawk"
    assert names(choose("aa gawk", suite)) == "aa gawk"
    assert names(choose("vv", suite)) == "mawk vv"
    assert names(choose("awk", suite)) == "mawk"
    with pytest.raises(UnsatisfiableError, match=r"awk \(>= 3\)"):
        choose("ww", suite)


def test_a_virtual_name_that_only_an_old_version_provides(choose: Choose) -> None:
    suite = (p("aa", depends="vv"), p("bb", "1", provides="vv"), p("bb", "2"))
    with pytest.raises(UnsatisfiableError):
        choose("aa", suite)


def test_a_qualifier_is_read(choose: Choose) -> None:
    assert names(choose("aa", (p("aa", depends="perl:any (>= 1)"), p("perl")))) == "aa perl"


def test_order_does_not_matter(choose: Choose) -> None:
    suite = (p("aa", depends="xx | yy"), p("bb", depends="yy | xx"), p("xx"), p("yy"))
    assert choose("aa bb", suite) == choose("bb aa", suite)
    backwards = suite[::-1]
    assert names(choose("aa bb", suite)) == names(choose("aa bb", backwards))


def test_a_missing_dependency_names_the_chain(choose: Choose) -> None:
    suite = (p("aa", depends="bb"), p("bb", depends="cc (>= 2) | gone"), p("cc", "1"))
    with pytest.raises(UnsatisfiableError) as caught:
        choose("aa", suite)
    assert caught.value.message == "no suite has cc (>= 2) | gone; there is 1"
    assert caught.value.details == ("aa is asked for", "aa needs bb", "bb needs cc (>= 2) | gone")
    assert caught.value.exit_code == 3


def test_a_missing_name_has_a_near_one(choose: Choose) -> None:
    with pytest.raises(UnsatisfiableError) as caught:
        choose("zlibg1", (p("zlib1g"), p("zlibg")))
    assert caught.value.hint == "did you mean zlibg?"
    assert caught.value.place == "debian:zlibg1"
    with pytest.raises(UnsatisfiableError, match=r"aa \(= 3\); there is 1.0, 2"):
        choose("aa=3", (p("aa"), p("aa", "2")))
    for wrong in ("=1", "aa="):
        with pytest.raises(UnsatisfiableError, match="not a Debian package"):
            choose(wrong, (p("aa"),))


def test_a_pin_that_does_not_fit_names_both_chains(choose: Choose) -> None:
    suite = (p("aa", depends="bb (>= 2)"), p("bb", "1"), p("bb", "2"))
    with pytest.raises(UnsatisfiableError) as caught:
        choose("aa bb=1", suite)
    assert caught.value.message == "aa needs bb (>= 2), but bb 1 is chosen"
    assert caught.value.details == ("aa is asked for", "bb (= 1) is asked for")


def test_versions_that_exclude_each_other(choose: Choose) -> None:
    suite = (p("aa", depends="bb (= 1)"), p("cc", depends="bb (= 2)"), p("bb", "1"), p("bb", "2"))
    with pytest.raises(UnsatisfiableError, match="is chosen"):
        choose("aa cc", suite)


@pytest.mark.parametrize("field", ["conflicts", "breaks"])
def test_conflicts(choose: Choose, field: str) -> None:
    against: dict[str, str] = {field: "bb (<< 2)"}
    with pytest.raises(UnsatisfiableError) as caught:
        choose("aa", (p("aa", depends="bb", **against), p("bb", "1")))
    assert caught.value.message == "aa 1.0 conflicts with bb 1"
    assert caught.value.details == ("aa is asked for", "aa is asked for", "aa needs bb")
    assert names(choose("aa", (p("aa", depends="bb", **against), p("bb", "2")))) == "aa bb"


def test_nobody_conflicts_with_what_it_provides_itself(choose: Choose) -> None:
    suite = (p("aa", provides="mta", conflicts="mta"), p("bb", provides="mta"))
    assert names(choose("aa", suite)) == "aa"
    with pytest.raises(UnsatisfiableError, match=r"aa 1\.0 conflicts with bb 1\.0"):
        choose("aa bb", suite)
