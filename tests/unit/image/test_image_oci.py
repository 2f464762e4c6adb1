from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildit.archive.compress import TRUSTED, compress_layer, confirm
from buildit.archive.tar.read import read_tar
from buildit.digest import Digest, digest_file
from buildit.errors import BuilditError, IntegrityError, RecipeError, StoreError
from buildit.image.formats.oci import LayerPlace, write_layers
from buildit.image.formats.table import rootfs_of
from buildit.model.artifact import Encoding
from buildit.model.image import App, Emission, Layer, LayerKind
from tests.unit.image.samples import (
    EPOCH,
    BlobDirectory,
    directory,
    emit,
    file,
    hard,
    image,
    nginx_layers,
)

pytestmark = pytest.mark.unit

GOLDEN = "e27bcc174fb83f6814ccb507997dccf7c076a80980b55ddc17114fa2aa6a7575"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def blob_of(layout: Path, descriptor: dict[str, Any]) -> bytes:
    algorithm, _, hexdigits = descriptor["digest"].partition(":")
    assert algorithm == "sha256"
    content: bytes = (layout / "blobs" / "sha256" / hexdigits).read_bytes()
    assert hashlib.sha256(content).hexdigest() == hexdigits
    assert len(content) == descriptor["size"]
    return content


def read_layout(emission: Emission) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Index, manifest and config, checked as the image specification demands."""
    layout = emission.path
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_bytes())
    assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX)
    (described,) = index["manifests"]
    assert described["mediaType"] == MANIFEST
    assert described["digest"] == emission.identifier == f"sha256:{emission.digest}"
    manifest = json.loads(blob_of(layout, described))
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, MANIFEST)
    assert manifest["config"]["mediaType"] == CONFIG
    config = json.loads(blob_of(layout, manifest["config"]))
    assert config["rootfs"]["type"] == "layers"
    counts = len(manifest["layers"]), len(config["rootfs"]["diff_ids"]), len(config["history"])
    assert len(set(counts)) == 1
    named = {each["digest"].partition(":")[2] for each in manifest["layers"]}
    named |= {described["digest"].partition(":")[2], manifest["config"]["digest"][7:]}
    assert {path.name for path in (layout / "blobs" / "sha256").iterdir()} == named
    return index, manifest, config


def test_the_layout_is_sound_and_has_the_golden_digest(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    layers = nginx_layers(blobs)
    emission = emit(image(layers, "oci"), blobs, tmp_path / "out")
    assert emission.path.name == "nginx-production-1.22.1-p1-linux-amd64.oci"
    index, manifest, config = read_layout(emission)
    assert index["manifests"][0]["platform"] == {"architecture": "amd64", "os": "linux"}
    reference = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    assert reference == "1.22.1-p1"
    assert [each["mediaType"] for each in manifest["layers"]] == [LAYER] * 4
    assert config["rootfs"]["diff_ids"][:-1] == [f"sha256:{layer.diff_id}" for layer in layers]
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert config["config"] == {
        "Entrypoint": ["/usr/sbin/nginx", "-g", "daemon off;"],
        "Env": ["LANG=C.UTF-8", "EMPTY="],
        "ExposedPorts": {"443/tcp": {}, "53/udp": {}, "80/tcp": {}},
        "Labels": {"tier": "front"},
        "StopSignal": "SIGQUIT",
        "User": "www-data:www-data",
        "Volumes": {"/srv": {}, "/var/lib/nginx": {}},
        "WorkingDir": "/srv",
    }
    assert emission.digest == GOLDEN


def test_the_uppermost_layer_says_of_directories_what_no_other_does(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    emission = emit(image(nginx_layers(blobs), "oci"), blobs, tmp_path)
    _, manifest, _ = read_layout(emission)
    last = emission.path / "blobs" / "sha256" / manifest["layers"][-1]["digest"][7:]
    with last.open("rb") as stream:
        entries = [entry for entry, _ in read_tar(stream, TRUSTED, root=True)]
    paths = [entry.path for entry in entries]
    assert paths[0] == ""
    assert "usr/share/nginx/html" in paths
    assert "usr/sbin" in paths  # the package's layer has usr/sbin/nginx, and no entry for usr/sbin
    assert "tmp" not in paths
    assert {(entry.mode, entry.mtime, entry.uid) for entry in entries} == {(0o755, EPOCH, 0)}


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_layers_hold_the_same_tars(
    codec: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    layers = nginx_layers(blobs)
    plain = emit(image(layers, "oci"), blobs, tmp_path / "plain")
    packed = emit(image(layers, "oci", compress=codec), blobs, tmp_path / "packed")
    _, manifest, config = read_layout(packed)
    assert config == read_layout(plain)[2]
    assert {each["mediaType"] for each in manifest["layers"]} == {f"{LAYER}+{codec}"}
    for each, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        blob = packed.path / "blobs" / "sha256" / each["digest"][7:]
        assert confirm(blob, diff_id[7:]) == (each["digest"][7:], each["size"])


def test_a_known_encoding_is_copied(blobs: BlobDirectory, tmp_path: Path) -> None:
    layer = blobs.layer("x", [file("f", b"content")])
    with blobs(layer.diff_id).open("rb") as source:
        digest, size = compress_layer(source, layer.diff_id, "gzip", tmp_path / "f.gz")
    (tmp_path / "f.gz").rename(blobs(digest))
    known = replace(layer, encodings=(Encoding("gzip", digest, size),))
    blobs(layer.diff_id).write_bytes(bytes(layer.size))  # proves that it is not compressed anew
    whole = image((known,), "oci", app=None, compress="gzip")
    _, manifest, _ = read_layout(emit(whole, blobs, tmp_path / "out"))
    assert manifest["layers"][0]["digest"] == f"sha256:{digest}"


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_flipped_bit_after_compression_is_found(
    codec: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    layer = blobs.layer("x", [file("f", bytes(range(256)) * 64)])
    packed = tmp_path / "packed"
    with blobs(layer.diff_id).open("rb") as source:
        compress_layer(source, layer.diff_id, codec, packed)
    whole = packed.read_bytes()
    found = 0
    positions = range(0, len(whole), 7)
    for at in positions:
        flipped = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        packed.write_bytes(flipped)
        try:
            digest, _ = confirm(packed, layer.diff_id)
        except IntegrityError:
            found += 1
        else:  # a bit that no decoder looks at: still the layer, under the digest of these bytes
            assert digest == hashlib.sha256(flipped).hexdigest()
    assert found > len(positions) * 0.8


def test_a_damaged_layer_is_never_compressed_into_an_image(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    layer = blobs.layer("x", [file("f", b"content")])
    tar = blobs(layer.diff_id)
    tar.write_bytes(tar.read_bytes().replace(b"content", b"contenu"))
    with pytest.raises(IntegrityError, match="is corrupt"):
        emit(image((layer,), "oci", app=None, compress="zstd"), blobs, tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*")]


def test_an_image_never_shares_an_inode_with_the_store(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    layers = nginx_layers(blobs)
    layout = emit(image(layers, "oci"), blobs, tmp_path / "out").path
    stored = {path.stat().st_ino for path in blobs.root.iterdir()}
    copied = layout / "blobs" / "sha256" / layers[0].diff_id
    assert copied.stat().st_ino not in stored
    assert copied.stat().st_nlink == 1
    assert copied.read_bytes() == blobs(layers[0].diff_id).read_bytes()


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_umask_does_not_show(mask: int, blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = image(nginx_layers(blobs), "oci")
    (tmp_path / "out").mkdir()
    before = os.umask(mask)
    try:
        emission = emit(whole, blobs, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in emission.path.rglob("*")}
    assert modes == {"0o755", "0o644"}
    assert emission.digest == GOLDEN


def small_layers(blobs: BlobDirectory) -> tuple[Layer, ...]:
    packages = tuple(
        blobs.layer(f"p{n}", [directory("d", mtime=n), file(f"d/{n}", bytes([n]) * n * 40)])
        for n in range(12)
    )
    linked = blobs.layer("l", [directory("d", mtime=99), file("d/a", b"old"), hard("d/z", "d/a")])
    step = blobs.layer("s", [file("d/a", b"new"), file("d/3", b"three")], LayerKind.STEP)
    return (*packages, linked, step)


def unpacked(layout: Path, manifest: dict[str, Any]) -> dict[str, tuple[object, ...]]:
    """What is left when layer after layer is laid down, by the layers' own bytes."""
    tree: dict[str, tuple[object, ...]] = {}
    for each in manifest["layers"]:
        here: dict[str, tuple[object, ...]] = {}
        with (layout / "blobs" / "sha256" / each["digest"][7:]).open("rb") as stream:
            for entry, content in read_tar(stream, TRUSTED):
                whole = (entry.mode, entry.mtime, content.read() if content else None)
                here[entry.path] = here[entry.target] if entry.target else whole
        tree |= here
    return tree


