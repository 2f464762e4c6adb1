"""A deleted OCI layout comes back byte for byte, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildit.digest import digest_bytes
from buildit.errors import BuilditError, IntegrityError, StoreError
from buildit.image.output import LARGEST_DOCUMENT, recipe, restore

pytestmark = pytest.mark.unit

LAYERS = (b"first layer" * 400, b"second layer" * 900)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The blobs of a store, with two layers."""
    blobs = tmp_path / "store"
    blobs.mkdir()
    for layer in LAYERS:
        (blobs / digest_bytes(layer)).write_bytes(layer)
    return blobs


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with those layers and three documents."""
    image = tmp_path / "out" / "x.oci"
    blobs = image / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    config = b'{"config":1}'
    for content in (*LAYERS, config):
        (blobs / digest_bytes(content)).write_bytes(content)
    (image / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (image / "index.json").write_text('{"manifests":[]}')
    return image


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def made(layout: Path, store: Path) -> dict[str, Any]:
    found = recipe(layout, store)
    assert found is not None
    kept: dict[str, Any] = json.loads(json.dumps(found))  # as a stamp carries it
    return kept


def remove(layout: Path) -> None:
    layout.rename(layout.with_name("before"))


def test_what_was_deleted_comes_back(layout: Path, store: Path) -> None:
    kept, before = made(layout, store), snapshot(layout)
    assert sorted(kept["blobs"]) == sorted(digest_bytes(layer) for layer in LAYERS)
    assert len(kept["documents"]) == 3
    remove(layout)
    old = os.umask(0o077)
    try:
        restore(layout, kept, store)
    finally:
        os.umask(old)
    assert snapshot(layout) == before
    modes = {path.stat().st_mode & 0o777 for path in layout.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert {path.stat().st_mode & 0o777 for path in layout.rglob("*") if path.is_dir()} == {0o755}
    inodes = {path.stat().st_ino for path in store.iterdir()}
    assert not inodes & {path.stat().st_ino for path in layout.rglob("*")}


def test_bytes_that_the_store_lacks_and_are_no_document_cannot_come_back(
    layout: Path, store: Path
) -> None:
    (layout / "blobs" / "sha256" / ("ab" * 32)).write_bytes(b"x" * (LARGEST_DOCUMENT + 1))
    assert recipe(layout, store) is None


def add_link(layout: Path, store: Path) -> None:
    (layout / "link").symlink_to("index.json")


def add_fifo(layout: Path, store: Path) -> None:
    os.mkfifo(layout / "fifo")


def add_bytes(layout: Path, store: Path) -> None:
    (layout / "odd").write_bytes(b"\xff")


def empty_store(layout: Path, store: Path) -> None:
    for layer in LAYERS:
        (store / digest_bytes(layer)).unlink()


@pytest.mark.parametrize("spoil", [add_link, add_fifo, add_bytes, empty_store])
def test_a_layout_of_another_kind_is_left_to_a_real_run(
    layout: Path, store: Path, spoil: Callable[[Path, Path], None]
) -> None:
    spoil(layout, store)
    assert recipe(layout, store) is None


def test_a_blob_that_is_gone_leaves_nothing(layout: Path, store: Path) -> None:
    kept = made(layout, store)
    remove(layout)
    (store / digest_bytes(LAYERS[1])).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        restore(layout, kept, store)
    assert sorted(path.name for path in layout.parent.iterdir()) == ["before"]


def test_a_blob_of_another_size_leaves_nothing(layout: Path, store: Path) -> None:
    kept = made(layout, store)
    remove(layout)
    (store / digest_bytes(LAYERS[0])).write_bytes(b"short")
    with pytest.raises(IntegrityError, match="5 bytes instead"):
        restore(layout, kept, store)
    assert sorted(path.name for path in layout.parent.iterdir()) == ["before"]


@pytest.mark.parametrize(
    "name", ["../escape", "/tmp/escape", "blobs/escape", "a/b", "blobs/sha256/../../../escape", ""]
)
def test_a_damaged_recipe_writes_nothing_elsewhere(layout: Path, store: Path, name: str) -> None:
    kept = made(layout, store)
    remove(layout)
    kept["documents"][name] = "escaped"
    with pytest.raises((BuilditError, OSError)):
        restore(layout, kept, store)
    assert sorted(path.name for path in layout.parent.iterdir()) == ["before"]
    assert not (layout.parent.parent / "escape").exists()


def test_a_recipe_names_blobs_by_digest_only(layout: Path, store: Path) -> None:
    kept = made(layout, store)
    remove(layout)
    kept["blobs"]["../../escape"] = 3
    with pytest.raises(IntegrityError, match="no part of an OCI layout"):
        restore(layout, kept, store)
