"""What names of images stand for that say no registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.image_names import ImageNames
from buildit.errors import RecipeError

pytestmark = pytest.mark.unit

PLACE = "Dockerfile:1:1"


def names(tmp_path: Path, text: str = "", **beside: str) -> ImageNames:
    """Those of a machine whose files say this."""
    place = tmp_path / "registries.conf"
    if text:
        place.write_text(text)
    for name, one in beside.items():
        (tmp_path / "registries.conf.d").mkdir(exist_ok=True)
        (tmp_path / "registries.conf.d" / f"{name}.conf").write_text(one)
    return ImageNames(machine=place)


def test_the_command_line_goes_before_all(tmp_path: Path) -> None:
    one = names(tmp_path)
    one.said, one.own = {"debian:12": "oci:../base"}, {"debian": "docker://r.example.org/debian"}
    assert one.reference("debian:12", PLACE) == "oci:../base"
    assert one.reference("debian:13", PLACE) == "docker://r.example.org/debian:13"
    one.said = {"debian": "oci:../base"}
    assert one.reference("debian:latest", PLACE) == "oci:../base"
    assert one.reference("debian:13", PLACE) == "docker://r.example.org/debian:13"


def test_the_configuration_says_names_and_what_they_begin_with(tmp_path: Path) -> None:
    one = names(tmp_path)
    one.own = {
        "debian": "docker://r.example.org/library/debian",
        "node:20": "docker://r.example.org/node:20.1",
        "tools/": "docker://r.example.org/our/",
        "tools/old/": "docker://old.example.org/",
        "base": "oci:/srv/base",
        "*": "docker://r.example.org/mirror/",
    }
    wanted = {
        "debian:12": "docker://r.example.org/library/debian:12",
        "debian": "docker://r.example.org/library/debian",
        "node:20": "docker://r.example.org/node:20.1",
        "node:21": "docker://r.example.org/mirror/node:21",
        "tools/cc:1": "docker://r.example.org/our/cc:1",
        "tools/old/cc": "docker://old.example.org/cc",
        "base": "oci:/srv/base",
        "base:2": "docker://r.example.org/mirror/base:2",
        f"debian@sha256:{'a' * 64}": f"docker://r.example.org/library/debian@sha256:{'a' * 64}",
    }
    assert {name: one.reference(name, PLACE) for name in wanted} == wanted


def test_what_says_its_place_stays(tmp_path: Path) -> None:
    one = names(tmp_path)
    for text in ("oci:../x", "oci-archive:x.tar", "docker://r.example.org/x:1", "oci://r:5000/x"):
        assert one.reference(text, PLACE) == text
    assert one.reference("r.example.org/x:1", PLACE) == "docker://r.example.org/x:1"
    assert one.reference("localhost:5000/x", PLACE) == "docker://localhost:5000/x"
    assert one.looked == []


def test_the_machine_has_aliases_and_a_registry(tmp_path: Path) -> None:
    one = names(
        tmp_path,
        'unqualified-search-registries = ["one.example.org"]\n[aliases]\nweb = "a.example.org/w"\n',
        later='[aliases]\nweb = "b.example.org/team/web"\n',
    )
    assert one.reference("web:1", PLACE) == "docker://b.example.org/team/web:1"
    assert one.reference("team/other:1", PLACE) == "docker://one.example.org/team/other:1"
    assert tmp_path / "registries.conf" in one.looked  # a change of it is noticed
    assert tmp_path / "registries.conf.d" in one.looked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing says in which registry the image 'web' is"),
        ("unqualified-search-registries = []", "nothing says in which registry"),
        (
            'unqualified-search-registries = ["a.example.org", "b.example.org"]',
            "any of several registries: a.example.org, b.example.org",
        ),
        ("unqualified-search-registries = [", "cannot be read"),
    ],
)
def test_a_name_without_a_place_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        names(tmp_path, text).reference("web:1", PLACE)
    assert caught.value.hint
