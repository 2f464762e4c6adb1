from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError, RecipeError
from buildit.image.merge import GENERATED, LayerChange, MergedTree, Rootfs, linked, merge
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry, Kind, sort_key
from tests.unit.image.samples import EPOCH, directory, file, hard, link

pytestmark = pytest.mark.unit

Listing = tuple[str, LayerKind, list[Entry]]


def listing(
    title: str, *files: tuple[Entry, bytes], kind: LayerKind = LayerKind.PACKAGE
) -> Listing:
    return title, kind, [entry for entry, _ in files]


def merged(*listings: Listing) -> Rootfs:
    layers = [layer_of(title, kind) for title, kind, _ in listings]
    return merge(layers, [entries for _, _, entries in listings], EPOCH)


def layer_of(title: str, kind: LayerKind) -> Layer:
    return Layer(digest_bytes(title.encode()), 0, title, Digest("0" * 64), kind)


def entries(rootfs: Rootfs) -> tuple[Entry, ...]:
    return tuple(member.entry for member in rootfs.members())


def modes(rootfs: Rootfs) -> dict[str, str]:
    return {entry.path: f"{entry.kind}:{entry.mode:o}" for entry in entries(rootfs)}


def test_parents_that_no_layer_brings_are_generated() -> None:
    rootfs = merged(listing("a", file("usr/lib/x/y")))
    assert [entry.path for entry in rootfs.restated] == ["usr", "usr/lib", "usr/lib/x"]
    assert rootfs.restated[0] == Entry("usr", Kind.DIRECTORY, 0o755, mtime=EPOCH)


CLASHES: dict[str, tuple[Listing, Listing, str]] = {
    "content": (listing("a", file("etc/f", b"1")), listing("b", file("etc/f", b"2")), "etc/f"),
    "mode": (listing("a", file("f")), listing("b", file("f", mode=0o755)), "f"),
    "owner": (listing("a", file("f")), listing("b", file("f", uid=1)), "f"),
    "target": (listing("a", link("l", "x")), listing("b", link("l", "y")), "l"),
    "file over directory": (listing("a", directory("d")), listing("b", file("d")), "d"),
    "link over directory": (listing("a", directory("lib")), listing("b", link("lib", "u")), "lib"),
    "beneath a link": (listing("a", link("lib", "usr/lib")), listing("b", file("lib/x")), "lib"),
    "beneath a file": (listing("a", file("d")), listing("b", file("d/e/x")), "d"),
}


@pytest.mark.parametrize("case", CLASHES)
def test_packages_that_clash_are_both_named_in_any_order(case: str) -> None:
    one, other, path = CLASHES[case]
    messages = set()
    for order in ((one, other), (other, one)):
        with pytest.raises(RecipeError) as caught:
            merged(*order)
        messages.add((caught.value.message, caught.value.place, caught.value.details))
    ((message, place, _),) = messages
    assert place == path
    assert repr(path) in message
    assert " of a" in message
    assert " of b" in message


def test_all_clashes_are_told_at_once() -> None:
    many = [file(f"f{n:02}", b"1") for n in range(30)]
    others = [file(f"f{n:02}", b"2") for n in range(30)]
    with pytest.raises(RecipeError) as caught:
        merged(listing("a", *many), listing("b", *others))
    assert len(caught.value.details) == 21
    assert caught.value.details[-1] == "and 10 more paths"


def test_the_same_file_in_two_packages_is_fine_in_any_order() -> None:
    one = listing("a", file("f", b"same"), link("l", "f"))
    other = listing("b", file("f", b"same"), link("l", "f"))
    assert entries(merged(one, other)) == entries(merged(other, one))


def test_a_step_replaces_files_and_links() -> None:
    package = listing("a", file("f", b"1"), link("l", "f"))
    step = listing("s", file("f", b"2", 0o600), file("l", b"3"), kind=LayerKind.STEP)
    assert modes(merged(package, step)) == {"f": "file:600", "l": "file:644"}


def test_a_package_after_a_step_does_not_undo_it() -> None:
    package = listing("a", file("f", b"1"))
    step = listing("s", file("f", b"2"), kind=LayerKind.STEP)
    with pytest.raises(RecipeError, match="layers clash at 'f'"):
        merged(step, package)


def test_a_base_image_may_be_covered() -> None:
    base = listing("debian", file("f", b"1"), kind=LayerKind.FROM)
    assert modes(merged(base, listing("a", file("f", b"2", 0o600)))) == {"f": "file:600"}


@pytest.mark.parametrize("kind", [LayerKind.STEP, LayerKind.PACKAGE])
@pytest.mark.parametrize("under", [LayerKind.FROM, LayerKind.PACKAGE])
@pytest.mark.parametrize("over", [file("lib"), link("lib", "elsewhere"), directory("lib")])
def test_nothing_replaces_a_merged_usr_link(
    kind: LayerKind, under: LayerKind, over: tuple[Entry, bytes]
) -> None:
    layout = listing("layout", link("lib", "usr/lib"), kind=under)
    with pytest.raises(RecipeError, match="layers clash at 'lib'"):
        merged(layout, listing("x", over, kind=kind))


