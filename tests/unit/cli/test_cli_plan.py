"""Forecasts, what a run leaves for replays, pushing, and names of the lock: over a made-up plan."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.cli.containers import remember
from buildit.cli.planned import _check_names, announce, plan_lines, plan_plain, relock, split_words
from buildit.cli.quick import replay
from buildit.codec import to_plain
from buildit.commands import stamp
from buildit.commands.forecast import Forecast, State, forecast
from buildit.commands.publish import publish
from buildit.commands.rules import RULES
from buildit.commands.run import Options, Pins, Prepared, opened_run
from buildit.digest import BuildKey, canonical, digest_bytes, key_uuid
from buildit.errors import UsageError
from buildit.events import Event, Notice, silent
from buildit.model.artifact import Artifact, Output
from buildit.model.config import Config, Repository
from buildit.model.image import Emission
from buildit.model.listed import ListedStep, Saying
from buildit.model.plan import (
    About,
    ContainerPlan,
    DebRef,
    DebView,
    Dependency,
    Inputs,
    PackageStep,
    SyncStep,
    Task,
    Toolchain,
)
from buildit.model.recipe import RecipeOptions
from buildit.model.sources import PatchRef, SourceRef
from buildit.model.tree import Entry, Kind
from buildit.plan.closure import deb_task
from buildit.plan.lock import Lock, LockedPackage, LockedPatch, Section
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from tests.hosts import FileBinhost, repository

pytestmark = pytest.mark.unit

AMD64 = "linux/amd64"


def digest(name: str) -> str:
    return digest_bytes(name.encode())


def deb(name: str) -> DebRef:
    place = f"pool/{name}_1_amd64.deb"
    return DebRef(name, "1", "amd64", "bookworm", place, 1_500_000, digest_bytes(name.encode()))


def node(name: str, *needs: Task, use: str = "") -> Task:
    record = canonical({"name": name, "use": use}).decode()
    source = SourceRef(f"{name.rpartition('/')[2]}.tar.gz", digest_bytes(b"s" + name.encode()), ())
    return Task(
        key=BuildKey(digest(record)),
        kind="package",
        name=name,
        version="1.0",
        record=record,
        platform=AMD64,
        inputs=Inputs(tuple(Dependency(one.key, ("runtime", "dev")) for one in needs), (source,)),
        about=About(origin=f"tree/{name}"),
    )


ZLIB = node("sys-libs/zlib")
SSL = node("dev-libs/openssl")
PATCH = PatchRef("https://example.org/a.patch", digest_bytes(b"patch"), 1)
NGINX = node("www-servers/nginx", ZLIB, SSL)
NGINX = replace(NGINX, inputs=replace(NGINX.inputs, patches=(PATCH,)))
TOOLS = Toolchain("toolchain/debian-12", AMD64, digest_bytes(b"tools"), (deb("gcc"), deb("make")))
PLAN = ContainerPlan(
    directory="box",
    author="Sysadmin42",
    name="web",
    version="1",
    os="linux",
    arch="amd64",
    toolchain=TOOLS,
    tasks=(ZLIB, SSL, NGINX),
    steps=(
        PackageStep(NGINX.key, "./pkgs/nginx"),
        SyncStep("./files", "/srv", recursive=True, mode="", uid=0, gid=0, place="p"),
    ),
    images=(),
    app=None,
)


def build(store: Store, one: Task, *entries: Entry) -> Artifact:
    layer = f"layer of {one.key}".encode()
    output = Output(store.put_bytes(layer), len(layer), store.put_bytes(contents_blob(entries)))
    artifact = Artifact(
        key=one.key,
        name=one.name,
        version=one.version,
        platform=AMD64,
        outputs={"runtime": output},
        record=store.put_bytes(one.record.encode()),
    )
    commit(store, artifact)
    return artifact


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Store.open(tmp_path / "store") as opened:
        yield opened


def settings(store: Store, *hosts: Repository) -> Config:
    return Config(store.root, 1, repositories=hosts)


def remotes_of(store: Store, *hosts: Repository) -> Remotes:
    with opened_run(settings(store, *hosts), store, silent, offline=True) as run:
        return run.remotes


def looked(plan: ContainerPlan, store: Store, *hosts: Repository) -> Forecast:
    known = settings(store, *hosts)
    with opened_run(known, store, silent) as run:
        return forecast(plan, store, run.remotes)


def host(path: Path) -> Repository:
    return repository("local", str(path), str(path), unsigned=True)


def test_with_nothing_all_is_built_and_fetched(store: Store) -> None:
    found = looked(PLAN, store)
    assert [(one.state, one.why) for one in found.packages] == [(State.BUILD, "first build")] * 3
    assert plan_lines(PLAN, found) == (
        "Sysadmin42/web-1 for linux/amd64: 3 packages",
        f"  sys-libs/zlib-1.0      {key_uuid(ZLIB.key)}  to build: first build",
        f"  dev-libs/openssl-1.0   {key_uuid(SSL.key)}  to build: first build",
        f"  www-servers/nginx-1.0  {key_uuid(NGINX.key)}  to build: first build",
        "To fetch: 6 files",
        "  zlib.tar.gz",
        "  openssl.tar.gz",
        "  nginx.tar.gz",
        "  https://example.org/a.patch",
        "  2 .debs (3.0 MB)",
    )


def test_steps_are_listed_with_their_places(store: Store) -> None:
    listed = (ListedStep("vars", "name", "c.yaml:1:3"), ListedStep("sync", "a to /b", "d.yaml:9:3"))
    over = Saying("workdir", "/a", "d.yaml:2:3", "c.yaml:7:3")
    plan = replace(PLAN, listed=listed, said=(over, replace(over, later="")))
    lines = plan_lines(plan, looked(plan, store))
    assert lines[4:9] == (
        "Steps:",
        "  1  vars  name     c.yaml:1:3",
        "  2  sync  a to /b  d.yaml:9:3",
        "A later step says otherwise:",
        "  workdir  /a  d.yaml:2:3  not: c.yaml:7:3",
    )
    assert lines[9] == "To fetch: 6 files"


def test_what_is_at_hand_is_not_built(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "elsewhere") as other:
        build(other, ZLIB)
        FileBinhost(tmp_path / "host", lambda *_: None, unsigned=True).push(ZLIB.key, other)
    build(store, SSL)
    store.named_tree(TOOLS.identity, lambda _: None)
    store.put_bytes(b"swww-servers/nginx")
    before = sorted(store.root.rglob("*"))
    found = looked(PLAN, store, host(tmp_path / "host"))
    assert [(one.state, one.why) for one in found.packages] == [
        (State.BINHOST, "local"),
        (State.STORE, ""),
        (State.BUILD, "first build"),
    ]
    assert [one.name for one in found.fetches] == ["https://example.org/a.patch"]
    assert "in 'local'" in plan_lines(PLAN, found)[1]
    assert sorted(store.root.rglob("*")) == before


def test_what_only_a_build_needs_is_not_needed_for_what_is_there(store: Store) -> None:
    tool = replace(
        NGINX, inputs=replace(NGINX.inputs, dependencies=(Dependency(ZLIB.key, ("dev",)),))
    )
    build(store, tool)
    found = looked(replace(PLAN, tasks=(ZLIB, tool)), store)
    assert [one.state for one in found.packages] == [State.UNNEEDED, State.STORE]
    assert found.fetches == ()


def test_a_deb_beside_another_may_be_needed_when_that_is_unpacked(store: Store) -> None:
    """Nothing is at hand yet: who needs it is seen when the first is unpacked."""
    m4, sigsegv = deb("m4"), deb("libsigsegv2")
    asked = deb_task(m4, TOOLS, (m4, sigsegv), RULES)
    beside = deb_task(sigsegv, TOOLS, (m4, sigsegv), RULES)
    plan = replace(PLAN, tasks=(beside, asked), steps=(PackageStep(asked.key, "debian:m4"),))
    found = looked(plan, store)
    assert [one.state for one in found.packages] == [State.PERHAPS, State.UNPACK]
    assert "to unpack where a file turns out to need it" in plan_lines(plan, found)[1]
    build(store, asked)
    assert looked(plan, store).packages[0].state is State.UNNEEDED


def test_a_changed_flag_is_the_reason(store: Store) -> None:
    build(store, node("sys-libs/zlib", use="static"))
    first = looked(PLAN, store).packages[0]
    assert first.why not in ("", "first build")


@pytest.mark.parametrize("keeps", [False, True])
def test_the_set_id_files_of_debs_are_listed(store: Store, keeps: bool) -> None:
    sudo = deb("sudo")
    task = deb_task(sudo, TOOLS, (sudo,), RULES, DebView(keep_set_id=keeps))
    mode = 0o4755 if keeps else 0o755
    build(
        store,
        task,
        Entry("usr/bin/sudo", Kind.FILE, mode, digest=TOOLS.identity),
        Entry("run", Kind.DIRECTORY, 0o2755),
    )
    plan = replace(PLAN, tasks=(task,), steps=(PackageStep(task.key, "debian:sudo"),))
    lines = plan_lines(plan, looked(plan, store))[2:]
    said = ("Set-id bits are kept:", "  /usr/bin/sudo (4755) of debian:sudo-1")
    assert lines == (said if keeps else ())


def test_a_plan_as_json_has_the_records(store: Store) -> None:
    plain = plan_plain(PLAN, looked(PLAN, store))
    found = json.loads(json.dumps(plain))
    assert found["packages"][0]["record"] == {"name": "sys-libs/zlib", "use": ""}
    assert found["packages"][2]["dependencies"][0] == {
        "key": ZLIB.key,
        "outputs": ["runtime", "dev"],
    }
    assert found["fetch"][-1]["size"] == 1_500_000


def emission() -> Emission:
    Path("out").mkdir(exist_ok=True)
    path = Path("out/web-1-linux-amd64.aci")
    path.write_bytes(b"image")
    return Emission(path, "aci", digest_bytes(b"image"), "sha512-x", ("a remark",))


def test_a_run_is_remembered_as_one_that_finds_everything(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    build(store, NGINX)
    Path("box/files").mkdir(parents=True)
    Path("box/files/a").write_text("a")
    options = Options(Path("box"))
    result = {"plan": to_plain(PLAN), "settings": settings(store).plain()}
    stamp.write(options.question("plan"), stamp.record([Path("box/container.yaml")]), result)
    remember(["box"], time.time_ns() + 10**9, options, (emission(),))
    assert replay(["box"]) == 0
    said = capsys.readouterr()
    assert said.out == "out/web-1-linux-amd64.aci\n"
    assert said.err == (
        "Building Sysadmin42/web-1\n"
        "Processing package from './pkgs/nginx' for linux/amd64.\n"
        f"HASH: {key_uuid(NGINX.key)}\n"
        "Found HASH in the local store...   [OK]\n"
        "Packaging web-1 as ACI...   [OK]\n"
        "a remark\n"
    )
    Path("box/files/a").write_text("b")
    assert replay(["box"]) is None


def test_without_a_plan_or_an_image_nothing_is_remembered(store: Store) -> None:
    remember(["box"], 0, Options(Path("box")), (emission(),))
    remember(["box"], 0, Options(Path("box")), ())
    assert not stamp.directory().exists() or not os.listdir(stamp.directory())


def test_push_publishes_all_that_is_there(store: Store, tmp_path: Path) -> None:
    for one in (ZLIB, SSL, NGINX):
        build(store, one)
    target = host(tmp_path / "host")
    remotes = remotes_of(store, target)
    (done,) = publish(PLAN, PLAN.task, remotes)
    assert (done.repository, done.path, done.artifacts) == ("local", str(tmp_path / "host"), 3)
    assert done.blobs == 7
    with Store.open(tmp_path / "second") as second:
        found = looked(PLAN, second, target)
        assert found.packages[-1].state is State.BINHOST
        assert found.fetches == ()
    (again,) = publish(PLAN, PLAN.task, remotes)
    assert again.blobs == 0


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ((), "no repository of the configuration can be published to"),
        ((repository("read", "/x", "", unsigned=True),), "no repository of the configuration"),
        ((repository("local", "", "/x", unsigned=True),), "www-servers/nginx-1.0 is not in"),
    ],
)
def test_push_says_what_is_missing(
    hosts: tuple[Repository, ...], message: str, store: Store
) -> None:
    remotes = remotes_of(store, *hosts)
    with pytest.raises(UsageError, match=message):
        publish(PLAN, PLAN.task, remotes)


def test_what_was_never_locked_is_one_line() -> None:
    said: list[Event] = []
    pins = Pins(Lock(), section(), AMD64)
    prepared = Prepared(Options(Path("box")), PLAN, Config(Path("store"), 1), pins, fresh=True)
    announce(prepared, said.append)
    assert said == [Notice(f"nothing is locked for {AMD64} yet: a build writes buildit.lock")]
    locked = replace(pins, lock=Lock().with_section(AMD64, Section()))
    said.clear()
    announce(replace(prepared, pins=locked), said.append)
    assert Notice("lock would change: sys-libs/zlib 1.0 is new") in said


def section() -> Section:
    package = LockedPackage("sys-libs/zlib", "1.0", digest_bytes(b"r"), ZLIB.key, ())
    local = LockedPatch("sys-libs/zlib", digest_bytes(b"p"), None, "patches/a.patch")
    remote = LockedPatch("sys-libs/zlib", digest_bytes(b"p"), digest_bytes(b"q"), PATCH.url)
    return Section(packages=(package,), patches=(local, remote), debs={"debian:curl": ()})


@pytest.mark.parametrize("name", ["*", "toolchain", "sys-libs/zlib", PATCH.url, "debian:curl"])
def test_what_may_move(name: str) -> None:
    _check_names((name,), section(), Path("box"))


@pytest.mark.parametrize("name", ["zlib", "sys-libs/zlip", "patches/a.patch"])
def test_what_the_lock_does_not_have_cannot_move(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        _check_names((name,), section(), Path("box"))
    assert caught.value.place == "box/buildit.lock"
    assert "it has: toolchain, sys-libs/zlib" in (caught.value.hint or "")


def test_the_directory_of_a_lock_comes_first_or_is_this_one(store: Store) -> None:
    Path("box").mkdir()
    Path("box/container.yaml").write_text("")
    here = Options(Path())
    assert split_words(here, ("box", "a/b")) == (Options(Path("box")), ("a/b",))
    assert split_words(here, ("a/b",)) == (here, ("a/b",))
    assert split_words(here, ()) == (here, ())
    recipe = RecipeOptions("container.yaml")
    named = Options(Path("box"), recipe=recipe)
    assert split_words(here, ("box/container.yaml", "a/b")) == (named, ("a/b",))
    with pytest.raises(UsageError, match="'a/b' is not the directory of a container"):
        relock(Options(Path()), ("a/b",), silent, update=False)
