"""show, log, shell and store, over a store with a finished, an older and a failed build."""

from __future__ import annotations

import io
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.cli.show import find_key, introduction, log_text, room_of
from buildit.digest import BuildKey, canonical, digest_bytes, key_uuid
from buildit.errors import StoreError, UsageError
from buildit.make.build_directory import BuildDirectory
from buildit.model.artifact import Artifact, Output
from buildit.model.config import Limits
from buildit.model.tree import Entry, Kind
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.disk import key_directory
from buildit.store.locks import running
from buildit.store.names import FailedBuild, find_failure, keep_failure
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit


def key(name: str) -> BuildKey:
    return BuildKey(digest_bytes(name.encode()))


NEW, OLD, BAD = key("new nginx"), key("old nginx"), key("bad zlib")
LAYER = b"layer " * 300


def add(
    store: Store,
    build: BuildKey,
    version: str,
    name: str = "www-servers/nginx",
    libc: BuildKey = OLD,
) -> None:
    entries = [
        Entry("usr", Kind.DIRECTORY, 0o755),
        Entry("usr/nginx", Kind.FILE, 0o755, size=3, digest=digest_bytes(b"abc")),
        Entry("usr/sbin", Kind.SYMLINK, 0o777, target="bin"),
    ]
    output = Output(
        diff_id=store.put_bytes(LAYER + build.encode()),
        size=len(LAYER) + 64,
        contents=store.put_bytes(contents_blob(entries)),
        needs=("path:/bin/sh", "soname:liba.so", "soname:libc.so.6"),
        providers={"soname:libc.so.6": f"{libc}:runtime", "soname:liba.so": ":dev"},
    )
    artifact = Artifact(
        key=build,
        name=name,
        version=version,
        platform="linux/amd64",
        outputs={"runtime": output},
        record=store.put_bytes(canonical({"name": "nginx", "use": ["ssl"]})),
        log=store.put_bytes(b"=== compile\n\x1b[31mcc\x1b[0m -c \xff.c\n"),
    )
    commit(store, artifact)


def fail(store: Store, build: BuildKey) -> None:
    work = store.scratch("build-x")
    (work / "build/src").mkdir(parents=True)
    log = work / "log"
    log.write_bytes(b"=== check\nno\n")
    room = BuildDirectory(work, store.root / "trees", (digest_bytes(b"tree"),), "x", Limits(), STOP)
    script = "\n".join(f"line {number}" for number in range(60))
    room.keep_jail({"PATH": "/usr/bin"}, {"check": ("sh", "-c", script)})
    message = "sys-libs/zlib-1.3: check failed with status 1"
    keep_failure(store, FailedBuild(build, "sys-libs/zlib", "1.3", "check", message, log, work))


STOP = threading.Event()


@pytest.fixture
def filled(command: Command) -> Command:
    with Store.open(Path(os.environ["BUILDIT_STORE"])) as store:
        add(store, OLD, "1.20")
        add(store, NEW, "1.22.1")
        fail(store, BAD)
        os.utime(key_directory(store.root, OLD), ns=(1, 1))
    return command


SHOWN = f"""\
www-servers/nginx-1.22.1 for linux/amd64
HASH: {key_uuid(NEW)}
key: {NEW}
builder: local
outputs:
  runtime  1.9 kB  3 entries  sha256:{digest_bytes(LAYER + NEW.encode())}
needs:
  runtime  path:/bin/sh      waived
  runtime  soname:liba.so    its own dev
  runtime  soname:libc.so.6  www-servers/nginx-1.20 (runtime)
"""


@pytest.mark.parametrize(
    "name",
    [
        "nginx",
        "www-servers/nginx",
        "nginx-1.22.1",
        "www-servers/nginx-1.22.1",
        NEW,
        NEW[:8],
        NEW[:13].upper(),
        key_uuid(NEW),
        f"../store/k/{NEW[:2]}/{NEW}/local.json",
    ],
)
def test_a_build_is_shown_by_any_of_its_names(name: str, filled: Command) -> None:
    said = filled("show", name)
    assert (said.code, said.err) == (0, "")
    assert said.out == SHOWN


def test_an_older_version_is_named(filled: Command) -> None:
    assert f"key: {OLD}\n" in filled("show", "nginx-1.20").out


def test_a_deb_that_provides_is_named(filled: Command) -> None:
    libc, own = key("libc6"), key("own nginx")
    with Store.open(Path(os.environ["BUILDIT_STORE"])) as store:
        add(store, libc, "2.36-9", "debian:libc6")
        add(store, own, "1.23", libc=libc)
    assert "soname:libc.so.6  debian:libc6-2.36-9 (runtime)\n" in filled("show", own).out


def test_files_and_record(filled: Command) -> None:
    said = filled("show", "nginx", "--files", "--record")
    assert said.out == SHOWN + (
        "files of runtime:\n"
        "  d0755  0:0  0  /usr\n"
        "  -0755  0:0  3  /usr/nginx\n"
        "  l0777  0:0  0  /usr/sbin -> bin\n"
        "record:\n"
        '  {\n    "name": "nginx",\n    "use": [\n      "ssl"\n    ]\n  }\n'
    )


def test_show_as_json(filled: Command) -> None:
    found = json.loads(filled("show", "nginx", "--json").out)
    assert (found["key"], found["uuid"], found["builder"]) == (NEW, key_uuid(NEW), "local")
    assert found["record"] == {"name": "nginx", "use": ["ssl"]}
    assert [e["path"] for e in found["outputs"]["runtime"]["files"]] == [
        "usr",
        "usr/nginx",
        "usr/sbin",
    ]


