"""Which toolchain a container is made with: one, whoever names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.commands.choose import Choice, choose
from buildit.commands.pins import Answer, pin_debs
from buildit.commands.run import Options, opened_run
from buildit.debian.apt import AptSource
from buildit.debian.archive import DebianArchive
from buildit.errors import BuilditError, RecipeError, UnsatisfiableError
from buildit.events import silent
from buildit.model.config import Config
from buildit.plan.lock import Lock, Section
from buildit.plan.tasks import Pinned
from buildit.recipe.config import Loaded
from buildit.store.cas import Store
from tests.debian_maker import NOW, Archive, paragraph
from tests.fakes import FakeTransport
from tests.planning import TOOLCHAIN, Checkout, checkout

pytestmark = pytest.mark.unit

LIB = "description: A library\nversions: {1.0: {}}\n"
TWELVE, THIRTEEN = "toolchain/debian-12", "toolchain/debian-13"
NEWER = f"toolchain: {THIRTEEN}\n"
STEP = f"- {NEWER}"
OF_TREE = "- package: {atom: dev/lib}\n"
OF_DEBIAN = "- package: {debian: jq}\n"
EMBEDDED = "- package: {type: embedded, path: ./mine}\n"


def chosen(root: Path, steps: str, mine: str = "", toolchain: str = TOOLCHAIN) -> Choice:
    made: Checkout = checkout(root)
    made.write(f"pkgs/{TWELVE}/pkg.yaml", toolchain)
    made.write(
        f"pkgs/{THIRTEEN}/pkg.yaml", TOOLCHAIN.replace("[bookworm]", "[trixie, trixie-security]")
    )
    made.write("pkgs/dev/lib/pkg.yaml", LIB)
    made.write("pkgs/dev/user/pkg.yaml", LIB + "depends: {link: [dev/lib]}\n")
    if mine:
        made.write("container/mine/pkg.yaml", mine)
    made.write("container/container.yaml", "- vars: {name: web, version: 1}\n" + steps)
    return choose(Options(made.container), Loaded(Config(root / "store", 1, (root / "pkgs",)), ()))


@pytest.mark.parametrize(
    ("steps", "mine", "expected"),
    [
        ("", "", TWELVE),
        (OF_TREE + OF_DEBIAN, "", TWELVE),
        (STEP, "", THIRTEEN),
        (STEP + OF_DEBIAN, "", THIRTEEN),
        (OF_TREE + STEP, "", THIRTEEN),
        (STEP + STEP + EMBEDDED, f"base: dev/lib-1.0\n{NEWER}", THIRTEEN),
        (EMBEDDED, f"base: dev/user-1.0\n{NEWER}", THIRTEEN),
        (EMBEDDED, f"base: debian:tini\n{NEWER}", THIRTEEN),
        (EMBEDDED + STEP, "base: debian:tini\n", THIRTEEN),
        (EMBEDDED, "base: debian:tini\n", TWELVE),
    ],
)
def test_who_names_it_names_it_for_all(
    tmp_path: Path, steps: str, mine: str, expected: str
) -> None:
    found = chosen(tmp_path, steps, mine)
    suites = {TWELVE: ("bookworm",), THIRTEEN: ("trixie", "trixie-security")}
    assert (found.toolchain, found.chroot.debian.suites) == (expected, suites[expected])


@pytest.mark.parametrize(
    ("steps", "mine", "second"),
    [
        (EMBEDDED, "base: debian:tini\n", "container.yaml:4:3"),
        (EMBEDDED, "base: dev/lib-1.0\n", "container.yaml:4:3"),
        (EMBEDDED, f"base: debian:tini\n{NEWER}", "./mine"),
        (EMBEDDED, f"base: dev/lib-1.0\n{NEWER}", "dev/lib"),
    ],
)
def test_one_container_one_release(tmp_path: Path, steps: str, mine: str, second: str) -> None:
    older = f"- toolchain: {TWELVE}\n"
    both = older + steps + ("" if NEWER in mine else STEP)
    with pytest.raises(UnsatisfiableError, match="one container, two toolchains") as caught:
        chosen(tmp_path, both, mine)
    first = "container.yaml:2:3"
    assert f"{first} ({TWELVE}) and " in caught.value.message
    assert f"{second} ({THIRTEEN})" in caught.value.message
    assert (caught.value.hint or "").startswith("an image has one glibc")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("- toolchain: toolchain/debian-31\n", "did you mean toolchain/debian-13"),
        ("- toolchain: dev/lib\n", "dev/lib is no toolchain"),
        ("- toolchain: [toolchain/debian-13]\n", "container.yaml:2:14"),
    ],
)
def test_what_is_no_toolchain(tmp_path: Path, step: str, said: str) -> None:
    with pytest.raises(BuilditError) as caught:
        chosen(tmp_path, step)
    assert said in f"{caught.value} {caught.value.hint}"


def test_it_is_known_before_the_packages_are(tmp_path: Path) -> None:
    asks = "- toolchain: \"toolchain/debian-{{ packages['dev/lib'].version }}\"\n"
    with pytest.raises(RecipeError, match="is not known before") as caught:
        chosen(tmp_path, OF_TREE + asks)
    assert "`toolchain`" in (caught.value.hint or "")


def pinned(
    tmp_path: Path, steps: str, locked: Section | None = None
) -> tuple[Pinned, Mapping[str, Answer]]:
    """What is chosen from two suites, none of the toolchain's own .debs being of the second."""
    first = Archive(packages=tuple(paragraph(name) for name in ("gcc", "jq", "libc6")))
    second = Archive(
        uri=f"{first.uri}-security",
        codename="bookworm-security",
        packages=(paragraph("jq", "1.0+deb12u1"),),
    )
    served = FakeTransport({**first.urls(), **second.urls()})
    sources = [AptSource(first.uri, first.codename, ("main",))]
    archive = DebianArchive(sources, served, tmp_path / "cache", [first.key.armored], NOW)
    both = TOOLCHAIN.replace("[bookworm]", "[bookworm, bookworm-security]")
    lock = Lock({"linux/amd64": locked or Section()})
    asked = replace(chosen(tmp_path, steps, toolchain=both), lock=lock)
    with (
        Store.open(tmp_path / "store") as store,
        opened_run(Config(tmp_path / "store", 1, ()), store, silent) as run,
    ):
        run.downloads._archive = archive
        return pin_debs(asked, run.downloads)


