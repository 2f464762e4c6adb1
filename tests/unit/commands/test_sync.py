from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.admit import Budget
from buildit.archive.contents import parse_contents
from buildit.archive.tar.read import read_tar
from buildit.commands.placing import directories_task, leading_nowhere, resolved, sync_task
from buildit.commands.sync import EPOCH, Own, Taken, Times, dated, destination, take, watched
from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.files import replacing
from buildit.make.makers import make_task
from buildit.model.artifact import RUNTIME
from buildit.model.image import Layer, LayerKind
from buildit.model.plan import DirectoriesStep, DirectoryToMake, SyncStep
from buildit.model.tree import Entry, Kind, sort_key
from buildit.store.cas import Store
from tests.making import place
from tests.scale import examples

pytestmark = pytest.mark.unit

PLACE = "container.yaml:5:3"


NOW = 1_700_000_000
OWN = Own("out", re.compile(r"web-.+\.(?:aci|oci)"))


def step(
    src: str,
    dest: str,
    *exclude: str,
    recursive: bool = False,
    mode: str = "",
    uid: int = 0,
    dirmode: str = "",
) -> SyncStep:
    return SyncStep(src, dest, recursive, mode, uid, uid, PLACE, dirmode, exclude)


def taken(project: Path, wanted: SyncStep) -> Taken:
    (found,), _ = dated([take(project, wanted, OWN)], {}, NOW)
    return found


def laid(
    project: Path, store: Store, wanted: SyncStep, over: Mapping[str, Entry]
) -> tuple[Layer, tuple[Entry, ...], tuple[str, ...]]:
    """The layer of a step, its entries, and all that is said of it."""
    found = taken(project, wanted)
    task, entries, remarks = sync_task(found, over)
    output = make_task(task, {}, place(store, project)).outputs[RUNTIME]
    layer = Layer(output.diff_id, output.size, task.name, output.contents, LayerKind.STEP)
    assert parse_contents(store.read(output.contents)) == entries
    return layer, entries, (*found.remarks, *remarks)


def tree(*entries: Entry) -> dict[str, Entry]:
    return {entry.path: entry for entry in entries}


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def file(path: str) -> Entry:
    return Entry(path, Kind.FILE, 0o644, digest=digest_bytes(b""))


MERGED = tree(
    directory("usr"),
    directory("usr/lib"),
    directory("etc"),
    directory("tmp", 0o1777),
    link("lib", "usr/lib"),
    link("var", "/srv/../usr/var"),
    file("etc/passwd"),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "files/sub").mkdir(parents=True)
    (made / "files/nginx.conf").write_text("conf")
    (made / "files/run").write_text("#!/bin/sh\n")
    (made / "files/run").chmod(0o700)
    (made / "files/sub/deep").write_text("deep")
    (made / "files/sub/link").symlink_to("../nginx.conf")
    (made / "files/out").symlink_to("/etc/passwd")
    return made


def synced(
    project: Path, store: Store, wanted: SyncStep, over: Mapping[str, Entry] = MERGED
) -> dict[str, Entry]:
    _, entries, _ = laid(project, store, wanted, over)
    assert list(entries) == sorted(entries, key=sort_key)
    parents = {entry.path.rpartition("/")[0] for entry in entries} - {""}
    assert parents <= {entry.path for entry in entries if entry.kind is Kind.DIRECTORY}
    # what the layer only repeats of the tree below is looked at by tests of its own
    return {entry.path: entry for entry in entries if over.get(entry.path) != entry}


# -- what comes in


def test_a_file_gets_its_name_or_goes_into_a_directory(project: Path, store: Store) -> None:
    src = "./files/nginx.conf"
    found = synced(project, store, step(src, "/etc/nginx/nginx.conf"))
    assert list(found) == ["etc/nginx", "etc/nginx/nginx.conf"]
    assert synced(project, store, step(src, "/etc/nginx/")) == found
    assert list(synced(project, store, step(src, "/"))) == ["nginx.conf"]
    assert list(synced(project, store, step(src, "/n", recursive=True))) == ["n"]


