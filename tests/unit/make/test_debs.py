from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.archive.contents import RUN_LINKS
from buildit.commands.rules import RULES
from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError, RecipeError
from buildit.make.capture.needs import Needs, Sight
from buildit.make.deb import (
    STATUS,
    Debs,
    attributes_of,
    captured,
    leave_out,
    link_run_directories,
    rules_inside,
    unmet_text,
)
from buildit.model.accounts import User, user_id
from buildit.model.artifact import RUNTIME
from buildit.model.plan import DebRef, DebView, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind
from buildit.plan.closure import deb_task
from buildit.store.cas import Store
from tests.debian_maker import make_deb

pytestmark = pytest.mark.unit


def left(folder: Path, *globs: str) -> list[str]:
    """What is left of a small tree."""
    for path in ("usr/bin/a", "usr/bin/b", "usr/share/doc/x/copyright", "usr/share/y"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "usr/share/empty").mkdir()
    (folder / "usr/bin/c").hardlink_to(folder / "usr/bin/a")
    (folder / "usr/bin/d").symlink_to("../share")
    with Root.open(folder) as tree:
        leave_out(tree, globs, "debian:x-1")
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    empty = (path for path in folder.rglob("*") if path.is_dir() and not list(path.iterdir()))
    return sorted(str(path.relative_to(folder)) for path in {*found, *empty})


ALL = [
    "usr/bin/a",
    "usr/bin/b",
    "usr/bin/c",
    "usr/bin/d",
    "usr/share/doc/x/copyright",
    "usr/share/empty",
    "usr/share/y",
]


@pytest.mark.parametrize(
    ("globs", "gone"),
    [
        ((), ()),
        (("usr/bin/b",), ("usr/bin/b",)),
        (("usr/bin/a",), ("usr/bin/a",)),  # its hard link stays
        (("usr/bin/d",), ("usr/bin/d",)),  # not what it leads to
        (("usr/share/doc/**",), ("usr/share/doc/x/copyright",)),
        (("usr/share/doc",), ("usr/share/doc/x/copyright",)),
        (("usr/bin/?", "usr/share/y"), (*ALL[:4], "usr/share/y")),
    ],
)
def test_what_is_left(globs: tuple[str, ...], gone: tuple[str, ...], tmp_path: Path) -> None:
    assert left(tmp_path, *globs) == [path for path in ALL if path not in gone]


def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"without: \[usr/sbin/\*\].* matches no file of debian:x"
    ):
        left(tmp_path, "usr/bin/b", "usr/sbin/*")


def test_what_nothing_provides_is_written_down() -> None:
    needs = {RUNTIME: Needs({"path:/usr/bin/perl": ("usr/bin/a", "usr/bin/b"), "soname:z": ("c",)})}
    assert unmet_text(needs, {RUNTIME: {"soname:z": "k:runtime"}}) == (
        "needs that neither its Depends nor the toolchain provide:\n"
        "/usr/bin/a: /usr/bin/perl\n/usr/bin/b: /usr/bin/perl\n"
    )
    assert unmet_text({RUNTIME: Needs({})}, {RUNTIME: {}}) == ""


def test_what_lies_around_a_deb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours by output, and the toolchain's as they are in its tree."""

    def ref(name: str, content: bytes) -> DebRef:
        return DebRef(name, "1", "amd64", "bookworm", f"pool/{name}.deb", 1, digest_bytes(content))

    with Store.open(tmp_path / "store") as store:
        files = {"usr/bin/x": "x", "usr/include/x.h": "x", "usr/share/man/man1/x.1": "x"}
        content = make_deb("other", files)
        store.put_bytes(content)
        itself = make_deb("own", {"usr/bin/own": "x"})
        store.put_bytes(itself)
        other, own, base = ref("other", content), ref("own", itself), ref("base", b"base")
        toolchain = Toolchain("t", "linux/amd64", Digest("0" * 64), (base,))
        entry = Entry("usr/bin/sh", Kind.SYMLINK, 0o777, target="dash")
        debs = Debs(store, toolchain, {entry.path: ("base", entry)}, RULES)
        node = deb_task(own, toolchain, (own, other), RULES)
        neighbour = deb_task(other, toolchain, (own, other), RULES)
        key = neighbour.key
        places = {
            "usr/bin/x": f"{key}:{RUNTIME}",
            "usr/include/x.h": f"{key}:dev",
            "usr/share/man/man1/x.1": f"{key}:doc",
            "usr/bin/sh": f"{deb_task(base, toolchain, (), RULES).key}:{RUNTIME}",
            "usr/bin/own": None,  # it looks for others than itself
        }
        assert owners(debs.around(node), *places) == places
        assert debs.below().at("usr/bin/sh") == (entry, places["usr/bin/sh"])
        assert debs.below().at("usr/bin/x") is None
        store.path(other.digest).unlink()
        with monkeypatch.context() as patched:
            patched.setattr("buildit.make.deb.deb_task", None)  # all of it once
            assert owners(debs.around(node), *places) == places
            beside = owners(debs.around(neighbour), "usr/bin/own", "usr/bin/x")
        assert beside == {"usr/bin/own": f"{node.key}:{RUNTIME}", "usr/bin/x": None}


def owners(sight: Sight, *paths: str) -> dict[str, str | None]:
    found = {path: sight.at(path) for path in paths}
    return {path: None if one is None else one[1] for path, one in found.items()}