def test_all_suites_of_the_toolchain_count(tmp_path: Path) -> None:
    found, answers = pinned(tmp_path, OF_DEBIAN)
    assert {deb.suite for deb in found.toolchain.debs} == {"bookworm"}
    (jq,) = answers["debian:jq"].debs
    assert (jq.version, jq.suite) == ("1.0+deb12u1", "bookworm-security")


def test_a_lock_whose_rows_were_taken_out_is_chosen_anew(tmp_path: Path) -> None:
    _, first = pinned(tmp_path / "first", OF_DEBIAN)
    requests = {asker: answer.request for asker, answer in first.items()}
    _, again = pinned(tmp_path / "again", OF_DEBIAN, Section(requests=requests))
    assert again == first


def test_a_package_in_the_version_that_is_named(tmp_path: Path) -> None:
    _, answers = pinned(tmp_path, "- package: {debian: jq, version: 1.0}\n")
    assert [one.version for one in answers["debian:jq=1.0"].debs] == ["1.0"]


@pytest.mark.parametrize(
    ("step", "message", "hint"),
    [
        ("{debian: jqq}", "no suite has a package jqq", "did you mean jq?"),
        ("{debian: jq, version: 2}", "no suite has jq (= 2)", "write jq=1.0+deb12u1"),
        ("{debian: jq=1.0, version: 1.0}", "has a version already", "leave one"),
        ("{debian: jq, version: -1}", "a version of a Debian package", "write it whole"),
        ("{debian: 'debian:jq'}", "the name of a Debian package", "write nginx"),
    ],
)
def test_what_is_no_debian_package_is_said_where_it_is_written(
    tmp_path: Path, step: str, message: str, hint: str
) -> None:
    with pytest.raises(BuilditError) as caught:
        pinned(tmp_path, f"- package: {step}\n")
    assert "container.yaml:2:" in (caught.value.place or "")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
