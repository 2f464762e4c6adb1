from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from buildit.debian.index import OpenIndex, build_index
from buildit.debian.packages import PACKAGES, Indices, PackageIndex
from buildit.debian.select import select, select_build, select_run
from buildit.debian.sources import SOURCES, SourceCandidate
from buildit.errors import IntegrityError, UnsatisfiableError
from buildit.model.plan import DebRef
from tests.debian_maker import paragraph as p
from tests.debian_maker import source_paragraph

pytestmark = pytest.mark.unit


class Choose(Protocol):
    def __call__(self, wanted: str, *suites: tuple[str, ...]) -> tuple[DebRef, ...]: ...


Open = Callable[..., Indices]


@pytest.fixture
def indices(tmp_path: Path) -> Iterator[Open]:
    """Suites `s0`, `s1`, …, each a tuple of paragraphs."""
    opened: list[PackageIndex] = []

    def make(*suites: tuple[str, ...]) -> Indices:
        for number, paragraphs in enumerate(suites):
            path = tmp_path / f"{len(opened)}.index"
            build_index(io.BytesIO("\n".join(paragraphs).encode()), PACKAGES, path, "Packages")
            opened.append(OpenIndex(path, f"s{number}", PACKAGES))
        return Indices(tuple(opened[-len(suites) :]), {}, "amd64")

    yield make
    for index in opened:
        index.close()


@pytest.fixture
def choose(indices: Open) -> Choose:
    return lambda wanted, *suites: select(wanted.split(), indices(*suites))


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
    with pytest.raises(UnsatisfiableError, match=r"aa \(= 3\); there is 1.0, 2") as caught:
        choose("aa=3", (p("aa"), p("aa", "2")))
    assert caught.value.hint == "write aa=2, or leave the version out"
    for wrong in ("=1", "aa=", "aa=-1", "aa=a:b"):
        with pytest.raises(UnsatisfiableError, match=r"not a Debian (package|version)"):
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


def test_a_conflict_with_another_architecture_is_none(choose: Choose) -> None:
    suite = (p("aa", conflicts="bb:i386, bb:x32", breaks="bb:any (<< 1)"), p("bb"))
    assert names(choose("aa bb", suite)) == "aa bb"
    for qualifier in ("", ":any", ":amd64"):
        with pytest.raises(UnsatisfiableError, match="conflicts with"):
            choose("aa bb", (p("aa", conflicts=f"bb{qualifier}"), p("bb")))


def test_what_is_of_another_architecture_cannot_be_had(choose: Choose) -> None:
    suite = (p("aa", depends="bb:i386 | cc"), p("bb"), p("cc"), p("dd", depends="bb:i386"))
    assert names(choose("aa", suite)) == "aa cc"
    with pytest.raises(UnsatisfiableError, match="bb:i386"):
        choose("bb dd", suite)


def test_what_leaves_no_choice_is_followed_first(choose: Choose) -> None:
    """An alternative that comes in for another reason of the same package is taken."""
    suite = (
        p("aa", depends="bb | cc, dd"),
        p("bb"),
        p("cc"),
        p("dd", depends="ee"),
        p("ee", depends="cc"),
    )
    assert names(choose("aa", suite)) == "aa cc dd ee"


def test_a_need_is_followed_to_its_end_before_the_next(choose: Choose) -> None:
    """As apt does: what is provided two steps away makes a later need superfluous."""
    suite = (
        p("aa", depends="dd, bb"),
        p("bb"),
        p("cc", provides="bb"),
        p("dd", depends="ee | bb"),
        p("ee", depends="cc"),
        p("ff", depends="bb, dd"),
    )
    assert names(choose("aa", suite)) == "aa cc dd ee"
    assert names(choose("ff", suite)) == "bb dd ff"


def test_a_package_is_not_asked_for_in_two_versions(choose: Choose) -> None:
    with pytest.raises(UnsatisfiableError, match=r"aa \(= 1\) is asked for, but aa 2 is chosen"):
        choose("aa aa=1", (p("aa", "1"), p("aa", "2")))


ROOT = (
    p("dpkg", essential="yes", depends="libc6"),
    p("libc6"),
    p("build-essential", depends="gcc"),
    p("gcc", "12"),
    p("gcc", "11"),
    p("debhelper", provides="debhelper-compat (= 13)"),
    p("fakeroot"),
)


def source(tmp_path: Path, **fields: str) -> SourceCandidate:
    path = tmp_path / "sources.index"
    text = source_paragraph("jq", "1.6-2", **fields)
    build_index(io.BytesIO(text.encode()), SOURCES, path, "Sources")
    with closing(OpenIndex(path, "s0", SOURCES)) as index:
        (found,) = index.named("jq")
    return found


