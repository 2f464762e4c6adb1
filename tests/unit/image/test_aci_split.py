"""One ACI for each package: judged by a validator and a renderer that share no code with it."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from buildit.cli.images import verify_verb
from buildit.commands.publish import image_files
from buildit.commands.stamp import image_parts
from buildit.errors import RecipeError
from buildit.image.aci import read_aci
from buildit.image.merge import merge
from buildit.image.output import parts_beside, parts_of
from buildit.image.rendering import cut
from buildit.image.verify import verify
from buildit.model.image import Image, Layer, LayerKind
from tests import appc
from tests.appc_render import render, same_files
from tests.unit.image.samples import (
    EPOCH,
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
def blobs(tmp_path: Path) -> BlobDirectory:
    (tmp_path / "blobs").mkdir()
    return BlobDirectory(tmp_path / "blobs")


def named(layer: Layer, name: str, version: str) -> Layer:
    return replace(layer, name=name, version=version)


def split_image(blobs: BlobDirectory, **more: Any) -> Image:
    """nginx as in the other tests, and over it a .deb, accounts and a step that changes a file
    which has two names, and a directory's mode."""
    layout, package, sync = nginx_layers(blobs)
    deb = blobs.layer(
        "debian:libstdc++6-12.2.0-14 (runtime)",
        [
            directory("tmp"),  # plain, over one with 01777: that one counts in the image
            file("usr/lib/libstdc++.so.6", b"library"),
            hard("usr/lib/libstdc++.so.6.0", "usr/lib/libstdc++.so.6"),
            file("usr/share/x/one", b"twin"),
            hard("usr/share/x/two", "usr/share/x/one"),
            link("usr/share/y", "x"),
        ],
    )
    step = blobs.layer(
        "sync x",
        [
            directory("usr/share/x", 0o700),
            file("usr/share/x/two", b"changed"),
            file("srv/new", b"new"),
        ],
        LayerKind.STEP,
    )
    layers = (
        named(layout, "sys-apps/baselayout", "1"),
        named(package, "www-servers/nginx", "1.22.1"),
        named(deb, "debian:libstdc++6", "12.2.0-14"),
        step,
        sync,
    )
    return image(layers, "aci", split=True, **more)


def manifest(path: Path) -> dict[str, Any]:
    with tarfile.open(fileobj=BytesIO(appc.plain_tar(path)), mode="r:") as archive:
        stream = archive.extractfile("manifest")
        assert stream is not None
        found: dict[str, Any] = json.load(stream)
    return found


def own_files(path: Path) -> set[str]:
    with tarfile.open(fileobj=BytesIO(appc.plain_tar(path)), mode="r:") as archive:
        return {m.name.removeprefix("rootfs/") for m in archive if m.name.startswith("rootfs/")}


