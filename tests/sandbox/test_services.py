"""Services under the init of an image: started in order, stopped in the reverse order, by every
engine alike. The programs are the machine's own s6, execline and dash."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import parse_contents
from buildit.image.merge import merge, with_parents
from buildit.image.services import NEEDED, check_init, init_layer
from buildit.model.image import App, Image, LayerKind
from buildit.model.services import INIT, Init, Ready, Service, in_order
from buildit.model.tree import Entry, Kind
from tests.engines import podman
from tests.sandbox.test_images import libraries, run, shell_image, tool
from tests.unit.image.samples import BlobDirectory, emit, file

pytestmark = pytest.mark.sandbox

WAITS = "while :; do sleep 0.05; done"
STAYS = f'trap "echo NAME down; exit 0" TERM; echo NAME up $(id -u) $WORD; {WAITS}'
ORDER = ["db up 0", "app up 0 two words", "web up 1000", "web down", "app down", "db down"]


def service(name: str, script: str = STAYS, **more: object) -> Service:
    made = Service(name, ("/bin/sh", "-c", script.replace("NAME", name)))
    return replace(made, **more)  # type: ignore[arg-type]


THREE = (
    service("web", after=("app",), uid=1000, gid=1000),
    service("app", after=("db",), environment=(("WORD", "two words"),)),
    service("db", ready=Ready(("/bin/sh", "-c", "exit 0"))),
)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    if os.geteuid() != 0:
        pytest.skip("engines are run as root here")
    (tmp_path / "blobs").mkdir()
    return BlobDirectory(tmp_path / "blobs")


def services_image(blobs: BlobDirectory, services: Sequence[Service], form: str) -> Image:
    """The shell's image with s6, execline and the init of these services."""
    for one in (name for names in NEEDED.values() for name in names):
        tool(one)
    programs = [*Path("/usr/bin").glob("s6-*"), *Path("/usr/lib/execline/bin").iterdir()]
    programs += [Path("/usr/bin", name) for name in ("execlineb", "sleep", "id")]
    files = {str(one).strip("/"): one for one in programs}
    names = ("bin/s6-svc", "bin/s6-svlisten1", "bin/sleep", "bin/id", "lib/execline/bin/execlineb")
    for name in names:
        for host, path in libraries(Path("/usr", name)):
            files[path if path.startswith("usr/") else f"usr/{path}"] = host
    shell = shell_image(blobs, format=form)
    listed = {entry.path for entry in merged(blobs, shell)}
    new = [file(path, one.read_bytes(), 0o755) for path, one in files.items() if path not in listed]
    s6 = blobs.layer("debian:s6-2", new)
    whole = replace(shell, name="services", layers=(*shell.layers, s6))
    ordered, circle = in_order(tuple(services))
    assert circle == ()
    tree = {entry.path: entry for entry in merged(blobs, whole)}
    check_init(Init(ordered, ""), tree)
    made, texts = init_layer(ordered)
    entries = with_parents(made, tree, Entry("", Kind.DIRECTORY, 0o755))
    init = blobs.layer("init", [(one, texts.get(one.path, b"")) for one in entries], LayerKind.STEP)
    app = App((INIT,), group="0", stop_signal="SIGTERM")
    return replace(whole, layers=(*whole.layers, init), app=app)


def merged(blobs: BlobDirectory, image: Image) -> Iterator[Entry]:
    listings = [parse_contents(blobs(each.contents).read_bytes()) for each in image.layers]
    return (member.entry for member in merge(image.layers, listings, 0).members())


@pytest.fixture
def tree(blobs: BlobDirectory, tmp_path: Path) -> Callable[[Sequence[Service]], Path]:
    """Lays down the tree of an image of services."""

    def lay(services: Sequence[Service]) -> Path:
        path = emit(services_image(blobs, services, "rootfs"), blobs, tmp_path / "out").path
        root = tmp_path / "root"
        root.mkdir()
        run("tar", "-C", root, "--numeric-owner", "-xpf", path)
        return root

    return lay


def until_up(process: subprocess.Popen[bytes], output: Path, last: str) -> None:
    end = time.monotonic() + 60
    while last not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.05)


def started(
    argv: Sequence[str | Path], output: Path, *, alone: bool = False
) -> subprocess.Popen[bytes]:
    with output.open("wb") as out:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=alone
        )


def test_podman_starts_and_stops_in_order(blobs: BlobDirectory, tmp_path: Path) -> None:
    path = emit(services_image(blobs, THREE, "oci-archive"), blobs, tmp_path / "out").path
    with podman() as engine:
        run(*engine.argv, "load", "--quiet", "--input", path)
        container = engine.start("three", "localhost/services:1.0-p1")
        for _ in range(2):  # as well when it is started again
            end = time.monotonic() + 60
            while not container.logs().endswith("web up 1000\n"):
                assert time.monotonic() < end, container.logs()
                time.sleep(0.1)
            assert container.stop() == 0
            assert container.logs().splitlines()[-len(ORDER) :] == ORDER
            run(*engine.argv, "start", "three")


