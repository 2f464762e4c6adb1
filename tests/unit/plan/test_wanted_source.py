"""From a pkg.yaml with a Debian source as base to what is asked of it, and to its task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.commands.rules import RULES
from buildit.digest import Digest, digest_bytes
from buildit.errors import RecipeError
from buildit.model.plan import DebRef, RunTime, Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.plan.debian_source import (
    PinnedDebianSource,
    WantedDebianSource,
    check_profiles,
    check_siblings,
    source_task,
    wanted_source,
)
from buildit.recipe.trees import Catalog

PLATFORM = PLATFORMS["linux/amd64"]
PATCH = "patches: {a.patch: Mends a}\n"


def wanted(tmp_path: Path, text: str, *packages: str) -> WantedDebianSource:
    (tmp_path / "pkg.yaml").write_text(text)
    base = Catalog(()).debian_base(tmp_path, "./pkgs/jq")
    assert base is not None
    return wanted_source(base, packages)


def deb(name: str, version: str = "1") -> DebRef:
    path = f"pool/{name}_{version}.deb"
    return DebRef(name, version, "amd64", "bookworm", path, 10, digest_bytes(path.encode()))


TOOLCHAIN = Toolchain("toolchain/debian-12", "linux/amd64", Digest("a" * 64), (deb("libc6"),))
PINNED = PinnedDebianSource(
    "1.6-2.1",
    (deb("jq_1.6-2.1.dsc"), deb("jq_1.6.orig.tar.gz")),
    (deb("base-files"), deb("libc6")),
    (deb("libonig-dev"),),
    {"jq": (deb("libc6"), deb("libonig5"))},
    (deb("libc6"), deb("libonig5"), deb("perl")),
)


def made(asked: WantedDebianSource, *patches: Digest) -> Task:
    return source_task(asked, PINNED, patches, {"jq": RunTime()}, TOOLCHAIN, PLATFORM, RULES)


@pytest.mark.parametrize(
    ("text", "profiles", "options", "suffix"),
    [
        ("base: debian:jq\n", (), ("noautodbgsym", "nocheck"), ""),
        (f"base: debian:jq\n{PATCH}", (), ("noautodbgsym", "nocheck"), "+buildit1"),
        ("base: debian:jq\nuse: {without: [doc]}\n", ("nodoc",), ..., "+buildit1"),
        ("base: debian:jq\nuse: {with: [pkg.jq.x]}\n", ("pkg.jq.x",), ..., "+buildit1"),
        ("base: debian:jq\nuse: {with: [check]}\n", (), ("noautodbgsym",), "+buildit1"),
        (
            "base: debian:jq\nuse: {without: [opt, strip]}\n",
            (),
            ("noautodbgsym", "nocheck", "noopt", "nostrip"),
            "+buildit1",
        ),
        ("base: debian:jq\nconfigure: [--x]\n", (), ..., "+buildit1"),
        (f"base: debian:jq\nversion-suffix: +corp2\n{PATCH}", (), ..., "+corp2"),
        ("base: debian:jq\nversion-suffix: ~corp\n", (), ..., "~corp"),
    ],
)
def test_what_is_asked(
    tmp_path: Path, text: str, profiles: tuple[str, ...], options: object, suffix: str
) -> None:
    found = wanted(tmp_path, text)
    assert found.profiles == profiles
    assert found.options == (("noautodbgsym", "nocheck") if options is ... else options)
    assert found.suffix == suffix


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("use: {with: [nodocs]}\n", ":2:14", "did you mean 'nodoc'?"),
        ("use: {without: [docs]}\n", ":2:17", "did you mean 'doc'?"),
        ("use: {with: [doc]}\n", "'doc'", "doc is on unless `without: [doc]` says otherwise"),
        (
            "use: {without: [pkg.jq.x]}\n",
            "'nopkg.jq.x'",
            "pkg.jq.x is off unless `with: [pkg.jq.x]` says otherwise",
        ),
    ],
)
def test_a_profile_that_is_not_declared(tmp_path: Path, text: str, message: str, hint: str) -> None:
    asked = wanted(tmp_path, f"base: debian:jq\n{text}")
    with pytest.raises(RecipeError) as caught:
        check_profiles(asked, ("nocheck", "nodoc", "pkg.jq.x"))
    assert message in f"{caught.value.place} {caught.value.message}"
    assert "declares no build profile" in caught.value.message
    assert hint in (caught.value.hint or "")


def test_profiles_that_are_declared_are_taken(tmp_path: Path) -> None:
    text = "base: debian:jq\nuse: {with: [pkg.jq.x, check], without: [doc, opt]}\n"
    check_profiles(wanted(tmp_path, text), ("nodoc", "pkg.jq.x"))


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("base: debian:Jq\n", ":1:7", "expected a Debian package"),
        ("base: debian:jq\nversion-suffix: corp\n", ":2:17", "the end of a Debian version"),
        ("base: debian:jq\nversion: 1.7\n", ":2:1", "version"),
        ("base: debian:jq\nstyle: make\n", ":2:1", "style"),
        (
            "base: debian:jq\npatches: {a.patch: {description: A, when: ssl}}\n",
            ":2:11",
            "has no condition",
        ),
        ("base: debian:jq\ndepends: {run: [iproute2]}\n", ":2:17", "expected a Debian package"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, text: str, place: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        wanted(tmp_path, text)
    assert place in str(caught.value.place)
    assert message in caught.value.message


def test_the_task(tmp_path: Path) -> None:
    asked = wanted(tmp_path, f"base: debian:jq\n{PATCH}", "jq")
    digest = Digest("b" * 64)
    task = made(asked, digest)
    assert (task.kind, task.label) == ("debian-source", "debian-source:jq-1.6-2.1+buildit1")
    assert task.inputs.chroot == (PINNED.base, PINNED.further)
    assert {one.name for one in task.inputs.beside} == {"libonig5", "perl"}
    assert [one.name for one in task.inputs.sources] == ["jq_1.6-2.1.dsc", "jq_1.6.orig.tar.gz"]
    record = json.loads(task.record)
    assert record["patches"] == [{"sha256": digest, "strip": "1"}]
    assert record["debs"] == sorted(one.digest for one in (*PINNED.base, *PINNED.further))


@pytest.mark.parametrize(
    "text",
    [
        "base: debian:jq\ndescription: Another\nauthor: Somebody\n" + PATCH,
        "base: debian:jq\npatches: {a.patch: {description: Other words, fixes: [CVE-2024-1]}}\n",
        f"base: debian:jq\n# a comment\n{PATCH}",
    ],
)
def test_what_people_are_told_is_not_in_the_key(tmp_path: Path, text: str) -> None:
    plain = made(wanted(tmp_path, f"base: debian:jq\n{PATCH}"), Digest("b" * 64))
    assert made(wanted(tmp_path, text), Digest("b" * 64)).key == plain.key


def test_the_key_does_not_change_with_what_an_image_takes(tmp_path: Path) -> None:
    text = "base: debian:jq\n"
    one = made(wanted(tmp_path, text, "jq"))
    assert made(wanted(tmp_path, text, "jq", "libjq1")).key == one.key


def test_packages_of_a_source_that_is_built_come_from_no_archive(tmp_path: Path) -> None:
    asked = wanted(tmp_path, "base: debian:jq\n")
    check_siblings([asked], [("here:1", deb("jq"))])
    sibling = replace(deb("libjq1"), path="pool/main/j/jq/libjq1_1_amd64.deb")
    with pytest.raises(RecipeError, match="debian:libjq1 is of the source jq, which ") as error:
        check_siblings([asked], [("here:1", sibling)])
    assert error.value.place == "here:1"
    assert "packages: [libjq1, …]" in str(error.value.hint)
