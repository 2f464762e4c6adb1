"""What a container is called in a registry."""

from __future__ import annotations

import pytest

from buildit.commands.registry import container_part, platform_tags
from buildit.digest import canonical

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