def test_the_content_of_a_directory_goes_to_dest(project: Path, store: Store) -> None:
    found = synced(project, store, step("files", "/srv/www", recursive=True))
    assert list(found) == [
        "srv",
        "srv/www",
        "srv/www/nginx.conf",
        "srv/www/out",
        "srv/www/run",
        "srv/www/sub",
        "srv/www/sub/deep",
        "srv/www/sub/link",
    ]
    assert found["srv/www/sub/link"].target == "../nginx.conf"
    assert found["srv/www/out"].target == "/etc/passwd"
    trailing = synced(project, store, step("files/", "/srv/www/", recursive=True))
    assert trailing == found


def test_the_layer_in_the_store_is_what_the_entries_say(project: Path, store: Store) -> None:
    layer, entries, _ = laid(project, store, step("files", "/srv", recursive=True), MERGED)
    with store.open_blob(layer.diff_id) as tar:
        members = read_tar(tar, Budget(total_bytes=1 << 20))
        read = [(entry, body.read() if body else b"") for entry, body in members]
    assert [entry.path for entry, _ in read] == [entry.path for entry in entries]
    assert {entry.path: body for entry, body in read}["srv/nginx.conf"] == b"conf"
    assert parse_contents(store.read(layer.contents)) == entries


def test_modes_and_times_do_not_depend_on_the_clone(project: Path, store: Store) -> None:
    first, entries, _ = laid(project, store, step("files", "/srv", recursive=True), MERGED)
    modes = {entry.path: entry.mode for entry in entries if entry.kind is not Kind.SYMLINK}
    assert modes == {
        "srv": 0o755,
        "srv/nginx.conf": 0o644,
        "srv/run": 0o755,
        "srv/sub": 0o755,
        "srv/sub/deep": 0o644,
    }
    assert {entry.mtime for entry in entries if entry.kind is not Kind.FILE} == {EPOCH}
    assert {entry.mtime for entry in entries if entry.kind is Kind.FILE} == {NOW}
    for path in project.rglob("*"):
        if not path.is_symlink():
            keep = path.stat().st_mode & 0o100
            path.chmod(0o777 if path.is_dir() else 0o666 | keep)
            os.utime(path, (1, 1))
    again, _, _ = laid(project, store, step("files", "/srv", recursive=True), MERGED)
    assert again == first


def test_chmod_and_owner_are_for_files_and_new_directories(project: Path, store: Store) -> None:
    found = synced(project, store, step("files", "/srv", recursive=True, mode="0640", uid=101))
    assert {e.mode for e in found.values() if e.kind is Kind.FILE} == {0o640}
    assert found["srv"].mode == 0o755
    assert {(e.uid, e.gid) for e in found.values()} == {(101, 101)}


def test_a_directory_that_the_image_has_stays_as_it_is(project: Path, store: Store) -> None:
    assert "tmp" not in synced(project, store, step("files", "/tmp", recursive=True))
    over = {**MERGED, "srv": directory("srv"), "srv/sub": directory("srv/sub", 0o700)}
    found = synced(project, store, step("files", "/srv", recursive=True), over)
    assert not {"srv", "srv/sub"} & set(found)
    assert "srv/sub/deep" in found


def test_the_whole_project_may_be_synced(project: Path, store: Store) -> None:
    found = synced(project, store, step(".", "/", recursive=True))
    assert "files/sub/deep" in found
    assert "" not in found


def test_the_layer_repeats_the_directories_above(project: Path, store: Store) -> None:
    """An overlay file system takes them from the uppermost layer that has something beneath."""
    over = {
        **MERGED,
        "etc": Entry("etc", Kind.DIRECTORY, 0o750, mtime=5, uid=3, gid=4, xattrs={"user.x": b"y"}),
        "usr/lib": replace(MERGED["usr/lib"], mtime=9),
    }
    _, entries, _ = laid(project, store, step("files/nginx.conf", "/etc/a/"), over)
    assert entries[0] == over["etc"]
    assert [each.path for each in entries] == ["etc", "etc/a", "etc/a/nginx.conf"]
    _, entries, _ = laid(project, store, step("files/nginx.conf", "/lib/"), over)
    assert entries[:2] == (over["usr"], over["usr/lib"])
    _, entries, _ = laid(project, store, step("files/sub", "/tmp", recursive=True), over)
    assert entries[0] == over["tmp"]


def test_directories_made_above_have_the_owner(project: Path, store: Store) -> None:
    found = synced(project, store, step("files/nginx.conf", "/home/u/new/g", uid=1000))
    assert {(each.path, each.uid) for each in found.values()} == {
        (path, 1000) for path in ("home", "home/u", "home/u/new", "home/u/new/g")
    }


