from __future__ import annotations

import os
import socket
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.admit import Budget
from buildit.archive.contents import parse_contents
from buildit.archive.tarread import read_tar
from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.model.plan import SyncStep
from buildit.model.tree import Entry, Kind, sort_key
from buildit.pipeline.sync import EPOCH, destination, resolved, sync_layer
from buildit.store.cas import Store

pytestmark = pytest.mark.unit

PLACE = "container.yaml:5:3"


def step(src: str, dest: str, *, recursive: bool = False, mode: str = "", uid: int = 0) -> SyncStep:
    return SyncStep(src, dest, recursive, mode, uid, uid, PLACE)


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
    project: Path, store: Store, wanted: SyncStep, over: object = MERGED
) -> dict[str, Entry]:
    assert isinstance(over, dict)
    _, entries = sync_layer(project, wanted, over, store)
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
    layer, entries = sync_layer(project, step("files", "/srv", recursive=True), MERGED, store)
    with store.open_blob(layer.diff_id) as tar:
        members = read_tar(tar, Budget(total_bytes=1 << 20))
        read = [(entry, body.read() if body else b"") for entry, body in members]
    assert [entry.path for entry, _ in read] == [entry.path for entry in entries]
    assert {entry.path: body for entry, body in read}["srv/nginx.conf"] == b"conf"
    assert parse_contents(store.read(layer.contents)) == entries
    assert layer.title == "sync files"


def test_modes_and_times_do_not_depend_on_the_clone(project: Path, store: Store) -> None:
    first, entries = sync_layer(project, step("files", "/srv", recursive=True), MERGED, store)
    modes = {entry.path: entry.mode for entry in entries if entry.kind is not Kind.SYMLINK}
    assert modes == {
        "srv": 0o755,
        "srv/nginx.conf": 0o644,
        "srv/run": 0o755,
        "srv/sub": 0o755,
        "srv/sub/deep": 0o644,
    }
    assert {entry.mtime for entry in entries} == {EPOCH}
    for path in project.rglob("*"):
        if not path.is_symlink():
            keep = path.stat().st_mode & 0o100
            path.chmod(0o777 if path.is_dir() else 0o666 | keep)
            os.utime(path, (1, 1))
    again, _ = sync_layer(project, step("files", "/srv", recursive=True), MERGED, store)
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
    _, entries = sync_layer(project, step("files/nginx.conf", "/etc/a/"), over, store)
    assert entries[0] == over["etc"]
    assert [each.path for each in entries] == ["etc", "etc/a", "etc/a/nginx.conf"]
    _, entries = sync_layer(project, step("files/nginx.conf", "/lib/"), over, store)
    assert entries[:2] == (over["usr"], over["usr/lib"])
    _, entries = sync_layer(project, step("files/sub", "/tmp", recursive=True), over, store)
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
        ("/lib", "lib"),
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


@settings(max_examples=30)
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
        sync_layer(project, wanted, MERGED, store)
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


def test_a_source_behind_a_link_is_refused(project: Path, store: Store) -> None:
    (project / "elsewhere").symlink_to("/etc")
    for src in ("elsewhere/passwd", "elsewhere/ssl", "files/out/x"):
        assert "symbolic link" in refused(project, store, step(src, "/x", recursive=True)).message


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
    first, _ = sync_layer(project, wanted, MERGED, store)
    (project / "files/sub/deep").write_text("other")
    changed, _ = sync_layer(project, wanted, MERGED, store)
    assert changed.diff_id != first.diff_id
    (project / "files/sub/deep").write_text("deep")
    assert sync_layer(project, wanted, MERGED, store)[0] == first
    moved = replace(wanted, place="elsewhere:1:1")
    assert sync_layer(project, moved, MERGED, store)[0] == first
