"""Shares of Debian's packages that images take or leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.errors import RecipeError
from buildit.model.globs import path_matcher
from buildit.recipe.slices import read_slices, sliced

pytestmark = pytest.mark.unit

TABLE = """\
packages:
  libc6:
    gconv: {description: d, default: off, paths: [usr/lib/*/gconv/*], but: [usr/lib/*/gconv/UTF*]}
    nss: {description: d, default: on, paths: [usr/lib/*/libnss_*]}
"""
SHIPPED = Path(__file__).parents[3] / "pkgs"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/slices.yaml").write_text(TABLE)
    return tmp_path


GCONV = ("usr/lib/*/gconv/*", "!usr/lib/*/gconv/UTF*")


@pytest.mark.parametrize(
    ("names", "globs"),
    [
        (None, GCONV),
        (("core",), (*GCONV, "usr/lib/*/libnss_*")),
        (("core", "gconv"), ("usr/lib/*/libnss_*",)),
        (("gconv", "nss"), ()),
    ],
)
def test_what_is_left_out(tree: Path, names: tuple[str, ...] | None, globs: object) -> None:
    slices = read_slices([tree / "none", tree], [])
    assert sliced(slices, "libc6", names, "here") == globs
    assert sliced(slices, "zlib1g", names and ("core",), "here") == ()


def test_a_slice_that_is_not_there_is_refused(tree: Path) -> None:
    with pytest.raises(RecipeError, match="debian:libc6 has no slice 'gconf'") as caught:
        sliced(read_slices([tree], []), "libc6", ("gconf",), "box:3:1")
    assert caught.value.place == "box:3:1"
    assert "did you mean 'gconv'" in str(caught.value.hint)


def test_what_was_looked_at_is_remembered(tree: Path) -> None:
    consulted: list[Path] = []
    read_slices([tree / "none", tree], consulted)
    assert [path.parent.parent.name for path in consulted] == ["none", tree.name]


def test_the_shipped_table_keeps_what_programs_open() -> None:
    globs = sliced(read_slices([SHIPPED], []), "libc6", None, "here")
    lib = "usr/lib/x86_64-linux-gnu"

    def stays(path: str) -> bool:
        kept = any(path_matcher(one[1:])(path) for one in globs if one.startswith("!"))
        return kept or not any(path_matcher(one)(path) for one in globs if one[0] != "!")

    for name in ("libc.so.6", "libnss_dns.so.2", "libm.so.6", "gconv/UTF-16.so", "gconv/CP1252.so"):
        assert stays(f"{lib}/{name}"), name
    for name in ("gconv/BIG5.so", "gconv/ISO8859-2.so", "libmemusage.so"):
        assert not stays(f"{lib}/{name}"), name
