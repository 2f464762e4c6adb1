"""Relations of a source package's build: for architectures, for build profiles, alternatives."""

from __future__ import annotations

import pytest

from buildit.debian.relations import concerns, profiles_named, reduced

pytestmark = pytest.mark.unit


def text(field: str, *profiles: str, arch: str = "amd64") -> str:
    groups = reduced(field, arch, profiles)
    return ", ".join(" | ".join(map(str, group)) for group in groups)


@pytest.mark.parametrize(
    ("terms", "architectures"),
    [
        ("", "amd64 i386 arm64 armhf kfreebsd-amd64 hurd-i386"),
        ("any", "amd64 i386 arm64 armhf kfreebsd-amd64 hurd-i386"),
        ("amd64", "amd64"),
        ("amd64 i386", "amd64 i386"),
        ("!i386", "amd64 arm64 armhf kfreebsd-amd64 hurd-i386"),
        ("!i386 !amd64", "arm64 armhf kfreebsd-amd64 hurd-i386"),
        ("linux-any", "amd64 i386 arm64 armhf"),
        ("!linux-any", "kfreebsd-amd64 hurd-i386"),
        ("hurd-any", "hurd-i386"),
        ("any-amd64", "amd64 kfreebsd-amd64"),
        ("any-i386", "i386 hurd-i386"),
        ("any-arm", "armhf"),
        ("any-armhf", ""),
        ("gnu-any-any", "amd64 i386 arm64 armhf kfreebsd-amd64 hurd-i386"),
        ("musl-any-any", ""),
        ("eabihf-gnu-linux-any", "armhf"),
        ("kfreebsd-amd64", "kfreebsd-amd64"),
        ("all", ""),
    ],
)
def test_architectures(terms: str, architectures: str) -> None:
    every = ["amd64", "i386", "arm64", "armhf", "kfreebsd-amd64", "hurd-i386"]
    assert " ".join(one for one in every if concerns(terms.split(), one)) == architectures


def test_what_is_for_another_architecture_is_left_out() -> None:
    field = "a [amd64], b [!amd64 !i386], c (>= 1) [linux-any] | d [hurd-any], e[any-arm]"
    assert text(field) == "a, c (>= 1)"
    assert text(field, arch="armhf") == "b, c (>= 1), e"
    assert text(field, arch="hurd-i386") == "b, d"


@pytest.mark.parametrize(
    ("formula", "profiles", "there"),
    [
        ("<!nocheck>", "", True),
        ("<!nocheck>", "nocheck", False),
        ("<!nocheck>", "nodoc", True),
        ("<stage1>", "", False),
        ("<stage1>", "stage1", True),
        ("<!a !b>", "", True),
        ("<!a !b>", "b", False),
        ("<!a> <!b>", "b", True),
        ("<!a> <!b>", "a b", False),
        ("<!a !b> <c>", "a", False),
        ("<!a !b> <c>", "a c", True),
        ("<!nocheck !pkg.x.y>", "pkg.x.y", False),
    ],
)
def test_profiles(formula: str, profiles: str, there: bool) -> None:
    assert text(f"a {formula}, b", *profiles.split()) == ("a, b" if there else "b")


def test_all_of_it_at_once() -> None:
    field = """
     libfoo-dev:native (>= 1.2~) [amd64 arm64] <!nocheck !stage1> <cross>,
     python3:any (<< 4) | python3-all [!hurd-any],
     gcc:i386,
    """
    whole = "libfoo-dev (>= 1.2~), python3:any (<< 4) | python3-all, gcc:i386"
    assert text(field) == whole
    assert text(field, "stage1", arch="hurd-i386") == "python3:any (<< 4), gcc:i386"
    assert text("") == text(" , ") == ""


def test_profiles_that_are_named_in_either_sign() -> None:
    field = "a <!nocheck> <pkg.b.c !nodoc>, b | c <cross>, d (<< 1), e [!i386] <!nodoc>"
    assert profiles_named(field) == {"nocheck", "pkg.b.c", "nodoc", "cross"}


@pytest.mark.parametrize(
    "field",
    [
        "a <b",
        "a [amd64",
        "a [x] (>= 1)",
        "a <b> [amd64]",
        "A",
        "a <<!b>>",
        "a (1)",
        "a b",
        "a" + " " * 300_000 + "b",
    ],
)
def test_what_is_no_relation(field: str) -> None:
    with pytest.raises(ValueError, match="not a package relation"):
        reduced(field, "amd64", ())


def test_order_of_excluded_and_named() -> None:
    """dpkg's rule: the first that fits says so."""
    assert concerns(["amd64", "!amd64"], "amd64")
    assert not concerns(["!amd64", "any"], "amd64")
