from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildit.errors import UsageError
from buildit.image.verify import Report, verify
from buildit.model.image import LayerKind
from tests.unit.image.samples import (
    BlobDirectory,
    directory,
    emit,
    file,
    hard,
    image,
    link,
    nginx_layers,
)

pytestmark = pytest.mark.unit


@pytest.fixture
def both(blobs: BlobDirectory, tmp_path: Path) -> tuple[Path, Path]:
    layers = nginx_layers(blobs)
    aci = emit(image(layers, "aci"), blobs, tmp_path / "out").path
    oci = emit(image(layers, "oci"), blobs, tmp_path / "out").path
    return aci, oci


def test_both_formats_hold_the_same_tree(both: tuple[Path, Path]) -> None:
    report = verify(both)
    assert report.passed()
    assert [each.problems for each in report.images] == [(), ()]
    assert [each.format for each in report.images] == ["aci", "oci"]
    assert len({each.root for each in report.images}) == 1


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_compression_changes_no_tree(codec: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    layers = nginx_layers(blobs)
    plain = emit(image(layers, "oci"), blobs, tmp_path / "plain").path
    packed = emit(image(layers, "oci", compress=codec), blobs, tmp_path / "packed").path
    assert verify((plain, packed)).passed()


def test_links_that_a_step_breaks_are_the_same_everywhere(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    """The file of a hard link is replaced: its other names keep the old bytes and stay linked."""
    package = blobs.layer(
        "p", [directory("d"), file("d/a", b"old"), hard("d/b", "d/a"), hard("d/c", "d/a")]
    )
    step = blobs.layer("s", [file("d/a", b"new")], LayerKind.STEP)
    whole = image((package, step), "aci", app=None)
    aci = emit(whole, blobs, tmp_path).path
    oci = emit(replace(whole, format="oci"), blobs, tmp_path).path
    report = verify((aci, oci))
    assert report.passed(), report
    with tarfile.open(aci) as archive:
        assert archive.extractfile("rootfs/d/b").read() == b"old"  # type: ignore[union-attr]
        assert archive.getmember("rootfs/d/c").linkname == "rootfs/d/b"


def test_an_unpacked_tree_is_compared_too(both: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    (root / "link").symlink_to("etc")
    (root / "etc" / "other").hardlink_to(root / "etc" / "passwd")
    report = verify((both[0], root))
    assert not report.passed()
    assert report.images[1].problems == ()
    assert f"{root}: 'link' is only here" in report.differences
    assert f"{root}: 'usr/sbin' is missing" in report.differences
    assert verify((root, root)).passed()


def test_each_difference_is_told_by_path(blobs: BlobDirectory, tmp_path: Path) -> None:
    one = blobs.layer("a", [file("f", b"1"), file("g"), link("l", "f"), file("same")])
    two = blobs.layer("b", [file("f", b"22", 0o600), directory("g"), link("l", "g"), file("same")])
    paths = [
        emit(image((layer,), "oci", app=None, version=layer.title), blobs, tmp_path).path
        for layer in (one, two)
    ]
    report = verify(paths)
    assert not report.passed()
    lines = [line.removeprefix(f"{paths[1]}: ") for line in report.differences]
    assert [line.split(":")[0] for line in lines] == ["'f'", "'g'", "'l'"]
    assert "mode 0600 instead of 0644" in lines[0]
    assert "size 2 instead of 1" in lines[0]
    assert "kind directory instead of file" in lines[1]
    assert "target g instead of f" in lines[2]


def only_problem(report: Report) -> str:
    (verified,) = report.images
    assert not report.passed()
    assert verified.problems
    return "; ".join(verified.problems)


def blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / "blobs" / "sha256" / str(descriptor["digest"]).partition(":")[2]


@dataclass(frozen=True)
class Documents:
    manifest: dict[str, Any]
    config: dict[str, Any]


def rewrite(layout: Path, change: Callable[[Documents], object]) -> None:
    """Change manifest and config and name them anew, so that only the change itself is wrong."""
    index = json.loads((layout / "index.json").read_bytes())
    described = index["manifests"][0]
    manifest = json.loads(blob(layout, described).read_bytes())
    config = json.loads(blob(layout, manifest["config"]).read_bytes())
    named = manifest["config"]["digest"]
    change(Documents(manifest, config))
    if isinstance(manifest.get("config"), dict) and manifest["config"].get("digest") == named:
        manifest["config"] |= put(layout, json.dumps(config).encode())
    described |= put(layout, json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(index))


def put(layout: Path, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


TAR = "application/vnd.oci.image.layer.v1.tar"
Change = Callable[[Documents], object]

WRONG_DOCUMENTS: dict[str, tuple[Change, str]] = {
    "diff_id": (lambda d: d.config["rootfs"]["diff_ids"].reverse(), "is not of its diff_id"),
    "count": (lambda d: d.config["rootfs"]["diff_ids"].pop(), "4 layers, but 3 diff_ids"),
    "history": (lambda d: d.config["history"].pop(), "history"),
    "history shape": (lambda d: d.config["history"].append(3), "history"),
    "media type": (lambda d: d.manifest["layers"][0].update(mediaType="x/y"), "media type 'x/y'"),
    "codec": (
        lambda d: d.manifest["layers"][0].update(
            mediaType=d.manifest["layers"][0]["mediaType"] + "+gzip"
        ),
        "not compressed as its media type says",
    ),
    "path": (
        lambda d: d.manifest["layers"][0].update(digest="sha256:../../../etc/passwd"),
        "is not SHA-256",
    ),
    "algorithm": (
        lambda d: d.manifest["layers"][0].update(digest="md5:" + "0" * 64),
        "not SHA-256",
    ),
    "missing": (
        lambda d: d.manifest["layers"][0].update(digest="sha256:" + "0" * 64),
        "cannot be read",
    ),
    "size": (lambda d: d.manifest["layers"][0].update(size=1), "digest and size that name it"),
    "config": (lambda d: d.manifest.pop("config"), "names no image config"),
    "layers": (lambda d: d.manifest.update(layers={}), "no list of objects `layers`"),
    "layer": (lambda d: d.manifest.update(layers=[1]), "no list of objects `layers`"),
    "rootfs": (lambda d: d.config.update(rootfs=[]), "rootfs.diff_ids"),
    "platform": (lambda d: d.config.update(architecture="arm64"), "architecture is not the one"),
    "schema": (lambda d: d.manifest.update(schemaVersion=1), "media type"),
}


@pytest.mark.parametrize("case", WRONG_DOCUMENTS)
def test_a_wrong_document_is_named(case: str, both: tuple[Path, Path]) -> None:
    change, problem = WRONG_DOCUMENTS[case]
    rewrite(both[1], change)
    assert problem in only_problem(verify([both[1]]))


INDEXES = {
    "not JSON": "{",
    "a list": "[]",
    "no manifests": '{"schemaVersion": 2}',
    "none": '{"schemaVersion": 2, "manifests": []}',
    "strange": '{"schemaVersion": 2, "manifests": [{"mediaType": 5}]}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_wrong_index_is_a_problem_not_a_traceback(case: str, both: tuple[Path, Path]) -> None:
    (both[1] / "index.json").write_text(INDEXES[case])
    assert only_problem(verify([both[1]]))


@pytest.mark.scale
def test_every_flipped_byte_of_a_layout_is_found(both: tuple[Path, Path]) -> None:
    for path in sorted((both[1] / "blobs" / "sha256").iterdir()):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 5)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert only_problem(verify([both[1]]))
        path.write_bytes(whole)
    assert verify([both[1]]).passed()


def test_a_layout_reads_nothing_outside_itself(both: tuple[Path, Path], tmp_path: Path) -> None:
    layer = max((both[1] / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    outside = tmp_path / "outside"
    shutil.copy(layer, outside)
    layer.unlink()
    layer.symlink_to(outside)
    assert "symbolic link" in only_problem(verify([both[1]]))


def archive_of(members: list[tuple[str, bytes | None]]) -> bytes:
    """A tar by Python's writer: None is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return out.getvalue()


MANIFEST = b'{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "a"}'
APP = MANIFEST[:-1] + b', "app": {"exec": ["/bin/x"], "user": "0", "group": "0"}}'
ROOTFS = ("rootfs", None)
WRONG_ARCHIVES: dict[str, tuple[list[tuple[str, bytes | None]], str]] = {
    "no rootfs": ([("manifest", MANIFEST), ("rootfs/x", b"")], "no directory entry `rootfs`"),
    "look-alike": ([("manifest", MANIFEST), ROOTFS, ("rootfs2/x", b"")], "neither `manifest`"),
    "rootfs is a file": ([("manifest", MANIFEST), ("rootfs", b"")], "no directory entry `rootfs`"),
    "no manifest": ([ROOTFS], "no regular file `manifest`"),
    "two manifests": ([("manifest", MANIFEST), ROOTFS, ("manifest", MANIFEST)], "appears twice"),
    "not JSON": ([("manifest", b"{"), ROOTFS], "is not JSON"),
    "bad name": ([("manifest", MANIFEST.replace(b'"a"', b'"a--b"')), ROOTFS], "AC identifier"),
    "no program": ([("manifest", APP), ROOTFS], "app.exec: /bin does not exist"),
    "escape": ([("manifest", MANIFEST), ROOTFS, ("rootfs/../x", b"")], "'..'"),
}


@pytest.mark.parametrize("case", WRONG_ARCHIVES)
def test_a_wrong_aci_is_named(case: str, tmp_path: Path) -> None:
    members, problem = WRONG_ARCHIVES[case]
    path = tmp_path / "x.aci"
    path.write_bytes(gzip.compress(archive_of(members)))
    assert problem in only_problem(verify([path]))


def test_a_foreign_aci_in_another_order_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.aci"
    path.write_bytes(archive_of([("./rootfs", None), ("./rootfs/b", b"x"), ("manifest", MANIFEST)]))
    report = verify([path])
    assert report.passed()
    assert report.images[0].entries == 1


@pytest.mark.parametrize("cut", [0, 1, 10, 300, -1, -8, -600])
def test_a_truncated_aci_is_a_problem(cut: int, both: tuple[Path, Path]) -> None:
    both[0].write_bytes(both[0].read_bytes()[:cut])
    assert only_problem(verify([both[0]]))


def test_zstd_is_no_compression_for_an_aci(tmp_path: Path) -> None:
    from backports import zstd

    path = tmp_path / "x.aci"
    path.write_bytes(zstd.compress(archive_of([("manifest", MANIFEST), ROOTFS])))
    assert "gzip, bzip2 or xz" in only_problem(verify([path]))


def test_whiteouts_of_foreign_layers_delete(tmp_path: Path) -> None:
    lower = archive_of([("d/a", b"1"), ("d/b", b"2"), ("e/x", b"3"), ("keep", b"4"), ("f/y", b"")])
    upper = archive_of(
        [("d/.wh.a", b""), ("e/.wh..wh..opq", b""), ("e/z", b"5"), (".wh.f", b""), ("keep", b"6")]
    )
    expected = archive_of([("d/b", b"2"), ("e/z", b"5"), ("keep", b"6")])
    paths = [layout_of(tmp_path / "two", [lower, upper]), layout_of(tmp_path / "one", [expected])]
    report = verify(paths)
    assert report.passed(), report


def layout_of(path: Path, layers: list[bytes]) -> Path:
    (path / "blobs" / "sha256").mkdir(parents=True)
    descriptors = [{"mediaType": TAR, **put(path, layer)} for layer in layers]
    diff_ids = [each["digest"] for each in descriptors]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **put(path, json.dumps(config).encode()),
        },
        "layers": descriptors,
    }
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **put(path, json.dumps(manifest).encode()),
    }
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    return path


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        verify([tmp_path / "x.aci"])
    with pytest.raises(UsageError, match="nothing to verify"):
        verify([])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index["manifests"][0].pop("digest"), "digest None is not SHA-256"),
        (lambda index: index["manifests"][0].update(digest=5), "is not SHA-256"),
        (lambda index: index["manifests"][0].update(platform=["x"]), "the platform is no object"),
        (lambda index: index.update(x=float("nan")), "NaN is no JSON number"),
    ],
)
def test_an_index_that_is_not_what_it_should_be(
    change: Callable[[dict[str, Any]], object], said: str, both: tuple[Path, Path]
) -> None:
    path = both[1] / "index.json"
    index = json.loads(path.read_bytes())
    change(index)
    path.write_text(json.dumps(index))
    assert said in only_problem(verify([both[1]]))


@pytest.mark.scale
def test_what_a_stranger_stores_bounds_what_is_unpacked(
    blobs: BlobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 MB of gzip were 20 GiB of zeros, and verify read them all."""
    layer = blobs.layer("zeros", [file("z", bytes(8 << 20))])
    made = image((layer,), "aci", app=None)
    aci = emit(made, blobs, tmp_path).path
    oci = emit(replace(made, format="oci", compress="gzip"), blobs, tmp_path).path
    assert verify((aci, oci)).passed()
    monkeypatch.setattr("buildit.image.reading.INFLATED", 1 << 20)
    for path in (aci, oci):
        assert "exceeds the limit total_bytes" in only_problem(verify([path]))