# -- through links of the image


@pytest.mark.parametrize(
    ("dest", "path"),
    [
        ("/lib/x", "usr/lib/x"),
        ("/lib/", "usr/lib/nginx.conf"),
        ("/lib/a/b", "usr/lib/a/b"),
        ("/var/log/x", "usr/var/log/x"),
        ("//etc//x", "etc/x"),
    ],
)
def test_dest_leads_through_links(project: Path, store: Store, dest: str, path: str) -> None:
    found = synced(project, store, step("files/nginx.conf", dest))
    assert [each.path for each in found.values() if each.kind is Kind.FILE] == [path]


def test_a_directory_goes_into_what_a_link_names(project: Path, store: Store) -> None:
    found = synced(project, store, step("files/sub", "/lib", recursive=True))
    assert list(found) == ["usr/lib/deep", "usr/lib/link"]
    found = synced(project, store, step("files/sub", "/var/", recursive=True))
    assert list(found) == ["usr/var", "usr/var/deep", "usr/var/link"]


def test_a_link_cannot_lead_out_of_the_image() -> None:
    over = tree(link("a", "../../../../etc"), link("b", "/../../x"), directory("etc"))
    assert resolved("a/passwd", over, PLACE) == "etc/passwd"
    assert resolved("b/c", over, PLACE) == "x/c"


def test_a_loop_of_links_is_refused() -> None:
    over = tree(link("a", "b"), link("b", "a"))
    with pytest.raises(RecipeError, match="a loop of links") as caught:
        resolved("a/x", over, PLACE)
    assert caught.value.place == PLACE


PARTS = st.sampled_from(["a", "b", "c", "..", "."])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


@settings(max_examples=examples(30))
@given(PATHS, st.dictionaries(st.sampled_from("abc"), PATHS | PATHS.map(lambda p: f"/{p}")))
def test_a_resolved_path_is_plain(path: str, links: dict[str, str]) -> None:
    over = tree(*(link(name, target) for name, target in links.items()))
    try:
        found = resolved(path, over, PLACE)
    except RecipeError:
        return
    assert not {"..", "."} & set(found.split("/"))
    assert not found.startswith("/")


# -- what is refused


def refused(project: Path, store: Store, wanted: SyncStep) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        laid(project, store, wanted, MERGED)
    assert caught.value.place == PLACE
    assert caught.value.hint
    return caught.value


def test_a_directory_needs_recursive(project: Path, store: Store) -> None:
    error = refused(project, store, step("files", "/srv"))
    assert error.message == "'files' is a directory"
    assert error.hint == "add `recursive: true`"


def test_a_missing_source_is_named(project: Path, store: Store) -> None:
    error = refused(project, store, step("files/none", "/x"))
    assert error.message == "'files/none' cannot be synced: No such file or directory"
    assert str(project) in (error.hint or "")


def test_a_file_does_not_become_a_directory_that_is_there(project: Path, store: Store) -> None:
    error = refused(project, store, step("files/nginx.conf", "/etc"))
    assert error.hint == "write dest: /etc/ to put it there by its name"


def test_dest_below_a_file_is_refused(project: Path, store: Store) -> None:
    for wanted in (
        step("files/nginx.conf", "/etc/passwd/x"),
        step("files", "/etc/passwd", recursive=True),
    ):
        assert (
            "/etc/passwd is a file in the image, and dest leads through it"
            in refused(project, store, wanted).message
        )


@pytest.mark.parametrize("inside", [True, False])
def test_nodes_that_an_image_cannot_hold(project: Path, store: Store, inside: bool) -> None:
    os.mkfifo(project / "files/sub/fifo")
    wanted = step("files", "/srv", recursive=True) if inside else step("files/sub/fifo", "/x")
    assert "neither file, directory nor link" in refused(project, store, wanted).message


def test_a_socket_is_refused(project: Path, store: Store) -> None:
    before = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(project)
        try:
            listening.bind("files/s")
        finally:
            os.chdir(before)
    assert "neither file" in refused(project, store, step("files/s", "/x")).message


def test_a_whiteout_name_is_refused(project: Path, store: Store) -> None:
    (project / "files/.wh.x").write_text("")
    assert ".wh.x" in refused(project, store, step("files", "/srv", recursive=True)).message
    named = refused(project, store, step("files", "/srv/.wh.y/z", recursive=True))
    assert "/srv/.wh.y/z" in named.message


