"""Bases that somebody made to do harm, or that were cut short: each one clear error with the place
of its step, and nothing of it in the store, nor an image."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.errors import BuilditError
from buildit.image import reading
from tests import base_images
from tests.base_images import Foreign, device, folder, hard_link, member, sha, symbolic, tar
from tests.planning import PLATFORM, Checkout
from tests.unit.commands.test_bases import built, project, tree, write  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(PLATFORM.arch != "amd64", reason="the images are for amd64"),
]

ZEROS = 3 << 20
USER = {"SCHILY.xattr.user.overlay.opaque": "y"}

LAYERS = {
    "up": (tar(member("../x", b"x")), "holds '..'"),
    "up in the middle": (tar(member("a/../../x", b"x")), "holds '..'"),
    "absolute": (tar(member("/etc/x", b"x")), "absolute"),
    "through a link": (tar(symbolic("a", "/etc"), member("a/x", b"x")), "which is a symlink"),
    "below a file": (tar(member("a", b"x"), member("a/x", b"x")), "which is a file"),
    "twice": (tar(member("a", b"1"), member("a", b"2")), "appears twice"),
    "a file, then a directory": (tar(member("a", b"1"), folder("a")), "appears twice"),
    "link to nothing": (tar(hard_link("a", "b")), "hard link to 'b', which is no earlier file"),
    "link to itself": (tar(hard_link("a", "a")), "which is no earlier file"),
    "links in a circle": (tar(hard_link("a", "b"), hard_link("b", "a")), "no earlier file"),
    "link to what lies outside": (tar(hard_link("a", "../../etc/shadow")), "'..'"),
    "link to an absolute path": (tar(hard_link("a", "/etc/shadow")), "absolute"),
    "whiteout behind a link": (tar(symbolic("a", "/e"), member("a/.wh.x")), "behind a link"),
    "whiteout of nothing": (tar(folder("a"), member("a/.wh.")), "whiteout of nothing"),
    "whiteout of ..": (tar(member(".wh...")), "whiteout of nothing"),
    "whiteout with bytes": (tar(member(".wh.x", b"x")), "is a whiteout by its name"),
    "link to a whiteout": (tar(member(".wh.a"), hard_link("b", ".wh.a")), "link to a whiteout"),
    "in a whiteout": (tar(member(".wh.a/b/c", b"x")), "a directory that is a whiteout"),
    "attribute": (tar(member("a", b"1", pax_headers=USER)), "hides files"),
    "name of 5000 bytes": (tar(member("d/" * 2400 + "x" * 200, b"")), "path_bytes"),
    "deep": (tar(member("d/" * 300 + "x", b"")), "depth"),
    "cut short": (
        tar(member("a", b"x" * 9000))[:4096],
        "layer 1: member 'a' is refused: the archive is truncated",
    ),
    "no tar": (b"PK\x03\x04" + bytes(2000), "tar"),
    "bomb": (tar(member("a", bytes(ZEROS))), "total_bytes"),
}


def fails(made: Checkout, told: str) -> BuilditError:
    with pytest.raises(BuilditError) as caught:
        built(made)
    error = caught.value
    assert told in error.message
    assert "container.yaml:2:15" in str(error.place)
    assert error.hint
    assert "\n" not in error.message
    return error


def nothing_of(made: Checkout, *contents: bytes) -> None:
    """No blob, no scratch file and no image of these bytes."""
    left = [path for path in (made.root / "store").rglob("*") if path.is_file()]
    assert not {sha(one) for one in contents} & {path.name for path in left}
    assert not [path for path in left if path.stat().st_size in map(len, contents)]
    assert not (made.root / "out").exists() or not os.listdir(made.root / "out")


@pytest.mark.parametrize("name", LAYERS)
def test_layers(project: Checkout, name: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    layer, told = LAYERS[name]
    monkeypatch.setattr(reading, "INFLATED", ZEROS >> 1)
    image = Foreign((base_images.BOTTOM, layer))
    image.layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    fails(project, told)
    nothing_of(project, layer)


def packed(change: Callable[[bytes], bytes]) -> type[Foreign]:
    class Packed(Foreign):
        def pack(self, layer: bytes) -> bytes:
            return change(super().pack(layer))

    return Packed


PACKED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "gzip cut short": (lambda data: data[:-30], "layer 0"),
    "gzip with another sum": (lambda data: data[:-8] + bytes(8), "layer 0"),
    "empty": (lambda _: b"", "layer 0"),
    "something behind it": (lambda data: data + gzip.compress(b"more"), "layer 0"),
    "zeros": (lambda _: gzip.compress(bytes(ZEROS)), "diff_id"),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_layers(project: Checkout, name: str) -> None:  # noqa: F811
    change, told = PACKED[name]
    packed(change)().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    fails(project, told)
    nothing_of(project, base_images.BOTTOM, base_images.TOP)


DOCUMENTS = {
    "an empty index": ("index.json", b"", "the index is not JSON"),
    "no JSON": ("index.json", b"{", "the index is not JSON"),
    "an index of nothing": ("index.json", b'{"schemaVersion": 2, "manifests": []}', "image"),
    "an index of no list": ("index.json", b'{"schemaVersion": 2, "manifests": 1}', "manifests"),
    "deep JSON": ("index.json", b"[" * 100_000, "the index is not JSON"),
    "another layout": ("oci-layout", b'{"imageLayoutVersion": "9"}', "oci-layout"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(project: Checkout, name: str) -> None:  # noqa: F811
    file, content, told = DOCUMENTS[name]
    Foreign().layout(project.root / "base.oci")
    (project.root / "base.oci" / file).write_bytes(content)
    write(project, "{oci: oci:../base.oci}")
    fails(project, told)
    nothing_of(project, base_images.BOTTOM, base_images.TOP)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["aci", "docker-archive"])
def test_archives_that_are_cut_short(project: Checkout, kind: str, part: float) -> None:  # noqa: F811
    path = project.root / "base"
    base_images.aci(path) if kind == "aci" else Foreign().docker(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    write(project, f"{{{kind}: ../base}}")
    with pytest.raises(BuilditError) as caught:
        built(project)
    assert "container.yaml:2:" in str(caught.value.place)
    nothing_of(project, base_images.BOTTOM, base_images.TOP)


ACIS = {
    "out of rootfs": (tar(folder("rootfs"), hard_link("rootfs/a", "b")), "hard link"),
    "up": (tar(folder("rootfs"), member("rootfs/../x", b"x")), "holds '..'"),
    "a link as rootfs": (tar(symbolic("rootfs", "/"), member("rootfs/x", b"x")), "symlink"),
    "a whiteout": (tar(folder("rootfs"), member("rootfs/.wh.x")), "would delete files"),
    "no manifest": (tar(folder("rootfs")), "no regular file `manifest`"),
    "a link as manifest": (tar(folder("rootfs"), symbolic("manifest", "x")), "`manifest`"),
}


@pytest.mark.parametrize("name", ACIS)
def test_acis(project: Checkout, name: str) -> None:  # noqa: F811
    layer, told = ACIS[name]
    path = base_images.aci(project.root / "base.aci")
    if "manifest" not in name:
        layer = _with_manifest(path, layer)
    path.write_bytes(gzip.compress(layer))
    write(project, "{aci: ../base.aci}")
    fails(project, told)
    nothing_of(project, layer)


def _with_manifest(path: Path, layer: bytes) -> bytes:
    """The manifest of an ACI, and then the members of a tar."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(path.read_bytes()))) as found:
        stream = found.extractfile("manifest")
        assert stream is not None
        manifest = stream.read()
    return tar(member("manifest", manifest))[: 512 + -(-len(manifest) // 512) * 512] + layer


def test_what_deletes_beneath_a_file_is_left_out(project: Checkout) -> None:  # noqa: F811
    """As umoci writes it where a directory became a file; in either order."""
    top = (member("srv/gone", b"a file"), member("srv/gone/.wh.x"), folder("srv", uid=101, gid=102))
    for members in (top, top[::-1]):
        image = Foreign((base_images.BOTTOM, tar(*members)))
        path = project.root / f"base{len(members[0][1])}.oci"
        image.layout(path)
        write(project, f"{{oci: 'oci:{path}'}}")
        inside = tree(built(project)["oci"])
        assert inside["srv/gone"].size == len("a file")
        assert not [one for one in inside if ".wh." in one]


def test_devices_of_every_kind_are_left_out(project: Checkout) -> None:  # noqa: F811
    nodes = [device("dev/null"), member("dev/sda", type=tarfile.BLKTYPE), member("p", type=b"6")]
    Foreign((tar(folder("dev"), *nodes, member("kept", b"x")),), {}).layout(project.root / "b.oci")
    write(project, "{oci: oci:../b.oci}")
    assert {*tree(built(project)["oci"])} - {""} == {"dev", "kept"}
