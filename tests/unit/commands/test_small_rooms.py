"""appstep, settings, locking, reasons and assemble, with real files and a real store."""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.archive.tar.write import write_tar
from buildit.codec import CodecError, from_plain
from buildit.commands.assemble import image, stack
from buildit.commands.publish import targets
from buildit.commands.realise import Tasks, reason
from buildit.commands.run import opened_run, write_lock
from buildit.commands.running import app_of
from buildit.commands.sync import Own, take
from buildit.digest import BuildKey
from buildit.errors import IntegrityError, RecipeError, StoreError, UsageError
from buildit.events import silent
from buildit.model.accounts import Group, User
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import Config, Limits, SigningKeys, TrustRule
from buildit.model.image import App, Port, Volume
from buildit.model.plan import (
    ContainerPlan,
    ImageStep,
    PackageStep,
    RunTime,
    SyncStep,
    Task,
    Toolchain,
)
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import build_key, record_text
from buildit.plan.lock import Lock, format_lock
from buildit.recipe.config import load_config
from buildit.recipe.lists import load_container
from buildit.store.artifacts import commit
from buildit.store.attest import LOCAL
from buildit.store.cas import Store
from tests.hosts import repository
from tests.making import making
from tests.planning import LOCKED, PLATFORM, Checkout, checkout
from tests.unit.plan.test_plan_identity import FIXED

pytestmark = pytest.mark.unit

NOTHING = Own("", re.compile("(?!)"))
"""Of a project in which nothing is buildit's own."""


# -- appstep


def app(tmp_path: Path, *steps: str) -> App | None:
    text = "".join(f"- {step}\n" for step in ("vars: {name: web, version: 1.0}", *steps))
    (tmp_path / "container.yaml").write_text(text)
    return app_of(load_container(tmp_path))


def test_without_an_app_step_there_is_no_app(tmp_path: Path) -> None:
    assert app(tmp_path) is None