def test_a_source_behind_a_link_out_of_the_project_is_refused(project: Path, store: Store) -> None:
    (project / "elsewhere").symlink_to("/etc")
    (project / "above").symlink_to("files/../../secret")
    for src in ("elsewhere/passwd", "elsewhere/ssl", "files/out/x", "files/out", "above"):
        error = refused(project, store, step(src, "/x", recursive=True))
        assert "leads out of the container's directory" in error.message


HOSTILE_SOURCES = (
    "/etc/passwd",
    "../secret",
    "files/../../secret",
    "./../secret",
    "files/sub/../../../secret",
    "",
    "..",
    "/",
    "elsewhere/secret",
    "files/none",
)
HOSTILE_DESTINATIONS = ("/x", "/../x", "/etc/../../x", "/lib/../../x", "//..//x", "/a/../../x/")


@pytest.mark.parametrize(("src", "dest"), list(product(HOSTILE_SOURCES, HOSTILE_DESTINATIONS)))
def test_nothing_outside_is_read_or_named(project: Path, store: Store, src: str, dest: str) -> None:
    secret = project.parent / "secret"
    secret.write_text("the secret")
    (project / "elsewhere").symlink_to(project.parent)
    before = {path: path.lstat() for path in project.parent.rglob("*")}
    wanted = step(src, dest, recursive=True)
    if src:
        refused(project, store, wanted)
    else:  # the project itself
        entries = synced(project, store, wanted).values()
        assert not any(".." in entry.path.split("/") for entry in entries)
        assert digest_bytes(b"the secret") not in {entry.digest for entry in entries}
    # Reading may move access times; nothing else.
    after = {path: path.lstat() for path in project.parent.rglob("*")}
    assert {p: s[:7] + s[8:10] for p, s in before.items()} == {
        p: s[:7] + s[8:10] for p, s in after.items()
    }
    assert not list((store.root / "tmp").glob("*/*"))


@pytest.mark.parametrize(
    ("dest", "src", "is_directory", "path"),
    [
        ("/etc/x", "a/b", False, "etc/x"),
        ("/etc/", "a/b", False, "etc/b"),
        ("/etc/", "a/b", True, "etc"),
        ("/", "a/b", True, ""),
        ("/", "a/b/", False, "b"),
        ("/../etc", "a", False, "etc"),
    ],
)
def test_destination(dest: str, src: str, is_directory: bool, path: str) -> None:
    assert destination(dest, src, is_directory) == path


def test_the_same_step_gives_the_same_layer(project: Path, store: Store) -> None:
    wanted = step("files", "/srv", recursive=True)
    first, _, _ = laid(project, store, wanted, MERGED)
    (project / "files/sub/deep").write_text("other")
    changed, _, _ = laid(project, store, wanted, MERGED)
    assert changed.diff_id != first.diff_id
    (project / "files/sub/deep").write_text("deep")
    assert laid(project, store, wanted, MERGED)[0] == first
    moved = replace(wanted, place="elsewhere:1:1")
    assert laid(project, store, moved, MERGED)[0] == first


# -- what stays out


def paths(project: Path, wanted: SyncStep) -> list[str]:
    return [found.relative for found in take(project, wanted, OWN).nodes]


def test_what_buildit_wrote_and_the_repository_stay_out(project: Path) -> None:
    """kaniko issue 594: the image of `src: .` held the image before it."""
    before = paths(project, step(".", "/app", recursive=True))
    for made in ("out/web-1-linux-amd64.oci/blobs", ".git/objects", "files/sub/.git"):
        (project / made).mkdir(parents=True)
    for made in ("out/x", "buildit.lock", ".buildit-config.yaml", ".buildit.lock-abc", "web-2.aci"):
        (project / made).write_text("x")
    found = take(project, step(".", "/app", recursive=True), OWN)
    assert [each.relative for each in found.nodes] == before
    remark, _ = found.remarks
    assert remark == (
        "what is not for an image stays out: .buildit-config.yaml, .buildit.lock-abc, .git, "
        "buildit.lock, files/sub/.git, out, web-2.aci"
    )
    for src in ("out", "out/x", "buildit.lock", ".git", "files/../out"):
        with pytest.raises(RecipeError, match="is not for an image"):
            take(project, step(src, "/x", recursive=True), OWN)


