"""The names that alternatives give to programs of a build's dependencies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildit.make.alternative_links import links_for_build, tree_of_links
from buildit.model.accounts import AlternativeLink
from buildit.store.cas import Store

pytestmark = pytest.mark.unit

OFFERED = (
    AlternativeLink("usr/bin/aclocal", "usr/bin/aclocal-1.16", 34),
    AlternativeLink("usr/bin/yacc", "usr/bin/bison.yacc", 100),
    AlternativeLink("usr/bin/yacc", "usr/bin/byacc", 90),
    AlternativeLink("usr/bin/awk", "usr/bin/gawk", 10),
    AlternativeLink("usr/bin/vi", "usr/bin/nano", 5),
    AlternativeLink("usr/bin/own", "usr/bin/gawk", 5),
)
PRESENT = frozenset(
    f"usr/bin/{one}" for one in ("aclocal-1.16", "bison.yacc", "byacc", "gawk", "own")
)


def test_the_highest_priority_wins_and_nothing_is_covered(tmp_path: Path) -> None:
    """`awk` is the toolchain's, `own` a dependency's, and nothing is there for `vi`."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/awk").symlink_to("mawk")
    assert links_for_build(OFFERED, PRESENT, tmp_path) == {
        "usr/bin/aclocal": "usr/bin/aclocal-1.16",
        "usr/bin/yacc": "usr/bin/bison.yacc",
    }


def test_the_tree_has_the_links_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        links = {"usr/bin/yacc": "usr/bin/bison.yacc"}
        name = tree_of_links(links, store)
        tree = store.root / "trees" / name
        assert os.readlink(tree / "usr/bin/yacc") == "/usr/bin/bison.yacc"
        assert [p.name for p in tree.rglob("*")] == ["usr", "bin", "yacc"]
        assert tree_of_links(links, store) == name
        assert tree_of_links({}, store) != name