def test_the_root_of_a_build(indices: Open, tmp_path: Path) -> None:
    suite = (
        *ROOT,
        p("aa", depends="libc6, bb"),
        p("bb"),
        p("cc"),
        p("tests"),
        p("strace", "1"),
        p("strace", "2"),
    )
    wanted = source(
        tmp_path,
        build_depends="debhelper-compat (= 13), aa:native [linux-any], gone [hurd-any]",
        build_depends_arch="tests <!nocheck>, cc <pkg.jq.more>",
        build_depends_indep="gcc (>= 12)",
    )
    base, further = select_build(wanted, (), (), indices(suite))
    assert names(base) == "build-essential debhelper dpkg fakeroot gcc libc6"
    assert names(further) == "aa bb tests"
    same, further = select_build(wanted, ("nocheck", "pkg.jq.more"), ("strace=1",), indices(suite))
    assert same == base
    assert names(further) == "aa bb cc strace"
    assert further[-1].version == "1"


def test_the_root_does_not_depend_on_what_is_built_in_it(indices: Open, tmp_path: Path) -> None:
    """It is shared: a source that needs another version of it cannot be built there."""
    suite = (*ROOT, p("gcc-any", depends="gcc (<< 12)"))
    for wanted in ({"build_depends": "gcc (<< 12)"}, {"build_depends": "gcc-any"}):
        with pytest.raises(UnsatisfiableError, match=r"needs gcc \(<< 12\), but gcc 12 is chosen"):
            select_build(source(tmp_path, **wanted), (), (), indices(suite))
    with pytest.raises(UnsatisfiableError, match=r"gcc \(= 11\) is asked for, but gcc 12 is"):
        select_build(source(tmp_path), (), ("gcc=11",), indices(suite))


def test_a_build_that_cannot_be_had_names_the_chain(indices: Open, tmp_path: Path) -> None:
    suite = (*ROOT, p("aa", depends="bb (>= 2)"), p("bb", "1"))
    with pytest.raises(UnsatisfiableError) as caught:
        select_build(source(tmp_path, build_depends="aa"), (), (), indices(suite))
    assert str(caught.value) == (
        "debian:jq=1.6-2: what its build needs cannot be had: no suite has bb (>= 2); there is 1"
    )
    assert caught.value.details == ("src:jq is asked for", "src:jq needs aa", "aa needs bb (>= 2)")


def test_build_conflicts(indices: Open, tmp_path: Path) -> None:
    suite = (*ROOT, p("aa", depends="bb"), p("bb"))
    relations = {"build_depends": "aa", "build_conflicts": "bb (<< 2) [amd64] <!pkg.jq.bb>"}
    wanted = source(tmp_path, **relations)
    with pytest.raises(UnsatisfiableError, match=r"src:jq 1\.6-2 conflicts with bb 1\.0"):
        select_build(wanted, (), (), indices(suite))
    assert names(select_build(wanted, ("pkg.jq.bb",), (), indices(suite))[1]) == "aa bb"


def test_a_build_relation_that_cannot_be_read(indices: Open, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not a package relation") as caught:
        select_build(source(tmp_path, build_depends="aa <"), (), (), indices(ROOT))
    assert caught.value.place == "debian:jq=1.6-2"


def test_what_is_essential_in_one_suite_alone(indices: Open, tmp_path: Path) -> None:
    found = indices((*ROOT, p("aa", essential="no")), (p("bb", essential="yes"),))
    assert found.essential() == ("bb", "dpkg")
    assert "bb" in names(select_build(source(tmp_path), (), (), found)[0])


def test_run_time_needs_of_a_build_of_ours(indices: Open) -> None:
    """Siblings are of the same build: never the archive's, whoever needs them."""
    suite = (
        p("libc6"),
        p("perl"),
        p("nginx", "1"),
        p("nginx-common", "1"),
        p("mod", depends="nginx (>= 1), nginx-abi-9, perl"),
        p("other", provides="nginx-abi-9"),
    )
    fields = ["nginx-common (= 1.1+buildit1), libc6", "mod | nginx-gone"]
    siblings = ("nginx", "nginx-common", "nginx-abi-9")
    found = select_run("nginx", "1.1+buildit1", fields, indices(suite), siblings)
    assert names(found) == "libc6 mod perl"
    with pytest.raises(UnsatisfiableError) as caught:
        select_run("nginx", "1.1+buildit1", ["gone"], indices(suite), siblings)
    assert caught.value.details == ("nginx is asked for", "nginx needs gone")
    with pytest.raises(IntegrityError, match="not a package relation"):
        select_run("nginx", "1.1+buildit1", ["a b"], indices(suite), siblings)


def test_what_breaks_older_versions_of_a_build_of_ours(indices: Open) -> None:
    suite = (p("libc6"), p("init", breaks="chrony (<< 4.1)"))
    found = select_run("chrony", "4.6-3", ["libc6, init"], indices(suite), ("chrony",))
    assert names(found) == "init libc6"
    with pytest.raises(UnsatisfiableError, match=r"init 1\.0 conflicts with chrony 4\.0"):
        select_run("chrony", "4.0", ["libc6, init"], indices(suite), ("chrony",))