def grouped(layers: tuple[Layer, ...], blobs: BlobDirectory, out: Path, budget: int) -> Any:
    blob_directory = out / "blobs" / "sha256"
    blob_directory.mkdir(parents=True)
    rootfs = rootfs_of(image(layers, "oci"), blobs)
    written = write_layers(rootfs, EPOCH, LayerPlace(blobs, blob_directory, "none"), budget)
    assert len(written) <= budget
    for each in written:
        assert digest_file(blob_directory / each.digest) == each.digest == each.diff_id
        assert (blob_directory / each.digest).stat().st_size == each.size
    return unpacked(out, {"layers": [{"digest": f"sha256:{each.digest}"} for each in written]})


@pytest.mark.parametrize("budget", [2, 3, 5, 14, 15])
def test_grouping_layers_keeps_the_tree(budget: int, blobs: BlobDirectory, tmp_path: Path) -> None:
    layers = small_layers(blobs)
    whole = grouped(layers, blobs, tmp_path / "all", 100)
    assert grouped(layers, blobs, tmp_path / "few", budget) == whole
    assert whole["d/z"][2] == b"old"


CONTENT = {
    "author": "Another",
    "config": {"Cmd": ["/usr/sbin/nginx"], "Env": ["A=b"], "ExposedPorts": {"80": {}}},
}


