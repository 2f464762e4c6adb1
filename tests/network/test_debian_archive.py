"""Debian's real archive, through this machine's own apt sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.debian.apt import read_sources
from buildit.debian.archive import DebianArchive, archive_keys, fetch_release, is_served
from buildit.debian.fixups import toolchain_identity
from buildit.debian.select import select, select_build
from buildit.debian.sources import SourceFile
from buildit.debian.toolchain import fill, read_owners
from buildit.digest import digest_file
from buildit.errors import FetchError
from buildit.model.plan import DebRef, Toolchain
from buildit.recipe.trees import Catalog
from buildit.remote.fetch import Fetch, Fetcher
from buildit.remote.transport import Transport
from buildit.store.cas import Store
from tests.fakes import default_transport

pytestmark = pytest.mark.network

PKGS = Path(__file__).parents[2] / "pkgs"
SUITES = ("bookworm", "bookworm-updates", "bookworm-security")


@pytest.fixture(scope="module")
def transport() -> Iterator[Transport]:
    with closing(default_transport()) as opened:
        yield opened


@pytest.fixture(scope="module")
def archive(transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> DebianArchive:
    sources = read_sources().usable
    if not sources:
        pytest.skip("this machine has no apt sources")
    cache = tmp_path_factory.mktemp("cache")
    return DebianArchive(sources, transport, cache, archive_keys(), int(time.time()))


@pytest.fixture(scope="module")
def debs(archive: DebianArchive) -> tuple[DebRef, ...]:
    package = Catalog((PKGS,)).toolchain("toolchain/debian-12", "test")
    with archive.open_indices(package.debian.suites, "amd64") as indices:
        assert set(indices.dates) == set(package.debian.suites)
        return select(package.debian.packages, indices)


def test_the_root_of_a_build_and_a_hole(archive: DebianArchive, transport: Transport) -> None:
    """A version whose files no place has is not built, nor another one instead of it."""
    with archive.open_sources(SUITES) as sources, archive.open_indices(SUITES, "amd64") as indices:
        tini = sources.choose("tini")
        base, further = select_build(tini, (), (), indices)
        assert {"dpkg", "gcc", "make", "debhelper", "fakeroot"} <= {deb.name for deb in base}
        assert {"cmake"} <= {deb.name for deb in further}
        assert not {deb.name for deb in base} & {deb.name for deb in further}
        bases = archive.bases()

        def exists(file: SourceFile) -> bool:
            return is_served(transport, [f"{base}/{file.path}" for base in bases], file.size)

        sources.check_files(tini, exists)
        gone = replace(tini.files[0], path=f"{tini.files[0].path}.gone")
        with pytest.raises(FetchError, match=r"tini_0\.19\.0-1\.dsc\.gone"):
            sources.check_files(replace(tini, files=(gone, *tini.files[1:])), exists)


@pytest.fixture(scope="module")
def sink(
    archive: DebianArchive, debs: tuple[DebRef, ...], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    folder = tmp_path_factory.mktemp("debs")
    found = Store.open(folder / "store")
    fetcher = Fetcher(found, archive.transport, folder / "partial")
    bases = archive.bases()
    fetches = [
        Fetch(deb.name, tuple(f"{base}/{deb.path}" for base in bases), deb.digest, deb.size)
        for deb in debs
    ]
    fetcher.fetch_all(fetches, 8)
    return found


@pytest.fixture(scope="module")
def toolchain(debs: tuple[DebRef, ...]) -> Toolchain:
    return Toolchain("toolchain/debian-12", "linux/amd64", toolchain_identity(debs), debs)


@pytest.fixture(scope="module")
def tree(toolchain: Toolchain, sink: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    fill(folder, toolchain, sink.path)
    return folder


def test_releases_are_signed_by_the_shipped_keys(archive: DebianArchive) -> None:
    for source in archive.sources:
        release = fetch_release(source, archive.transport, archive.keys, archive.now)
        assert release.origin == "Debian"
        assert release.files


def test_the_second_time_the_indices_are_there(
    archive: DebianArchive, debs: tuple[DebRef, ...]
) -> None:
    begun = time.monotonic()
    with archive.open_indices(SUITES, "amd64") as indices:
        assert select([deb.name for deb in debs], indices) == debs
    assert time.monotonic() - begun < 60


def test_reading_the_largest_index_takes_little_memory(
    archive: DebianArchive, tmp_path: Path
) -> None:
    script = f"""
