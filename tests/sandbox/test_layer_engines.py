"""One container as podman and docker run it, GNU tar and umoci unpack it: `stat` of the whole tree.

GNU find says what is there, from outside of the running container; the plan says what should be.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.archive.tar.write import write_tar
from buildit.commands.assemble import image, stack
from buildit.commands.sync import Own, dated, take
from buildit.digest import digest_bytes
from buildit.image.merge import merge
from buildit.image.verify import verify
from buildit.model.accounts import Group, User
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.image import App
from buildit.model.plan import (
    ContainerPlan,
    DirectoriesStep,
    DirectoryToMake,
    ImageStep,
    PackageStep,
    SyncStep,
    Task,
    Toolchain,
)
from buildit.model.tree import Entry, Kind, sort_key
from buildit.plan.identity import build_key, record_text
from buildit.store.artifacts import commit
from buildit.store.attest import LOCAL
from buildit.store.cas import Store
from tests.engines import Engine, docker, podman
from tests.making import making
from tests.planning import PLATFORM
from tests.sandbox.test_images import libraries
from tests.unit.image.samples import directory, emit, file, hard, link

pytestmark = pytest.mark.sandbox

NOW = 1_700_000_123
Files = Sequence[tuple[Entry, bytes]]
Seen = Mapping[str, tuple[object, ...]]

ENGINES_OWN = re.compile(
    r"(dev|proc|sys)(/.*)?"  # mounted over
    r"|etc/(hosts|hostname|resolv\.conf|mtab)|\.dockerenv|run/\.containerenv"
)
"""What an engine puts into a container that runs; all that lies there is its own."""
TIMES_OF_ENGINES = {"etc", "run"}
"""Directories into which it puts that: they have another time, and nothing else."""


def _program() -> Files:
    """`sleep` of this machine, by two names of one inode, and what it loads."""
    merged = {name: f"usr/{name}" for name in ("bin", "lib", "lib64")}
    sleep = Path("/usr/bin/sleep")
    needed = {
        path if path.startswith("usr/") else f"usr/{path}": host.read_bytes()
        for host, path in libraries(sleep)
    }
    return [
        *(link(name, target) for name, target in merged.items()),
        *(directory(name) for name in ("dev", "etc", "proc", "run", "sys", "usr", "usr/bin")),
        *(file(path, content, 0o755) for path, content in needed.items()),
        file("usr/bin/sleep", sleep.read_bytes(), 0o755),
        hard("usr/bin/snooze", "usr/bin/sleep", 0o755),
    ]


LAYOUT: Files = [
    directory("home"),
    directory("odd", 0o1751, uid=3, gid=4),
    file("odd/a", b"one inode", 0o6711, uid=5, gid=6, mtime=1),
    hard("odd/b", "odd/a", 0o6711),
    file("odd/closed", b"", 0),
    link("odd/link", "../no/where"),
    directory("opt", 0o711),
    directory("root", 0o700),
    directory("tmp", 0o1777),
    directory("var"),
    directory("var/mail", 0o2775, gid=8),
    directory("var/tmp", 0o1777),
]
ONE: Files = [
    directory("srv"),
    directory("srv/shared", 0o775, uid=7, gid=8),
    file("srv/shared/one", b"1"),
    file("var/tmp/of-one", b"1", 0o600),  # no entry for var and var/tmp
]
TWO: Files = [
    directory("opt"),  # says nothing of it: 0711 counts
    file("opt/two", b"2", 0o4755),
    directory("srv"),
    directory("srv/shared", 0o750, uid=9, gid=9),  # two that differ: the later one counts
    file("srv/shared/two", b"2"),
]


@dataclass(frozen=True, slots=True)
class Made:
    """Both images of the container, and its tree as planned, without the root."""

    oci: Path
    aci: Path
    planned: Seen


def _package(store: Store, node: Task, files: Files) -> Artifact:
    pairs = sorted(files, key=lambda pair: sort_key(pair[0]))
    contents = {entry.path: content for entry, content in pairs}
    inodes = {entry.path: entry for entry, _ in pairs}
    entries = [
        replace(inodes[e.target], path=e.path, kind=e.kind, target=e.target, size=0, digest=None)
        if e.kind is Kind.HARDLINK
        else e
        for e, _ in pairs
    ]
    with store.batch() as batch:
        with batch.ingest() as sink:
            written = write_tar(entries, lambda entry: io.BytesIO(contents[entry.path]), sink)
            diff_id, size = sink.commit(), sink.size
        output = Output(diff_id, size, batch.put_bytes(contents_blob(written)), (), {})
        record = batch.put_bytes(node.record.encode())
    made = Artifact(
        node.key, node.name, node.version, str(PLATFORM), {RUNTIME: output}, record, epoch=NOW
    )
    commit(store, made, LOCAL)
    return made


def _project(root: Path) -> Path:
    """What is synced: files, one with two names, links, and directories that nobody may enter."""
    (root / "adir/in").mkdir(parents=True)
    (root / "adir/in/f").write_text("f")
    (root / "adir/in/g").hardlink_to(root / "adir/in/f")
    (root / "adir/run.sh").write_text("#!/bin/sh\n")
    (root / "adir/run.sh").chmod(0o700)
    (root / "adir/link").symlink_to("in/f")
    (root / "adir/in").chmod(0o700)
    (root / "drop/box").mkdir(parents=True)
    (root / "conf").write_text("conf")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("engines")
    project = _project(root / "project")
    nodes = [
        Task(build_key(record), "package", name, "1", record)
        for name in ("a/layout", "a/program", "a/one", "a/two")
        for record in [record_text({"name": name})]
    ]
    place = "container.yaml:1:1"

    def sync(src: str, dest: str, mode: str = "", owner: int = 0, dirmode: str = "") -> SyncStep:
        recursive = (project / src).is_dir()
        return SyncStep(src, dest, recursive, mode, owner, owner, place, dirmode)

    packages = [PackageStep(node.key, node.name) for node in nodes]
    directories = DirectoriesStep(
        (
            DirectoryToMake("home/app", 0o700, 700, 700, place),
            DirectoryToMake("srv/made/deep", 0o3770, 5, 6, place),
            DirectoryToMake("var/mail", 0o3731, 8, 8, place),  # another mode for one of a package
        ),
        place,
    )
    steps: tuple[PackageStep | SyncStep | DirectoriesStep, ...] = (
        *packages[:3],
        sync("adir", "/home/app", owner=700),
        directories,
        sync("conf", "/tmp/preset.conf"),
        sync("conf", "/root/.secretrc", "0600"),
        sync("conf", "/home/app/in/conf", owner=700),
        sync("drop", "/srv/drop", dirmode="1777"),
        packages[3],
        sync("conf", "/var/mail/conf"),
    )
    with Store.open(root / "store") as store:
        contents = (LAYOUT, _program(), ONE, TWO)
        artifacts = {n.key: _package(store, n, f) for n, f in zip(nodes, contents, strict=True)}
        plan = ContainerPlan(
            directory=str(project),
            author="me",
            name="engines",
            version="1",
            os="linux",
            arch=os.uname().machine,
            toolchain=Toolchain("toolchain/debian-12", str(PLATFORM), digest_bytes(b""), ()),
            tasks=tuple(nodes),
            steps=steps,
            images=(),
            app=App(("/usr/bin/snooze", "600"), user="700", group="700"),
            users=(User("app", 700, 700),),
            groups=(Group("app", 700),),
        )
        own = Own("", re.compile("(?!)"))
        syncs = [take(project, step, own) for step in plan.takes]
        taken, _ = dated(syncs, {}, NOW)
        laid = stack(plan, store, plan.task, making(store, project, artifacts), taken)
        layers = tuple(laid.layers)
        listings = [laid.listing(layer.contents) for layer in layers]
        planned = merge(layers, listings, laid.epoch)
        oci, aci = (
            emit(
                image(plan, ImageStep(form, "", "none", place), layers, laid.epoch),
                store.path,
                root / "out",
            ).path
            for form in ("oci", "aci")
        )
    yield Made(oci, aci, told([member.entry for member in planned.members()]))
    shutil.rmtree(root)


def told(entries: Sequence[Entry]) -> Seen:
    """As `seen` says it: a hard link has all that its file has, and the first of its names."""
    files = {entry.path: entry for entry in entries if entry.kind is Kind.FILE}
    letters = {Kind.FILE: "f", Kind.DIRECTORY: "d", Kind.SYMLINK: "l", Kind.HARDLINK: "f"}
    found: dict[str, tuple[object, ...]] = {}
    for entry in entries:
        one = files[entry.target] if entry.kind is Kind.HARDLINK else entry
        attributes = (oct(one.mode), one.uid, one.gid, one.mtime)
        last = one.target if one.kind is Kind.SYMLINK else one.path if one.digest else ""
        found[entry.path] = (letters[entry.kind], *attributes, last, str(one.digest or ""))
    return found


def seen(root: Path) -> Seen:
    """Type, mode, owner, time, link target or first name of the inode, and digest, by GNU find."""
    fields = r"%y\t%m\t%U\t%G\t%T@\t%i\t%l\t%P\0"
    argv = ["find", f"{root}/", "-xdev", "-mindepth", "1", "-printf", fields]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    rows = sorted(
        (line.split("\t") for line in listed.split("\0")[:-1]), key=lambda row: os.fsencode(row[7])
    )
    inodes: dict[str, str] = {}
    found: dict[str, tuple[object, ...]] = {}
    for kind, mode, uid, gid, time, inode, target, path in rows:
        if ENGINES_OWN.fullmatch(path):
            continue
        digest = ""
        if kind == "f":
            target = inodes.setdefault(inode, path)
            digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
        permissions = oct(int(mode, 8))
        found[path] = (kind, permissions, int(uid), int(gid), int(float(time)), target, digest)
    return found


def _without(tree: Seen, times: set[str]) -> Seen:
    """Without what engines put there; None as the time of `times`."""
    return {
        path: (*details[:4], None, *details[5:]) if path in times else details
        for path, details in tree.items()
        if not ENGINES_OWN.fullmatch(path)
    }


@pytest.mark.parametrize(("engine", "mode"), [(podman, 0o555), (docker, 0o755)])
def test_a_running_container_has_the_planned_tree(
    made: Made, engine: Callable[[], AbstractContextManager[Engine]], mode: int
) -> None:
    """All but `/`: that is the engine's, with a `mode` of its choice; `verify` counts on it."""
    with engine() as program:
        assert program.storage().startswith("overlay")
        name = program.load(f"oci:{made.oci}:1", "localhost/engines:1")
        container = program.start("one", name)
        root = Path(f"/proc/{container.pid}/root")
        shown = seen(root)
        owner = Path(f"/proc/{container.pid}").stat().st_uid
        slash = root.joinpath(".").stat()
    assert _without(shown, TIMES_OF_ENGINES) == _without(made.planned, TIMES_OF_ENGINES)
    assert owner == 700
    assert (slash.st_mode & 0o7777, slash.st_uid, slash.st_gid) == (mode, 0, 0)


