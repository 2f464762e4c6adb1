"""What `run` refuses of an image, in every format, before anything of it is laid down."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.commands.unpacking import lay_image
from buildit.errors import IntegrityError, UsageError
from buildit.sandbox.spaces import IdMap
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit

ONE = IdMap(((0, os.geteuid(), 1),), ((0, os.getegid(), 1),))
FORMATS = ("oci", "oci-archive", "docker-archive", "aci", "lxc", "nspawn", "rootfs", "squashfs")


def refused(path: Path, tmp_path: Path) -> str:
    """Why an image is not run; nothing but kept bytes lies in the directory of work."""
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(IntegrityError) as caught:
        lay_image(path, work, ONE)
    assert [one.name for one in work.iterdir()] == ["kept"]
    assert caught.value.place == str(path)
    return caught.value.message


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_image(form: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    path = emit(image(nginx_layers(blobs), form), blobs, tmp_path / "out").path
    parts = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    trees = [one for one in parts if "rootfs/" not in str(one.relative_to(path.parent))]
    trees = [one for one in trees if one.name != "config"]  # of LXC: text that no digest covers
    largest = max(trees, key=lambda one: one.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 5)
    assert refused(path, tmp_path)


Member = tuple[str, bytes, str]
HOSTILE: dict[str, tuple[list[Member], str]] = {
    "an escape": ([("../../escape", tarfile.REGTYPE, "")], "holds '..'"),
    "an absolute path": ([("/etc/escape", tarfile.REGTYPE, "")], "absolute"),
    "a device": ([("etc/sda", tarfile.BLKTYPE, "")], "device"),
    "a link to outside": ([("hard", tarfile.LNKTYPE, "../../etc/passwd")], "unsafe"),
    "a file twice": ([("twice", tarfile.REGTYPE, ""), ("twice", tarfile.REGTYPE, "")], "twice"),
    "a file through a link": (
        [("way", tarfile.SYMTYPE, "/etc"), ("way/passwd", tarfile.REGTYPE, "")],
        "way",
    ),
}


def tar_of(members: list[Member], above: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in filter(None, (above.rstrip("/"),)):
            one = tarfile.TarInfo(name)
            one.type, one.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(one)
        for name, kind, target in members:
            one = tarfile.TarInfo(name if name.startswith("/") else above + name)
            one.type = kind
            one.linkname = above + target if kind == tarfile.LNKTYPE else target
            tar.addfile(one)
    return out.getvalue()


def archive_of(files: dict[str, bytes], more: bytes = b"") -> bytes:
    """A plain tar of files, and of the members of another tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size = len(content)
            tar.addfile(one, io.BytesIO(content))
        if more:
            with tarfile.open(fileobj=io.BytesIO(more)) as other:
                for one in other:
                    tar.addfile(one)
    return out.getvalue()


def rootfs(members: list[Member]) -> tuple[str, bytes]:
    return "evil.tar", tar_of(members)


def aci(members: list[Member]) -> tuple[str, bytes]:
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.org/evil"}
    return "evil.aci", archive_of(
        {"manifest": json.dumps(manifest).encode()}, tar_of(members, "rootfs/")
    )


def docker(members: list[Member]) -> tuple[str, bytes]:
    layer = tar_of(members)
    digest = hashlib.sha256(layer).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["a:1"], "Layers": ["layer.tar"]}])
    files = {"manifest.json": manifest.encode(), name: config, "layer.tar": layer}
    return "evil.docker.tar", archive_of(files)


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("form", [rootfs, aci, docker])
def test_a_hostile_image(
    form: Callable[[list[Member]], tuple[str, bytes]], what: str, tmp_path: Path
) -> None:
    members, reason = HOSTILE[what]
    name, content = form(members)
    path = tmp_path / name
    path.write_bytes(content)
    assert reason in refused(path, tmp_path)


def test_a_sound_one_is_not_refused_for_its_shape(tmp_path: Path) -> None:
    """What makes the hostile ones is what is refused of them."""
    for form in (rootfs, aci, docker):
        name, content = form([("etc", tarfile.SYMTYPE, "usr")])
        work = tmp_path / f"work-{name}"
        work.mkdir()
        (tmp_path / name).write_bytes(content)
        several = IdMap(((5, 0, 1), (6, 1, 1)), ((5, 0, 1), (6, 1, 1)))
        with pytest.raises(UsageError, match="beyond the ids"):
            lay_image(tmp_path / name, work, several)
