"""Sources and patches that are missing, wrong, hostile, or that change under way."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.integration.compare import content
from tests.integration.program import Program
from tests.integration.refusing import (
    BUILD,
    INTEGRITY,
    NETWORK,
    RECIPE,
    Refusal,
    assert_builds,
    assert_whole,
    place_of,
    refused,
)
from tests.integration.seeds import Seed
from tests.integration.web import served
from tests.integration.world import POLITE, Project, sha256, sources

pytestmark = pytest.mark.sandbox

GREET = "greet-1.0.tar.gz"
DIGEST = sha256(sources()[GREET])


@pytest.fixture
def program(seed: Seed, here: Path) -> Program:
    """With a store that has no source yet."""
    return seed.program.with_store(seed.new_store(here))


def without_distfiles(seed: Seed, root: Path) -> Project:
    """A project whose sources are not on this machine, but whose .debs are."""
    project = seed.new_project(root)
    distfiles = project.box / "distfiles"
    distfiles.unlink()
    distfiles.mkdir()
    for path in seed.distfiles.iterdir():
        if path.suffix == ".deb":
            (distfiles / path.name).symlink_to(path)
    (distfiles / "hello-1.0.tar.gz").write_bytes(sources()["hello-1.0.tar.gz"])
    return project


def then_good(seed: Seed, program: Program, here: Path) -> None:
    """After whatever went wrong: the store is whole, and a good run gives the right images."""
    assert_whole(program, here)
    assert_builds(seed, program, seed.new_project(here / "good"), here / "out")
    assert_whole(program, here)


def served_from(seed: Seed, program: Program, here: Path, body: bytes, code: int) -> Refusal:
    """The refusal where the only location of greet's source serves `body`."""
    project = without_distfiles(seed, here / "project")
    with served({GREET: body}) as url:
        project.edit(project.recipe("libs/greet"), "https://example.org", url)
        found = refused(program, project, code)
    assert GREET in found.message
    return found


def test_no_location_serves_it(seed: Seed, here: Path, program: Program) -> None:
    project = without_distfiles(seed, here / "project")
    with served({}) as url:
        path = project.recipe("libs/greet")
        project.edit(
            path,
            "https://example.org/greet-1.0.tar.gz",
            f"{url}/{GREET}\n        mirrors: [{url}/x]",
        )
        found = refused(program, project, NETWORK)
    assert found.message.startswith(f"libs/greet-1.0: {GREET}")
    assert f"{url}/{GREET}: not found" in found.details
    assert f"{url}/x: not found" in found.details
    assert "distfiles/" in found.hint
    then_good(seed, program, here)


def test_wrong_bytes(seed: Seed, here: Path, program: Program) -> None:
    wrong = sources()[GREET] + b"\0"
    found = served_from(seed, program, here, wrong, INTEGRITY)
    assert f"expected sha256:{DIGEST}, got sha256:{sha256(wrong)}" in found.details
    then_good(seed, program, here)


def test_page_in_place_of_an_archive(seed: Seed, here: Path, program: Program) -> None:
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    found = served_from(seed, program, here, page, INTEGRITY)
    assert "HTML" in found.details
    then_good(seed, program, here)


def test_wrong_distfile_is_passed_over(seed: Seed, here: Path, program: Program) -> None:
    """A bad copy beside the container is named, and the mirror's good one is taken."""
    project = without_distfiles(seed, here / "project")
    (project.box / "distfiles" / GREET).write_bytes(b"something else")
    good = {GREET: sources()[GREET]}
    with served(good) as url:
        project.edit(
            project.recipe("libs/greet"),
            "https://example.org/greet-1.0.tar.gz",
            f"https://example.org/{GREET}\n        mirrors: [{url}/{GREET}]",
        )
        done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert f"distfiles/{GREET}: wrong bytes" in done.err


def escaping() -> dict[str, bytes]:
    """Archives that try to write outside of the source directory, by name."""

    def packed(*members: tuple[str, bytes, str]) -> bytes:
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for name, kind, text in members:
                member = tarfile.TarInfo(name)
                member.type = kind
                if kind == tarfile.REGTYPE:
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text.encode()))
                else:
                    member.linkname = text
                    tar.addfile(member)
        return plain.getvalue()

    file, link, hard = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    return {
        "parent": packed(("greet-1.0/../../../../escaped", file, "x")),
        "absolute": packed(("/tmp/buildit-escaped", file, "x")),
        "link": packed(("greet-1.0/l", link, "/tmp"), ("greet-1.0/l/buildit-escaped", file, "x")),
        "hard link": packed(("greet-1.0/h", hard, "/etc/passwd")),
        "device": packed(("greet-1.0/d", tarfile.CHRTYPE, "")),
        "truncated": packed(("greet-1.0/f", file, "x" * 5000))[:2000],
        "no archive": b"nothing that can be unpacked" * 100,
    }


