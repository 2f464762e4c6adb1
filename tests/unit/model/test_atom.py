from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.model.atom import Atom, Operator, Version, parse_name
from tests.scale import examples

pytestmark = pytest.mark.unit


def fits(atom: Atom, name: str, version: Version, flags: Mapping[str, bool | str]) -> bool:
    """Whether a package with exactly these declared flags is what a settled atom asks for."""
    return atom.matches_version(name, version) and atom.refusal(flags) is None


V = Version.parse


def matches(atom: str, version: str, **flags: bool | str) -> bool:
    return fits(Atom.parse(atom), "dev-libs/openssl", V(version), flags)


@pytest.mark.parametrize(
    ("text", "name", "operator", "version"),
    [
        ("www-servers/nginx", "www-servers/nginx", Operator.ANY, None),
        ("www-servers/nginx-1.22.1", "www-servers/nginx", Operator.EXACT, "1.22.1"),
        (">=dev-libs/openssl-1.1.1w", "dev-libs/openssl", Operator.AT_LEAST, "1.1.1w"),
        ("<=dev-libs/pcre2-10.42-r3", "dev-libs/pcre2", Operator.AT_MOST, "10.42-r3"),
        ("~a/b-1", "a/b", Operator.UPSTREAM, "1"),
        ("=a/b-1*", "a/b", Operator.PREFIX, "1"),
        ("=a/b-1.2", "a/b", Operator.EQUAL, "1.2"),
        ("<a/b-2_rc1", "a/b", Operator.LESS, "2_rc1"),
        (">a/b-2", "a/b", Operator.GREATER, "2"),
        ("media-fonts/font-adobe-100dpi", "media-fonts/font-adobe-100dpi", Operator.ANY, None),
        ("dev-libs/libsigc++-2.10", "dev-libs/libsigc++", Operator.EXACT, "2.10"),
        ("dev-lang/python-3.11.2", "dev-lang/python", Operator.EXACT, "3.11.2"),
        ("app-text/docbook-xml-4-2.1", None, None, None),
    ],
)
def test_parts(text: str, name: str | None, operator: Operator | None, version: str | None) -> None:
    if name is None:
        with pytest.raises(RecipeError, match="two versions"):
            Atom.parse(text)
        return
    atom = Atom.parse(text)
    assert (atom.name, atom.operator) == (name, operator)
    assert atom.version == (V(version) if version else None)
    assert str(atom) == text
    assert Atom.parse(str(atom)) == atom


