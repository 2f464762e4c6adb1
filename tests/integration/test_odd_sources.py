"""Sources as upstreams publish them, odd ones too, from `distfiles/` into a build."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from buildit.archive.unpack import SETTLED
from tests.integration.compare import content
from tests.integration.refusing import RECIPE, refused
from tests.integration.seeds import Seed
from tests.integration.world import Project, sha256
from tests.unit.archive.tarmaker import END, file, header, symlink

pytestmark = pytest.mark.sandbox

IN_2049 = 2_500_000_000
TOOL = b"#!/bin/sh\necho tool\n"
ODD = {
    # a link out, one to itself, a FIFO, a time in the future, a member twice; no end mark
    "odd-1.tar.gz": gzip.compress(
        file(b"odd-1/configure", b"#!/bin/sh\n", mode=0o755, mtime=IN_2049)
        + file(b"odd-1/a", b"old")
        + symlink(b"odd-1/out", b"/usr/share/install-sh")
        + symlink(b"odd-1/self", b"self")
        + header(b"odd-1/fifo", b"6")
        + file(b"odd-1/a", b"new", mtime=1)
        + file(b"odd-1/over", b"first")
    ),
    "over-1.tar": file(b"over-1/over", b"second") + END,
    "tool.sh.gz": gzip.compress(TOOL),
    "raw.jar": b"PK\3\4 no archive that we look into",
}
SOURCES = """
    sources:
      - {url: https://example.org/odd-1.tar.gz, sha256: %(odd-1.tar.gz)s}
      - {url: https://example.org/over-1.tar, sha256: %(over-1.tar)s}
      - {url: https://example.org/tool.sh.gz, sha256: %(tool.sh.gz)s, directory: bin}
      - {url: "https://example.org/get?n=7", name: raw.jar, sha256: %(raw.jar)s, unpack: no}
""".rstrip()
SCRIPT = r"""    to="$DESTDIR/usr/share/notes"
    touch now; test "$(ls -t configure now | head -n 1)" = now
    mkdir -p "$to"
    find . -printf '%y %m %p %l %s\n' | sort > "$to/tree"
    find . -type f -newermt @"$(date +%s)" ! -name now >> "$to/tree"
    cat a over bin/tool.sh > "$to/bytes"; sha256sum < raw.jar >> "$to/bytes"
    echo "$SOURCE_DATE_EPOCH" > "$to/epoch"
"""


def with_sources(seed: Seed, root: Path, listed: str) -> Project:
    project = seed.new_project(root)
    distfiles = project.box / "distfiles"
    kept = distfiles.resolve()
    distfiles.unlink()
    distfiles.mkdir()
    for path in kept.iterdir():
        (distfiles / path.name).symlink_to(path)
    for name, data in ODD.items():
        (distfiles / name).write_bytes(data)
    text = listed % {name: sha256(data) for name, data in ODD.items()}
    path = project.recipe("app/notes")
    project.edit(path, "  2.1: {}\n", f"  2.1:{text}\n")
    project.edit(path, '    to="$DESTDIR/usr/share/notes"\n', SCRIPT)
    return project


def test_odd_sources_are_built_and_the_log_tells(seed: Seed, here: Path) -> None:
    program = seed.program.with_store(seed.new_store(here))
    project = with_sources(seed, here / "project", SOURCES)
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    (oci,) = (path for path in done.images() if path.suffix == ".oci")
    tree = content(oci, "usr/share/notes/tree").decode().splitlines()
    assert [line for line in tree if not line.startswith("d")] == [
        "f 644 ./a  3",
        "f 644 ./bin/tool.sh  20",
        "f 644 ./now  0",
        "f 644 ./over  6",
        f"f 644 ./raw.jar  {len(ODD['raw.jar'])}",
        "f 755 ./configure  10",
        "l 777 ./out /usr/share/install-sh 21",
        "l 777 ./self self 4",
    ]
    told = content(oci, "usr/share/notes/bytes").decode()
    assert told == f"newsecond{TOOL.decode()}{sha256(ODD['raw.jar'])}  -\n"
    assert content(oci, "usr/share/notes/epoch") == b"%d\n" % SETTLED
    log = program.run("log", "app/notes").good().out
    for line in (
        "=== sources",
        "odd-1.tar.gz: member 'odd-1/fifo' is left out: it is a FIFO",
        "odd-1.tar.gz: member 'odd-1/a' is there again: the later one counts",
        "odd-1.tar.gz: the archive has no end mark",
        "odd-1.tar.gz: times after 2028-01-01 are taken as 2026-11-01",
        "odd-1.tar.gz: link 'out' leads to '/usr/share/install-sh', out of the source: kept",
        "over-1.tar: 'over' replaces that of an earlier source",
    ):
        assert f"{line}\n" in log


def test_what_digest_prints_is_what_a_build_wants(seed: Seed, here: Path, tmp_path: Path) -> None:
    """Also: `strip` that does not fit is said with the package, the file and what to write."""
    program = seed.program.with_store(seed.new_store(here))
    flat = tmp_path / "flat-1.tar"
    flat.write_bytes(file(b"a") + file(b"src/b") + END)
    printed = program.run("digest", str(flat)).good().out
    assert f"    sha256: {sha256(flat.read_bytes())}\n    strip: 0\n" in printed
    listed = "\n    sources:\n      - {url: https://example.org/flat-1.tar, sha256: DIGEST}"
    listed = listed.replace("DIGEST", sha256(flat.read_bytes()))
    project = with_sources(seed, here / "project", listed)
    (project.box / "distfiles/flat-1.tar").write_bytes(flat.read_bytes())
    found = refused(program, project, RECIPE)
    assert found.message.startswith("app/notes-2.1: flat-1.tar: `strip: 1` drops the top directory")
    assert "write `strip: 0`" in found.hint
    assert "https://example.org/flat-1.tar" in found.details
