from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from buildit.errors import BuilditError, IntegrityError, RecipeError, StoreError
from buildit.model.image import App, Image, Volume
from tests import appc
from tests.unit.image.samples import BlobDirectory, directory, emit, file, image, nginx_layers

pytestmark = pytest.mark.unit

GOLDEN_ID = (
    "sha512-1ee3142524aed0575655c4586de16011acb166e8c704a41e41158285c26ebc16"
    "c28977d0243db49201ac0cdc7d2d23d56a180a34e99d3c708ca97263aff590c4"
)

CONTENT = """
{"acKind": "ImageManifest", "acVersion": "0.6.1", "name": "nginx-production-1.22.1-p1",
 "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
 "app": {"exec": ["/usr/sbin/nginx"], "user": "0", "group": "0"}}
"""


def manifest_of(path: Path) -> dict[str, object]:
    with tarfile.open(fileobj=BytesIO(appc.plain_tar(path))) as archive:
        manifest = archive.extractfile("manifest")
        assert manifest is not None
        whole: dict[str, object] = json.loads(manifest.read())
        return whole


def test_the_aci_meets_every_rule_and_has_the_golden_image_id(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    emission = emit(image(nginx_layers(blobs), "aci"), blobs, tmp_path / "out")
    assert emission.path.name == "nginx-production-1.22.1-p1-linux-amd64.aci"
    assert appc.problems(emission.path) == []
    assert emission.identifier == appc.image_id(emission.path)
    assert emission.identifier == GOLDEN_ID
    assert emission.digest == hashlib.sha256(emission.path.read_bytes()).hexdigest()
    assert emission.path.stat().st_mode & 0o777 == 0o644


def test_compression_does_not_change_the_image_id(blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = image(nginx_layers(blobs), "aci")
    packed = emit(whole, blobs, tmp_path / "packed")
    plain = emit(replace(whole, compress="none"), blobs, tmp_path / "plain")
    assert packed.identifier == plain.identifier
    assert appc.problems(plain.path) == []
    assert plain.path.read_bytes() == appc.plain_tar(packed.path)


def test_the_files_have_their_bytes_owners_and_attributes(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    emission = emit(image(nginx_layers(blobs), "aci"), blobs, tmp_path)
    with tarfile.open(emission.path) as archive:
        config = archive.getmember("rootfs/etc/nginx/nginx.conf")
        assert (config.mode, config.uid, config.gid) == (0o600, 33, 33)
        content = archive.extractfile(config)
        assert content is not None
        assert content.read() == b"error_log stderr;\n"
        other = archive.getmember("rootfs/usr/sbin/nginx-1.22.1")
        assert (other.islnk(), other.linkname) == (True, "rootfs/usr/sbin/nginx")
        ping = archive.getmember("rootfs/usr/bin/ping")
        assert "SCHILY.xattr.security.capability" in ping.pax_headers
        assert "rootfs/usr/share/nginx/html/\udcff.html" in archive.getnames()


def test_the_users_manifest_has_the_last_word(blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = image(nginx_layers(blobs), "aci", content=CONTENT)
    emission = emit(whole, blobs, tmp_path)
    assert manifest_of(emission.path) == json.loads(CONTENT)
    assert appc.problems(emission.path) == []


def test_blanks_in_the_users_manifest_do_not_change_the_image(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    layers = nginx_layers(blobs)
    one = emit(image(layers, "aci", content=CONTENT), blobs, tmp_path)
    other = json.dumps(json.loads(CONTENT), indent=3)
    assert emit(image(layers, "aci", content=other), blobs, tmp_path) == one


BAD_CONTENT = {
    "not JSON": ("{", "is not JSON"),
    "duplicate key": ('{"name": "a", "name": "b"}', "'name' occurs twice"),
    "a list": ("[]", "must be an object"),
    "deep": ("[" * 100_000, "not usable JSON"),
    "NaN": ('{"a": NaN}', "NaN is no JSON number"),
    "identifier": (CONTENT.replace("nginx-production-1.22.1-p1", "a--b"), "AC identifier"),
    "other arch": (CONTENT.replace('"amd64"', '"i386"'), "built for 'amd64'"),
    "relative": (CONTENT.replace("/usr/sbin/nginx", "nginx"), "not an absolute path"),
    "typo": (CONTENT.replace('"user"', '"usr"'), "did you mean 'user'"),
    "no such program": (CONTENT.replace("sbin/nginx", "sbin/ngin"), "does not exist"),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_a_bad_manifest_is_one_clear_error(case: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    content, message = BAD_CONTENT[case]
    with pytest.raises(RecipeError) as caught:
        emit(image(nginx_layers(blobs), "aci", content=content), blobs, tmp_path / "out")
    assert message in caught.value.message
    assert caught.value.place == "containers/nginx/container.yaml:9:5"
    assert caught.value.hint
    assert not [*(tmp_path / "out").glob("*")]


BAD_IMAGE = {
    "codec": ({"compress": "zstd"}, "cannot be compressed as 'zstd'"),
    "name": ({"name": "Nginx"}, "AC identifier"),
    "file name": ({"version": "../1"}, "cannot be part of a file name"),
    "arch": ({"arch": "vax"}, "unknown architecture 'vax'"),
    "url": ({"annotations": (("homepage", "ftp://x"),)}, "http or https"),
    "group": ({"app": App(("/usr/sbin/nginx",), user="www-data")}, "has no group"),
    "program": ({"app": App(("/bin/sh",))}, "/bin does not exist"),
    "volume": ({"app": App(("/x",), volumes=(Volume("x"),))}, "plain absolute path"),
}


@pytest.mark.parametrize("case", BAD_IMAGE)
def test_a_bad_image_is_one_clear_error(case: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    fields, message = BAD_IMAGE[case]
    whole: Image = replace(image(nginx_layers(blobs), "aci"), **fields)  # type: ignore[arg-type]
    with pytest.raises(RecipeError) as caught:
        emit(whole, blobs, tmp_path / "out")
    assert message in caught.value.message
    assert caught.value.place
    assert caught.value.hint
    assert not [*(tmp_path / "out").glob("*")]


def test_a_machine_without_an_app_container_name_gets_no_labels(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    emission = emit(image(nginx_layers(blobs), "aci", arch="riscv64"), blobs, tmp_path)
    assert emission.path.name == "nginx-production-1.22.1-p1-linux-riscv64.aci"
    assert appc.problems(emission.path) == []
    labels = manifest_of(emission.path)["labels"]
    assert {"os", "arch"}.isdisjoint(str(labels))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "listing"])
def test_a_damaged_layer_leaves_the_old_file_and_no_rest(
    damage: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    whole = image(nginx_layers(blobs), "aci")
    out = tmp_path / "out"
    before = emit(whole, blobs, out).path.read_bytes()
    tar = blobs(whole.layers[1].diff_id)
    if damage == "flipped":
        tar.write_bytes(tar.read_bytes().replace(b"nnnn", b"nnnm", 1))
    elif damage == "truncated":
        tar.write_bytes(tar.read_bytes()[:-512])
    elif damage == "missing":
        tar.unlink()
    else:
        blobs(whole.layers[1].contents).write_bytes(b"{}")
    with pytest.raises(BuilditError) as caught:
        emit(whole, blobs, out)
    expected = StoreError if damage == "missing" else IntegrityError
    assert isinstance(caught.value, expected)
    assert caught.value.hint
    assert [path.name for path in out.iterdir()] == [f"{tar_name(whole)}"]
    assert (out / tar_name(whole)).read_bytes() == before


def tar_name(whole: Image) -> str:
    return f"{whole.name}-{whole.version}-linux-amd64.aci"


def test_an_unwritable_output_is_a_store_error(blobs: BlobDirectory, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        emit(image(nginx_layers(blobs), "aci"), blobs, tmp_path / "out")


def test_whiteout_names_are_refused(blobs: BlobDirectory) -> None:
    with pytest.raises(BuilditError, match="wh"):
        blobs.layer("x", [directory("a"), file("a/.wh.b")])