def test_a_lock_that_another_run_is_writing_stays_out(project: Path) -> None:
    before = paths(project, step(".", "/app", recursive=True))
    with replacing(project / "buildit.lock", sync=True) as stream:
        stream.write(b"half")
        assert len(list(project.glob(".buildit.lock*"))) == 1
        assert paths(project, step(".", "/app", recursive=True)) == before


def test_an_output_directory_of_another_run_stays_out(project: Path) -> None:
    elsewhere = Own("", OWN.images)
    (project / "out").mkdir()
    (project / "out/web-1.aci").write_text("x")
    assert not [
        f
        for f in take(project, step(".", "/", recursive=True), elsewhere).nodes
        if f.relative.startswith("out")
    ]
    (project / "out/index.html").write_text("a page")  # then it is somebody's own
    names = [f.relative for f in take(project, step(".", "/", recursive=True), elsewhere).nodes]
    assert [name for name in names if name.startswith("out")] == ["out", "out/index.html"]


def test_globs_leave_out(project: Path) -> None:
    (project / "files/a.bak").write_text("")
    (project / "files/sub/b.bak").write_text("")
    (project / "files/sub/more").mkdir()
    os.mkfifo(project / "files/sub/more/fifo")
    wanted = step("files", "/x", "*.bak", "sub/more", recursive=True)
    assert "sub/b.bak" in paths(project, wanted)
    assert not {"a.bak", "sub/more", "sub/more/fifo"} & set(paths(project, wanted))
    everywhere = step("files", "/x", "**/*.bak", "sub/*/**", recursive=True)
    assert paths(project, everywhere)[-2:] == ["sub/link", "sub/more"]
    remarks = take(project, step("files", "/x", "nix", "sub/**", recursive=True), OWN).remarks
    assert remarks[0] == "`exclude` matches nothing here: nix"
    with pytest.raises(RecipeError, match="`exclude` is for what is in one"):
        take(project, step("files/run", "/x", "*"), OWN)


def test_what_is_left_out_is_not_even_entered(project: Path) -> None:
    (project / "files/secret").mkdir()
    (project / "files/secret/x").mkdir()
    seen = watched(project, step("files", "/x", "secret", recursive=True), OWN)
    assert not [path for path in seen if "secret" in path]
    assert str(project / "files/sub/deep") in seen
    assert str(project / "files/sub") in seen


# -- modes


def test_directories_have_a_mode_of_their_own(project: Path, store: Store) -> None:
    """nixpkgs issue 257172: /tmp came out 0755."""
    (project / "tmp").mkdir()
    found = synced(project, store, step("tmp", "/var/tmp", dirmode="1777", recursive=True), {})
    assert {path: each.mode for path, each in found.items()} == {"var": 0o1777, "var/tmp": 0o1777}
    found = synced(project, store, step("files/run", "/a/b/", dirmode="0700", mode="0555"), {})
    assert [each.mode for each in found.values()] == [0o700, 0o700, 0o555]
    over = tree(directory("srv"), directory("srv/sub", 0o700))
    _, entries, remarks = laid(
        project, store, step("files", "/srv", dirmode="0750", recursive=True), over
    )
    modes = {each.path: each.mode for each in entries if each.kind is Kind.DIRECTORY}
    assert modes == {"srv": 0o750, "srv/sub": 0o750}
    assert remarks[-1] == "directories of the image become 0750: /srv (0755), /srv/sub (0700)"


def test_the_root_has_no_mode(project: Path, store: Store) -> None:
    wanted = step("files", "/", dirmode="0750", recursive=True)
    _, entries, remarks = laid(project, store, wanted, {})
    assert {each.path: each.mode for each in entries if each.kind is Kind.DIRECTORY} == {
        "sub": 0o750
    }
    assert remarks[-1] == "`dirmode: 0750` is not for /, which engines make themselves"


def test_a_directory_that_is_a_link_to_the_root() -> None:
    wanted = DirectoriesStep((DirectoryToMake("all", 0o700, 0, 0, PLACE),), PLACE)
    with pytest.raises(RecipeError, match="/all is a link to /") as caught:
        directories_task(wanted, tree(link("all", "/")))
    assert (caught.value.place, caught.value.hint) == (PLACE, "leave it out")


