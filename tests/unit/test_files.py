"""Opening what others may have put there, and replacing a file whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from buildit.files import NotRegularError, is_beneath, open_regular, replacing

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("path", "directory", "beneath"),
    [
        ("a/b", ".", True),
        (".", ".", True),
        ("../x/b", ".", False),
        ("../../x", "..", False),
        ("../x", "..", True),
        ("a/../../x", ".", False),
        ("ab", "a", False),
        ("/a/b", "/a", True),
    ],
)
def test_what_lies_beneath_a_directory(path: str, directory: str, beneath: bool) -> None:
    assert is_beneath(Path(path), Path(directory)) == beneath


def test_only_regular_files_are_opened_and_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "file") as stream:
        assert stream.read() == b"text"
    for name, kind in (("fifo", stat.S_IFIFO), (".", stat.S_IFDIR)):
        with pytest.raises(NotRegularError) as caught:
            open_regular(tmp_path / name)
        assert stat.S_IFMT(caught.value.mode) == kind
    with pytest.raises(OSError, match="symbolic"):
        open_regular(tmp_path / "link")
    with open_regular(tmp_path / "link", follow=True) as stream:
        assert stream.read() == b"text"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path, mode=0o640, sync=True) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(TypeError), replacing(path) as stream:
        stream.write(b"half" + stream)  # type: ignore[operator]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_take_its_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "there") as stream:
        stream.write(b"x")
    assert os.listdir(tmp_path) == ["there"]
