"""The .debs of a `run` step as a source of apt: a directory that is seen inside for as long as the
step runs, with settings for apt beside it, so that nothing of either is in the layer.

apt takes the file that `APT_CONFIG` names before all others (apt.conf(5)). What it would keep below
/var is in the directory: lists, archives, logs; its caches are in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from buildit.archive.deb import read_control
from buildit.digest import CHUNK, digest_bytes
from buildit.make.run_task import APT_PLACE
from buildit.model.plan import DebRef
from buildit.sandbox.container import Mounted
from buildit.store.cas import Store

_DEBS = "debs"
_SETTINGS = f"""\
APT::Sandbox::User "root";
Dpkg::Use-Pty "0";
Acquire::Languages "none";
Dir::Etc::sourcelist "/{APT_PLACE}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "/{APT_PLACE}/lists";
Dir::Cache::archives "/{APT_PLACE}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "/{APT_PLACE}/log";
DPkg::Options {{ "--force-unsafe-io"; "--force-confold"; }};
"""
_SOURCES = f"deb [trusted=yes] file:/{APT_PLACE}/{_DEBS} ./\n"
_LIST = f"/{APT_PLACE}/{_DEBS}/./Packages".replace("/", "_")
"""How apt names the list of this source (`URItoFileName`)."""
_DATE = "Date: Tue, 01 Jan 1980 00:00:00 UTC"
_FILE = re.compile(rb"^(filename|size|sha256|md5sum|sha1):.*\n", re.IGNORECASE | re.MULTILINE)


def write_source(place: Path, debs: Iterable[DebRef], store: Store) -> tuple[Mounted, ...]:
    """Lay the source into a new directory; what is to be seen of it inside.

    Raises:
        IntegrityError: a .deb is damaged.
        StoreError, CorruptBlob: one is missing, or the disk is full.
    """
    for name in (_DEBS, "lists/partial", "archives/partial", "log"):
        (place / name).mkdir(parents=True)
    listed = "\n".join(_laid(place / _DEBS, debs, store)).encode("utf-8", "surrogateescape")
    for path in (f"{_DEBS}/Packages", f"lists/{_LIST}"):
        (place / path).write_bytes(listed)
    # without it `apt-get update` asks for each compressed form of the index
    row = f"{digest_bytes(listed)} {len(listed)} Packages"
    (place / _DEBS / "Release").write_text(f"{_DATE}\nSHA256:\n {row}\n")
    (place / "apt.conf").write_text(_SETTINGS)
    (place / "sources.list").write_text(_SOURCES)
    return (
        Mounted(place, f"/{APT_PLACE}"),
        Mounted(place / _DEBS, f"/{APT_PLACE}/{_DEBS}", read_only=True),
    )


def _laid(place: Path, debs: Iterable[DebRef], store: Store) -> Iterator[str]:
    """Copy .debs; their paragraphs of the index (deb822(5))."""
    for deb in debs:
        name = deb.path.rpartition("/")[2]
        with closing(store.seekable(deb.digest)) as packed:
            control = _FILE.sub(b"", read_control(packed, f"{deb.name} {deb.version}")["control"])
            packed.seek(0)
            with (place / name).open("xb") as out:
                while chunk := packed.read(CHUNK):
                    out.write(chunk)
        text = control.strip(b"\n").decode("utf-8", "surrogateescape")
        yield f"{text}\nFilename: ./{name}\nSize: {deb.size}\nSHA256: {deb.digest}\n"