@pytest.mark.parametrize(
    ("atom", "yes", "no"),
    [
        ("dev-libs/openssl-3.0", ["3.0", "3.0-r0"], ["3.0-r1", "3.0.1", "2"]),
        ("=dev-libs/openssl-3.0", ["3.0"], ["3.0-r1"]),
        ("~dev-libs/openssl-3.0", ["3.0", "3.0-r4"], ["3.0.0"]),
        ("=dev-libs/openssl-3.0*", ["3.0", "3.0.15", "3.0-r1"], ["3.1", "3"]),
        (">=dev-libs/openssl-3.0", ["3.0", "3.0-r1", "4"], ["3.0_rc1", "2.9"]),
        (">dev-libs/openssl-3.0", ["3.0-r1", "3.0.1"], ["3.0", "3.0_rc1"]),
        ("<dev-libs/openssl-3.0", ["3.0_rc1", "1.1.1w"], ["3.0", "3.0-r1"]),
        ("<=dev-libs/openssl-3.0", ["3.0", "1"], ["3.0-r1"]),
        ("dev-libs/openssl", ["1", "9-r9"], []),
        (">=dev-libs/openssl-1.2 <2", ["1.2", "1.9-r3"], ["1.1", "2", "2.1"]),
        ("<dev-libs/openssl-2 >1.2 <=1.4", ["1.3", "1.4"], ["1.2", "1.4-r1", "1.5"]),
    ],
)
def test_operators(atom: str, yes: list[str], no: list[str]) -> None:
    assert [version for version in yes if not matches(atom, version)] == []
    assert [version for version in no if matches(atom, version)] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b <2", "two bounds go with '>=', '>', '<=' and '<' only, at column 1"),
        ("a/b-1 <2", "two bounds go with '>=', '>', '<=' and '<' only, at column 1"),
        ("=a/b-1* <2", "two bounds go with '>=', '>', '<=' and '<' only, at column 1"),
        (">=a/b-1 2", "a blank or control character at column 8"),
        (">=a/b-1  <2", "a blank or control character at column 8"),
        (">=a/b-1 <", "malformed version ''"),
    ],
)
def test_a_range_that_is_none(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Atom.parse(text, place="x:1:1")
    assert message in caught.value.message
    assert caught.value.hint


def test_a_range_is_one_atom() -> None:
    atom = Atom.parse(">=a/b-1.2 <2[ssl]")
    assert str(atom) == ">=a/b-1.2 <2[ssl]"
    assert fits(atom, "a/b", V("1.9"), {"ssl": True})
    assert not fits(atom, "a/b", V("1.9"), {"ssl": False})
    with pytest.raises(RecipeError, match="must be category/name"):
        parse_name(">=a/b-1.2 <2")


def test_another_name_never_matches() -> None:
    assert not fits(Atom.parse("dev-libs/openssl"), "dev-libs/libressl", V("3"), {})


@pytest.mark.parametrize(
    ("use", "flags", "refusal"),
    [
        ("[ssl]", {"ssl": True}, None),
        ("[ssl]", {"ssl": False}, "ssl is off, [ssl] is asked"),
        ("[-ssl]", {"ssl": False}, None),
        ("[-ssl]", {"ssl": True}, "ssl is on, [-ssl] is asked"),
        ("[w(+)]", {}, None),
        ("[w(-)]", {}, "w is off, [w(-)] is asked"),
        ("[-w(-)]", {}, None),
        ("[-w(+)]", {}, "w is on, [-w(+)] is asked"),
        ("[w]", {}, "it declares no flag 'w', [w] is asked"),
        ("[w(-)]", {"w": True}, None),
        ("[tls=openssl]", {"tls": "openssl"}, None),
        ("[tls=openssl]", {"tls": "gnutls"}, "tls is gnutls, [tls=openssl] is asked"),
        ("[a,-b]", {"a": True, "b": True}, "b is on, [-b] is asked"),
    ],
)
def test_flag_demands(use: str, flags: dict[str, bool | str], refusal: str | None) -> None:
    atom = Atom.parse(f"dev-libs/openssl{use}")
    assert atom.refusal(flags) == refusal
    assert fits(atom, "dev-libs/openssl", V("3"), flags) is (refusal is None)


@pytest.mark.parametrize(
    ("use", "parent", "settled"),
    [
        ("[y?]", {"y": True}, "[y]"),
        ("[y?]", {"y": False}, ""),
        ("[!y?]", {"y": True}, ""),
        ("[!y?]", {"y": False}, "[-y]"),
        ("[z=]", {"z": True}, "[z]"),
        ("[z=]", {"z": False}, "[-z]"),
        ("[!z=]", {"z": True}, "[-z]"),
        ("[!z=]", {"z": False}, "[z]"),
        ("[z(+)=]", {"z": False}, "[-z(+)]"),
        ("[tls=]", {"tls": "gnutls"}, "[tls=gnutls]"),
        ("[a,-b,c(-)]", {}, "[a,-b,c(-)]"),
    ],
)
def test_conditional_demands_settle(use: str, parent: dict[str, bool | str], settled: str) -> None:
    assert str(Atom.parse(f"a/b{use}")) == f"a/b{use}"
    assert str(Atom.parse(f"a/b{use}").settled(parent)) == f"a/b{settled}"


def test_a_condition_on_an_undeclared_own_flag_is_an_error() -> None:
    with pytest.raises(RecipeError, match="'y', which it does not declare") as caught:
        Atom.parse("a/b[y?]").settled({"ssl": True}, place="pkg.yaml:9:5")
    assert caught.value.hint == "declared: ssl"
    assert caught.value.place == "pkg.yaml:9:5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nginx", "no category before a '/' at column 1"),
        ("nginx-1.22.1", "no category before a '/' at column 1"),
        ("/nginx", "a wrong letter in the category at column 1"),
        ("a/", "a wrong letter in the name at column 3"),
        ("a/b/c", "a wrong letter in the name at column 4"),
        (">=a/b", "'>=' without a version at column 1"),
        ("a/b*", "'*' without a version at column 1"),
        ("a/b-1*", "'*' goes with '=' only, at column 6"),
        ("~a/b-1-r1", "'~' ignores revisions, yet one is given at column 7"),
        ("a/b[ssl", "']' expected at column 8"),
        ("a/b[]", "a wrong flag demand at column 5"),
        ("a/b[ssl,]", "a wrong flag demand at column 9"),
        ("a/b[ssl;x]", "a wrong flag demand at column 8"),
        ("a/b[-x?]", "a wrong flag demand '-x?' at column 5"),
        ("a/b[x,-x]", "two demands on 'x' at column 4"),
        ("a/b:0", "slots are not supported (column 4)"),
        ("!a/b", "blockers are not supported"),
        ("a b/c", "a blank or control character at column 2"),
        ("a/b\n", "a blank or control character at column 4"),
        ("debian:perl", "debian: names another collection"),
        ("a/b-1.22.1-p1", "the version from column 5 on: malformed version '1.22.1-p1'"),
        ("", "no category before a '/' at column 1"),
        ("../etc", "a wrong letter in the category at column 1"),
        ("a/..", "a wrong letter in the name at column 3"),
    ],
)
def test_malformed_atom_quotes_text_and_column(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Atom.parse(text, place="pkg.yaml:1:7")
    assert caught.value.message.startswith(f"malformed atom {text!r}: {message}")
    assert caught.value.place == "pkg.yaml:1:7"
    assert caught.value.hint


def test_base_names_one_version() -> None:
    assert parse_name("www-servers/nginx-1.22.1") == ("www-servers/nginx", V("1.22.1"))
    assert parse_name("www-servers/nginx") == ("www-servers/nginx", None)
    for text in ("=a/b-1", ">=a/b-1", "a/b[ssl]"):
        with pytest.raises(RecipeError, match="must be category/name"):
            parse_name(text)


NAMES = st.from_regex(r"[a-z][a-z0-9+_]{0,4}(-[a-z][a-z0-9]{0,3})?", fullmatch=True)
USE = st.lists(
    st.builds(
        "{0[0]}{1}{2}{0[1]}".format,
        st.sampled_from(["- ", "  ", " ?", "!?", " =", "!="]).map(
            lambda two: (two[0].strip(), two[1].strip())
        ),
        st.from_regex(r"[a-z][a-z0-9_]{0,4}", fullmatch=True),
        st.sampled_from(["", "(+)", "(-)"]),
    ),
    max_size=3,
    unique_by=lambda dep: dep.strip("-!?=()+"),
).map(lambda deps: f"[{','.join(deps)}]" if deps else "")
VERSIONS = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,2}[a-z]?(_rc[0-9])?", fullmatch=True)
ATOMS = st.builds("{}/{}{}".format, NAMES, NAMES, USE) | st.builds(
    "{}{}/{}-{}{}".format, st.sampled_from(["", "=", "~", "<", "<=", ">", ">="]), NAMES, NAMES,
    VERSIONS, USE,
)  # fmt: skip


@settings(max_examples=examples(30))
@given(ATOMS)
def test_text_survives(text: str) -> None:
    atom = Atom.parse(text)
    assert str(atom) == text
    assert Atom.parse(str(atom)) == atom


@settings(max_examples=examples(30))
@given(st.text(alphabet="ab/-1.=~<>*[],!?()+_:r \n", max_size=14))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        atom = Atom.parse(text)
    except RecipeError:
        return
    assert Atom.parse(str(atom)) == atom
    assert str(atom) == text


@pytest.mark.parametrize("use", ["[x?]", "[!x?]"])
def test_a_conditional_demand_needs_the_flag_even_where_it_asks_for_nothing(use: str) -> None:
    atom = Atom.parse(f"a/q{use}").settled({"x": use.startswith("[!")})
    assert atom.use == ()
    assert "declares no flag 'x'" in (atom.refusal({}) or "")
    assert atom.refusal({"x": False}) is None
    assert atom.refusal({"x": True}) is None


def test_a_default_stands_for_a_flag_that_is_not_declared() -> None:
    assert Atom.parse("a/q[x(+)?]").settled({"x": False}).refusal({}) is None
