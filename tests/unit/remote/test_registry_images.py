"""Images of a registry: which one is meant, what pins it, and what comes into the store."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from buildit.archive.compress import zstd_block
from buildit.commands.pull import pull_image, read_remote
from buildit.digest import Digest, canonical, digest_bytes, oci_digest
from buildit.errors import BuilditError, IntegrityError, UsageError
from buildit.image.verify import verify
from buildit.model.platform import build_platform
from buildit.plan.lock import Lock, Section, changes, format_lock, parse_lock
from buildit.remote.registry.client import IMAGE_INDEX, IMAGE_MANIFEST
from buildit.remote.registry.images import bring_stored, find_image, pinned, plain_layers
from buildit.remote.registry.reference import parse_reference
from buildit.remote.transport import LocationError
from buildit.remote.web import WebTransport
from buildit.store.cas import Store
from tests.odd_registry import OddRegistry, odd_registry

pytestmark = pytest.mark.unit

AMD = "linux/amd64"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER = "application/vnd.docker"


@pytest.fixture
def there() -> Iterator[OddRegistry]:
    with odd_registry() as found:
        yield found


@pytest.fixture
def web() -> Iterator[WebTransport]:
    with closing(WebTransport()) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as found:
        yield found


def tar_of(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def put_image(
    there: OddRegistry,
    *,
    arch: str = "amd64",
    tag: str = "",
    types: tuple[str, str, str] = (IMAGE_MANIFEST, CONFIG, LAYER),
    **more: object,
) -> dict[str, Any]:
    """An image of a plain layer, one by gzip and one by zstd; its descriptor."""
    plain = [tar_of(f"file{number}", arch.encode() * 1000) for number in range(3)]
    manifest, config, layer = types
    oci = layer == LAYER
    stored = [plain[0], gzip.compress(plain[1])]
    kinds = [layer, f"{layer}{'+' if oci else '.'}gzip"]
    if oci:
        stored.append(zstd_block(plain[2], 3))
        kinds.append(f"{layer}+zstd")
    diff_ids = [oci_digest(digest_bytes(one)) for one in plain[: len(stored)]]
    document = {
        "architecture": arch,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": more.pop("diff_ids", diff_ids)},
    }
    layers = [there.put_blob(one, kind) for one, kind in zip(stored, kinds, strict=True)]
    made = {
        "schemaVersion": 2,
        "mediaType": manifest,
        "config": there.put_blob(canonical(document), config),
        "layers": layers,
        **more,
    }
    return there.put_manifest(made, manifest, tag)


def index(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [*entries]}


def on(descriptor: dict[str, Any], os: str, arch: str) -> dict[str, Any]:
    return {**descriptor, "platform": {"os": os, "architecture": arch}}


def test_an_image_is_pulled_with_its_digests(
    there: OddRegistry, web: WebTransport, store: Store, tmp_path: Path
) -> None:
    wanted = put_image(there)
    other = put_image(there, arch="arm64")
    attestation = there.put_manifest({"schemaVersion": 2, "config": {}})
    entries = (on(attestation, "unknown", "unknown"), on(other, "linux", "arm64"))
    there.put_manifest(index(*entries, on(wanted, "linux", "amd64")), IMAGE_INDEX, "1")
    registry = there.at(web, "web/box:1")
    done = pull_image(registry, AMD, store, tmp_path / "out")
    assert done.path == tmp_path / "out/box-1-linux-amd64.oci"
    assert (done.reference.digest, done.blobs) == (wanted["digest"], 4)
    (image,) = verify([done.path]).images
    assert (image.identifier, image.problems, image.entries) == (wanted["digest"], (), 3)
    assert read_remote(registry, AMD, store).problems == ()
    again = pull_image(registry, AMD, store, tmp_path / "out")
    assert (again.blobs, again.received) == (0, 0)
    assert verify([again.path]).images == (image,)
    arm = pull_image(registry, "linux/arm64", store, tmp_path / "out")
    assert arm.path.name == "box-1-linux-arm64.oci"
    with pytest.raises(IntegrityError, match=r"no image for linux/riscv64, but .*linux/arm64"):
        find_image(registry, "linux/riscv64")


def test_an_image_of_one_platform_is_not_one_of_another(
    there: OddRegistry, web: WebTransport
) -> None:
    """A manifest does not say what it is for, its config does."""
    put_image(there, arch="arm64", tag="1")
    registry = there.at(web, "box:1")
    with pytest.raises(IntegrityError, match="the image is for linux/arm64, not for linux/amd64"):
        find_image(registry, AMD)
    assert find_image(registry, "linux/arm64").platform == "linux/arm64"
    assert find_image(registry, "").platform == "linux/arm64"  # nobody has asked for another
    lying = on(put_image(there, arch="riscv64"), "linux", build_platform(os.uname().machine).arch)
    there.put_manifest(index(lying), IMAGE_INDEX, "lies")
    for asked in (AMD, ""):
        with pytest.raises(IntegrityError, match="the image is for linux/riscv64"):
            find_image(there.at(web, "box:lies"), asked)


def test_a_pull_replaces_what_it_pulled_and_nothing_else(
    there: OddRegistry, web: WebTransport, store: Store, tmp_path: Path
) -> None:
    """Images of two repositories, or one's own, have the same name in a directory."""
    out = tmp_path / "out"
    first = put_image(there, tag="1")
    kept = pull_image(there.at(web, "own/box:1"), AMD, store, out).path
    second = put_image(there, tag="1", annotations={"moved": "yes"})
    with pytest.raises(UsageError, match=r"something else lies there: .*other/box:1") as caught:
        pull_image(there.at(web, "other/box:1"), AMD, store, out)
    assert caught.value.place == str(kept)
    assert "--output" in str(caught.value.hint)
    assert verify([kept]).images[0].identifier == first["digest"]
    moved = pull_image(there.at(web, "own/box:1"), AMD, store, out)
    assert verify([kept]).images[0].identifier == second["digest"] == moved.reference.digest
    same = pull_image(there.at(web, "other/box:1"), AMD, store, out)
    assert same.path == kept
    for name, inner in (("notes", ""), ("tree", "file")):
        other = out / f"{name}-1-linux-amd64.oci" / inner
        other.parent.mkdir(exist_ok=True)
        other.write_text("mine")
        with pytest.raises(UsageError, match="something else lies there"):
            pull_image(there.at(web, f"x/{name}:1"), AMD, store, out)
        assert other.read_text() == "mine"


