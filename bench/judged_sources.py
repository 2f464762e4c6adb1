"""Real upstream archives, unpacked by buildit and by GNU tar, and every difference.

    python -m bench.judged_sources            # the source archives of NAMES, about ten minutes
    python -m bench.judged_sources hello ed   # some packages
    python -m bench.judged_sources FILE...    # archives of this machine: tar, or zip by unzip

Compared are names, kinds, x bits, bytes, link targets and times of files. Archives come from the
machine's own apt sources, by the digests of their index.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.unpack import OLDEST, SETTLED, unpack_source
from buildit.debian.apt import paragraphs, read_sources
from buildit.digest import digest_file
from buildit.errors import BuilditError
from buildit.remote.transport import Transport
from buildit.remote.web import WebTransport

NAMES = """
    automake-1.16 bash bison busybox bzip2 ca-certificates coreutils curl dash dnsmasq ed expat
    file flex grep gzip hello jq less libevent libzstd lighttpd lua5.4 lz4 lzip m4 make-dfsg
    memcached nano nginx openssh patch pcre2 redis rsync sed sqlite3 tar tzdata xz-utils zlib
"""
INDEX = "dists/bookworm/main/source/Sources.xz"
MOST = 1 << 30

Node = tuple[str, int, str]
"""Kind, time (files) and what is in it: a link's text or a digest with the x bit."""


def differences(archive: Path) -> tuple[str, ...]:
    """What differs between the two trees of one archive, a line each; none is good."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as room:
        ours, theirs = Path(room, "ours"), Path(room, "theirs")
        ours.mkdir()
        theirs.mkdir()
        try:
            with Root.open(ours) as into:
                unpack_source(
                    archive, into, place=archive.name, strip=0, budget=Budget(), owner=None
                )
            refused = ""
        except BuilditError as error:
            refused = str(error)
        done = subprocess.run(_by_others(archive, theirs), capture_output=True, check=False)
        if refused or done.returncode:
            both = bool(refused) and bool(done.returncode)
            return () if both else (f"{refused or 'we read it'}; theirs: status {done.returncode}",)
        return tuple(_compared(dict(tree(ours)), dict(tree(theirs))))


def _by_others(archive: Path, into: Path) -> list[str]:
    if archive.suffix in (".zip", ".jar"):
        return ["unzip", "-q", "-o", str(archive), "-d", str(into)]
    return ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-C", str(into), "-f",
            str(archive)]  # fmt: skip


def _compared(ours: dict[str, Node], theirs: dict[str, Node]) -> Iterator[str]:
    for path in sorted({*ours, *theirs}):
        mine, other = ours.get(path), theirs.get(path)
        if mine != other:
            yield f"{path!r}: ours {mine}, theirs {other}"


def tree(top: Path) -> Iterator[tuple[str, Node]]:
    """All below a directory, with the times that a source's files can have."""
    for above, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(above, name)
            status = os.lstat(path)
            where = os.path.relpath(path, os.fsencode(top)).decode("utf-8", "surrogateescape")
            when = min(max(int(status.st_mtime), OLDEST), SETTLED)
            if stat.S_ISLNK(status.st_mode):
                yield where, ("link", 0, os.fsdecode(os.readlink(path)))
            elif stat.S_ISDIR(status.st_mode):
                yield where, ("directory", 0, "")
            else:
                runs = "x" if status.st_mode & 0o111 else "-"
                kind = "file" if stat.S_ISREG(status.st_mode) else "special"
                yield where, (kind, when, runs + digest_file(Path(os.fsdecode(path))))


def fetched(names: Sequence[str], into: Path, transport: Transport) -> Iterator[Path]:
    """The upstream archives of Debian source packages, each deleted when the next is asked for."""
    base = next(source.uri for source in read_sources().usable if source.suite == "bookworm")
    index = lzma.decompress(_body(transport, f"{base}/{INDEX}")).decode()
    newest: dict[str, dict[str, str]] = {}
    for _, found in paragraphs(index, INDEX):
        newest[found["package"]] = found
    for name in names:
        paragraph = newest[name]
        for line in paragraph["checksums-sha256"].strip().split("\n"):
            digest, _, file = line.split()
            if ".orig" not in file and not _native(file, paragraph):
                continue
            if file.endswith(".asc"):
                continue
            path = into / file
            url = f"{base}/{paragraph['directory']}/{file}"
            path.write_bytes(_body(transport, url))
            if digest_file(path) != digest:
                raise ValueError(f"{url} has another digest than its index says")
            yield path
            path.unlink()


def _native(file: str, paragraph: dict[str, str]) -> bool:
    return "native" in paragraph["format"] and ".tar." in file


def _body(transport: Transport, url: str) -> bytes:
    with transport.get(url, 0, MOST) as response:
        return b"".join(response.chunks)


def main(argv: list[str]) -> int:
    files = [Path(word) for word in argv if Path(word).is_file()]
    names = [word for word in argv if not Path(word).is_file()] or ([] if files else NAMES.split())
    room = Path(tempfile.mkdtemp(prefix="buildit-judged-"))
    same = different = 0
    begun = time.monotonic()
    try:
        with closing(WebTransport()) as transport:
            archives = (Path(shutil.copy(path, room)) for path in files)
            for archives_of in (archives, fetched(names, room, transport) if names else ()):
                for archive in archives_of:
                    found = differences(archive)
                    same, different = same + (not found), different + bool(found)
                    print(f"{'differs' if found else 'same':8} {archive.name}", flush=True)
                    for line in found[:20]:
                        print(f"    {line}")
    finally:
        shutil.rmtree(room)
    seconds = time.monotonic() - begun
    print(f"{same} archives alike, {different} different, {seconds:.0f} s")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