def test_the_run_directories_of_base_files_become_links(tmp_path: Path) -> None:
    """Beside sys-apps/baselayout, which has the same links, they would clash as directories."""
    with Root.open(tmp_path) as tree:
        assert link_run_directories(tree) == frozenset()
        for path in ("var/run", "var/lock/mine"):
            (tmp_path / path).mkdir(parents=True)
        assert link_run_directories(tree) == {"var/run"}
    assert (tmp_path / "var/run").readlink() == Path("../run")
    assert (tmp_path / "var/lock/mine").is_dir()
    recipe = (Path(__file__).parents[3] / "pkgs/sys-apps/baselayout/pkg.yaml").read_text()
    assert all(f"ln -s {target} {path}\n" in recipe for path, target in RUN_LINKS.items())


POSTINST = """#!/bin/sh
adduser --system --group --no-create-home --home /var/lib/x xd
install -d -o xd -g adm -m 2750 /var/lib/x
cp /usr/share/x.conf /etc/x.conf
chmod 4755 /usr/bin/x
frobnicate
"""


@pytest.mark.parametrize("keeps", [False, True])
def test_a_deb_has_what_its_scripts_would_have_made(tmp_path: Path, keeps: bool) -> None:
    files = {"usr/bin/x": "x", "usr/share/x.conf": "a = 1\n"}
    content = make_deb("x", files, fields="Source: xs\n", postinst=POSTINST)
    view = DebView(keep_set_id=keeps)
    out, stop = tmp_path / "out", threading.Event()
    with captured(io.BytesIO(content), out, PLATFORMS["linux/amd64"], "x", stop, view) as found:
        entries = {one.path: one for one in found.installed.outputs[RUNTIME]}
        status = (out / STATUS / "x").read_text()
    assert status == "Package: x\nVersion: 1\nArchitecture: amd64\nSource: xs\n"
    uid = user_id("xd")
    state = entries["var/lib/x"]
    assert (state.kind, state.mode, state.uid, state.gid) == (Kind.DIRECTORY, 0o2750, uid, 4)
    assert entries["etc/x.conf"].digest == entries["usr/share/x.conf"].digest
    assert entries["usr/bin/x"].mode == (0o4755 if keeps else 0o755)
    assert found.declared.users == (User("xd", uid, uid, "/var/lib/x"),)
    assert {group.name: group.gid for group in found.declared.groups} == {"adm": 4, "xd": uid}
    assert [one.said for one in found.scripts.remainder] == ["postinst:6: frobnicate"]
    (said,) = found.remainder_told("debian:x")
    assert "postinst:6: frobnicate (`buildit explain debian:x`" in said
    assert [change.path for change in found.lost] == ([] if keeps else ["usr/bin/x"])
    assert rules_inside(io.BytesIO(content), "x").said == found.scripts.said


@pytest.mark.parametrize("name", ["", "a/b", "../../../evil", "a\0b", "a" * 300])
def test_a_deb_whose_control_names_no_package_is_refused(tmp_path: Path, name: str) -> None:
    deb = io.BytesIO(make_deb("x", {"etc/x": "x"}, control=f"Package: {name}\n"))
    platform, stop = PLATFORMS["linux/amd64"], threading.Event()
    with (
        pytest.raises(IntegrityError, match="names no package") as caught,
        captured(deb, tmp_path / "out", platform, "debian:x-1", stop),
    ):
        pass
    assert caught.value.place == "debian:x-1"


@pytest.mark.parametrize("name", ["usr/share/.wh.x", "usr/.wh..wh..opq"])
def test_a_deb_with_a_whiteout_is_refused_and_can_be_had_without(tmp_path: Path, name: str) -> None:
    content = make_deb("x", {"usr/share/x": "x", name: ""})
    platform, stop = PLATFORMS["linux/amd64"], threading.Event()
    with (
        pytest.raises(IntegrityError, match=r"names that begin with \.wh\. delete") as caught,
        captured(io.BytesIO(content), tmp_path / "out", platform, "debian:x-1", stop),
    ):
        pass
    assert caught.value.place == "debian:x-1"
    assert caught.value.hint == f"leave it out: without: ['{name}']"
    view = DebView((name,))
    with captured(io.BytesIO(content), tmp_path / "2", platform, "x", stop, view) as found:
        assert name not in {one.path for one in found.installed.outputs[RUNTIME]}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_deb_with_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    node = tarfile.TarInfo("./dev/null")
    node.type = kind
    content = make_deb("x", {"usr/share/x": "x"}, nodes=(node,))
    platform, stop = PLATFORMS["linux/amd64"], threading.Event()
    with (
        pytest.raises(IntegrityError, match="dev/null") as caught,
        captured(io.BytesIO(content), tmp_path / "out", platform, "debian:x-1", stop),
    ):
        pass
    assert "debian:x-1" in str(caught.value.place)


def test_owners_that_are_the_same_everywhere_are_kept() -> None:
    members = [
        Entry("var/mail", Kind.DIRECTORY, 0o2775, gid=8),
        Entry("var/www", Kind.DIRECTORY, 0o755, uid=33, gid=33),
        Entry("srv", Kind.DIRECTORY, 0o755, uid=1234),
    ]
    attributes, accounts, lost = attributes_of(members)
    assert attributes.owners == {"var/mail": (0, 8), "var/www": (33, 33)}
    assert attributes.modes == {"var/mail": 0o2775}
    assert [user.name for user in accounts.users] == ["www-data"]
    assert [group.name for group in accounts.groups] == ["mail", "www-data"]
    assert [change.path for change in lost] == ["srv"]
