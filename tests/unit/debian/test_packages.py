from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.debian.index import _CHUNK, OpenIndex, build_index, read_paragraphs
from buildit.debian.packages import PACKAGES, PackageIndex
from buildit.errors import IntegrityError, StoreError
from tests.debian_maker import paragraph
from tests.scale import examples

pytestmark = pytest.mark.unit


def index(tmp_path: Path, *paragraphs: str) -> PackageIndex:
    build_index(
        io.BytesIO("\n".join(paragraphs).encode()), PACKAGES, tmp_path / "x.index", "Packages"
    )
    return OpenIndex(tmp_path / "x.index", "bookworm", PACKAGES)


def test_what_is_kept(tmp_path: Path) -> None:
    one = paragraph("awk1", "1:2", depends="a (>= 1),\n b", provides="awk, gawk (= 3)")
    with closing(index(tmp_path, one, paragraph("awk1", "3"), paragraph("b2"))) as opened:
        first, second = opened.named("awk1")
        assert (first.version, second.version) == ("1:2", "3")
        assert first.depends == "a (>= 1), b"
        assert first.path == "pool/main/a/awk1/awk1_1%3a2_amd64.deb"
        assert (first.size, first.suite, first.arch) == (1000, "bookworm", "amd64")
        assert opened.also("gawk") == (first,)
        assert opened.named("none") == opened.also("awk1") == ()


def test_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    index(tmp_path, paragraph("aa")).close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.index"]


@pytest.mark.parametrize(
    "text",
    [
        "Package: aa\n",
        paragraph("aa", sha256="0" * 63),
        paragraph("aa", size="-1"),
        paragraph("aa", version="1 2") + "Version: 1 2\n",
        paragraph("Aa"),
        paragraph("aa", filename="/etc/passwd.deb"),
        paragraph("aa", filename="pool/../../x.deb"),
        paragraph("aa", filename="pool/x.tar"),
        paragraph("aa", provides="x y z"),
        "garbage\n",
    ],
)
def test_malformed_paragraphs(tmp_path: Path, text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        index(tmp_path, paragraph("ok"), text)
    assert caught.value.place == "Packages"
    assert list(tmp_path.iterdir()) == []


def test_an_endless_paragraph(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="too long"):
        index(tmp_path, "X: " + "y" * (5 << 20))


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(IntegrityError, match="not UTF-8"):
        list(read_paragraphs(io.BytesIO(b"Package: \xff\n"), PACKAGES, "Packages"))


@settings(max_examples=examples(30))
@given(st.integers(1, 40), st.integers(0, 3))
def test_chunks_do_not_matter(step: int, extra: int) -> None:
    text = "\n".join([paragraph("aa"), "\n" * extra + paragraph("bb"), paragraph("cc")]).encode()

    class Slow:
        def __init__(self) -> None:
            self.rest = text

        def read(self, size: int = -1, /) -> bytes:
            assert size == _CHUNK
            chunk, self.rest = self.rest[:step], self.rest[step:]
            return chunk

    assert [row["package"] for row in read_paragraphs(Slow(), PACKAGES, "x")] == ["aa", "bb", "cc"]


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        build_index(io.BytesIO(b""), PACKAGES, tmp_path / "file" / "x.index", "Packages")


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(b"not sqlite" * 1000)
    with (
        closing(OpenIndex(tmp_path / "x.index", "bookworm", PACKAGES)) as opened,
        pytest.raises(StoreError, match="damaged"),
    ):
        opened.named("aa")