def test_a_step_never_turns_a_directory_into_a_file() -> None:
    with pytest.raises(RecipeError, match="a directory of a"):
        merged(listing("a", directory("d")), listing("s", file("d"), kind=LayerKind.STEP))


def test_names_that_differ_in_case_are_noticed() -> None:
    rootfs = merged(listing("a", file("Readme")), listing("b", file("README"), file("x")))
    assert rootfs.notices == ("paths differ only in case: 'README' and 'Readme'",)


def test_a_declared_directory_beats_a_plain_one_wherever_it_lies() -> None:
    declared, plain = listing("a", directory("d", 0o1777)), listing("b", directory("d"))
    for layers in ((declared, plain), (plain, declared)):
        rootfs = merged(*layers)
        assert modes(rootfs) == {"d": "directory:1777"}
        assert rootfs.notices[0].endswith("1777 0:0 counts")
    assert [entry.path for entry in merged(declared, plain).restated] == ["d"]
    assert merged(plain, declared).restated == ()


def test_of_two_declared_directories_the_later_counts() -> None:
    rootfs = merged(listing("a", directory("d", 0o700)), listing("b", directory("d", 0o750)))
    assert modes(rootfs) == {"d": "directory:750"}
    assert rootfs.notices == ("directory 'd' is 0700 0:0 in a and 0750 0:0 in b: 0750 0:0 counts",)


def test_what_a_step_says_of_a_directory_counts() -> None:
    rootfs = merged(
        listing("a", directory("d", 0o700)), listing("s", directory("d"), kind=LayerKind.STEP)
    )
    assert modes(rootfs) == {"d": "directory:755"}
    assert rootfs.notices == ()


def test_a_directory_that_the_uppermost_layer_only_implies_is_restated() -> None:
    """overlayfs would show 0755 0:0 there, and the time of unpacking."""
    rootfs = merged(
        listing("a", directory("d", 0o700, uid=7), directory("e"), file("e/x")),
        listing("b", file("d/x")),
    )
    assert [(each.path, each.mode, each.uid) for each in rootfs.restated] == [("d", 0o700, 7)]


def test_hard_links_survive_their_file() -> None:
    package = listing("a", file("a", b"old"), hard("b", "a"), hard("c", "a"))
    rootfs = merged(package, listing("s", file("a", b"new"), kind=LayerKind.STEP))
    a, b, c = rootfs.members()
    assert (a.entry.kind, a.layer, a.source) == (Kind.FILE, 1, "a")
    assert (b.entry.kind, b.layer, b.source) == (Kind.FILE, 0, "a")
    assert b.entry.digest == digest_bytes(b"old")
    assert (c.entry.kind, c.entry.target) == (Kind.HARDLINK, "b")
    assert rootfs.find("c") == replace(b.entry, path="c")


NAMES = st.sampled_from(["a", "A", "a/b", "a/b/c", "d", "d/e", "lib", "lib/x"])
SPECS = st.tuples(NAMES, st.sampled_from("fdlh"), st.sampled_from([0o644, 0o755]), st.booleans())


def entries_of(specs: Sequence[tuple[str, str, int, bool]]) -> list[Entry]:
    """A well-formed layer: one entry per path, hard links to an earlier file."""
    made: dict[str, Entry] = {}
    for path, kind, mode, other in sorted(specs):
        above = [made.get("/".join(path.split("/")[:n])) for n in range(1, path.count("/") + 1)]
        if any(each is not None and each.kind is not Kind.DIRECTORY for each in above):
            continue
        content = b"1" if other else b"2"
        if kind == "d":
            made[path] = directory(path, mode)[0]
        elif kind == "l":
            made[path] = link(path, "x" if other else "y")[0]
        else:
            made[path] = file(path, content, mode)[0]
            files = [each for each in made.values() if each.kind is Kind.FILE and each.path < path]
            if kind == "h" and files:
                made[path] = hard(path, files[0].path, files[0].mode)[0]
    return sorted(made.values(), key=sort_key)


LAYERS = st.lists(
    st.tuples(st.sampled_from(list(LayerKind)), st.lists(SPECS, max_size=6)), min_size=1, max_size=4
)


def clash_or(work: Callable[[], str]) -> str:
    try:
        return work()
    except RecipeError as error:
        return "\n".join((error.message, *error.details))


@pytest.mark.scale
@given(LAYERS)
def test_the_order_of_packages_does_not_matter(
    specs: list[tuple[LayerKind, list[tuple[str, str, int, bool]]]],
) -> None:
    """But for what `merge` says of directories and of hard links to a file of two packages."""
    listings: list[Listing] = [
        (f"layer {n}", LayerKind.PACKAGE, entries_of([each for each in some if each[1] != "h"]))
        for n, (_, some) in enumerate(specs)
    ]
    results = {
        clash_or(lambda order=order: leaves(merged(*order)))  # type: ignore[misc]
        for order in itertools.permutations(listings)
    }
    assert len(results) == 1


