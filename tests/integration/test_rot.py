"""A disk that rots: no wrong byte leaves the store, and the same run makes anew what is wrong.

Judged by the images of a run before, byte for byte, and by what a build writes down.
"""

from __future__ import annotations

import filecmp
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.compare import content
from tests.integration.program import Program
from tests.integration.seeds import Seed
from tests.integration.world import Project, write

pytestmark = pytest.mark.sandbox


LIB = """\
description: What another build reads
license: MIT
versions: {1.0: {}}
style: custom
steps: {install: mkdir -p $DESTDIR/usr/share/lib; echo sound > $DESTDIR/usr/share/lib/word}
outputs: {dev: {paths: [usr/share/lib/**]}}
"""
APP = """\
description: Reads it
license: MIT
versions: {1.0: {}}
style: custom
depends: {link: [x/lib]}
steps:
  install: |
    mkdir -p $DESTDIR/usr/share/app
    sleep 0; cp /usr/share/lib/word $DESTDIR/usr/share/app/read
    echo a note > $DESTDIR/usr/share/app/note
"""
CONTAINER = """\
- vars: {author: Tester, name: rot, version: 1}
- package: {atom: x/app}
- image: {type: aci}
- image: {type: oci}
"""


@pytest.fixture
def box(seed: Seed, here: Path) -> tuple[Program, Project, Path]:
    """A project of small packages that was built in a store of its own, and its images."""
    program = seed.program.with_store(seed.new_store(here))
    project = seed.new_project(here / "project")
    write(project.root, {"tree/x/lib/pkg.yaml": LIB, "tree/x/app/pkg.yaml": APP})
    project.container.write_text(CONTAINER)
    program.run(str(project.box), "--output", str(here / "first")).good()
    return program, project, here / "first"


def blobs(program: Program, holding: bytes) -> Iterator[Path]:
    for path in sorted((program.store / "blobs/sha256").iterdir()):
        if holding in path.read_bytes():
            yield path


def change(path: Path, old: bytes, new: bytes) -> None:
    """Rot: other bytes, in a file of its own (the first store may share it)."""
    content = path.read_bytes()
    assert old in content, path
    status = path.stat()
    path.unlink()
    path.write_bytes(content.replace(old, new))
    path.chmod(status.st_mode)


def same(one: Path, two: Path) -> bool:
    """Whether two directories of images hold the same bytes."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    others = sorted(str(path.relative_to(two)) for path in two.rglob("*") if path.is_file())
    return names == others and filecmp.cmpfiles(one, two, names, shallow=False)[0] == names


def test_what_rots_in_the_store_is_made_anew_in_the_same_run(
    box: tuple[Program, Project, Path], here: Path
) -> None:
    program, project, first = box
    is_listing = b'{"entries"'
    listings = [
        p for p in blobs(program, b"usr/share/app/note") if is_listing in p.read_bytes()[:40]
    ]
    layers = [p for p in blobs(program, b"a note\n") if b"ustar" in p.read_bytes()[:300]]
    assert listings
    assert layers
    out = here / "again"
    for number, (paths, old, new) in enumerate(
        ((listings, b'"mode":"0644"', b'"mode":"4755"'), (layers, b"a note\n", b"a nota\n"))
    ):
        for path in paths:
            change(path, old, new)
        shutil.rmtree(out, ignore_errors=True)
        done = program.run(str(project.box), "--output", str(out)).good()
        assert done.err.count("is corrupt; it was set aside") == 1, done.err
        assert same(first, out), number
    program.run("store", "verify").good()
    # and in the way with nothing to do, which copies layers by itself
    shutil.rmtree(out)
    program.run(str(project.box), "--output", str(out)).good()
    change(layers[0], b"a note\n", b"a nota\n")
    shutil.rmtree(out)
    program.run(str(project.box), "--output", str(out)).good()
    assert same(first, out)


def test_a_tree_that_rots_is_filled_again_before_a_build_sees_it(
    box: tuple[Program, Project, Path], here: Path
) -> None:
    program, project, _ = box
    (word,) = (program.store / "trees").glob("*/usr/share/lib/word")
    change(word, b"sound\n", b"rotten\n")
    project.edit(project.recipe("x/app"), "sleep 0", "sleep 0.1")
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "it is filled again" in done.err
    (oci,) = (path for path in done.images() if path.suffix == ".oci")
    assert content(oci, "usr/share/app/read") == b"sound\n"
    change(word, b"sound\n", b"rotten\n")
    done = program.run("store", "verify").good()
    assert "filled again on use" in done.out + done.err


def test_parts_of_the_store_may_vanish_while_a_build_runs(
    box: tuple[Program, Project, Path], here: Path
) -> None:
    program, project, _ = box
    project.edit(project.recipe("x/app"), "sleep 0", "sleep 2")
    running = program.start(str(project.box), "--output", str(here / "out"))
    while running.poll() is None and not any((program.store / "tmp").glob("*/logs/*install")):
        time.sleep(0.05)
    for name in ("tmp", "leases", "locks"):
        shutil.rmtree(program.store / name, ignore_errors=True)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert "is made anew" in err
    program.run("store", "verify").good()
