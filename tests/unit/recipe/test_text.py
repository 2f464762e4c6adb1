"""Files of users as text, and whatever else may lie at their path."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.recipe.yaml.node import LARGEST_FILE, decoded_text, read_text

pytestmark = pytest.mark.unit


def test_line_ends_and_byte_order_mark() -> None:
    assert decoded_text(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa4\n", "f") == "a: 1\nb: ä\n"


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (b"a: \xff", "f:1:4", "byte 0xff is not UTF-8"),
        (b"a\nb: \xc3", "f:2:4", "byte 0xc3 is not UTF-8"),
        (b"\xed\xa0\x80", "f:1:1", "byte 0xed is not UTF-8"),
        (b"a\r\nb\x00c", "f:2:2", "control character U+0000 is not allowed in this file"),
        (b"a\rb", "f:1:2", "control character U+000D is not allowed in this file"),
        (b"\x1b[31m", "f:1:1", "control character U+001B is not allowed in this file"),
        ("a\u2028b".encode(), "f:1:2", "character U+2028 is not allowed in this file"),
        ("a\ufeffb".encode(), "f:1:2", "character U+FEFF is not allowed in this file"),
        (b"a\x7f", "f:1:2", "control character U+007F is not allowed in this file"),
        (b"a" * (LARGEST_FILE + 1), "f", "the file is larger than 1 MiB"),
    ],
)
def test_what_no_file_may_hold(content: bytes, place: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        decoded_text(content, "f")
    assert (caught.value.place, caught.value.message) == (place, message)
    assert caught.value.hint


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_one_error(content: bytes) -> None:
    try:
        text = decoded_text(content, "f")
    except RecipeError:
        return
    assert "\r" not in text
    assert "\0" not in text
    assert decoded_text(text.encode(), "f") == text


def test_a_file_of_exactly_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "pkg.yaml"
    path.write_bytes(b"#" * LARGEST_FILE)
    assert len(read_text(path)) == LARGEST_FILE
    path.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        read_text(path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pkg.yaml")
    signal.alarm(5)
    try:
        with pytest.raises(RecipeError, match=r"expected a file, found a named pipe") as caught:
            read_text(tmp_path / "pkg.yaml", "pkgs/x/pkg.yaml")
    finally:
        signal.alarm(0)
    assert caught.value.place == "pkgs/x/pkg.yaml"


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path, "expected a file, found a directory"),
        (tmp_path / "none", "there is no such file"),
        (Path("/dev/zero"), "expected a file, found a device"),
        (tmp_path / "loop", "cannot be read: Too many levels"),
        (tmp_path / "x\0y", "cannot be read: embedded null byte"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (Path("/proc/self/mem"), "cannot be read: Input/output error"),
    ):
        with pytest.raises(RecipeError, match=message):
            read_text(path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pkg.yaml"
    path.write_text("a: b")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(RecipeError, match="may not be read"):
        read_text(path)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(RecipeError):
            read_text(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)
