"""What holds for every format: its time, and that a refusal leaves nothing."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from buildit.errors import BuildError
from buildit.image.formats.table import FORMATS, emit_all
from buildit.image.squash.layout import SUPERBLOCK
from buildit.image.verify import read_image
from tests.unit.image.samples import EPOCH, BlobDirectory, emit, file, image, nginx_layers

pytestmark = pytest.mark.unit


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]


CANNOT = {
    "name": (file("d/" + "n" * 257, b"x"), "names of up to 256 bytes, not 257"),
    "time": (file("early", b"x", mtime=-1), "times from 1970 to 2106, not -1"),
    "attribute": (file("acl", b"x", xattrs={"system.x": b"1"}), "the attribute 'system.x'"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_tree_that_one_format_cannot_hold_leaves_none(
    case: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    """It is said before the format beside it is written."""
    odd, message = CANNOT[case]
    layers = (*nginx_layers(blobs), blobs.layer("odd", [odd]))
    images = [image(layers, name) for name in ("rootfs", "squashfs")]
    out = tmp_path / "out"
    with pytest.raises(BuildError, match=message) as refused:
        emit_all(images, blobs, out)
    assert refused.value.place == odd[0].path
    assert not out.exists()
    emit_all(images[:1], blobs, out)


def test_every_format_is_of_the_time_of_the_image(blobs: BlobDirectory, tmp_path: Path) -> None:
    """`created` is the newest time inside, whatever the clock says: nothing later is in the bytes
    of any format."""
    created = {}
    for form in FORMATS:
        path = emit(image(nginx_layers(blobs), form), blobs, tmp_path).path
        entries = read_image(path).entries
        assert entries is not None
        created[form] = max(entry.mtime for entry in entries)
        shutil.rmtree(path / "rootfs", ignore_errors=True)
    assert created == dict.fromkeys(FORMATS, EPOCH)
    text = {
        "oci": b"".join(each.read_bytes() for each in (tmp_path).rglob("*.oci/blobs/sha256/*")),
        "docker-archive": b"".join(members(next(tmp_path.glob("*.docker.tar"))).values()),
        "aci": gzip.decompress(next(tmp_path.glob("*.aci")).read_bytes()),
    }
    for content in text.values():
        assert {*re.findall(rb'"created":"([^"]*)"', content)} <= {b"2023-11-14T22:13:20Z"}
        assert b"2023-11-14T22:13:20Z" in content
    with tarfile.open(next(tmp_path.glob("*.lxc")) / "meta.tar.xz") as meta:
        told = json.loads(meta.extractfile("metadata.yaml").read())  # type: ignore[union-attr]
        assert {one.mtime for one in meta} == {EPOCH}
    assert told["creation_date"] == EPOCH
    squashed = next(tmp_path.glob("*.squashfs")).read_bytes()
    assert SUPERBLOCK.unpack(squashed[: SUPERBLOCK.size])[2] == EPOCH
