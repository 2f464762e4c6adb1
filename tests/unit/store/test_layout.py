from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from buildit.errors import StoreError, UsageError
from buildit.store.cas import Store
from buildit.store.disk import (
    FORMAT_FILE,
    POINTS,
    STORE_DIRECTORIES,
    STORE_FORMAT,
    VARIABLE,
    Faults,
)

pytestmark = pytest.mark.unit


def test_it_is_an_oci_layout_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        store = Store.open(tmp_path / "deep" / "store")
    finally:
        os.umask(old)
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_text())["manifests"] == []
    for name in STORE_DIRECTORIES:
        assert stat.S_IMODE((store.root / name).stat().st_mode) == 0o755
    assert Store.open(store.root).root == store.root


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    root = Store.open(tmp_path / "store").root
    rewrite(root / FORMAT_FILE, b'{"format":%d}' % (STORE_FORMAT + 1))
    with pytest.raises(
        StoreError, match=f"format {STORE_FORMAT + 1}.*knows format {STORE_FORMAT}"
    ) as caught:
        Store.open(root)
    assert caught.value.hint is not None
    assert "newer buildit" in caught.value.hint


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format":true}', b"\xff", b"[" * 100_000])
def test_a_garbled_version_is_one_clear_error(tmp_path: Path, text: bytes) -> None:
    root = Store.open(tmp_path / "store").root
    rewrite(root / FORMAT_FILE, text)
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(root)
    (root / FORMAT_FILE).unlink()
    Store.open(root)


def test_a_directory_with_other_files_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(StoreError, match=r"letter\.txt"):
        Store.open(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_store_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    root = Store.open(tmp_path / "store").root
    root.chmod(mode)
    with pytest.raises(StoreError, match="other users may write") as caught:
        Store.open(root)
    assert caught.value.hint is not None
    assert "chmod go-w" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a store away")
def test_another_users_store_is_refused(tmp_path: Path) -> None:
    root = Store.open(tmp_path / "store").root
    os.chown(root, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to user 12345"):
        Store.open(root)


def test_a_link_to_a_store_is_followed_and_judged(tmp_path: Path) -> None:
    root = Store.open(tmp_path / "store").root
    (tmp_path / "link").symlink_to(root)
    assert Store.open(tmp_path / "link").root == root
    root.chmod(0o777)
    with pytest.raises(StoreError):
        Store.open(tmp_path / "link")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(StoreError):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize(
    "text", ["x", "x:1:kill", "blob-write:0:kill", "blob-write:1:EPERM", ":::"]
)
def test_a_fault_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="BUILDIT_FAULT"):
        Faults.wanted({VARIABLE: text})


def test_a_fault_comes_at_its_turn_only() -> None:
    faults = Faults.wanted({VARIABLE: "blob-write:2:EIO"})
    faults.reach("blob-write")
    faults.reach("blob-sync")
    with pytest.raises(OSError, match="Input/output"):
        faults.reach("blob-write")
    faults.reach("blob-write")
    assert len(set(POINTS)) == len(POINTS)


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