def test_packages_render_to_the_tree_of_the_whole_image(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    wanted = split_image(blobs)
    made = emit(wanted, blobs, tmp_path / "split")
    whole = emit(replace(wanted, split=False), blobs, tmp_path / "whole")
    layers = emit(replace(wanted, split=False, format="oci"), blobs, tmp_path / "whole")
    parts = parts_of(made.path)
    assert [one.name for one in parts] == [
        "debian-libstdc-6-12.2.0-14-linux-amd64.aci",
        "sys-apps-baselayout-1-linux-amd64.aci",
        "www-servers-nginx-1.22.1-linux-amd64.aci",
    ]
    assert [appc.problems(one) for one in parts] == [[]] * 3
    tree, one_file = render(made.path, parts), render(whole.path)
    assert {p: n.said() for p, n in tree.items()} == {p: n.said() for p, n in one_file.items()}
    assert same_files(tree) == same_files(one_file) != set()
    # what the container adds or changes, and nothing else, is in its own image
    assert "srv/new" in own_files(made.path)
    assert "usr/sbin/nginx" not in own_files(made.path)
    assert tree["tmp"].mode == 0o1777
    assert verify([made.path, whole.path, layers.path]).passed()
    said = manifest(made.path)
    assert appc.problems(made.path) == []
    wrong = {**said["dependencies"][0], "imageID": "sha512-x", "imageName": "A", "more": 1}
    assert len(appc.manifest_problems({**said, "dependencies": [wrong]})) == 3
    assert said["app"]["exec"][0] == "/usr/sbin/nginx"  # lies in a dependency
    assert [(each["imageName"], each["labels"][0]) for each in said["dependencies"]] == [
        ("sys-apps/baselayout", {"name": "version", "value": "1"}),
        ("www-servers/nginx", {"name": "version", "value": "1.22.1"}),
        ("debian/libstdc-6", {"name": "version", "value": "12.2.0-14"}),
    ]
    by_name = {manifest(one)["name"]: appc.image_id(one) for one in parts}
    assert [e["imageID"] for e in said["dependencies"]] == [
        by_name[e["imageName"]] for e in said["dependencies"]
    ]
    assert made.identifier == appc.image_id(made.path)
    # what is published, and what is looked at to tell that an image lies there as it was made
    published = [name for name, _ in image_files([made])]
    assert published == [made.path.name, *(f"{made.path.name}.d/{one.name}" for one in parts)]
    assert image_parts(made.path) == [made.path, *parts]


def test_containers_share_the_images_of_packages(blobs: BlobDirectory, tmp_path: Path) -> None:
    wanted = split_image(blobs)
    one = emit(wanted, blobs, tmp_path / "one")
    other = replace(wanted, name="other", epoch=EPOCH + 5, author="them", layers=wanted.layers[:2])
    two = emit(other, blobs, tmp_path / "two")
    again = emit(wanted, blobs, tmp_path / "again")
    shared = {part.name: part.read_bytes() for part in parts_of(two.path)}
    ones = {part.name: part.read_bytes() for part in parts_of(one.path)}
    assert shared.items() < ones.items()
    assert one.path.read_bytes() == again.path.read_bytes()


def test_a_whitelist_is_what_is_left(blobs: BlobDirectory, tmp_path: Path) -> None:
    document = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "web",
        "app": {"exec": ["/usr/sbin/nginx"], "user": "0", "group": "0"},
        "pathWhitelist": ["/usr", "/usr/sbin", "/usr/sbin/nginx-1.22.1", "/usr/sbin/nginx"],
    }
    wanted = split_image(blobs, content=json.dumps(document))
    made = emit(wanted, blobs, tmp_path / "out")
    kept = {"usr", "usr/sbin", "usr/sbin/nginx", "usr/sbin/nginx-1.22.1"}
    tree = render(made.path, parts_of(made.path))
    assert set(tree) == kept
    reading = read_aci(made.path)
    assert reading.problems == ()
    assert {entry.path for entry in reading.entries or ()} == {"", *kept}
    document["pathWhitelist"] = ["/usr", "/usr/sbin", "/usr/sbin/nginx-1.22.1"]
    wanted = split_image(blobs, content=json.dumps(document))
    with pytest.raises(RecipeError, match="runs /usr/sbin/nginx, but /usr/sbin/nginx does not"):
        emit(wanted, blobs, tmp_path / "out")
    with pytest.raises(RecipeError, match="does not exist"):
        emit(replace(wanted, split=False), blobs, tmp_path / "out")


def test_written_dependencies_are_not_mixed_with_packages(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    document = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "web",
        "app": {"exec": ["/opt/elsewhere"], "user": "0", "group": "0"},
        "dependencies": [{"imageName": "example.org/base"}],
    }
    wanted = split_image(blobs, content=json.dumps(document))
    with pytest.raises(RecipeError, match="`split` writes them"):
        emit(wanted, blobs, tmp_path)
    alone = emit(replace(wanted, split=False), blobs, tmp_path)  # its program is over there
    assert appc.manifest_problems(manifest(alone.path)) == []
    assert read_aci(alone.path).problems == ()


def test_only_an_aci_can_be_split(blobs: BlobDirectory, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="an OCI image cannot be split"):
        emit(replace(split_image(blobs), format="oci"), blobs, tmp_path)


