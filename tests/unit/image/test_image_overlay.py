"""`verify` sees a stack of layers as an unpacker does and as an overlay file system does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buildit.errors import RecipeError
from buildit.image.merge import with_parents
from buildit.image.reading import PROBLEMS_SHOWN, SeenTree
from buildit.model.tree import Entry, Kind
from tests.unit.image.samples import directory, file, hard, link

pytestmark = pytest.mark.unit


def laid(*layers: list[tuple[Entry, bytes]]) -> SeenTree:
    tree = SeenTree()
    for layer in layers:
        tree.lay([entry for entry, _ in layer])
    return tree


def problems(*layers: list[tuple[Entry, bytes]]) -> list[str]:
    tree = laid(*layers)
    tree.entries()
    return tree.problems


def test_a_layer_without_an_entry_for_a_directory_above() -> None:
    """The fault of images whose copied file makes /tmp 0755 (image-spec issue 737)."""
    (problem,) = problems([directory("tmp", 0o1777)], [file("tmp/preset.conf")])
    assert problem == (
        "'tmp' is a directory 1777 0:0 of time 1700000000 to an unpacker, "
        "and a directory 0755 0:0 of time 0 to an overlay file system"
    )
    assert problems([directory("tmp", 0o1777)], [directory("tmp", 0o1777), file("tmp/x")]) == []
    assert problems([file("a/b/c")], [file("a/b/d")]) == []  # nobody says anything of a and a/b
    assert len(problems([directory("d")], [file("d/x")])) == 1  # the time differs


def test_what_nobody_brings_beneath_a_setgid_directory_is_setgid_to_an_unpacker() -> None:
    """mkdir(2) beneath a setgid directory takes its group and the bit, whichever layer set it."""
    group = replace(directory("d", 0o2775)[0], gid=8), b""
    later = directory("d", 0o1777)
    for stack in (
        [[group, file("d/e/f/x")], [later]],
        [[group], [later, file("d/e/f/x")], [later]],
    ):
        tree = laid(*stack)
        made = {e.path: (e.mode, e.gid) for e in tree.entries() if e.path in ("d/e", "d/e/f")}
        assert made == {"d/e": (0o2755, 8), "d/e/f": (0o2755, 8)}
        assert [text.partition(" to ")[0] for text in tree.problems] == [
            "'d/e' is a directory 2755 0:8 of time 0",
            "'d/e/f' is a directory 2755 0:8 of time 0",
        ]
        said = [directory("d/e"), directory("d/e/f")]  # a later layer says what it is: one tree
        assert problems(*stack, [later, *said]) == []
    # one that was there before keeps what it had
    assert problems([file("d/e/x")], [group], [group, file("d/e/y")]) == []


def test_a_layer_through_a_link_of_another() -> None:
    """moby issue 47367: an overlay hides the link `bin`, an unpacker goes through it."""
    (problem,) = problems(
        [directory("usr"), directory("usr/bin"), link("bin", "usr/bin")], [file("bin/x")]
    )
    assert "beneath 'bin', which is a link to 'usr/bin' of a layer below" in problem
    # where a later layer puts things right for one kind of client, it still is one
    found = problems([link("bin", "usr/bin")], [file("bin/x")], [directory("bin")])
    assert len(found) == 1
    (problem,) = problems([file("a")], [file("a/x")])
    assert "beneath 'a', which is a file" in problem


def test_a_file_over_a_directory_and_the_reverse_are_the_same_to_all() -> None:
    assert problems([directory("d"), file("d/x")], [file("d")]) == []
    assert problems([file("d")], [directory("d"), file("d/x")]) == []
    tree = laid([directory("d"), file("d/x")], [link("d", "e")], [directory("d")])
    assert [entry.path for entry in tree.entries()] == ["", "d"]


def test_deletions() -> None:
    base = [directory("d", 0o700), directory("d/e"), file("d/e/x"), file("d/y")]
    tree = laid(base, [directory("d", 0o700), file("d/.wh.y")])
    assert [entry.path for entry in tree.entries()] == ["", "d", "d/e", "d/e/x"]
    assert tree.problems == []
    tree = laid(base, [directory("d", 0o700), file("d/.wh..wh..opq"), file("d/new")])
    assert [entry.path for entry in tree.entries()] == ["", "d", "d/new"]
    assert tree.problems == []
    tree = laid(base, [file(".wh..wh..opq"), file("z")])
    assert [entry.path for entry in tree.entries()] == ["", "z"]
    # a whiteout needs its directory in the layer, and says nothing of it
    assert "'d' is a directory 0700" in problems(base, [file("d/.wh.y")])[0]
    assert "deletes 'd' and brings it" in problems(base, [file(".wh.d"), directory("d", 0o700)])[0]


def test_the_root_has_attributes_too() -> None:
    root = replace(directory("x", 0o700)[0], path=""), b""
    assert laid([root, file("a")]).entries()[0] == root[0]
    # engines make the root themselves, each its own way, whatever layers say
    (problem,) = problems([root], [file("a")])
    assert "'/' is a directory 0700" in problem
    assert "0755 0:0 in docker, 0555 0:0 in podman" in problem
    plain = replace(root[0], mode=0o755), b""
    assert problems([plain, file("a")]) == problems([plain], [file("a")]) == []


def test_a_hard_link_to_a_file_of_another_layer() -> None:
    (problem,) = problems([file("a")], [hard("b", "a")])
    assert problem == "'b' links to 'a', which is no file of its layer"


def test_many_problems_are_counted() -> None:
    names = [f"d{number:03}" for number in range(PROBLEMS_SHOWN + 7)]
    found = problems([directory(name, 0o700) for name in names], [file(f"{n}/x") for n in names])
    assert len(found) == PROBLEMS_SHOWN + 1
    assert found[-1] == "and 7 more such paths"


def test_parents_are_repeated_or_made() -> None:
    below = {"a": directory("a", 0o700, uid=5, mtime=3)[0]}
    new = Entry("", Kind.DIRECTORY, 0o750, mtime=9, uid=7)
    made = with_parents([file("a/b/c")[0], directory("z")[0]], below, new)
    assert made == (below["a"], replace(new, path="a/b"), file("a/b/c")[0], directory("z")[0])
    with pytest.raises(RecipeError, match="/l/x lies beneath /l, which is a symlink") as caught:
        with_parents([file("l/x")[0]], {"l": link("l", "a")[0]}, new, "container.yaml:3:3")
    assert caught.value.place == "container.yaml:3:3"


def test_a_deletion_makes_no_directory_for_an_unpacker() -> None:
    """umoci 0.4.7 unpacks `d/.wh.x` over nothing to nothing; an overlay shows the empty `d`."""
    (problem,) = problems([file("a")], [file("d/.wh.x")])
    assert problem.startswith("'d' is absent to an unpacker, and a directory 0755 0:0")
    assert [entry.path for entry in laid([file("a")], [file("d/.wh.x")]).entries()] == ["", "a"]
