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
        ({"version": "1.1"}, ("its version is 1.0, not 1.1",)),
        (
            {"patches": [{"sha256": "b", "strip": "1"}, BASE["patches"][0]]},
            ("it lacks patch patches/x.patch",),
        ),
        ({"patches": []}, ("it has 1 other patch",)),
        (
            {"patches": [{"sha256": "a", "strip": "0"}]},
            ("it lacks patch patches/x.patch", "it has 1 other patch"),
        ),
        (
            {"environment": {"USE": "ssl", "CFLAGS": "-O2"}},
            ("it lacks flag ssl", "it has flag ipv6"),
        ),
        (
            {"environment": {"USE": "ipv6", "CFLAGS": "-O3"}},
            ("environment.CFLAGS was '-O2', is '-O3'",),
        ),
        (
            {"dependencies": [{"key": Z2, "outputs": ["dev"]}]},
            (f"it was built with another build of libs/z-1.3 ({Z1[:12]})",),
        ),
        (
            {"dependencies": [{"key": Z3, "outputs": ["dev"]}]},
            ("it was built with libs/z-1.3, not libs/z-1.2",),
        ),
        (
            {"dependencies": [*BASE["dependencies"], {"key": SSL, "outputs": ["dev"]}]},
            ("it was built without libs/ssl-3.0.15",),
        ),
        ({"dependencies": []}, ("it was built with libs/z-1.3",)),
        (
            {"dependencies": [{"key": Z1, "outputs": ["runtime"]}]},
            ("it saw other outputs of libs/z-1.3",),
        ),
        (
            {"dependencies": [{"key": "9" * 64, "outputs": []}]},
            ("it was built without 999999999999", "it was built with libs/z-1.3"),
        ),
        ({"toolchain": "t2"}, ("it was built by another toolchain",)),
        (
            {"steps": configure("./configure", "--with-ssl")},
            ("its configure step lacks --with-ssl and has --prefix=/usr",),
        ),
        (
            {"steps": configure("--prefix=/usr", "./configure")},
            ("its configure step is in another order",),
        ),
        ({"steps": BASE["steps"][:1]}, ("its compile step has make",)),
        ({"sources": [{"sha256": "t"}]}, ("source #1 changed",)),
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
    assert clause.startswith("its configure step lacks 0, 1, 2, 3 and 6 more")
    (clause,) = told(steps=[*BASE["steps"], {"phase": "install", "argv": ["sh", "a\nb"]}])
    assert clause == "its install step lacks sh, another script"


def test_more_telling_differences_come_first() -> None:
    found = told("p", version="2", toolchain="t2", rules={"sandbox": "2"})
    assert found == (
        "its version is 1.0, not 2",
        "it was built by another toolchain",
        "rules.sandbox was absent, is '2'",
    )


@pytest.mark.parametrize("text", ["", "[]", "1", '{"environment": 1}', "nonsense"])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        told_differences(text, json.dumps(BASE), label)