def test_a_failed_build_is_said_to_be_one(filled: Command) -> None:
    said = filled("show", "zlib")
    assert said.code == 2
    assert said.err == (
        "buildit: error: zlib: the build failed: sys-libs/zlib-1.3: check failed with status 1\n"
        f"hint: see `buildit log {BAD[:12]}`, or enter it: `buildit shell {BAD[:12]}`\n"
    )


def test_an_incomplete_build_is_said_to_be_one(filled: Command) -> None:
    (Path("../store/blobs/sha256") / digest_bytes(LAYER + NEW.encode())).unlink()
    said = filled("show", "nginx")
    assert said.code == 2
    assert "the build is not whole: local.json: layer " in said.err


def test_a_name_in_two_categories_must_be_whole(filled: Command) -> None:
    with Store.open(Path(os.environ["BUILDIT_STORE"])) as store:
        (work := store.scratch("x")).mkdir(exist_ok=True)
        (work / "log").write_text("")
        failure = FailedBuild(key("x"), "app/nginx", "1", "check", "no", work / "log", None)
        keep_failure(store, failure)
        with pytest.raises(UsageError) as caught:
            find_key(store, "nginx")
        assert caught.value.hint == "say which: app/nginx, www-servers/nginx"
        assert find_key(store, "app/nginx") == key("x")


def test_the_log_of_a_build_and_of_the_last_failure(filled: Command) -> None:
    assert filled("log").out == filled("log", "zlib").out == "=== check\nno\n"
    found = json.loads(filled("log", "nginx", "--json").out)
    assert found == {
        "build": "www-servers/nginx-1.22.1",
        "log": "=== compile\n\x1b[31mcc\x1b[0m -c \ufffd.c\n",
    }


def test_a_log_on_a_terminal_is_harmless() -> None:
    log = "=== compile\n\x1b[31mé\tb\r\n".encode() + b"\xff"
    assert "".join(log_text(io.BytesIO(log), terminal=True)) == "=== compile\n?[31mé b?\n\ufffd"
    raw = "".join(log_text(io.BytesIO(log), terminal=False))
    assert raw.encode("utf-8", "surrogateescape") == log


def test_shell_wants_a_failed_build(filled: Command) -> None:
    said = filled("shell", "nginx")
    assert said.code == 2
    assert "this build did not fail" in said.err


def test_a_failed_build_keeps_its_jail(filled: Command) -> None:
    with Store.open(Path(os.environ["BUILDIT_STORE"])) as store:
        failure = find_failure(store, BAD)
        assert failure is not None
        with pytest.raises(StoreError, match="was collected meanwhile"):
            room_of(failure, store, Limits())
        (store.root / "trees" / digest_bytes(b"tree")).mkdir()
        work, kept = room_of(failure, store, Limits())
        pinned = {name for one in running(store.root) for name in one.pins}
        assert {*kept.jail.lowers} <= pinned, "others prune and collect meanwhile"
        assert (work, dict(kept.jail.env)) == (failure.work, {"PATH": "/usr/bin"})
        assert kept.jail.lowers == (digest_bytes(b"tree"),)
        lines = list(introduction(failure, kept))
        assert lines[0] == "sys-libs/zlib-1.3: check failed with status 1"
        assert lines[2:4] == ["check ran:", "  sh -c 'line 0"]
        assert lines[-1] == "  … and 30 more lines"
        with pytest.raises(UsageError, match="no tree of the build was kept"):
            room_of(replace(failure, work=None), store, Limits())
        (work / "jail.json").write_text("[]")
        with pytest.raises(UsageError, match="before its sandbox was made"):
            room_of(failure, store, Limits())


def test_store_list(filled: Command) -> None:
    assert [line.split() for line in filled("store", "list").out.splitlines()] == [
        ["sys-libs/zlib-1.3", key_uuid(BAD), "failed"],
        ["www-servers/nginx-1.20", key_uuid(OLD), "1.9", "kB"],
        ["www-servers/nginx-1.22.1", key_uuid(NEW), "1.9", "kB"],
    ]
    states = [row["state"] for row in json.loads(filled("store", "list", "--json").out)]
    assert states == ["failed", "whole", "whole"]


def test_store_verify_finds_damage_once(filled: Command) -> None:
    said = filled("store", "verify")
    assert (said.code, said.out.endswith("2 statements read\n")) == (0, True)
    blob = Path("../store/blobs/sha256") / digest_bytes(LAYER + NEW.encode())
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    said = filled("store", "verify")
    assert said.code == 5
    assert said.out.startswith("set aside  blobs/sha256/")
    assert "the store was not whole: 2 objects\n" in said.err
    found = json.loads(filled("store", "verify", "--json").out)
    assert [fault["remedy"] for fault in found["faults"]] == ["reported"]


def test_store_gc_looks_first(filled: Command) -> None:
    dry = filled("store", "gc", "--dry-run")
    assert dry.out.startswith("would go: 2 builds, ")
    assert "1 failed build" in dry.out
    assert filled("store", "gc").out == dry.out.replace("would go", "removed")
    assert filled("store", "gc").out == "nothing to remove\n"
    assert set(json.loads(filled("store", "gc", "--json").out)) >= {"keys", "blobs", "size"}
    assert filled("store", "list").out == ""
