"""One walk of a path through links serves needs, syncs, the app's program and sources."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from buildit.archive.contents import way
from buildit.model.tree import MOST_LINKS, Entry
from tests.unit.archive.trees import directory, file, symlink

pytestmark = pytest.mark.unit

TREE: dict[str, Entry] = {
    entry.path: entry
    for entry, _ in (
        directory("usr"),
        directory("usr/bin"),
        file("usr/bin/x"),
        symlink("bin", "usr/bin"),
        symlink("abs", "/usr/bin/x"),
        symlink("up", "../../usr"),
        symlink("gone", "usr/none/y"),
        symlink("ring", "ring2"),
        symlink("ring2", "ring"),
        symlink("slash", "usr/bin/x/"),
        symlink("usr/bin/dot", "."),
    )
}


@pytest.mark.parametrize(
    ("path", "end", "named", "missing", "through", "escapes"),
    [
        ("/bin/x", "usr/bin/x", True, "", "", False),
        ("bin/../bin/x", "usr/bin/x", True, "", "", False),  # `..` of what the link names
        ("abs", "usr/bin/x", True, "", "", True),
        ("up/bin", "usr/bin", True, "", "", True),
        ("gone", "usr/none/y", True, "usr/none", "", False),
        ("none", "none", False, "none", "", False),
        ("ring", None, True, "", "", False),
        ("bin/x/y", "usr/bin/x/y", False, "usr/bin/x/y", "usr/bin/x", False),
        ("slash", "usr/bin/x", True, "", "usr/bin/x", False),
        ("usr/bin/dot/dot/x", "usr/bin/x", True, "", "", False),
        ("..", "", True, "", "", True),
    ],
)
def test_a_path_is_walked(
    path: str, end: str | None, named: bool, missing: str, through: str, escapes: bool
) -> None:
    found = way(path, TREE.get)
    assert (found.end, found.named, found.missing) == (end, named, missing)
    assert (found.through, found.escapes) == (through, escapes)


def test_a_last_link_may_stay_and_links_may_be_taken_for_granted() -> None:
    assert way("bin", TREE.get, last=False).end == "bin"
    assert way("bin/", TREE.get, last=False).end == "usr/bin"
    assert way("lib64/y", TREE.get, {"lib64": "usr/lib64"}).end == "usr/lib64/y"
    assert way("gone/z", TREE.get).links == ("gone",)


def test_as_many_links_as_linux_follows(tmp_path: Path) -> None:
    """Compared with the kernel: the last chain that it follows is the last that we follow."""
    (tmp_path / "l0").write_text("")
    tree = {"l0": file("l0")[0]}
    for number in range(1, MOST_LINKS + 2):
        os.symlink(f"l{number - 1}", tmp_path / f"l{number}")
        tree[f"l{number}"] = symlink(f"l{number}", f"l{number - 1}")[0]
    for number in (MOST_LINKS, MOST_LINKS + 1):
        done = subprocess.run(["test", "-e", tmp_path / f"l{number}"], check=False)
        assert (way(f"l{number}", tree.get).end is not None) is (done.returncode == 0)
