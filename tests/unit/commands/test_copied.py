"""Sync steps with a list: where files lie, of images, archives and URLs, and what is refused."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from buildit.commands.run import read_lock
from buildit.commands.sync import expanded
from buildit.digest import digest_bytes
from buildit.errors import BuilditError, FetchError, RecipeError
from buildit.model.plan import SyncStep
from buildit.model.tree import Entry, Kind
from buildit.store.cas import Store
from tests.base_images import Foreign, folder, hard_link, member, symbolic, tar
from tests.planning import Checkout
from tests.unit.commands.test_bases import built, plan, project, tree, write

pytestmark = pytest.mark.unit

__all__ = ["project"]  # a fixture

BASE = tar(
    folder("srv"),
    folder("opt", 0o750, uid=7, gid=8),
    folder("opt/d"),
    member("opt/d/x", b"#!", 0o4755, uid=101, gid=102),
    hard_link("opt/d/y", "opt/d/x"),
    symbolic("opt/l", "d/x"),
    member("opt/a.txt", b"aaa", 0o640, mtime=77),
    symbolic("lnk", "srv"),
)


def files(found: dict[str, Entry], above: str) -> dict[str, tuple[int, int, int]]:
    """Mode and owner of what lies beneath a directory."""
    return {
        path: (one.mode, one.uid, one.gid)
        for path, one in found.items()
        if path.startswith(f"{above}/")
    }


def lies(project: Checkout, *steps: str) -> dict[str, Entry]:
    if not (project.root / "base.oci").exists():
        Foreign((BASE,), {}).layout(project.root / "base.oci")
    for name in ("a.txt", "b.txt", "c.css", "d/e.txt", "d/f/g", "node/x", "node/keep/y"):
        project.write(f"container/{name}", name)
    write(project, "{oci: oci:../base.oci}", *steps)
    return tree(built(project)["oci"])


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ("{src: [a.txt], dest: /new}", {"new"}),
        ("{src: [a.txt], dest: /srv}", {"srv/a.txt"}),
        ("{src: [a.txt], dest: /lnk}", {"srv/a.txt"}),
        ("{src: [a.txt], dest: /new/}", {"new", "new/a.txt"}),
        (
            "{src: ['*.txt', c.css], dest: /new/}",
            {"new", *(f"new/{n}.txt" for n in "ab"), "new/c.css"},
        ),
        ("{src: [d], dest: /new}", {"new", "new/e.txt", "new/f", "new/f/g"}),
        ("{src: ['d/*'], dest: /srv/}", {"srv/e.txt", "srv/g"}),
        ("{src: [node], dest: /n, ignore: [node, '!node/keep']}", {"n", "n/keep", "n/keep/y"}),
        ("{src: ['?.txt'], dest: /srv, ignore: [a.txt]}", {"srv/b.txt"}),
        ("{src: [d/f/g], dest: /p/, parents: yes}", {"p", "p/d", "p/d/f", "p/d/f/g"}),
    ],
)
def test_files_of_a_list_lie_as_copy_lays_them(
    project: Checkout, step: str, wanted: set[str]
) -> None:
    found = lies(project, f"- sync: {step}")
    before = {"srv", "lnk", "opt", "opt/d", "opt/d/x", "opt/d/y", "opt/l", "opt/a.txt", ""}
    assert found.keys() - before == wanted


def test_files_of_an_image_keep_what_they_are(project: Checkout) -> None:
    step = "{src: [opt/d, 'opt/*.txt', opt/l], dest: /srv/, from: {oci: oci:../base.oci}}"
    found = lies(project, f"- sync: {step}")
    assert files(found, "srv") == {
        "srv/x": (0o4755, 101, 102),
        "srv/y": (0o4755, 101, 102),
        "srv/a.txt": (0o640, 0, 0),
        "srv/l": (0o4755, 101, 102),  # a link that is named is what it leads to
    }
    assert found["srv/y"].kind is Kind.HARDLINK
    assert (found["srv/a.txt"].mtime, found["srv/l"].kind) == (77, Kind.FILE)
    lock = read_lock(project.container).sections
    assert "oci:../base.oci" in next(iter(lock.values())).images


def test_owner_and_mode_of_a_step_go_over_those_of_an_image(project: Checkout) -> None:
    more = "owner: '5:6', chmod: 0600, from: {oci: oci:../base.oci}"
    found = lies(project, f"- sync: {{src: [/opt/d], dest: /new/, {more}}}")
    assert files(found, "new") == {"new/x": (0o600, 5, 6), "new/y": (0o600, 5, 6)}


def test_nothing_of_the_other_image_is_built_in_but_the_files(project: Checkout) -> None:
    Foreign((BASE,), {}).layout(project.root / "base.oci")
    steps = [
        "- vars: {name: web, version: 1.0}",
        "- sync: {src: [opt/a.txt], dest: /a, from: {oci: oci:../base.oci}}",
        "- image: {type: oci}",
    ]
    project.write("container/container.yaml", "\n".join(steps) + "\n")
    assert tree(built(project)["oci"]).keys() - {""} == {"a"}


ARCHIVE = tar(folder("d", 0o700, uid=3), member("d/x", b"x", 0o750, uid=3, gid=4, mtime=99))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_archive_is_unpacked_whatever_it_is_called(project: Checkout, pack: Any) -> None:
    (project.container / "thing").write_bytes(pack(ARCHIVE))
    found = lies(project, "- sync: {src: [thing, a.txt], dest: /new/, extract: yes}")
    assert files(found, "new") == {
        "new/d": (0o700, 3, 0),
        "new/d/x": (0o750, 3, 4),
        "new/a.txt": (0o644, 0, 0),
    }
    assert found["new/d/x"].mtime == 99


@pytest.mark.parametrize("name", ["../x", "d/.wh.x"])
def test_a_hostile_archive_is_refused(project: Checkout, name: str) -> None:
    (project.container / "bad.tar").write_bytes(tar(member(name, b"x")))
    with pytest.raises(BuilditError, match=r"wh|x"):
        lies(project, "- sync: {src: [bad.tar], dest: /new/, extract: yes}")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{src: ['*.go'], dest: /new/}", "no file fits '\\*.go'"),
        ("{src: [nothing], dest: /new/}", "'nothing' cannot be synced"),
        ("{src: [], dest: /new/}", "`src` is empty"),
        ("{src: [../x], dest: /new/}", "leads out of the container's directory"),
        ("{src: a.txt, dest: /new, extract: yes}", "`extract` stands beside a list"),
        ("{src: a.txt, dest: /new, ignore: [x]}", "`ignore` stands beside a list"),
        ("{src: [a.txt], dest: /new, template: yes}", "files of a list are no templates"),
        ("{src: [nope], dest: /n, from: {oci: oci:../base.oci}}", "there is no 'nope' in oci:"),
        ("{src: ['n*'], dest: /n, from: {oci: oci:../base.oci}}", "nothing in .* fits 'n\\*'"),
        ("{src: [a], dest: /n, from: {stage: b}}", "the container has no stages"),
        ("{src: [a], dest: /n, from: {suite: debian-12}}", "nothing can be taken of a suite"),
        ("{src: [a.txt, 'https://example.org/a'], dest: /n/}", "no file fits|cannot be synced"),
        ("{src: ['http://example.org/a'], dest: /n/}", "nothing says what is at a URL"),
        ("{src: ['https://example.org/a', b], dest: /n/}", "a URL stands alone"),
    ],
)
def test_what_cannot_be_copied_is_named(project: Checkout, step: str, message: str) -> None:
    with pytest.raises(BuilditError, match=message) as caught:
        lies(project, f"- sync: {step}")
    assert caught.value.place
    assert caught.value.hint


def test_a_file_of_a_url_is_pinned_and_lies_by_its_name(project: Checkout) -> None:
    digest = digest_bytes(b"fetched")
    step = "{src: ['https://example.org/x/tool.bin?v=1'], dest: /srv/, chmod: 0755"
    with pytest.raises(FetchError, match="--offline forbids to fetch it"):
        lies(project, f"- sync: {step}}}")
    with Store.open(project.root / "store") as store:
        store.put_bytes(b"fetched")
    found = lies(project, f"- sync: {step}, sha256: {digest}}}")
    assert (found["srv/tool.bin"].mode, found["srv/tool.bin"].digest) == (0o755, digest)
    section = next(iter(read_lock(project.container).sections.values()))
    assert section.files == {"https://example.org/x/tool.bin?v=1": digest}
    again = lies(project, f"- sync: {step}}}")  # the lock says which bytes
    assert again["srv/tool.bin"].digest == digest


def test_containers_that_take_files_of_each_other_are_refused(project: Checkout) -> None:
    def box(name: str, other: str) -> None:
        text = "- vars: {name: x, version: 1}\n"
        text += f"- sync: {{src: [a], dest: /a, from: {{container: ../{other}}}}}\n"
        project.write(f"{name}/container.yaml", text)

    box("container", "other")
    box("other", "container")
    with pytest.raises(RecipeError, match=r"begin with each other: .*container -> .*other -> "):
        plan(project)


def test_what_a_glob_may_fit_is_watched() -> None:
    step = SyncStep("x", "/", True, "", 0, 0, "p", sources=("a/*/b", "c/d", "*"))
    assert step.places == ("a", "c/d", ".")


def test_globs_are_of_one_directory_and_sorted() -> None:
    names = {"": ["b", "a", "x"], "a": ["2.txt", "1.txt"], "b": ["3.txt"]}
    found = expanded("[ab]/*.txt", lambda one: names.get(one, []), "p")
    assert found == ["a/1.txt", "a/2.txt", "b/3.txt"]
    assert expanded(".", lambda _: [], "p") == ["."]
    assert expanded("*.go", lambda one: names.get(one, []), "p") == []
    assert expanded("*/1.txt", lambda one: names.get(one, []), "p") == ["a/1.txt"]
