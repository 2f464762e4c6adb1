"""Which files of an image go to a binhost."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.publish import image_files
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit

FILES = {
    "lxc": ("config", "meta.tar.xz", "rootfs.tar.xz"),
    "nspawn": ("rootfs.nspawn", "rootfs.tar"),
}


@pytest.mark.parametrize("form", FILES)
def test_the_archive_is_published_and_not_the_tree(form: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    made = emit(image(nginx_layers(blobs), form), blobs, tmp_path / "out")
    tree = made.path / "rootfs"
    tree.mkdir(exist_ok=True)  # as root it is there
    (tree / "file").write_bytes(b"x" * 4096)
    found = dict(image_files((made,)))
    assert tuple(found) == tuple(f"{made.path.name}/{name}" for name in FILES[form])