def test_images_of_docker_s_types_are_read(
    there: OddRegistry, web: WebTransport, store: Store
) -> None:
    types = (
        f"{DOCKER}.distribution.manifest.v2+json",
        f"{DOCKER}.container.image.v1+json",
        f"{DOCKER}.image.rootfs.diff.tar",
    )
    wanted = put_image(there, types=types)
    kind = f"{DOCKER}.distribution.manifest.list.v2+json"
    there.put_manifest({**index(on(wanted, "linux", "amd64")), "mediaType": kind}, kind, "1")
    found = read_remote(there.at(web, "box:1"), AMD, store)
    assert (found.problems, found.identifier) == ((), wanted["digest"])


def test_layers_become_plain_tars_of_their_diff_ids(
    there: OddRegistry, web: WebTransport, store: Store
) -> None:
    put_image(there, tag="1")
    registry = there.at(web, "box:1")
    image = find_image(registry, AMD)
    bring_stored(image, registry, store)
    layers = plain_layers(image, store)
    expected = [tar_of(f"file{number}", b"amd64" * 1000) for number in range(3)]
    assert [store.read(one) for one in layers] == expected
    assert plain_layers(image, store) == layers


def test_a_layer_of_another_diff_id_is_refused(
    there: OddRegistry, web: WebTransport, store: Store
) -> None:
    wrong = [oci_digest(digest_bytes(bytes([number]))) for number in range(3)]
    put_image(there, tag="1", diff_ids=wrong)
    registry = there.at(web, "box:1")
    image = find_image(registry, AMD)
    bring_stored(image, registry, store)
    with pytest.raises(IntegrityError, match="layer 0 is not of its diff_id"):
        plain_layers(image, store)
    assert not any(store.has(Digest(one.removeprefix("sha256:"))) for one in wrong)
    assert "layer 0 is not of its diff_id" in read_remote(registry, AMD, store).problems