def test_a_directory_that_keeps_what_is_there() -> None:
    below = tree(directory("tmp", 0o1777), directory("var"), link("var/run", "/tmp"))
    made = [DirectoryToMake(path, 0o755, 5, 6, PLACE, keeps=True) for path in ("var/run", "srv/a")]
    _, entries = directories_task(DirectoriesStep(tuple(made), PLACE), below)
    assert {one.path: (one.mode, one.uid) for one in entries if one.path != "var"} == {
        "tmp": (0o1777, below["tmp"].uid),
        "srv": (0o755, 0),
        "srv/a": (0o755, 5),
    }


@pytest.mark.parametrize("mode", ["1777", "0700", "0750", "1644"])
def test_a_mode_that_can_only_be_meant_for_directories(project: Path, mode: str) -> None:
    (project / "tmp").mkdir()
    with pytest.raises(RecipeError) as caught:
        take(project, step("tmp", "/tmp", recursive=True, mode=mode), OWN)
    assert caught.value.hint == f"`dirmode: {mode}` is for directories"
    with_files = step("files", "/srv", recursive=True, mode=mode)
    if mode.startswith("1"):
        with pytest.raises(RecipeError, match="says nothing of a file"):
            take(project, with_files, OWN)
    else:
        assert take(project, with_files, OWN).remarks == ()
    assert take(project, step("tmp", "/tmp", recursive=True, mode="0644"), OWN).remarks == ()


def test_what_does_not_arrive_is_said_by_kind(project: Path) -> None:
    (project / "files/key").write_text("secret")
    (project / "files/key").chmod(0o600)
    (project / "files/su").write_text("su")
    (project / "files/su").chmod(0o4755)
    os.setxattr(project / "files/su", "user.note", b"x")
    (project / "files/private").mkdir(mode=0o700)
    (project / "files/sub").chmod(0o2775)
    assert take(project, step("files", "/srv", recursive=True), OWN).remarks == (
        "everybody may read in the image: key (0600), run (0700); `chmod` keeps them private",
        "set-id bits do not arrive: su (4755); `chmod: 04755` sets them",
        "capabilities and attributes do not arrive: su",
        "new directories are 0755 in the image: private (0700), sub (2775); `dirmode` sets a mode",
    )
    quiet = step("files", "/srv", recursive=True, mode="0640", dirmode="0750")
    assert take(project, quiet, OWN).remarks == ("capabilities and attributes do not arrive: su",)


# -- links


def test_a_source_that_is_a_link_gives_what_it_names(project: Path, store: Store) -> None:
    (project / "page").symlink_to("files/nginx.conf")
    (project / "current").symlink_to("./files/../files")
    found = synced(project, store, step("page", "/a/"), {})
    assert found["a/page"].digest == digest_bytes(b"conf")
    assert "a/sub/deep" in synced(project, store, step("current", "/a", recursive=True), {})
    assert "a/deep" in synced(project, store, step("current/sub", "/a", recursive=True), {})
    seen = watched(project, step("current/nginx.conf", "/a"), OWN)
    assert seen[:2] == [str(project / "current/nginx.conf"), str(project / "files/nginx.conf")]


def test_a_dangling_source_is_refused(project: Path, store: Store) -> None:
    """kaniko issue 1382: the image held the dangling link."""
    (project / "page").symlink_to("files/none")
    error = refused(project, store, step("page", "/a"))
    assert error.message == "'page' is a link to 'files/none': No such file or directory"
    (project / "loop").symlink_to("loop")
    assert "loop" in refused(project, store, step("loop", "/a")).message


def test_a_destination_that_is_a_link(project: Path, store: Store) -> None:
    """kaniko issue 942: the link to /run became a file."""
    over = tree(
        directory("run"),
        link("var", "run"),
        directory("etc"),
        file("etc/a"),
        link("etc/b", "a"),
        link("etc/c", "/nowhere"),
    )
    with pytest.raises(RecipeError, match="dest '/var' is a directory") as caught:
        laid(project, store, step("files/run", "/var"), over)
    assert caught.value.hint == "write dest: /var/ to put it there by its name"
    for name in ("b", "c"):
        _, entries, remarks = laid(project, store, step("files/run", f"/etc/{name}"), over)
        assert entries[-1].kind is Kind.FILE
        assert "links of the image are replaced: /etc/" in remarks[-1]