def test_the_app_in_neutral_terms(tmp_path: Path) -> None:
    found = app(
        tmp_path,
        "env: {B: '2', A: x}",
        "app: {exec: [/bin/x, -v], environment: {A: '1'}, ports: [443, dns=53/udp],"
        " volumes: [/data, 'tls=/etc/tls:ro'], working-directory: /srv/, stop-signal: SIGQUIT}",
        "env: {C: '3'}",
        "user: www",
    )
    assert found == App(
        exec=("/bin/x", "-v"),
        user="www",
        environment=(("A", "1"), ("B", "2"), ("C", "3")),
        working_directory="/srv/",
        ports=(Port(443), Port(53, "udp", "dns")),
        volumes=(Volume("/data"), Volume("/etc/tls", "tls", True)),
        stop_signal="SIGQUIT",
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("app: {exec: [/x], ports: [0]}", "not a port: '0'"),
        ("app: {exec: [/x], ports: [65536]}", "not a port: '65536'"),
        ("app: {exec: [/x], ports: [80/icmp]}", "not a port: '80/icmp'"),
        ("app: {exec: [/x], ports: [٤٤٣]}", "not a port"),
        ("app: {exec: [/x], volumes: [data]}", "not a volume: 'data'"),
        ("app: {exec: [/x], volumes: ['/a:rw']}", "not a volume: '/a:rw'"),
        ("user: www", "need an app"),
    ],
)
def test_a_wrong_app_is_refused_at_its_step(tmp_path: Path, step: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        app(tmp_path, step)
    place = (caught.value.place or "").rpartition("container.yaml:")[2]
    assert place.startswith("2:")
    assert caught.value.hint


# -- settings


def test_settings_survive_json_and_say_what_is_not_done(tmp_path: Path) -> None:
    (tmp_path / ".buildit-config.yaml").write_text(
        "store: store\njobs: 3\n"
        "repositories:\n"
        "- {name: far, upload-type: ssh, upload-path: user@example.org/x, download-type: file,"
        " download-path: /near, allowed-signers: others}\n"
        "- {name: web, upload-type: https, upload-path: example.org, download-type: https,"
        " download-path: example.org/x}\n"
        "- {name: disk, upload-type: file, upload-path: d, unsigned: yes}\n"
        "- {name: oci, upload-type: oci, upload-path: 'example.org:5000/a/b', download-type: oci,"
        " download-path: example.org/a}\n"
        "mirrors: {debian: [https://example.org/debian]}\n"
        f"signing-key: [agent:SHA256:{'x' * 43}, gpg:{'ab' * 20}]\n"
        "trust: {packages: [{match: x/*, need: 2}]}\n"
        "limits: {memory: 1G, processes: 5, time: 60s, log: 7}\n"
    )
    config = load_config(tmp_path, {"SSH_AUTH_SOCK": "/run/agent", "HOME": str(tmp_path)}).config
    again = from_plain(Config, json.loads(json.dumps(config.plain())))
    for name in ("store", "jobs", "repositories", "mirrors", "distfiles", "trust", "limits"):
        assert getattr(again, name) == getattr(config, name)
    assert config.limits == Limits(1 << 30, 5, 60.0, 60.0, 7)
    assert config.distfiles == (str(tmp_path / "distfiles"),)
    assert config.trust.keys == SigningKeys(f"agent:SHA256:{'x' * 43}", "AB" * 20, "/run/agent")
    assert config.trust.agreement == (TrustRule("x/*", 2),)
    assert config.trust.unsigned
    assert config.trust.own_signers == {"far": str(tmp_path / "others")}
    assert [(str(one.download or ""), str(one.upload or "")) for one in config.repositories] == [
        ("/near", "ssh://user@example.org/x"),
        ("https://example.org/x", ""),
        ("", str(tmp_path / "d")),
        ("oci://example.org/a", "oci://example.org:5000/a/b"),
    ]
    (remark,) = config.remarks
    assert remark.endswith("web: upload over https is not possible; use file or ssh or oci")


def test_defaults_are_bounded(tmp_path: Path) -> None:
    config = load_config(tmp_path, {"HOME": str(tmp_path)}).config
    assert config.remarks == ()
    assert config.limits == Limits(processes=4096)
    assert config.distfiles == (str(tmp_path / "distfiles"),)


@pytest.mark.parametrize("data", [{}, {"repositories": [1]}, {"store": "x", "jobs": 1, "more": 2}])
def test_foreign_settings_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(CodecError):
        from_plain(Config, data)


# -- locking


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = checkout(tmp_path)
    made.write(
        "container/container.yaml", "- vars: {name: web, version: 1.0}\n- package: {atom: x/app}\n"
    )
    made.write("pkgs/x/app/pkg.yaml", "versions: {1.0: {}}\n")
    return made


def test_a_new_package_moves_the_lock_once(project: Checkout) -> None:
    planned = project.plan()
    pins = planned.pins
    [line] = pins.moved()
    assert line == "x/app 1.0 is new"
    write_lock(project.container, pins.changed())
    planned = project.plan()
    assert planned.pins.moved() == ()


def test_the_lock_is_replaced_only_where_its_text_changes(project: Checkout) -> None:
    path = project.container / "buildit.lock"
    lock = Lock().with_section(str(PLATFORM), LOCKED)
    before = path.stat()
    write_lock(project.container, lock)
    after = path.stat()  # reading it changes its atime
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    mask = os.umask(0o077)
    try:
        write_lock(project.container, Lock())
    finally:
        os.umask(mask)
    assert path.read_text() == format_lock(Lock())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in project.container.iterdir() if p.name.startswith(".")] == []


def test_a_lock_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the lock cannot be written") as caught:
        write_lock(tmp_path / "none", Lock())
    assert caught.value.hint


