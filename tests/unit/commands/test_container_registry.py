"""What a container is called in a registry."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from buildit.cli.containers import oci_image_of
from buildit.commands.images import push_image
from buildit.commands.registry import container_part, platform_tags, publish_container
from buildit.digest import Digest, canonical, digest_bytes, oci_digest
from buildit.errors import UsageError
from buildit.image.formats.oci import INDEX_TYPE, LAYOUT
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan
from buildit.remote.web import WebTransport
from tests.odd_registry import odd_registry
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "part"),
    [("nginx-production", "nginx-production"), ("Web/My App", "web/my_app"), ("a//b", "a/b")],
)
def test_a_container_has_a_repository(name: str, part: str) -> None:
    assert container_part(name) == part


def test_a_name_without_a_letter_is_still_one() -> None:
    assert container_part("ä") == "container"


def test_images_of_an_index_have_tags() -> None:
    amd64 = {"digest": "sha256:a", "platform": {"os": "linux", "architecture": "amd64"}}
    arm = {"os": "linux", "architecture": "arm", "variant": "v7"}
    index = {"manifests": [amd64, {"digest": "sha256:b", "platform": arm}]}
    assert platform_tags((canonical(index), ""), "1.0") == {
        "1.0-linux-amd64": "sha256:a",
        "1.0-linux-arm-v7": "sha256:b",
    }
    assert platform_tags((canonical({"layers": []}), ""), "1.0") == {}
    assert platform_tags(None, "1.0") == {}


@dataclass(frozen=True)
class Planned:
    """What a container's registry looks at of a plan."""

    version: str
    os: str
    arch: str


def test_each_image_has_a_tag_that_only_its_platform_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines publish one version: what the first has published is not garbage then."""
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    with odd_registry() as there, closing(WebTransport()) as web:
        made = []
        for arch in ("amd64", "arm64"):
            made.append(emit(image(nginx_layers(blobs), "oci", arch=arch), blobs, tmp_path / arch))
            plan = cast("ContainerPlan", Planned("1.22.1-p1", "linux", arch))
            images: list[tuple[Emission, dict[str, Path]]] = [(made[-1], {})]
            at = there.at(web, "box")
            publish_container(plan, at, {}, images, None, lambda _sent, _whole: None)
        tagged = {name: there.tags[f"1.22.1-p1-linux-{name}"] for name in ("amd64", "arm64")}
        assert tagged == {"amd64": made[0].identifier, "arm64": made[1].identifier}
        assert there.tags["1.22.1-p1"] == made[1].identifier
        assert set(there.manifests) <= set(there.tags.values()), "garbage"


def laid(folder: Path, content: object) -> dict[str, Any]:
    encoded = content if isinstance(content, bytes) else canonical(content)
    digest = digest_bytes(encoded)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / digest).write_bytes(encoded)
    return {"digest": oci_digest(digest), "size": len(encoded)}


def test_images_of_an_index_keep_their_media_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry refuses a manifest of Docker's type that is said to be one of OCI's."""
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    kind, folder = "application/vnd.docker.distribution.manifest.v2+json", tmp_path / "blobs/sha256"
    config = {"mediaType": "application/vnd.docker.container.image.v1+json"} | laid(folder, {})
    inner = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}
    one = {"mediaType": kind, "platform": {"os": "linux", "architecture": "amd64"}}
    outer = {"schemaVersion": 2, "manifests": [one | laid(folder, inner)]}
    top = {"mediaType": INDEX_TYPE} | laid(folder, outer)
    (tmp_path / "oci-layout").write_bytes(canonical(LAYOUT))
    (tmp_path / "index.json").write_bytes(canonical({"schemaVersion": 2, "manifests": [top]}))
    with odd_registry() as there, closing(WebTransport()) as web:
        push_image(tmp_path, there.at(web, "box:1").at, there.at(web, "box:1"))
        types = sorted(media_type for media_type, _ in there.manifests.values())
    assert types == [kind, INDEX_TYPE]


def test_one_image_is_pushed_and_no_other_in_silence() -> None:
    def made(form: str, digest: str) -> Emission:
        name = Path(f"out/box.{form}")
        return Emission(name, form, Digest(digest * 64), f"sha256:{digest * 64}")

    place = Path("box")
    same = [made("aci", "b"), made("oci-archive", "a"), made("oci", "a")]
    assert oci_image_of(place, same) == Path("out/box.oci-archive")
    with pytest.raises(UsageError, match="not the same") as caught:
        oci_image_of(place, [made("oci", "a"), made("oci-archive", "c")])
    assert "out/box.oci, out/box.oci-archive" in str(caught.value.hint)
    with pytest.raises(UsageError, match="has no OCI image"):
        oci_image_of(place, [made("aci", "b")])
