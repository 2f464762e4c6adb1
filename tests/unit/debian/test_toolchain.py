from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.debian.fixups import TREE_FILES, enters_tree, toolchain_identity
from buildit.debian.toolchain import OWNERS, fill, read_owners
from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError, Interrupted, StoreError
from buildit.model.plan import DebRef, Toolchain
from buildit.model.tree import YEAR_1980, Kind
from tests.debian_maker import make_deb

pytestmark = pytest.mark.unit

PACKAGES: dict[str, Mapping[str, str | bytes]] = {
    "libc6": {
        "lib/": "",
        "lib/x86_64-linux-gnu/libc.so.6": b"\x7fELF",
        "lib64/ld-linux-x86-64.so.2": "->/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "usr/share/doc/libc6/copyright": "text",
    },
    "dash": {"bin/dash": "#!", "bin/sh": "->dash", "usr/share/man/man1/dash.1.gz": "x"},
    "gcc": {"usr/bin/gcc-12": "ELF", "usr/bin/gcc": "->gcc-12", "usr/bin/c89-gcc": "x"},
    "mawk": {"usr/bin/mawk": "ELF", "etc/": "", "etc/passwd": "other"},
    "base-files": {"tmp/": "", "var/lib/x": "x", "etc/ld.so.conf": "x", "etc/hosts": "x"},
}


class Debs:
    """Packages as blobs in a directory."""

    def __init__(self, folder: Path, packages: Mapping[str, Mapping[str, str | bytes]]) -> None:
        folder.mkdir()
        self._folder = folder
        self.refs = tuple(
            self._put(name, make_deb(name, files)) for name, files in packages.items()
        )

    def _put(self, name: str, content: bytes) -> DebRef:
        digest = digest_bytes(content)
        (self._folder / digest).write_bytes(content)
        return DebRef(name, "1", "amd64", "bookworm", f"pool/{name}.deb", len(content), digest)

    def path(self, digest: Digest) -> Path:
        return self._folder / digest

    @property
    def toolchain(self) -> Toolchain:
        return make_toolchain(self.refs)


def make_toolchain(refs: tuple[DebRef, ...]) -> Toolchain:
    return Toolchain("toolchain/x", "linux/amd64", toolchain_identity(refs), refs)


Fill = Callable[[Debs], Path]


@pytest.fixture
def filled(tmp_path: Path) -> Fill:
    def run(debs: Debs) -> Path:
        tree = tmp_path / f"tree{len(list(tmp_path.iterdir()))}"
        tree.mkdir()
        fill(tree, debs.toolchain, debs.path)
        return tree

    return run


def listing(tree: Path) -> list[tuple[str, int, int, str]]:
    found = []
    for folder, directories, files in os.walk(tree):
        for name in (*directories, *files):
            path = Path(folder) / name
            status = path.lstat()
            if path.is_symlink():
                content = os.readlink(path)
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found.append(
                (str(path.relative_to(tree)), status.st_mode, int(status.st_mtime), content)
            )
    return sorted(found)