def test_outputs_of_what_is_at_hand_enter_the_lock(project: Checkout, store: Store) -> None:
    planned = project.plan()
    node = planned.plan.tasks[0]
    made = artifact(store, node, {"usr/bin/x": b"x"})
    noted = planned.pins.with_outputs({node.key: made})
    assert noted.section.outputs == {("x/app", RUNTIME): made.outputs[RUNTIME].diff_id}
    assert planned.pins.with_outputs({}) == planned.pins


def test_other_bytes_than_the_lock_has_are_named(project: Checkout, store: Store) -> None:
    planned = project.plan()
    node = planned.plan.tasks[0]
    first = artifact(store, node, {"usr/bin/x": b"x"})
    noted = planned.pins.with_outputs({node.key: first})
    assert noted.differing({node.key: first}) == ()
    second = artifact(store, node, {"usr/bin/x": b"another"})
    (line,) = noted.differing({node.key: second})
    assert "x/app (runtime)" in line
    assert first.outputs[RUNTIME].diff_id in line
    assert second.outputs[RUNTIME].diff_id in line


# -- reasons


def artifact(
    store: Store,
    node: Task,
    files: Mapping[str, bytes],
    providers: Mapping[str, str] | None = None,
    mode: int = 0o644,
) -> Artifact:
    """A committed artifact whose runtime output holds `files`."""
    directories = sorted({str(p) for f in files for p in Path(f).parents if str(p) != "."})
    entries = [Entry(path, Kind.DIRECTORY, 0o755) for path in directories]
    entries += [Entry(path, Kind.FILE, mode, size=len(files[path])) for path in files]
    entries.sort(key=lambda entry: entry.path.encode())
    with store.batch() as batch:
        with batch.ingest() as sink:
            written = write_tar(entries, lambda entry: io.BytesIO(files[entry.path]), sink)
            diff_id, size = sink.commit(), sink.size
        output = Output(
            diff_id,
            size,
            batch.put_bytes(contents_blob(written)),
            tuple(providers or {}),
            providers or {},
        )
        record = batch.put_bytes(node.record.encode())
    made = Artifact(
        node.key, node.name, node.version, str(PLATFORM), {RUNTIME: output}, record, epoch=1000
    )
    commit(store, made, LOCAL, None)
    return made


def node_of(inputs: object = FIXED, **more: object) -> Task:
    record = record_text(replace(FIXED, **more).record())  # type: ignore[arg-type]
    return Task(build_key(record), "package", FIXED.name, FIXED.version, record)


def test_the_first_build_says_so(store: Store) -> None:
    assert reason(node_of(), store, {}) == "first build"


def test_the_closest_earlier_build_is_what_is_compared(store: Store) -> None:
    artifact(store, node_of(version="9", patches=(), sources=()), {"x": b"far"})
    artifact(store, node_of(patches=FIXED.patches[:1]), {"x": b"near"})
    assert reason(node_of(), store, {}) == "patch #2 is new"


def test_many_differences_are_counted(store: Store) -> None:
    artifact(store, node_of(version="9", patches=(), sources=()), {"x": b"far"})
    told = reason(node_of(), store, {})
    assert told == "version 9 -> 1.22.1, patch #1 is new, patch #2 is new, and 2 more"


def test_a_damaged_record_is_passed_over(store: Store) -> None:
    made = artifact(store, node_of(version="9"), {"x": b"x"})
    path = store.path(made.record)
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    assert reason(node_of(), store, {}) == "first build"


# -- assemble


def plan_of(
    project: Path, nodes: tuple[Task, ...], *steps: PackageStep | SyncStep
) -> ContainerPlan:
    toolchain = Toolchain("toolchain/debian-12", str(PLATFORM), FIXED.toolchain, ())
    return ContainerPlan(
        str(project), "me", "web", "1", "linux", "amd64", toolchain, nodes, steps, (), None
    )


def small(name: str, **more: object) -> Task:
    record = record_text({"name": name})
    return replace(Task(build_key(record), "package", name, "1", record), **more)  # type: ignore[arg-type]


