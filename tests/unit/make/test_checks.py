from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

import pytest
import yaml

from buildit.errors import BuildError, RecipeError
from buildit.make.capture.checks import CHECKS, Finding, Subject, findings, refuse
from buildit.make.capture.needs import looks
from buildit.model.plan import Waiver
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind
from buildit.recipe.package import Recipe
from buildit.recipe.schema import parse
from buildit.recipe.yaml.read import parse_yaml
from tests.unit.make.elves import elf

pytestmark = pytest.mark.unit

TARGET = PLATFORMS["linux/amd64"]
LIB = "usr/lib/x86_64-linux-gnu"


def checked(
    *entries: Entry,
    content: dict[str, bytes] | None = None,
    output: str = "runtime",
    declared: frozenset[str] = frozenset(),
) -> Subject:
    """The files of `content` and further entries."""
    content = content or {}
    files = [Entry(path, Kind.FILE, 0o755, size=len(data)) for path, data in content.items()]

    def open_(entry: Entry) -> BinaryIO:
        return io.BytesIO(content[entry.path])

    return Subject(
        output, (*files, *entries), open_, looks(files, open_), TARGET, (b"/build/",), declared
    )


def found(made: Subject) -> list[tuple[str, str]]:
    return [(finding.id, finding.path) for finding in findings(made)]


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def file(path: str, mode: int = 0o644) -> Entry:
    return Entry(path, Kind.FILE, mode)


def test_a_sound_output_has_no_findings() -> None:
    made = checked(
        link(f"{LIB}/libz.so.1", "libz.so.1.2.13"),
        link("usr/bin/other", "/usr/bin/elsewhere"),
        link("lib64", "usr/lib64"),
        link("usr/root", "/"),
        link("usr/bin/deep", "../../etc/x/../y"),
        file("etc/nginx/nginx.conf"),
        Entry("tmp", Kind.DIRECTORY, 0o1777),
        file("usr/bin/su", 0o4755),
        file("etc/secret", 0o600),
        file("etc/group-s", 0o664),
        file("usr/lib/none", 0o0),
        Entry("usr/local", Kind.DIRECTORY, 0o755),
        file("usr/share/grüße"),
        file("usr/lib/nginx/modules/x.so"),
        content={
            f"{LIB}/libz.so.1.2.13": elf(soname="libz.so.1", runpath="$ORIGIN"),
            "usr/bin/x": b"#!/bin/sh\necho hi\n",
            "usr/bin/p": elf(runpath="$ORIGIN/../lib/p:/usr/lib/x:/opt/y/lib"),
        },
        declared=frozenset(("tmp", "usr/bin/su")),
    )
    assert findings(made) == ()


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ("library-directory", lambda: checked(file("usr/lib/libz.so.1"))),
        ("library-directory", lambda: checked(link("usr/lib/libz.so", "libz.so.1"))),
        ("library-directory", lambda: checked(file("usr/lib64/libz.so.1.2"))),
        ("search-path", lambda: checked(content={"usr/bin/x": elf(runpath="/home/me/lib")})),
        ("search-path", lambda: checked(content={"usr/bin/x": elf(runpath="/usr/lib/../../tmp")})),
        ("search-path", lambda: checked(content={"usr/bin/x": elf(runpath="lib")})),
        ("search-path", lambda: checked(content={"usr/bin/x": elf(rpath="/usr/local/lib")})),
        ("search-path", lambda: checked(content={"usr/bin/x": elf(runpath="$ORIGIN/../../../x")})),
        ("build-path", lambda: checked(content={"usr/x": b"a" * 5000 + b"/build/src/x.c"})),
        ("build-path", lambda: checked(content={"usr/x": b"a" * ((1 << 20) - 3) + b"/build/"})),
        ("link-target", lambda: checked(link("usr/x", "/build/out/usr/y"))),
        ("link-target", lambda: checked(link("usr/x", "../../etc/y"))),
        ("link-target", lambda: checked(link("usr/x", "/../etc/y"))),
        ("interpreter", lambda: checked(content={"usr/x": b"#!python3\n"})),
        ("interpreter", lambda: checked(content={"usr/x": b"#!\n"})),
        ("interpreter", lambda: checked(content={"usr/x": b"#!/bin/sh\r\n"})),
        ("interpreter", lambda: checked(content={"usr/x": b"#! /usr/bin/env python3\r\n"})),
        ("interpreter", lambda: checked(content={"usr/x": b"#!/usr/bin/env python3 -E\n"})),
        ("set-id", lambda: checked(file("usr/su", 0o4755))),
        ("set-id", lambda: checked(file("usr/wall", 0o2755))),
        ("set-id", lambda: checked(Entry("var/x", Kind.DIRECTORY, 0o2775))),
        ("sticky", lambda: checked(Entry("var/x", Kind.DIRECTORY, 0o1755))),
        ("sticky", lambda: checked(file("usr/x", 0o1644))),
        ("world-writable", lambda: checked(Entry("var/x", Kind.DIRECTORY, 0o1777))),
        ("place", lambda: checked(file("usr/local/bin/x"))),
        ("place", lambda: checked(file("home/me/x"))),
        ("place", lambda: checked(file("tmp/x"))),
        ("place", lambda: checked(file("README"))),
        ("place", lambda: checked(file("bin/sh"))),
        ("place", lambda: checked(link("run", "var/run"))),
        ("development-in-runtime", lambda: checked(file("usr/include/z.h"))),
        ("development-in-runtime", lambda: checked(file(f"{LIB}/libz.a"))),
        ("broken-link", lambda: checked(link("usr/x", "x"))),
        ("broken-link", lambda: checked(link("usr/y", "../usr/y"))),
        ("world-writable", lambda: checked(file("etc/x", 0o666))),
        ("world-writable", lambda: checked(Entry("var/x", Kind.DIRECTORY, 0o777))),
        ("name", lambda: checked(file("usr/x\udcff"))),
        ("name", lambda: checked(file("usr/x\ny"))),
        ("name", lambda: checked(file("usr/x\x9b"))),
        ("archive-times", lambda: checked(content={f"{LIB}/x.a": ar(mtime="123")}, output="dev")),
        ("archive-times", lambda: checked(content={f"{LIB}/x.a": ar(uid="1000")}, output="dev")),
    ],
)
def test_each_rule_finds_what_it_is_for(rule: str, made: Callable[[], Subject]) -> None:
    found = findings(made())
    assert {finding.id for finding in found} == {rule}
    for finding in found:
        assert finding.message
        assert finding.hint
    if rule in ("build-path", "archive-times"):
        refuse("p", found)
    else:
        with pytest.raises(BuildError):
            refuse("p", found)