def test_the_users_config_takes_the_place_of_the_app(blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = image(nginx_layers(blobs), "oci", content=json.dumps(CONTENT))
    _, _, config = read_layout(emit(whole, blobs, tmp_path))
    assert config["author"] == "Another"
    assert config["config"] == CONTENT["config"]
    assert (config["architecture"], config["os"]) == ("amd64", "linux")


BAD_CONTENT = {
    "rootfs": ('{"rootfs": {}}', "rootfs: is made from the layers"),
    "typo": ('{"config": {"EntryPoint": []}}', "did you mean 'Entrypoint'"),
    "arch": ('{"architecture": "arm64"}', "is not the container's"),
    "env": ('{"config": {"Env": ["A"]}}', "is not NAME=value"),
    "port": ('{"config": {"ExposedPorts": {"http": {}}}}', "is not PORT"),
    "shape": ('{"config": []}', "must be an object"),
    "list": ('{"config": {"Cmd": "sh -c"}}', "must be a list"),
    "relative": ('{"config": {"WorkingDir": "srv"}}', "is not absolute"),
    "program": ('{"config": {"Entrypoint": ["/bin/sh"]}}', "/bin does not exist"),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_a_bad_config_is_one_clear_error(case: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    content, message = BAD_CONTENT[case]
    with pytest.raises(RecipeError) as caught:
        emit(image(nginx_layers(blobs), "oci", content=content), blobs, tmp_path / "out")
    assert message in caught.value.message
    assert caught.value.place == "containers/nginx/container.yaml:9:5"
    assert not [*(tmp_path / "out").glob("*")]


BAD_IMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "codec": ({"compress": "xz"}, "cannot be compressed as 'xz'"),
    "nothing": ({"layers": ()}, "holds nothing"),
    "app": ({"app": App(("sh",))}, "absolute path"),
}


@pytest.mark.parametrize("case", BAD_IMAGE)
def test_a_bad_image_is_one_clear_error(case: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    fields, message = BAD_IMAGE[case]
    with pytest.raises(RecipeError, match=message):
        emit(replace(image(nginx_layers(blobs), "oci"), **fields), blobs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_digest_that_is_a_path_goes_nowhere(blobs: BlobDirectory, tmp_path: Path) -> None:
    layer = replace(blobs.layer("x", [file("f")]), diff_id=Digest("../../f"))
    with pytest.raises(ValueError, match="not a digest"):
        emit(image((layer,), "oci"), blobs, tmp_path / "out")


def test_a_missing_or_short_blob_leaves_the_old_image(blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = image(nginx_layers(blobs), "oci")
    before = emit(whole, blobs, tmp_path / "out")
    tar = blobs(whole.layers[1].diff_id)
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="bytes instead of"):
        emit(whole, blobs, tmp_path / "out")
    tar.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        emit(whole, blobs, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [before.path.name]
    read_layout(before)


def test_the_same_layer_twice_is_one_blob(blobs: BlobDirectory, tmp_path: Path) -> None:
    layer = blobs.layer("x", [file("f", b"content")])
    read_layout(emit(image((layer, layer), "oci", app=None), blobs, tmp_path))


def test_a_full_disk_is_a_store_error_and_leaves_nothing(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    import resource

    layer = blobs.layer("x", [file("f", bytes(1 << 20))])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(BuilditError) as caught:
            emit(image((layer,), "oci", app=None), blobs, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(caught.value, StoreError)
    assert not [*(tmp_path / "out").glob("*")]