def test_a_tree_that_app_container_cannot_render_is_refused(blobs: BlobDirectory) -> None:
    """Nothing of it is deleted: appc has no whiteouts."""
    package = named(blobs.layer("a-1", [file("usr/a"), file("usr/b")]), "x/a", "1")
    gone = replace(blobs.layer("run rm", [file("etc/x")]), kind=LayerKind.STEP)
    listings = [[file("usr/a")[0], file("usr/b")[0]], [file("usr/.wh.a")[0]]]
    with pytest.raises(RecipeError, match="would show another /usr/a") as caught:
        cut(merge([package, gone], listings, EPOCH), "container.yaml:9:3")
    assert caught.value.place == "container.yaml:9:3"


def test_two_packages_of_one_file_name_are_refused(blobs: BlobDirectory, tmp_path: Path) -> None:
    wanted = split_image(blobs)
    more = named(blobs.layer("debian:libstdc-6", [file("x")]), "debian:libstdc-6", "12.2.0-14")
    with pytest.raises(RecipeError, match="would both be the file debian-libstdc-6"):
        emit(replace(wanted, layers=(*wanted.layers, more)), blobs, tmp_path)


def test_what_an_image_depends_on_is_replaced_and_removed_with_it(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    wanted = split_image(blobs)
    path = emit(wanted, blobs, tmp_path).path
    fewer = replace(wanted, layers=wanted.layers[:2])
    assert [p.name[:3] for p in parts_of(emit(fewer, blobs, tmp_path).path)] == ["sys", "www"]
    emit(replace(wanted, split=False), blobs, tmp_path)
    assert not parts_beside(path).exists()


def test_images_that_are_missing_or_others_are_problems(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    path = emit(split_image(blobs), blobs, tmp_path).path
    layout, nginx = (
        parts_beside(path) / f"{n}-linux-amd64.aci"
        for n in ("sys-apps-baselayout-1", "www-servers-nginx-1.22.1")
    )
    layout.unlink()
    [problem, *_] = read_aci(path).problems
    assert problem.startswith("it depends on sys-apps/baselayout (sha512-")
    whole = nginx.read_bytes()
    nginx.write_bytes(whole[: len(whole) // 2])
    assert not verify([path]).passed()


def bare(path: Path, wanted: list[str]) -> str:
    """A small ACI by hand that depends on images of these IDs, each named `x`; its own ID."""
    found = [{"imageName": "x", "imageID": each} for each in wanted]
    document = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "x"}
    text = json.dumps({**document, "dependencies": found}).encode()
    with tarfile.open(path, "w") as archive:
        manifest = tarfile.TarInfo("manifest")
        manifest.size = len(text)
        archive.addfile(manifest, BytesIO(text))
        rootfs = tarfile.TarInfo("rootfs")
        rootfs.type, rootfs.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(rootfs)
    return appc.image_id(path)


def test_dependencies_without_end_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildit.image.aci.MOST_LAID", 200)
    path = tmp_path / "x.aci"
    parts = parts_beside(path)
    parts.mkdir()
    below: list[str] = []
    for number in range(30):  # 2^30 ways
        below = [bare(parts / f"{number}.aci", below)] * 2
    bare(path, below)
    [problem] = set(read_aci(path).problems)
    assert "without end" in problem


def test_an_image_that_depends_on_itself_is_a_problem(tmp_path: Path) -> None:
    """By an image ID that is cut short: of all that begin so, only one lies there."""
    path = tmp_path / "x.aci"
    parts = parts_beside(path)
    parts.mkdir()
    own = ""
    for number in range(4096):
        wanted = f"sha512-{number:x}"
        own = bare(parts / "own.aci", [wanted])
        if own.startswith(wanted):
            break
    bare(path, [own])
    assert "own.aci depends on itself" in read_aci(path).problems


def test_all_of_a_directory_is_verified_at_once(blobs: BlobDirectory, tmp_path: Path) -> None:
    made = emit(split_image(blobs), blobs, tmp_path).path
    told = CliRunner().invoke(verify_verb, [str(made), f"{parts_beside(made)}/"])
    assert (told.exit_code, told.output.count(str(made))) == (0, 1)