def test_what_is_in_the_tree(tmp_path: Path, filled: Fill) -> None:
    tree = filled(Debs(tmp_path / "debs", PACKAGES))
    links = {path: os.readlink(tree / path) for path in ("bin", "lib", "lib64")}
    assert links == {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
    assert not (tree / "sbin").is_symlink()
    assert (tree / "lib/x86_64-linux-gnu/libc.so.6").read_bytes() == b"\x7fELF"
    programs = {name: os.readlink(tree / "usr/bin" / name) for name in ("cc", "awk", "sh", "c89")}
    assert programs == {"cc": "gcc", "awk": "mawk", "sh": "dash", "c89": "c89-gcc"}
    assert not (tree / "usr/bin/c++").exists()
    assert not (tree / "usr/share/doc").exists()
    assert not (tree / "usr/share/man/man1").exists()
    assert not (tree / "etc/ld.so.conf").exists()
    assert not list((tree / "var/lib").iterdir())
    for name, text in TREE_FILES.items():
        assert (tree / name).read_text() == text
    for name in ("build", "dev", "proc", "tmp", "root", "run", "sys"):
        assert list((tree / name).iterdir()) == []


def test_which_deb_has_what(tmp_path: Path, filled: Fill) -> None:
    tree = filled(Debs(tmp_path / "debs", PACKAGES))
    owners = read_owners(tree)
    names = {path: name for path, (name, _) in owners.items()}
    assert names["usr/lib/x86_64-linux-gnu/libc.so.6"] == "libc6"
    assert names["usr/lib64/ld-linux-x86-64.so.2"] == "libc6"
    assert names["usr/bin/sh"] == "dash"
    assert names["usr/bin/cc"] == "gcc"
    assert names["usr/bin/awk"] == "mawk"
    links = {path: entry.target for path, (_, entry) in owners.items() if entry.target}
    assert links["usr/bin/sh"] == "dash"
    assert all(os.readlink(tree / path) == target for path, target in links.items())
    kinds = {path: entry.kind for path, (_, entry) in owners.items()}
    assert kinds["usr/lib/x86_64-linux-gnu/libc.so.6"] is Kind.FILE
    assert "etc/passwd" not in owners
    assert list(owners) == sorted(owners)


def test_modes_and_times_depend_on_nothing_else(tmp_path: Path, filled: Fill) -> None:
    debs = Debs(tmp_path / "debs", PACKAGES)
    tree = filled(debs)
    old = os.umask(0o077)
    try:
        other = tmp_path / "other"
        other.mkdir()
        backwards = replace(debs.toolchain, debs=debs.refs[::-1])
        fill(other, backwards, debs.path)
    finally:
        os.umask(old)
    assert listing(tree) == listing(other)
    modes = {stat.S_IMODE(mode) for _, mode, _, _ in listing(tree)}
    assert modes <= {0o755, 0o644, 0o777}
    assert {time for _, mode, time, _ in listing(tree) if stat.S_ISDIR(mode)} == {YEAR_1980}
    assert stat.S_IMODE(tree.stat().st_mode) == 0o755


def test_set_id_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(make_deb("su", {"usr/x": "x", "usr/bin/": ""}, mode=0o6755))
    digest = digest_bytes((tmp_path / "blob").read_bytes())
    deb = DebRef("su", "1", "amd64", "bookworm", "pool/su.deb", 1, digest)
    tree = tmp_path / "tree"
    tree.mkdir()
    fill(tree, make_toolchain((deb,)), lambda _digest: tmp_path / "blob")
    assert stat.S_IMODE((tree / "usr/x").stat().st_mode) == 0o755


def test_two_packages_with_one_file(tmp_path: Path, filled: Fill) -> None:
    packages = {"aa": {"usr/bin/x": "1"}, "bb": {"usr/bin/x": "2"}}
    with pytest.raises(IntegrityError, match=r"usr/bin/x.* there already"):
        filled(Debs(tmp_path / "debs", packages))


def test_a_damaged_or_missing_deb(tmp_path: Path, filled: Fill) -> None:
    debs = Debs(tmp_path / "debs", PACKAGES)
    blob = debs.path(debs.refs[2].digest)
    blob.write_bytes(blob.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match="gcc"):
        filled(debs)
    blob.unlink()
    with pytest.raises(StoreError, match="gcc 1: cannot be read"):
        filled(debs)


def test_a_directory_where_a_link_is_due(tmp_path: Path, filled: Fill) -> None:
    packages = {"aa": {"usr/bin/x": "1", "usr/bin/gcc": "x", "usr/bin/cc/": ""}}
    tree = filled(Debs(tmp_path / "debs", packages))
    assert (tree / "usr/bin/cc").is_dir()


def test_another_directory_is_no_toolchain(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no toolchain's tree"):
        read_owners(tmp_path)


def test_identity_is_of_digests_alone(tmp_path: Path) -> None:
    refs = Debs(tmp_path / "debs", PACKAGES).refs
    identity = toolchain_identity(refs)
    assert toolchain_identity(refs[::-1]) == identity
    assert toolchain_identity(replace(ref, suite="x", version="9") for ref in refs) == identity
    assert toolchain_identity(refs[1:]) != identity
    assert toolchain_identity(()) == Digest(
        "53c5b660c30ef12548cc986c75c2437159cf39b9616c43ff2e787bd66e1c49ea"
    )


@pytest.mark.parametrize(
    ("path", "enters"),
    [
        ("usr/bin/gcc", True),
        ("usr/share/doc", False),
        ("usr/share/doc/gcc/copyright", False),
        ("usr/share/documents", True),
        ("etc/ld.so.conf", False),
        ("etc/ld.so.confused", True),
        ("etc/passwd", False),
        ("usr/lib/locale/C.utf8/LC_CTYPE", True),
        (OWNERS, True),
    ],
)
def test_what_enters(path: str, enters: bool) -> None:
    assert enters_tree(path) is enters


def test_filling_ends_where_it_is_asked_to(tmp_path: Path) -> None:
    debs, tree, stop = Debs(tmp_path / "blobs", PACKAGES), tmp_path / "tree", threading.Event()
    tree.mkdir()
    stop.set()
    with pytest.raises(Interrupted):
        fill(tree, debs.toolchain, debs.path, stop)
    assert not any(path.is_file() for path in tree.rglob("*"))