def test_a_tree_goes_through_links_to_directories(project: Path, store: Store) -> None:
    """moby issue 47367: `bin/` over merged /usr."""
    (project / "over/lib/x").mkdir(parents=True)
    (project / "over/lib/foo.sh").write_text("foo")
    found = synced(project, store, step("over", "/", recursive=True))
    assert list(found) == ["usr/lib/foo.sh", "usr/lib/x"]
    (project / "over/usr/lib").mkdir(parents=True)
    (project / "over/usr/lib/bar.sh").write_text("bar")
    (project / "over/usr/lib/x").mkdir()
    assert "usr/lib/bar.sh" in synced(project, store, step("over", "/", recursive=True))
    (project / "over/usr/lib/foo.sh").write_text("other")
    error = refused(project, store, step("over", "/", recursive=True))
    assert (
        "'over/usr/lib/foo.sh' and another file of 'over' become /usr/lib/foo.sh" in error.message
    )


@pytest.mark.parametrize(
    ("make", "what"),
    [
        ("dir", "/l is a link to 'nowhere', which is no directory in the image"),
        ("file", None),
        ("link", None),
    ],
)
def test_a_tree_over_a_dangling_link(
    project: Path, store: Store, make: str, what: str | None
) -> None:
    (project / "over").mkdir()
    made = project / "over/l"
    if make == "dir":
        made.mkdir()
    elif make == "file":
        made.write_text("")
    else:
        made.symlink_to("elsewhere")
    over = tree(link("l", "nowhere"))
    if what:
        with pytest.raises(RecipeError) as caught:
            laid(project, store, step("over", "/", recursive=True), over)
        assert what in caught.value.message
        return
    _, _, remarks = laid(project, store, step("over", "/", recursive=True), over)
    assert remarks == ("links of the image are replaced: /l (to nowhere)",)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (directory("l"), "file", "/l is a directory in the image, and 'over/l' is a file"),
        (directory("l"), "link", "/l is a directory in the image, and 'over/l' is a link"),
        (file("l"), "dir", "/l is a file in the image, and 'over/l' is a directory"),
        (link("l", "d"), "file", "/l is a link to the directory 'd' in the image"),
    ],
)
def test_kinds_that_clash_are_an_error_of_the_step(
    project: Path, store: Store, lower: Entry, upper: str, message: str
) -> None:
    (project / "over").mkdir()
    made = project / "over/l"
    if upper == "dir":
        made.mkdir()
    elif upper == "file":
        made.write_text("")
    else:
        made.symlink_to("elsewhere")
    with pytest.raises(RecipeError) as caught:
        laid(project, store, step("over", "/", recursive=True), tree(lower, directory("d")))
    assert message in caught.value.message
    assert caught.value.place == PLACE


def test_the_links_of_merged_usr_are_not_replaced(project: Path, store: Store) -> None:
    (project / "over").mkdir()
    (project / "over/lib").symlink_to("elsewhere")
    error = refused(project, store, step("over", "/", recursive=True))
    assert "that merges /usr" in error.message
    (project / "over/lib").unlink()
    (project / "over/lib").symlink_to("usr/lib")
    assert "lib" in [
        e.path for e in laid(project, store, step("over", "/", recursive=True), MERGED)[1]
    ]


def test_links_that_lead_nowhere(project: Path, store: Store) -> None:
    over = tree(
        directory("etc"),
        file("etc/a"),
        link("ok", "etc/a"),
        link("also", "/etc/../etc"),
        link("self", "self"),
        link("gone", "etc/b"),
        link("host", "/home/me/x"),
        link("through", "etc/a/b"),
        link("std", "/dev/stdout"),
        link("log", "/run/log"),
        link("chain", "gone"),
    )
    names = [path for path, entry in over.items() if entry.kind is Kind.SYMLINK]
    assert list(leading_nowhere([*names, "absent", "etc/a"], over)) == [
        "/self (to self)",
        "/gone (to etc/b)",
        "/host (to /home/me/x)",
        "/through (to etc/a/b)",
        "/chain (to gone)",
    ]


def test_what_engines_mount_over_is_said(project: Path, store: Store) -> None:
    _, _, remarks = laid(project, store, step("files/run", "/dev/x"), {})
    assert remarks[-1] == "engines mount over what lies in /proc, /dev and /sys: /dev/x"
    (project / "root/proc").mkdir(parents=True)
    assert laid(project, store, step("root", "/", recursive=True), {})[2] == ()