import time
from pathlib import Path
from buildit.debian.archive import DebianArchive
from buildit.debian.archive import archive_keys
from buildit.debian.apt import read_sources
from buildit.remote.web import WebTransport
transport = WebTransport()
archive = DebianArchive(
    read_sources().usable, transport, Path({str(tmp_path)!r}), archive_keys(), int(time.time())
)
with archive.open_indices(("bookworm",), "amd64") as indices:
    assert indices.named("libc6")
transport.close()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert int(done.stdout) < 200 * 1024


def test_every_deb_is_what_was_pinned(debs: tuple[DebRef, ...], sink: Store) -> None:
    assert len({deb.name for deb in debs}) == len(debs) < 122
    for deb in debs:
        path = sink.path(deb.digest)
        assert (path.stat().st_size, digest_file(path)) == (deb.size, deb.digest)


def test_a_source_behind_the_built_in_mirror_list(archive: DebianArchive, tmp_path: Path) -> None:
    url = "mirror://debian/pool/main/z/zlib/zlib_1.2.13.dfsg.orig.tar.bz2"
    fetcher = Fetcher(
        Store.open(tmp_path / "store"),
        archive.transport,
        tmp_path / "partial",
        mirrors=lambda name: archive.bases() if name == "debian" else (),
    )
    pinned = fetcher.fetch(Fetch("zlib", (url,), proves_itself=True))
    assert pinned == "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1"


def listing(tree: Path) -> list[tuple[str, int, int, int]]:
    return sorted(
        (os.path.join(folder, name)[len(str(tree)) :], status.st_mode, status.st_size, mtime)
        for folder, directories, files in os.walk(tree)
        for name in (*directories, *files)
        for status in [os.lstat(os.path.join(folder, name))]
        for mtime in [int(status.st_mtime)]
    )


def test_the_tree_is_the_same_again(
    tree: Path, toolchain: Toolchain, sink: Store, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    fill(again, replace(toolchain, debs=toolchain.debs[::-1]), sink.path)
    differing = [
        (one, other)
        for one, other in zip(listing(tree), listing(again), strict=True)
        # a directory's size is the file system's
        if (one[:2], one[3]) != (other[:2], other[3])
        or (one[2] != other[2] and not os.path.isdir(f"{tree}{one[0]}"))
    ]
    assert differing == []


def test_which_deb_has_the_c_library(tree: Path) -> None:
    owners = {path: name for path, (name, _) in read_owners(tree).items()}
    assert owners["usr/lib/x86_64-linux-gnu/libc.so.6"] == "libc6"
    assert owners["usr/lib/x86_64-linux-gnu/libgcc_s.so.1"] == "libgcc-s1"
    assert owners["usr/bin/perl"] == "perl-base"
    assert owners["usr/bin/sh"] == "dash"
    assert {"cc", "c++", "awk", "c99"} <= {path.removeprefix("usr/bin/") for path in owners}


CHECK = r"""
set -eu
printf '#include <pthread.h>\n#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n' \
    >/tmp/x.c
cc -O2 -pthread -o /tmp/x /tmp/x.c && /tmp/x
printf '#include <iostream>\nint main() { std::cout << "hello c++" << std::endl; }\n' >/tmp/y.cc
c++ -o /tmp/y /tmp/y.cc && /tmp/y
printf 'all:\n\t@echo hello make\n' >/tmp/Makefile && make -C /tmp --no-print-directory
perl -MIPC::Cmd -MFile::Compare -MFindBin -MPod::Usage -e 'print "hello perl\n"'
echo 'hello awk' | awk '{ print $1, $2 }'
pkg-config --version >/dev/null && patch --version >/dev/null && getconf LONG_BIT
locale -a | grep -qx C.utf8 && echo 'hello locale'
ldd /tmp/x | grep -q 'libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6' && echo 'hello loader'
id -un
"""


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_its_programs_run(tree: Path) -> None:
    argv = ["bwrap", "--unshare-all", "--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin"]
    argv += ["--setenv", "LC_ALL", "C.UTF-8", "--uid", "1000", "--gid", "1000"]
    argv += ["--ro-bind", str(tree), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    done = subprocess.run([*argv, "/bin/sh", "-c", CHECK], capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        "hello",
        "hello c++",
        "hello make",
        "hello perl",
        "hello awk",
        "64",
        "hello locale",
        "hello loader",
        "build",
    ]