def test_unpacked_images_have_the_planned_tree(made: Made, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("unpacking with owners needs root")
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed (apt-get install umoci)")
    subprocess.run(["tar", "-C", tmp_path, "--numeric-owner", "-xpf", made.aci], check=True)
    argv = ["umoci", "unpack", "--image", f"{made.oci}:1", str(tmp_path / "bundle")]
    subprocess.run(argv, check=True, capture_output=True)
    wanted = _without(made.planned, set())
    assert seen(tmp_path / "rootfs") == wanted
    assert seen(tmp_path / "bundle/rootfs") == wanted
    report = verify((made.oci, made.aci, tmp_path / "rootfs"))
    assert report.passed(), report


def test_the_plan_is_what_the_steps_say(made: Made) -> None:
    """Directories above a synced file keep mode and owner, and of two packages the rule counts."""
    attributes = {
        "home/app": ("0o700", 700, 700),
        "home/app/in": ("0o755", 700, 700),
        "opt": ("0o711", 0, 0),
        "root": ("0o700", 0, 0),
        "srv/drop/box": ("0o1777", 0, 0),
        "srv/made": ("0o755", 0, 0),
        "srv/made/deep": ("0o3770", 5, 6),
        "srv/shared": ("0o750", 9, 9),
        "tmp": ("0o1777", 0, 0),
        "var/mail": ("0o3731", 8, 8),
        "var/tmp": ("0o1777", 0, 0),
    }
    assert {path: made.planned[path][1:4] for path in attributes} == attributes
    assert made.planned["odd/b"] == made.planned["odd/a"]
    assert made.planned["home/app/in/f"] == made.planned["home/app/in/g"]
    assert made.planned["usr/bin/snooze"][5] == "usr/bin/sleep"
