from __future__ import annotations

import pytest

from buildit.errors import RecipeError
from buildit.model.use import (
    DEFAULT,
    Assignment,
    Flag,
    FlagLayer,
    FlagValue,
    Setting,
    assignment_text,
    declare,
    flag_values,
    parse_assignment,
    resolve_flags,
)

pytestmark = pytest.mark.unit

DECLARED = declare(
    [
        Flag("ipv6", True, origin="nginx/pkg.yaml:10"),
        Flag("ssl", True, origin="nginx/pkg.yaml:11"),
        Flag("selinux", origin="nginx/pkg.yaml:12"),
        Flag("tls", "openssl", ("openssl", "gnutls"), origin="nginx/pkg.yaml:13"),
    ]
)


def layer(name: str, *texts: str, every_package: bool = False) -> FlagLayer:
    wishes = tuple(parse_assignment(text, f"{name}:{i}") for i, text in enumerate(texts, 1))
    return FlagLayer(name, wishes, every_package)


def test_defaults_have_the_declaration_as_origin() -> None:
    settings = resolve_flags("a/nginx", DECLARED, [])
    assert settings["ipv6"] == Setting(True, "nginx/pkg.yaml:10", DEFAULT)
    assert flag_values(settings) == {
        "ipv6": True, "ssl": True, "selinux": False, "tls": "openssl",
    }  # fmt: skip
    assert list(settings) == ["ipv6", "ssl", "selinux", "tls"]


def test_the_last_layer_wins_and_keeps_its_origin() -> None:
    settings = resolve_flags(
        "a/nginx",
        DECLARED,
        [
            layer("config", "-ssl", "tls=gnutls", every_package=True),
            layer("pkg.yaml", "+ssl", "selinux"),
            layer("command line", "-selinux"),
        ],
    )
    assert settings["ssl"] == Setting(True, "pkg.yaml:1", "pkg.yaml")
    assert settings["selinux"] == Setting(False, "command line:1", "command line")
    assert settings["tls"] == Setting("gnutls", "config:2", "config")


def test_a_layer_for_every_package_touches_only_declared_flags() -> None:
    settings = resolve_flags("a/nginx", DECLARED, [layer("config", "+X", every_package=True)])
    assert "X" not in settings


def test_an_unknown_flag_of_a_package_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_flags("a/nginx", DECLARED, [layer("pkg.yaml", "+selinus")])
    assert str(caught.value) == "pkg.yaml:1: a/nginx declares no flag 'selinus'"
    assert caught.value.hint == "did you mean 'selinux'? declared: ipv6, selinux, ssl, tls"
    with pytest.raises(RecipeError) as caught:
        resolve_flags("a/zlib", {}, [layer("pkg.yaml", "+zzz")])
    assert caught.value.hint == "declared: none"


def test_a_layer_that_contradicts_itself_names_both_places() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_flags("a/nginx", DECLARED, [layer("use", "+ssl", "+ipv6", "-ssl")])
    assert caught.value.message == "use contradicts itself: +ssl at use:1, -ssl at use:3"
    with pytest.raises(RecipeError, match="tls=openssl at use:1, tls=gnutls at use:2"):
        resolve_flags("a/nginx", DECLARED, [layer("use", "tls=openssl", "tls=gnutls")])
    same = resolve_flags("a/nginx", DECLARED, [layer("use", "-ssl", "-ssl")])
    assert same["ssl"].value is False


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("+tls", "'tls' is a choice, not a switch", "write tls=CHOICE, one of: openssl, gnutls"),
        (
            "tls=opensll",
            "'opensll' is no choice of 'tls'",
            "did you mean tls=openssl? choices: openssl, gnutls",
        ),
        ("ssl=gnutls", "'ssl' is a switch, it takes no choice", "write +ssl or -ssl"),
    ],
)
def test_values_that_a_flag_cannot_have(text: str, message: str, hint: str) -> None:
    for every_package in (False, True):
        with pytest.raises(RecipeError) as caught:
            resolve_flags("p", DECLARED, [layer("use", text, every_package=every_package)])
        assert caught.value.message == f"p: {message}"
        assert caught.value.hint == hint
        assert caught.value.place == "use:1"


@pytest.mark.parametrize(
    ("text", "flag", "value"),
    [
        ("ssl", "ssl", True),
        ("+ssl", "ssl", True),
        ("-ssl", "ssl", False),
        ("tls=openssl-3.0", "tls", "openssl-3.0"),
        ("-x-y", "x-y", False),
        ("c++", "c++", True),
    ],
)
def test_text_form(text: str, flag: str, value: FlagValue) -> None:
    assert parse_assignment(text, "here") == Assignment(flag, value, "here")
    assert parse_assignment(assignment_text(flag, value), "here") == Assignment(flag, value, "here")


@pytest.mark.parametrize("text", ["", "+", "--ssl", "+tls=x", "ssl ", "tls=", "=x", "a b", "s\n"])
def test_malformed_text(text: str) -> None:
    with pytest.raises(RecipeError, match="malformed flag") as caught:
        parse_assignment(text, "command line")
    assert caught.value.place == "command line"


def test_a_switch_is_not_assigned() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_assignment("ssl=off", "command line")
    assert caught.value.hint == "write -ssl"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([Flag("a b")], "'a b' cannot be the name of a flag"),
        ([Flag("")], "'' cannot be the name of a flag"),
        ([Flag("a", origin="x:1"), Flag("a", origin="x:2")], "flag 'a' is declared twice"),
        ([Flag("t", True, ("x",))], "the default of flag 't': 't' is a choice, not a switch"),
        ([Flag("t", "y", ("x",))], "the default of flag 't': 'y' is no choice of 't'"),
        ([Flag("t", "x")], "the default of flag 't': 't' is a switch, it takes no choice"),
        ([Flag("t", "x", ("x", "x"))], "flag 't' lists a choice twice"),
        ([Flag("t", "x", ("x", "y z"))], "'y z' cannot be a choice of flag 't'"),
    ],
)
def test_bad_declarations(flags: list[Flag], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        declare(flags)
    assert caught.value.message == message
    assert caught.value.hint
