from __future__ import annotations

import json
from typing import Any

import pytest

from buildit.digest import BuildKey
from buildit.plan.nearness import told_differences

pytestmark = pytest.mark.unit

Z1, Z2, Z3, SSL = (letter * 64 for letter in "1234")
LABELS = {Z1: "libs/z-1.3", Z2: "libs/z-1.3", Z3: "libs/z-1.2", SSL: "libs/ssl-3.0.15"}
BASE: dict[str, Any] = {
    "version": "1.0",
    "patches": [{"sha256": "a", "strip": "1"}],
    "sources": [{"sha256": "s"}],
    "steps": [
        {"phase": "configure", "argv": ["./configure", "--prefix=/usr"]},
        {"phase": "compile", "argv": ["make"]},
    ],
    "environment": {"USE": "ipv6", "CFLAGS": "-O2"},
    "dependencies": [{"key": Z1, "outputs": ["dev"]}],
    "toolchain": "t1",
}


def label(key: BuildKey) -> str:
    return LABELS.get(key, key[:12])


def told(*names: str, **more: Any) -> tuple[str, ...]:
    return told_differences(json.dumps(BASE), json.dumps({**BASE, **more}), label, names)


def configure(*words: str) -> list[dict[str, Any]]:
    return [{"phase": "configure", "argv": list(words)}, BASE["steps"][1]]


@pytest.mark.parametrize(
    ("more", "clauses"),
    [
        ({}, ()),
        ({"version": "1.1"}, ("version 1.0 -> 1.1",)),
        (
            {"patches": [{"sha256": "b", "strip": "1"}, BASE["patches"][0]]},
            ("patch patches/x.patch is new",),
        ),
        ({"patches": []}, ("1 patch is gone",)),
        ({"patches": [{"sha256": "a", "strip": "0"}]}, ("patch patches/x.patch changed",)),
        ({"environment": {"USE": "ssl", "CFLAGS": "-O2"}}, ("flags +ipv6 -ssl -> -ipv6 +ssl",)),
        (
            {"environment": {"USE": "ipv6", "CFLAGS": "-O3"}},
            ("environment.CFLAGS was '-O2', is '-O3'",),
        ),
        ({"dependencies": [{"key": Z2, "outputs": ["dev"]}]}, ("another build of libs/z-1.3",)),
        ({"dependencies": [{"key": Z3, "outputs": ["dev"]}]}, ("libs/z-1.3 -> libs/z-1.2",)),
        (
            {"dependencies": [*BASE["dependencies"], {"key": SSL, "outputs": ["dev"]}]},
            ("libs/ssl-3.0.15 is new",),
        ),
        ({"dependencies": []}, ("libs/z-1.3 is gone",)),
        (
            {"dependencies": [{"key": Z1, "outputs": ["runtime"]}]},
            ("it sees other outputs of libs/z-1.3",),
        ),
        (
            {"dependencies": [{"key": "9" * 64, "outputs": []}]},
            ("999999999999 is new", "libs/z-1.3 is gone"),
        ),
        ({"toolchain": "t2"}, ("another toolchain",)),
        (
            {"steps": configure("./configure", "--with-ssl")},
            ("configure: --with-ssl is new, --prefix=/usr is gone",),
        ),
        (
            {"steps": configure("--prefix=/usr", "./configure")},
            ("configure: its arguments are in another order",),
        ),
        ({"steps": BASE["steps"][:1]}, ("step compile is gone",)),
        ({"sources": [{"sha256": "t"}]}, ("source #1 changed",)),
        (
            {"sources": [{"sha256": "t", "name": "z.tgz"}]},
            ("source z.tgz is new", "source #1 is gone"),
        ),
        ({"files": [{"path": "x", "sha256": "f"}]}, ("file files/x is new",)),
        ({"rules": {"patcher": "2"}}, ("buildit's own rules changed (patcher none -> 2)",)),
    ],
)
def test_each_difference_in_words(more: dict[str, Any], clauses: tuple[str, ...]) -> None:
    assert told("patches/x.patch", **more) == clauses


def test_orders() -> None:
    two = [{"sha256": "a", "strip": "1"}, {"sha256": "b", "strip": "1"}]
    deps = [{"key": Z1, "outputs": []}, {"key": SSL, "outputs": []}]
    before = json.dumps({**BASE, "patches": two, "dependencies": deps})
    after = json.dumps({**BASE, "patches": two[::-1], "dependencies": deps[::-1]})
    assert told_differences(before, after, label) == (
        "its patches are in another order",
        "its dependencies are in another order",
    )


def test_long_arguments_are_not_spelt_out() -> None:
    (clause,) = told(steps=configure(*map(str, range(9)), "x" * 99))
    assert clause == "the script of configure changed"
    (clause,) = told(steps=configure("./configure", "--prefix=/usr", *map(str, range(9))))
    assert clause == "configure: 0, 1, 2, 3 and 5 more are new"
    (clause,) = told(steps=[*BASE["steps"], {"phase": "install", "argv": ["sh", "a\nb"]}])
    assert clause == "step install is new"


def test_more_telling_differences_come_first() -> None:
    found = told("p", version="2", toolchain="t2", rules={"sandbox": "2"})
    assert found == (
        "version 1.0 -> 2",
        "another toolchain",
        "buildit's own rules changed (sandbox none -> 2)",
    )


@pytest.mark.parametrize("text", ["", "[]", "1", '{"environment": 1}', "nonsense"])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        told_differences(text, json.dumps(BASE), label)
