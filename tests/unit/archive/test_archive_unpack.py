from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.archive.contents import way
from buildit.archive.unpack import unpack_entries, unpack_layer
from tests.unit.archive.trees import directory, file, packed, symlink

pytestmark = pytest.mark.unit


def test_layer_keeps_modes_and_times_but_no_set_id(tmp_path: Path) -> None:
    layer = packed(
        [
            directory("locked", 0o555),
            file("locked/secret", b"x", mode=0o400),
            file("su", b"", mode=0o6755, mtime=99),
            directory("tmp", 0o1777),
            file("usr/bin/tool", b"", mode=0o751),
        ]
    )
    with Root.open(tmp_path) as root:
        unpack_layer(io.BytesIO(layer), root)
        found = {path: (stat.S_IMODE(status.st_mode), int(status.st_mtime))
                 for path, status in root.walk()}  # fmt: skip
    assert found == {
        "locked": (0o555, 7), "locked/secret": (0o400, 7), "su": (0o755, 99), "tmp": (0o777, 7),
        "usr": (0o755, 0), "usr/bin": (0o755, 0), "usr/bin/tool": (0o751, 7),
    }  # fmt: skip


def test_entries_need_bytes(tmp_path: Path) -> None:
    with Root.open(tmp_path) as root, pytest.raises(ValueError, match="without bytes"):
        unpack_entries([(file("a")[0], None)], root)


@pytest.mark.parametrize(
    ("links", "out"),
    [
        ({"a": "b"}, False),
        ({"a/b/c": "../../x"}, False),
        ({"a/b/c": "../../../x"}, True),
        ({"a": "/x"}, True),
        ({"a": "."}, False),
        ({"a": ".."}, True),
        ({"a": "x/../../b"}, True),
        ({"a": "s/../x", "s": "d/e"}, False),
        ({"a": "s/../..", "s": "."}, True),
        ({"a": "b/x", "b": "a/x"}, False),
        ({"a": "b", "b": "/etc"}, True),
        ({"a": "lib/x", "lib": "usr/lib"}, False),
    ],
)
def test_links_are_resolved_as_the_kernel_would(links: dict[str, str], out: bool) -> None:
    tree = {path: symlink(path, text)[0] for path, text in links.items()}
    assert way("a" if "a" in tree else "a/b/c", tree.get).escapes is out