def test_hard_links_stay(project: Path, store: Store) -> None:
    """kaniko issue 1743: three names of one file were three files."""
    (project / "files/again").hardlink_to(project / "files/run")
    (project / "files/sub/third").hardlink_to(project / "files/run")
    layer, entries, _ = laid(project, store, step("files", "/srv", recursive=True), MERGED)
    found = {each.path: each for each in entries}
    assert found["srv/again"].kind is Kind.FILE
    for name in ("srv/run", "srv/sub/third"):
        assert (found[name].kind, found[name].target) == (Kind.HARDLINK, "srv/again")
        assert (found[name].mode, found[name].mtime) == (0o755, NOW)
    with store.open_blob(layer.diff_id) as tar:
        kinds = {e.path: e.kind for e, _ in read_tar(tar, Budget(total_bytes=1 << 20))}
    assert kinds["srv/run"] is Kind.HARDLINK


def test_a_whiteout_is_named_before_anything_is_built(project: Path) -> None:
    (project / "files/sub/.wh.x").write_text("")
    with pytest.raises(RecipeError, match="delete files in image layers"):
        take(project, step("files", "/srv", recursive=True), OWN)
    assert take(project, step("files", "/srv", "sub/.wh.*", recursive=True), OWN).nodes


def test_a_file_that_changes_after_it_was_read(project: Path, store: Store) -> None:
    found = taken(project, step("files", "/srv", recursive=True))
    (project / "files/nginx.conf").write_text("fnoc")
    with pytest.raises(RecipeError, match="changed while it was packed"):
        make_task(sync_task(found, MERGED)[0], {}, place(store, project))


# -- times


def times(project: Path, pinned: Times, now: int) -> dict[str, int]:
    wanted = step("files", "/srv", recursive=True)
    found, _ = dated([take(project, wanted, OWN)], pinned, now)
    return {each.relative: each.time for each in found[0].nodes if each.digest}


def test_a_file_keeps_its_time_as_long_as_its_content(project: Path) -> None:
    _, pinned = dated([take(project, step("files", "/srv", recursive=True), OWN)], {}, NOW)
    assert set(pinned.values()) == {NOW}
    assert {name for name, _ in pinned} == {"srv/nginx.conf", "srv/run", "srv/sub/deep"}
    assert set(times(project, pinned, NOW + 50).values()) == {NOW}
    (project / "files/nginx.conf").write_text("new!")
    (project / "files/new").write_text("new")
    assert times(project, pinned, NOW + 50) == {
        "new": NOW + 50,
        "nginx.conf": NOW + 50,
        "run": NOW,
        "sub/deep": NOW,
    }


def test_a_changed_file_is_newer_whatever_the_clock_says(project: Path) -> None:
    """A client that asks `If-Modified-Since` would else keep what it has."""
    _, pinned = dated([take(project, step("files", "/srv", recursive=True), OWN)], {}, NOW)
    (project / "files/nginx.conf").write_text("new!")
    assert times(project, pinned, NOW)["nginx.conf"] == NOW + 1
    assert times(project, pinned, NOW - 1000)["nginx.conf"] == NOW + 1


def test_names_of_one_inode_have_one_time(project: Path) -> None:
    (project / "files/sub/third").hardlink_to(project / "files/run")
    wanted = take(project, step("files", "/srv", recursive=True), OWN)
    _, pinned = dated([wanted], {}, NOW)
    partly = {key: value for key, value in pinned.items() if key[0] != "srv/sub/third"}
    _, again = dated([wanted], partly, NOW + 9)
    assert again == pinned


def test_one_name_may_have_two_contents(project: Path) -> None:
    """Two steps that bring one path: each layer has its own."""
    steps = [take(project, step(src, "/x"), OWN) for src in ("files/run", "files/nginx.conf")]
    _, pinned = dated(steps, {}, NOW)
    assert len(pinned) == 2
    assert dated(steps, pinned, NOW + 5)[1] == pinned


def test_one_source_at_two_places_has_two_times(project: Path) -> None:
    both = [take(project, step("files/run", dest), OWN) for dest in ("/a", "/b/")]
    _, pinned = dated(both, {}, NOW)
    assert {name for name, _ in pinned} == {"a", "b/run"}
