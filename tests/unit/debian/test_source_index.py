"""Source packages: read from a Sources index, chosen, and their files asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildit.debian.archive import is_served
from buildit.debian.index import OpenIndex, build_index
from buildit.debian.sources import (
    SOURCES,
    MadePackage,
    SourceCandidate,
    SourceFile,
    Sources,
    declared_profiles,
    missing_files,
)
from buildit.errors import FetchError, IntegrityError, UnsatisfiableError
from buildit.remote.transport import LocationError
from tests.debian_maker import source_paragraph as p
from tests.fakes import FakeTransport

pytestmark = pytest.mark.unit

Opened = Callable[..., Sources]

PACKAGE_LIST = """
 jq deb utils optional arch=any
 jq-doc deb doc optional arch=all profile=!nodoc
 jq-udeb udeb debian-installer optional arch=linux-any profile=!noudeb,!stage1
 libjq1-32 deb libs optional arch=amd64,arm64 profile=!stage1+pkg.jq.multi,cross
 libjq1-hurd deb libs optional arch=hurd-any"""


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Opened]:
    """The sources of suites `s0`, `s1`, …, each a tuple of paragraphs."""
    opened: list[OpenIndex[SourceCandidate]] = []

    def make(*suites: tuple[str, ...]) -> Sources:
        for number, paragraphs in enumerate(suites):
            path = tmp_path / f"{len(opened)}.index"
            build_index(io.BytesIO("\n".join(paragraphs).encode()), SOURCES, path, "Sources")
            opened.append(OpenIndex(path, f"s{number}", SOURCES))
        return Sources(tuple(opened[-len(suites) :]), {})

    yield make
    for index in opened:
        index.close()


def test_what_is_read(sources: Opened) -> None:
    one = p(
        "jq",
        "1:1.6-2",
        package_list=PACKAGE_LIST,
        build_depends="debhelper-compat (= 13),\n libonig-dev <!pkg.jq.small>",
        build_depends_arch="flex,",
        build_depends_indep="ruby [!hurd-any]",
        build_conflicts="aa (<< 1)",
        build_conflicts_arch="bb",
        testsuite="autopkgtest",
    )
    found = sources((one,)).choose("jq")
    assert (found.name, found.version, found.suite) == ("jq", "1:1.6-2", "s0")
    assert found.format == "3.0 (quilt)"
    assert found.place == "debian:jq=1:1.6-2"
    assert [file.name for file in found.files] == [
        "jq_1.6-2.dsc",
        "jq_1.6-2.debian.tar.xz",
        "jq_1.6.orig.tar.gz",
    ]
    assert {(file.path.rpartition("/")[0], file.size) for file in found.files} == {
        ("pool/main/j/jq", 1000)
    }
    assert " ".join(found.build_depends.split()) == (
        "debhelper-compat (= 13), libonig-dev <!pkg.jq.small>, flex,, ruby [!hurd-any]"
    )
    assert found.build_conflicts == "aa (<< 1), bb"
    assert found.packages[3] == MadePackage(
        "libjq1-32", "deb", ("amd64", "arm64"), (("!stage1",), ("pkg.jq.multi", "cross"))
    )


def test_what_a_build_makes(sources: Opened) -> None:
    found = sources((p("jq", package_list=PACKAGE_LIST),)).choose("jq")
    assert found.made("amd64", ()) == ("jq", "jq-doc", "libjq1-32")
    assert found.made("amd64", ("nodoc", "stage1")) == ("jq",)
    assert found.made("arm64", ("stage1", "cross", "pkg.jq.multi")) == ("jq", "jq-doc", "libjq1-32")
    assert found.made("hurd-i386", ("nodoc",)) == ("jq", "libjq1-hurd")


def test_an_old_source_lists_its_packages_by_name_alone(sources: Opened) -> None:
    found = sources((p("jq", binary="jq,\n libjq1", package_list=""),)).choose("jq")
    assert found.made("amd64", ()) == ("jq", "libjq1")


def test_declared_profiles(sources: Opened) -> None:
    relations = {"build_depends": "a <!nocheck> <!pkg.jq.small x>", "build_conflicts": "b <cross>"}
    found = sources((p("jq", package_list=PACKAGE_LIST, **relations),)).choose("jq")
    profiles = "cross nocheck nodoc noudeb pkg.jq.multi pkg.jq.small stage1 x"
    assert declared_profiles(found) == tuple(profiles.split())
    bad = sources((p("jq", build_depends="a <b"),)).choose("jq")
    with pytest.raises(IntegrityError, match="not a package relation"):
        declared_profiles(bad)


def test_the_highest_version_or_the_one_asked_for(sources: Opened) -> None:
    found = sources((p("jq", "1.6-2"), p("jq", "1.10~rc1")), (p("jq", "1.10"), p("jq", "1.6-2")))
    assert [
        (one.version, one.suite) for one in (found.choose("jq"), found.choose("jq", "1.6-2"))
    ] == [("1.10", "s1"), ("1.6-2", "s0")]
    with pytest.raises(UnsatisfiableError) as caught:
        found.choose("jq", "2")
    assert caught.value.place == "debian:jq=2"
    assert "there is 1.10 (s1), 1.10~rc1 (s0), 1.6-2 (s0), 1.6-2 (s1)" in caught.value.message
    assert caught.value.hint == (
        "write base: debian:jq=1.10, or leave the version out for the highest; that of another "
        "release of Debian comes with its toolchain (`toolchain:`)"
    )


def test_a_format_that_nobody_unpacks_here(sources: Opened) -> None:
    odd = p("odd", "1-1").replace("3.0 (quilt)", "3.0 (git)")
    opened = sources((odd, p("odd", "0-1")))
    with pytest.raises(UnsatisfiableError, match=r"format '3\.0 \(git\)' is none of") as error:
        opened.choose("odd")
    assert error.value.place == "debian:odd=1-1"
    assert "3.0 (quilt)" in str(error.value.hint)
    assert opened.choose("odd", "0-1").format == "3.0 (quilt)"


def test_what_is_kept_for_others_alone_is_not_chosen(sources: Opened) -> None:
    kept = p("jq", "2", extra_source_only="yes", binary="jq, libjq9")
    assert sources((p("jq", "1"), kept)).choose("jq").version == "1"
    for version in ("", "2"):
        with pytest.raises(UnsatisfiableError):
            sources((kept,)).choose("jq", version)
    with pytest.raises(UnsatisfiableError, match="no suite has such a source package"):
        sources((kept,)).choose("libjq9")


def test_unknown_names(sources: Opened) -> None:
    found = sources((p("nginx"), p("nginy"), p("tini")), (p("pcre3", binary="libpcre3-dev, x"),))
    with pytest.raises(UnsatisfiableError) as caught:
        found.choose("ngnix")
    assert caught.value.hint == "did you mean nginx or nginy?"
    assert (caught.value.place, caught.value.exit_code) == ("debian:ngnix", 3)
    with pytest.raises(UnsatisfiableError) as caught:
        found.choose("libpcre3-dev")
    assert caught.value.message == "is a binary package, which the source package pcre3 makes"
    assert caught.value.hint == "write base: debian:pcre3"
    with pytest.raises(UnsatisfiableError) as caught:
        found.choose("qqqqqqqqqqqq")
    assert caught.value.hint == "check the name and the suites"


@pytest.mark.parametrize(
    "text",
    [
        p("Aa"),
        p("aa", "1 2"),
        p("aa", directory="/pool/x"),
        p("aa", directory="pool/../../x"),
        p("aa", checksums_sha256=f" {'0' * 63} 1 a.dsc"),
        p("aa", checksums_sha256=f" {'0' * 64} -1 a.dsc"),
        p("aa", checksums_sha256=f" {'0' * 64} 1 a.tar"),
        p("aa", checksums_sha256=f" {'0' * 64} 1 a.dsc\n {'0' * 64} 1 b.dsc"),
        p("aa", checksums_sha256=f" {'0' * 64} 1 ../a.dsc"),
        p("aa", checksums_sha256=""),
        p("aa", package_list=" aa deb utils"),
    ],
)
def test_malformed_paragraphs(tmp_path: Path, text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        build_index(io.BytesIO(text.encode()), SOURCES, tmp_path / "x.index", "Sources")
    assert caught.value.place == "Sources"


def test_every_file_is_asked_for_and_nobody_steps_down(sources: Opened) -> None:
    found = sources((p("jq", "1-1"), p("jq", "2-1")), (p("jq", "3-1"),))
    source, asked = found.choose("jq"), []

    def exists(file: SourceFile) -> bool:
        asked.append(file.name)
        return file.name not in ("jq_3-1.dsc", "jq_3.orig.tar.gz", "jq_2-1.debian.tar.xz")

    with pytest.raises(FetchError) as caught:
        found.check_files(source, exists)
    assert asked[:3] == ["jq_3-1.dsc", "jq_3-1.debian.tar.xz", "jq_3.orig.tar.gz"]
    assert str(caught.value) == (
        "debian:jq=3-1: the archive lists jq 3-1 but no place has jq_3-1.dsc"
    )
    assert caught.value.hint == "write base: debian:jq=1-1"
    assert caught.value.details == (
        "missing: pool/main/j/jq/jq_3-1.dsc",
        "missing: pool/main/j/jq/jq_3.orig.tar.gz",
    )
    with pytest.raises(FetchError) as caught:
        found.check_files(source, lambda _: False)
    assert (caught.value.hint or "").startswith("no other version can be had;")
    found.check_files(source, lambda _: True)
    assert missing_files(source, lambda _: True) == ()


def test_is_served() -> None:
    urls = ("https://a.example/x", "https://b.example/x")
    assert is_served(FakeTransport({urls[1]: b"abc"}), urls, 3)
    assert not is_served(FakeTransport({}), urls, 3)
    for body in (b"ab", b"abcd"):
        assert not is_served(FakeTransport({urls[0]: body}), urls, 3)
    down = LocationError(urls[0], "no route to host")
    assert is_served(FakeTransport({urls[0]: down, urls[1]: b"abc"}), urls, 3)
    with pytest.raises(LocationError, match="no route"):
        is_served(FakeTransport({urls[0]: down}), urls, 3)