def test_layers_come_in_the_order_of_the_steps(store: Store, tmp_path: Path) -> None:
    www = small("x/app", outputs={RUNTIME: RunTime((), (User("www", 5, 5),), (Group("www", 5),))})
    lib, late = small("x/lib"), small("x/late")
    made = {
        lib.key: artifact(store, lib, {"usr/lib/z": b"z"}),
        www.key: artifact(store, www, {"usr/bin/app": b"a"}, {"soname:z": f"{lib.key}:runtime"}),
        late.key: artifact(store, late, {"usr/bin/late": b"l"}),
    }
    (tmp_path / "conf").write_text("conf")
    plan = plan_of(
        tmp_path,
        (lib, www, late),
        PackageStep(www.key, "x/app"),
        SyncStep("conf", "/etc/conf", False, "", 0, 0, "c:1:1"),
        PackageStep(late.key, "x/late"),
        PackageStep(lib.key, "x/lib"),
    )
    taken = [take(tmp_path, step, NOTHING) for step in plan.takes]
    found = stack(plan, store, plan.task, making(store, tmp_path, made), taken)
    assert [layer.title for layer in found.layers] == [
        "links of merged /usr",
        "x/lib-1 (runtime)",
        "x/app-1 (runtime)",
        "users and groups",
        "sync conf",
        "x/late-1 (runtime)",
    ]
    assert {"bin", "lib", "usr/bin/app", "etc/passwd", "etc/conf"} <= set(found.tree())
    assert all(store.has(layer.diff_id) for layer in found.layers)
    assert found.epoch == 315532800


def test_a_container_without_packages_has_its_accounts(store: Store, tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, ()), users=(User("www", 5, 5),), groups=(Group("www", 5),))
    found = stack(plan, store, plan.task, making(store, tmp_path, {}))
    assert [layer.title for layer in found.layers] == ["users and groups"]


def test_the_same_stack_twice_is_the_same(store: Store, tmp_path: Path) -> None:
    app_ = small("x/app")
    made = {app_.key: artifact(store, app_, {"usr/bin/app": b"a"})}
    plan = plan_of(tmp_path, (app_,), PackageStep(app_.key, "x/app"))
    first = stack(plan, store, plan.task, making(store, tmp_path, made))
    again = stack(plan, store, plan.task, making(store, tmp_path, made))
    assert first.layers == again.layers


def test_a_provider_that_the_plan_lacks_is_an_error(store: Store, tmp_path: Path) -> None:
    app_ = small("x/app")
    gone = BuildKey("f" * 64)
    made = {app_.key: artifact(store, app_, {"a": b"a"}, {"soname:z": f"{gone}:runtime"})}
    plan = plan_of(tmp_path, (app_,), PackageStep(app_.key, "x/app"))

    def obtain(node: Task) -> Artifact:
        return made[node.key]

    with pytest.raises(IntegrityError, match="not in the plan") as caught:
        stack(plan, store, Tasks(plan).named, obtain)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("upload", "hint"),
    [("ssh://user@example.org/path", "leave out --offline"), ("", "upload-type: ssh")],
)
def test_nowhere_to_publish_to_offline(store: Store, upload: str, hint: str) -> None:
    far = repository("far", "https://example.org/bin", upload)
    settings = Config(store.root, 1, repositories=(far,))
    with (
        opened_run(settings, store, silent, offline=True) as run,
        pytest.raises(UsageError, match="can be published to offline") as caught,
    ):
        targets(run.remotes)
    assert hint in str(caught.value.hint)


def test_an_image_carries_the_plan_and_the_layers(store: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ())
    found = stack(plan, store, plan.task, making(store, tmp_path, {}))
    made = image(
        plan, ImageStep("aci", '{"a": 1}', "none", "c:1:1"), tuple(found.layers), found.epoch
    )
    assert (made.name, made.format, made.content, made.compress) == (
        "web",
        "aci",
        '{"a": 1}',
        "none",
    )
    assert made.layers == ()