@pytest.mark.parametrize("kind", sorted(escaping()))
def test_hostile_archive(seed: Seed, here: Path, program: Program, kind: str) -> None:
    body = escaping()[kind]
    project = without_distfiles(seed, here / "project")
    (project.box / "distfiles" / GREET).write_bytes(body)
    project.edit(project.recipe("libs/greet"), DIGEST, sha256(body))
    # An absolute name begins at the source, as with tar, and a device is left out: nothing is built
    # of what remains, but that is the build's matter.
    found = refused(program, project, BUILD if kind in ("absolute", "device") else INTEGRITY)
    assert found.message.startswith("libs/greet-1.0: ")
    if kind not in ("absolute", "device"):
        assert found.message.startswith(f"libs/greet-1.0: {GREET}: ")
        assert "`unpack: no`" in found.hint
    assert not Path("/tmp/buildit-escaped").exists()
    assert not list(here.rglob("escaped"))
    assert_whole(program, here)


def hunk_of(project: Project, program: Program, text: str) -> Refusal:
    project.patch.write_text(text)
    return refused(program, project, BUILD)


def test_patch_that_does_not_apply(seed: Seed, here: Path, program: Program) -> None:
    """With fuzz 0, even where only a line of context differs."""
    project = seed.new_project(here / "project")
    text = POLITE.replace("     return 0;", "     return 1;")
    found = hunk_of(project, program, text)
    everything = f"{found.message}\n{found.details}"
    assert "patches/polite.patch" in found.message
    assert "hello.c" in everything
    assert "hunk 1" in everything.lower() or "hunk #1" in everything.lower()
    then_good(seed, program, here)


def test_patch_that_is_applied_already(seed: Seed, here: Path, program: Program) -> None:
    project = seed.new_project(here / "project")
    project.edit(
        project.embedded,
        "  patches/polite.patch: Greet the reader\n",
        "  patches/polite.patch: Greet the reader\n  patches/again.patch: The same\n",
    )
    (project.patch.parent / "again.patch").write_text(POLITE)
    found = refused(program, project, BUILD)
    assert "patches/again.patch" in found.message
    assert "already" in found.message
    then_good(seed, program, here)


def test_patch_of_an_absent_file(seed: Seed, here: Path, program: Program) -> None:
    found = hunk_of(
        seed.new_project(here / "project"), program, POLITE.replace("/hello.c", "/absent.c")
    )
    assert "patches/polite.patch" in found.message
    assert "absent.c does not exist" in found.message
    assert_whole(program, here)


def test_malformed_patch(seed: Seed, here: Path, program: Program) -> None:
    project = seed.new_project(here / "project")
    project.patch.write_text(POLITE.replace("@@ -7,4 +7,4 @@", "@@ -7,9 +7,9 @@"))
    found = refused(program, project, RECIPE)
    assert place_of(found, project.patch)[0] >= 6
    assert_whole(program, here)


def with_url_patch(seed: Seed, root: Path, url: str) -> Project:
    project = seed.new_project(root)
    project.edit(project.embedded, "patches/polite.patch", f"{url}/polite.patch")
    return project


def regenerated(subject: str) -> bytes:
    """The same change, as a host regenerates it: another header, other index lines, a trailer."""
    header = f"From 1234 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nSubject: {subject}\n"
    body = POLITE.partition("\n\n")[2]
    index = "diff --git a/hello.c b/hello.c\nindex 1111111..2222222 100644\n"
    return f"{header}---\n hello.c | 2 +-\n\n{index}{body}-- \n2.39.5\n".encode()


def test_patch_by_url(seed: Seed, here: Path, program: Program) -> None:
    """Pinned by its canonical form: other bytes of the same change are the same patch."""
    bodies = {"polite.patch": POLITE.encode()}
    with served(bodies) as url:
        project = with_url_patch(seed, here / "project", url)
        run = (str(project.box), "--output", str(here / "out"))
        done = program.run(*run).good()
        key = next(line for line in done.err.splitlines() if line.startswith("HASH"))
        (line,) = [line for line in project.lock.read_text().splitlines() if url in line]
        assert line.split(" ")[3] == sha256(bodies["polite.patch"])
        lock = project.lock.read_text()

        bodies["polite.patch"] = regenerated("another header")
        other = seed.program.with_store(seed.new_store(here / "second"))
        again = other.run(*run).good()
        assert key in again.err
        assert project.lock.read_text() == lock

        bodies["polite.patch"] = POLITE.replace("dear reader", "gentle reader").encode()
        third = seed.program.with_store(seed.new_store(here / "third"))
        found = refused(third, project, INTEGRITY)
        assert f"{url}/polite.patch" in found.message
        assert "buildit lock --update" in found.hint
        assert_whole(third, here / "third")

        third.run("lock", str(project.box), "--update", f"{url}/polite.patch").good()
        assert project.lock.read_text() != lock
        last = third.run(*run).good()
        assert key not in last.err
        (oci,) = (path for path in last.images() if path.suffix == ".oci")
        assert b"gentle reader" in content(oci, "usr/bin/hello")


def test_patch_by_url_that_is_gone(seed: Seed, here: Path, program: Program) -> None:
    with served({}) as url:
        project = with_url_patch(seed, here / "project", url)
        found = refused(program, project, NETWORK)
    assert "polite.patch" in found.message
    assert_whole(program, here)


def test_place_of_a_missing_mirror_list(seed: Seed, here: Path, program: Program) -> None:
    project = without_distfiles(seed, here / "project")
    path = project.recipe("libs/greet")
    project.edit(path, "https://example.org/greet", "mirror://nowhere/greet")
    found = refused(program, project, RECIPE)
    assert "nowhere" in found.message
    if found.message.partition(":")[0].endswith("pkg.yaml"):
        assert place_of(found, path)