@pytest.mark.parametrize("starter", ["lxc-start", "lxc-execute"])
def test_lxc_starts_and_stops_in_order(starter: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    tool(starter)
    image = emit(services_image(blobs, THREE, "lxc"), blobs, tmp_path / "out").path
    name, output = f"three-{os.getpid()}", tmp_path / "output"
    place = image.rename(
        tmp_path / name
    )  # as LXC finds it, and `lxc-stop` the signal that it wants
    config = (place / "config").read_text()
    (place / "config").write_text(config.replace("/var/lib/lxc/services/", f"{place}/"))
    own = ("-P", str(tmp_path), "-n", name)
    process = started([starter, *(["-F"] if starter == "lxc-start" else ()), *own], output)
    until_up(process, output, "web up 1000\n")
    run("lxc-stop", *own, "-t", "30")
    assert process.wait(30) == 0
    assert output.read_text().splitlines() == ORDER


@pytest.mark.parametrize("first", [(), ("--as-pid2",)], ids=["first", "second"])
def test_nspawn_starts_and_stops_in_order(
    first: tuple[str, ...], tree: Callable[[Sequence[Service]], Path], tmp_path: Path
) -> None:
    """As the second process, which it asks by a signal of the one before it."""
    root, output = tree(THREE), tmp_path / "output"
    kill = "SIGRTMIN+4" if first else "SIGTERM"
    alone = ("--quiet", "--register=no", "--keep-unit", "--console=pipe", f"--kill-signal={kill}")
    process = started([tool("systemd-nspawn"), *alone, "-D", root, *first, INIT], output)
    until_up(process, output, "web up 1000\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    said = [line for line in output.read_text().splitlines() if " up " in line or " down" in line]
    assert said == ORDER


def test_run_starts_and_stops_in_order(
    blobs: BlobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal for the whole group of processes, as of Ctrl-C, reaches the init alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = emit(services_image(blobs, THREE, "aci"), blobs, tmp_path / "out").path
    output = tmp_path / "output"
    process = started([sys.executable, "-m", "buildit", "run", image], output, alone=True)
    until_up(process, output, "web up 1000\n")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
    assert output.read_text().splitlines() == ORDER


def in_chroot(root: Path, output: Path) -> subprocess.Popen[bytes]:
    """The init as the first process of a namespace of its own, as engines start it."""
    (root / "dev/null").touch()
    mounting = f"mount --bind /dev/null {root}/dev/null && exec chroot {root} {INIT}"
    return started(["unshare", "-mpf", "--kill-child", "sh", "-c", mounting], output)


def ended(root: Path, output: Path) -> tuple[int, list[str]]:
    process = in_chroot(root, output)
    try:
        status = process.wait(60)
    finally:
        process.kill()
    return status, output.read_text().splitlines()


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_end_of_a_service_can_be_the_end_of_all(
    script: str, status: int, tree: Callable[[Sequence[Service]], Path], tmp_path: Path
) -> None:
    job = service("job", f"echo job up; {script}", after=("db",), ends_all=True)
    root = tree((service("db"), job))
    # db may be told to stop before its first line
    found, lines = ended(root, tmp_path / "output")
    assert (found, lines[-2:]) == (status, ["job up", "db down"])


def test_a_service_that_ends_is_started_again(
    tree: Callable[[Sequence[Service]], Path], tmp_path: Path
) -> None:
    again = "test -e /tmp/once && { echo twice; exit 3; }; : > /tmp/once; echo once; exit 1"
    job = service("job", "while ! test -e /tmp/twice; do sleep 0.05; done; exit 4", ends_all=True)
    root = tree((service("again", again.replace("exit 3", ": > /tmp/twice; sleep 9")), job))
    status, lines = ended(root, tmp_path / "output")
    assert (status, lines) == (4, ["once", "twice"])


def test_a_service_that_is_not_ready_ends_the_container(
    tree: Callable[[Sequence[Service]], Path], tmp_path: Path
) -> None:
    slow = service("slow", after=("db",), ready=Ready(descriptor=3, timeout=1))
    root = tree((service("db"), slow, service("never", after=("slow",))))
    status, lines = ended(root, tmp_path / "output")
    assert status == 1
    assert [line for line in lines if not line.startswith("s6-")] == [
        "db up 0",
        "slow up 0",
        "init: slow is not ready in time: the container ends",
        "slow down",
        "db down",
    ]


def test_a_descriptor_tells_that_a_service_is_ready_and_the_signal_is_its_own(
    tree: Callable[[Sequence[Service]], Path], tmp_path: Path
) -> None:
    script = f'trap "echo int; exit 0" INT; sleep 0.3; echo ready; echo >&3; {WAITS}'
    first = service("first", script, ready=Ready(descriptor=3), stop_signal="SIGINT")
    deaf = service("deaf", f'trap "" TERM; echo deaf up; {WAITS}')
    last = service("last", "echo last; exit 0", after=("first", "deaf"), ends_all=True)
    root = tree((first, replace(deaf, stop_timeout=1), last))
    status, lines = ended(root, tmp_path / "output")
    assert (status, lines) == (0, ["ready", "deaf up", "last", "int"])
    shutil.rmtree(root)