def test_an_interpreter_of_the_build_is_none() -> None:
    made = checked(content={"usr/x": b"#! /build/out/usr/bin/perl\n"})
    assert ("interpreter", "usr/x") in found(made)


def ar(*, mtime: str = "0", uid: str = "0") -> bytes:
    member = b"x.o/            %-12s%-6s0     100644  3         `\nabc\n"
    clean = member % (b"0", b"0")
    return b"!<arch>\n" + clean + member % (mtime.encode(), uid.encode()) + clean


def test_deterministic_archives_are_fine() -> None:
    assert found(checked(content={f"{LIB}/x.a": ar()}, output="dev")) == []
    assert found(checked(content={f"{LIB}/x.a": ar(mtime="1")[:70]}, output="dev")) == []


def test_development_files_belong_to_dev() -> None:
    assert found(checked(file("usr/include/z.h"), output="dev")) == []


def test_the_hint_declares_every_mode_that_has_to_be() -> None:
    made = checked(file("usr/bin/s", 0o4755), Entry("var/a b", Kind.DIRECTORY, 0o1777))
    with pytest.raises(BuildError) as caught:
        refuse("a/x", findings(made))
    hint = caught.value.hint or ""
    assert hint == (
        "install it with another mode, or declare it: "
        'files: [{path: usr/bin/s, mode: 04755}, {path: "var/a b", mode: 01777}]'
    )
    copied = hint.partition(": ")[2]
    read = recipe(f"{copied}\n")
    assert [(rule.path, rule.mode) for rule in read.files] == [
        ("usr/bin/s", 0o4755),
        ("var/a b", 0o1777),
    ]


def recipe(text: str) -> Recipe:
    """A recipe as the program reads it."""
    return parse(parse_yaml(text, "pkg.yaml"), Recipe)


def test_data_that_only_looks_like_elf_is_fine() -> None:
    assert found(checked(content={"usr/share/x": b"\x7fELF\x02\x01broken"})) == []


def test_waivers_need_the_id_and_the_path() -> None:
    made = checked(file("etc/a", 0o666), file("etc/b", 0o666))
    waiver = Waiver("world-writable", "etc/a", "shared by design")
    other = Waiver("place", "**", "nothing here")
    left = findings(made, (waiver, other))
    assert [finding.path for finding in left] == ["etc/b"]
    with pytest.raises(RecipeError, match="malformed glob"):
        findings(made, (Waiver("place", "/x", "r"),))


def test_the_hint_of_a_perl_module_in_usr_local_is_perls() -> None:
    path = "usr/local/share/perl/5.36.0/Case/X.pm"
    with pytest.raises(BuildError) as caught:
        refuse("p", findings(checked(file(path))))
    assert "perl Makefile.PL INSTALLDIRS=vendor" in (caught.value.hint or "")


def test_errors_stop_warnings_do_not() -> None:
    made = checked(file("etc/a", 0o666), file("README"))
    with pytest.raises(BuildError) as caught:
        refuse("a/nginx", findings(made))
    assert str(caught.value) == (
        "README: a/nginx: what was installed breaks a rule: a file where no package may install "
        "(and 1 more)"
    )
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("waivers: [{check: place, path: README, reason: ...}]")
    assert len(caught.value.details) == 2
    refuse("p", [Finding("build-path", "x", "m", "h")])


def test_a_waiver_of_a_hint_works_when_copied() -> None:
    for path in (
        "opx/a b",
        "opx/[x]*?",
        "opx/'\"#",
        "opx/a: b",
        "opx/{a, b}",
        "opx/\udcff",
        "opx/\n",
    ):
        made = checked(file(path))
        with pytest.raises(BuildError) as caught:
            refuse("a/x", findings(made))
        hint = caught.value.hint or ""
        (waiver,) = yaml.safe_load(hint[hint.index("waivers:") :])["waivers"]
        again = Waiver(waiver["check"], waiver["path"], waiver["reason"])
        assert again.check not in {finding.id for finding in findings(made, (again,))}, path


def test_every_rule_is_explained() -> None:
    assert len({check.__name__ for check in CHECKS.values()}) == len(CHECKS)
    assert all(check.__doc__ for check in CHECKS.values())