def test_a_lock_pins_an_image(there: OddRegistry, web: WebTransport) -> None:
    """A tag may move; what is locked does not, until that is asked for."""
    named = f"oci://{there.host}/box:1"
    first = put_image(there, tag="1")
    registry = there.at(web, "box:1")
    locked = {named: Digest(find_image(registry, AMD).at.digest.removeprefix("sha256:"))}
    section = Section(images=locked)
    text = format_lock(Lock({AMD: section}))
    assert f"image {named} {locked[named]}" in text.splitlines()
    again = parse_lock(text, "buildit.lock").section(AMD)
    assert again == section
    second = put_image(there, tag="1", annotations={"moved": "yes"})
    assert find_image(registry, AMD, again.images).at.digest == first["digest"]
    assert find_image(registry, AMD).at.digest == second["digest"]
    reference = parse_reference(named)
    assert pinned(reference, again.images, update=True) == reference
    moved = Section(images={named: Digest(second["digest"].removeprefix("sha256:"))})
    (line,) = changes(section, moved)
    assert line.startswith(f"image {named} moves from {locked[named][:12]} to")
    # what the registry serves under the locked digest is compared with it
    there.manifests[first["digest"]] = there.manifests[second["digest"]]
    with pytest.raises(IntegrityError, match="serves other bytes"):
        find_image(registry, AMD, again.images)
    del there.manifests[first["digest"]]
    with pytest.raises(LocationError, match="has no image sha256:") as caught:
        find_image(registry, AMD, again.images)
    assert "lock --update" in str(caught.value.hint)


def test_a_tag_that_moves_meanwhile_gives_one_image(
    there: OddRegistry, web: WebTransport, store: Store
) -> None:
    first = put_image(there, tag="1")
    there.odd = lambda request: (
        request.path.endswith("/manifests/1")
        and request.reply(200, there.manifests[first["digest"]][1], Content_Type=IMAGE_MANIFEST)
        and put_image(there, tag="1", annotations={"moved": "yes"}) is not None
    )
    found = read_remote(there.at(web, "box:1"), AMD, store)
    assert (found.identifier, found.problems) == (first["digest"], ())
    assert len(there.words("GET /v2/box/manifests/")) == 1


FOREIGN = f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"
NO_IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "artifact": ({"config": {"mediaType": "application/vnd.oci.empty.v1+json"}}, "no image, but"),
    "both": ({"manifests": []}, "an index and a manifest at once"),
    "kind": ({"mediaType": "application/x-other"}, "of media type 'application/x-other'"),
    "foreign": (
        {"layers": [{"mediaType": FOREIGN, "digest": f"sha256:{'0' * 64}", "size": 1}]},
        "layer 0 is of media type",
    ),
    "size": (
        {"layers": [{"mediaType": LAYER, "digest": f"sha256:{'0' * 64}", "size": 1 << 50}]},
        "layer 0 has 1125899906842624 bytes; up to",
    ),
    "negative": (
        {"layers": [{"mediaType": LAYER, "digest": f"sha256:{'0' * 64}", "size": -1}]},
        "layer 0 has -1 bytes",
    ),
    "digest": (
        {"layers": [{"mediaType": LAYER, "digest": "sha256:../../etc", "size": 1}]},
        "is not SHA-256",
    ),
    "layers": ({"layers": 7}, "has no list of objects `layers`"),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_is_no_image(there: OddRegistry, web: WebTransport, case: str) -> None:
    wrong, message = NO_IMAGES[case]
    put_image(there, tag="1", **wrong)
    with pytest.raises(BuilditError, match=message):
        find_image(there.at(web, "box:1"), AMD)


def test_indexes_that_never_end(there: OddRegistry, web: WebTransport) -> None:
    """A digest cannot name itself, but a registry may serve one index after the other."""
    inner = first = put_image(there)
    for _ in range(2):
        inner = there.put_manifest(index(on(inner, "linux", "amd64")), IMAGE_INDEX, "nested")
    found = find_image(there.at(web, "box:nested"), AMD)
    assert found.at.digest == first["digest"]
    for _ in range(10):
        inner = there.put_manifest(index(on(inner, "linux", "amd64")), IMAGE_INDEX, "deep")
    with pytest.raises(IntegrityError, match="more than 4 indexes"):
        find_image(there.at(web, "box:deep"), AMD)
    wrong = {**on(put_image(there), "linux", "amd64"), "size": 7}
    there.put_manifest(index(wrong), IMAGE_INDEX, "size")
    with pytest.raises(IntegrityError, match="says another size"):
        find_image(there.at(web, "box:size"), AMD)


def test_what_is_not_there_is_said_with_what_is(there: OddRegistry, web: WebTransport) -> None:
    put_image(there, tag="1.22")
    with pytest.raises(LocationError, match="has no image latest") as caught:
        find_image(there.at(web, "box"), AMD)
    assert caught.value.hint == "its tags: 1.22"