def leaves(rootfs: Rootfs) -> str:
    """Directories may differ: there the later layer's mode counts, which is noticed."""
    return str([entry for entry in entries(rootfs) if entry.kind is not Kind.DIRECTORY])


def test_a_hard_link_without_its_file_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="lacks it"):
        merged(listing("a", hard("b", "a")))


# -- deletions (image-spec layer.md, "Whiteouts")

BASE = [directory("d", 0o700), directory("d/e"), file("d/e/x", b"1"), file("d/y"), link("l", "d")]


def changed(*layers: Sequence[tuple[Entry, bytes]]) -> MergedTree:
    tree = MergedTree()
    for files in layers:
        tree.lay(LayerChange.of(entry for entry, _ in files))
    return tree


def test_deletions_are_read_and_spelt() -> None:
    marks = [file(".wh.l"), directory("d"), file("d/.wh..wh..opq"), file("d/.wh.y"), file("d/z")]
    change = LayerChange.of(entry for entry, _ in marks)
    assert (change.deleted, change.opaque) == (("l", "d/y"), ("d",))
    assert [entry.path for entry in change.entries] == ["d", "d/z"]
    assert LayerChange.of(change.spelt()) == replace(change, entries=change.entries)


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([file("d/.wh.y")], ["d", "d/e", "d/e/x", "l"]),
        ([file("d/.wh.e")], ["d", "d/y", "l"]),
        ([file(".wh.d")], ["l"]),
        ([file(".wh.d"), file(".wh.none")], ["l"]),
        ([file("d/.wh..wh..opq")], ["d", "l"]),
        ([file("d/.wh..wh..opq"), file("d/y", b"2")], ["d", "d/y", "l"]),
        ([file(".wh..wh..opq"), file("z")], ["z"]),
        ([file(".wh.l"), file("d/e/n")], ["d", "d/e", "d/e/n", "d/e/x", "d/y"]),
    ],
)
def test_a_layer_deletes_what_lies_below(upper: list[tuple[Entry, bytes]], left: list[str]) -> None:
    assert sorted(changed(BASE, upper).tree) == left


def test_a_step_deletes_and_a_package_may_not() -> None:
    base = listing("a", *BASE)
    step = merged(base, listing("s", file("d/.wh.y"), directory("d", 0o700), kind=LayerKind.STEP))
    assert "d/y" not in step.tree
    assert [each.path for each in step.restated] == []
    with pytest.raises(RecipeError, match=r"layers clash at 'd/y': a deletion of b and a file"):
        merged(base, listing("b", file("d/.wh.y")))


MARKS = st.lists(st.sampled_from(["a", "a/b", "d", "d/e", "", "lib"]), max_size=2, unique=True)
CHANGES = st.lists(st.tuples(st.lists(SPECS, max_size=5), MARKS, MARKS), min_size=2, max_size=4)


@pytest.mark.scale
@given(CHANGES, st.integers(1, 3))
@example(
    [
        ([("a/b", "f", 0o644, True)], [], []),
        ([("a", "f", 0o644, True)], [], []),
        ([("a", "d", 0o755, True)], [], []),
    ],
    1,
)
def test_layers_that_become_one_are_the_same_change(
    specs: list[tuple[list[tuple[str, str, int, bool]], list[str], list[str]]], first: int
) -> None:
    """Deletions included: of what lies below the group nothing else is left than of its layers."""
    changes = []
    for some, deleted, opaque in specs:
        entries = tuple(entries_of(some))
        taken = {entry.path for entry in entries}
        taken |= {path.rpartition("/")[0] for path in taken}
        gone = tuple(path for path in deleted if path and path not in taken)
        leaves = {each.path for each in entries if each.kind is not Kind.DIRECTORY}
        whole = tuple(path for path in opaque if path not in leaves)
        changes.append(LayerChange(entries, gone, whole))
    one_by_one, at_once, group_tree = MergedTree(), MergedTree(), MergedTree()
    for change in changes:
        assume(not one_by_one.lay(change).through)  # where clients differ anyway
    for change in changes[:first]:
        at_once.lay(change)
    for change in changes[first:]:
        group_tree.lay(change)
    brought = tuple(
        each.entry
        for each in linked({p: m for p, m in group_tree.tree.items() if m.layer != GENERATED})
    )
    at_once.lay(LayerChange(brought, *group_tree.deletions()))
    assert told_of(at_once) == told_of(one_by_one)


def told_of(tree: MergedTree) -> dict[str, Entry]:
    """All but directories that no layer brings."""
    found = tree.tree.items()
    return {path: member.entry for path, member in found if member.layer != GENERATED}
