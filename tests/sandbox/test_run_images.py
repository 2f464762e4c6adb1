"""`buildit run`: every format in the sandbox, and nothing else of the host."""

from __future__ import annotations

import io
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildit.model.image import App, Image
from tests.sandbox.probes.harness import CHECKOUT, NOBODY, python_of_others
from tests.sandbox.test_images import libraries, shell_image, tool
from tests.unit.image.samples import BlobDirectory, directory, emit, file, link

pytestmark = pytest.mark.sandbox

SECONDS = 120
SAID = ("synced buildit /tmp\n", 7)
FORMATS = ("oci", "oci-archive", "docker-archive", "aci", "lxc", "nspawn", "rootfs", "squashfs")
START = ("/bin/sh", "-c", 'read word < /etc/greeting; echo "$word $NAME $PWD"; exit 7')


@dataclass(frozen=True)
class Runner:
    """`buildit run` of this checkout, with a cache of its own."""

    cache: Path

    def env(self) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self.cache), "PYTHONPATH": str(CHECKOUT)}

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "buildit", "run", *map(str, words)]

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words),
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    @contextmanager
    def started(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A run whose command has said `up`."""
        with subprocess.Popen(
            self.argv(*words), env=self.env(), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "up\n"
                yield process
            finally:
                process.kill()

    def left(self) -> list[str]:
        """What is at work, or was left by a run that was not there to clean up."""
        return [one.name for one in self.cache.glob("buildit-run/tmp-*")]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    (tmp_path / "cache").mkdir(mode=0o700)
    return Runner(tmp_path / "cache")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    (tmp_path / "blobs").mkdir()
    return BlobDirectory(tmp_path / "blobs")


@pytest.fixture
def image(blobs: BlobDirectory, tmp_path: Path) -> Path:
    return emit(shell_image(blobs), blobs, tmp_path / "out").path


def test_every_format_runs_and_stays_as_it_was(
    blobs: BlobDirectory, runner: Runner, tmp_path: Path
) -> None:
    for form in FORMATS:
        wanted = shell_image(blobs, format=form)
        assert wanted.app is not None
        if form == "nspawn":  # which knows no group but the user's own
            wanted = replace(wanted, app=replace(wanted.app, user="0", group=None))
        path = emit(wanted, blobs, tmp_path / "out").path
        before = seen(path)
        told: tuple[str | Path, ...] = (path,)
        if form in ("rootfs", "squashfs"):
            more = ("--user", "1000:0", "--env", "NAME=buildit", "--workdir", "/tmp")
            told = (*more, path, "--", *START)
        done = runner(*told)
        assert (done.stdout, done.returncode) == SAID, (form, done.stderr)
        if form == "oci":
            done = runner("--user", "0", path, "--", "/bin/sh", "-c", "echo new > /etc/greeting")
            assert done.returncode == 0, done.stderr
            done = runner(*told)  # nothing was kept, and the image was not read again
            assert (done.stdout, done.returncode) == SAID, done.stderr
        assert seen(path) == before
    assert runner.left() == []
    assert len(list(runner.cache.glob("buildit-run/*.tree"))) == 4


def seen(path: Path) -> Mapping[str, tuple[int, int]]:
    parts = [path, *path.rglob("*")]
    return {str(one): (one.lstat().st_mtime_ns, one.lstat().st_size) for one in parts}


def test_an_unpacked_directory_runs(runner: Runner, blobs: BlobDirectory, tmp_path: Path) -> None:
    tree = emit(shell_image(blobs, format="rootfs"), blobs, tmp_path / "out").path
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(tree) as tar:
        tar.extractall(root, filter="fully_trusted")
    done = runner(root, "--", "/bin/sh", "-c", "echo gone > /etc/greeting; exit 3")
    assert done.returncode == 3, done.stderr
    assert (root / "etc/greeting").read_text() == "synced\n"
    assert list(runner.cache.glob("buildit-run/*.tree")) == []


def test_a_layer_keeps_what_is_written(image: Path, runner: Runner, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    script = "echo new > /etc/greeting; echo kept > /file; echo 'me:x:7:8::/:' >> /etc/passwd"
    done = runner("--layer", layer, "--user", "0", image, "--", "/bin/sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert (layer / "upper/file").read_text() == "kept\n"
    script = 'read one < /etc/greeting; read two < /file; echo "$one $two"'
    words = ("--layer", layer, "--user", "0", image, "--", "/bin/sh", "-c", script)
    done = runner(*words)
    assert (done.stdout, done.returncode) == ("new kept\n", 0), done.stderr
    done = runner("--layer", layer, "--user", "me", image, "--", "/bin/sh", "-c", "exit 4")
    assert done.returncode == 4, done.stderr
    assert runner(image).stdout == SAID[0]
    with runner.started(
        "--layer", layer, image, "--", "/bin/sh", "-c", "echo up; while :; do :; done"
    ):
        done = runner(*words)
        assert (done.returncode, "another run has this layer" in done.stderr) == (2, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    done = runner("--layer", other, image)
    assert (done.returncode, "holds no layer" in done.stderr) == (2, True)
    (layer / "layer.json").write_text("{}")
    done = runner(*words)
    assert (done.returncode, "over another image" in done.stderr) == (2, True)


def test_volumes_are_the_callers_files(image: Path, runner: Runner, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "in").write_text("host\n")
    script = (
        "read a < /new/deep/in; read b < /etc/one; echo $a $b; echo out > /new/deep/out; "
        "(echo no > /etc/one) 2>/dev/null || echo refused; (: > /read/x) 2>/dev/null || echo too"
    )
    volumes = (f"{data}:/new/deep", f"{data}/in:/etc/one:ro", f"{data}:/read:ro")
    told = [word for volume in volumes for word in ("--volume", volume)]
    done = runner(*told, "--user", "0", image, "--", "/bin/sh", "-c", script)
    assert (done.stdout, done.returncode) == ("host host\nrefused\ntoo\n", 0), done.stderr
    made = data / "out"
    assert (made.read_text(), made.stat().st_uid) == ("out\n", os.geteuid())
    assert (data / "in").read_text() == "host\n"


def test_a_volume_comes_with_what_is_mounted_beneath(
    image: Path, runner: Runner, tmp_path: Path
) -> None:
    """Where it cannot, nothing runs: what is written would land out of sight."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for name in ("top/data", "top/a proc", "disk"):
        (tmp_path / name).mkdir(parents=True)
    script = (
        'mount --bind "$0/disk" "$0/top/data"; [ -z "$1" ] || mount -t proc proc "$0/top/a proc"; '
        'shift; exec "$@"'
    )
    inside = "echo out > /top/data/made && (: > /read/data/x) 2>/dev/null || echo refused"
    volumes = ("--volume", f"{tmp_path}/top:/top", "--volume", f"{tmp_path}/top:/read:ro")
    words = runner.argv(*volumes, "--user", "0", image, "--", "/bin/sh", "-c", inside)

    def run(more: str) -> subprocess.CompletedProcess[str]:
        mounted = ["unshare", "-m", "sh", "-euc", script, str(tmp_path), more, *words]
        return subprocess.run(
            mounted, env=runner.env(), capture_output=True, text=True, timeout=SECONDS, check=False
        )

    done = run("")
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
    made = tmp_path / "disk/made"
    assert (made.read_text(), made.stat().st_uid) == ("out\n", 0)
    assert list((tmp_path / "top/data").iterdir()) == []
    made.unlink()
    done = run("proc")
    assert done.returncode != 0
    assert f"{tmp_path}/top/a proc" in done.stderr
    assert f"{tmp_path}/top/data" not in done.stderr
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_volume_stays_inside_whatever_the_links_say(
    blobs: BlobDirectory, runner: Runner, tmp_path: Path
) -> None:
    """The image's `/data` leads to a place of the host; inside, that is another place."""
    wanted = shell_image(blobs)
    links = [
        link("data", "../../../../srv"),
        link("none", str(tmp_path)),
        link("top", "srv/.."),
        directory("srv"),
    ]
    evil = blobs.layer("evil", links)
    path = emit(replace(wanted, layers=(*wanted.layers, evil)), blobs, tmp_path / "out").path
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").touch()
    before = sorted(one.name for one in tmp_path.iterdir())
    words = ("--volume", f"{tmp_path}/volume:/data/sub", path, "--", "/bin/sh", "-c")
    done = runner(*words, "[ -e /srv/sub/file ] && echo there")
    assert (done.stdout, done.returncode) == ("there\n", 0), done.stderr
    done = runner("--volume", f"{tmp_path}/volume:/top", path)
    assert (done.returncode, "a link there leads to the root" in done.stderr) == (1, True)
    done = runner("--volume", f"{tmp_path}/volume:/none", path)
    assert (done.returncode, "a link there leads nowhere" in done.stderr) == (1, True)
    assert sorted(one.name for one in tmp_path.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on(number: signal.Signals, image: Path, runner: Runner) -> None:
    script = 'trap "echo got; exit 9" TERM INT USR1; echo up; while :; do read x < /dev/null; done'
    with runner.started(image, "--", "/bin/sh", "-c", script) as process:
        process.send_signal(number)
        assert process.communicate(timeout=SECONDS)[0] == "got\n"
        assert process.returncode == 9
    assert runner.left() == []


def test_an_end_by_a_signal_and_orphans(image: Path, runner: Runner) -> None:
    done = runner(image, "--", "/bin/sh", "-c", "kill -9 $$")
    assert done.returncode == 128 + signal.SIGKILL
    # of an orphan process 1 takes care, and at the end nothing stays
    script = "(exec /bin/sh -c 'while :; do read x < /dev/null; done') & exit 5"
    assert runner(image, "--", "/bin/sh", "-c", script).returncode == 5
    with runner.started(image, "--", "/bin/sh", "-c", "echo up; while :; do :; done") as process:
        inside = processes_below(process.pid)
        assert len(inside) == 3
        process.kill()
    end = time.monotonic() + 20
    while alive := [pid for pid in inside if running(pid)]:
        assert time.monotonic() < end, alive
        time.sleep(0.05)
    assert len(runner.left()) == 1
    assert runner(image).returncode == 7
    assert runner.left() == []


def test_a_caller_that_ignores_its_childrens_ends(image: Path, runner: Runner) -> None:
    """As a program does that is started by one which ignores SIGCHLD; the first run unpacks."""
    script = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    script += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    for words in ((image,), (image, "--", "/bin/sh", "-c", "exit 4")):
        done = subprocess.run(
            [sys.executable, "-c", script, *runner.argv(*words)[1:]],
            env=runner.env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == (7 if len(words) == 1 else 4), done.stderr


def processes_below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *processes_below(int(child))]
    return found


def running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().replace(")", " ", 1)
    except OSError:
        return False


def test_what_a_container_may_not(image: Path, runner: Runner) -> None:
    script = (
        "while read a b; do case $a in CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) echo $a $b;; esac; "
        "done < /proc/self/status; (: > /proc/sysrq-trigger) 2>/dev/null || echo trigger; "
        "(: < /proc/1/exe) 2>/dev/null || echo exe; (: < /proc/1/environ) 2>/dev/null || echo env; "
        "for one in /proc/[0-9]*; do echo $one; done; "
        "read most < /proc/sys/user/max_user_namespaces; echo namespaces $most"
    )
    done = runner("--user", "0", image, "--", "/bin/sh", "-c", script)
    assert done.stdout.splitlines() == [
        "CapEff: 00000000a80405fb",
        "CapBnd: 00000000a80405fb",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        *("trigger", "exe", "env", "/proc/1", "/proc/2"),
        "namespaces 0",
    ], done.stderr
    assert done.returncode == 0
    done = runner(
        image,
        "--",
        "/bin/sh",
        "-c",
        "while read a b; do case $a in CapEff:) echo $b;; esac; done < /proc/self/status",
    )
    assert done.stdout == "0000000000000000\n", done.stderr


def test_nothing_of_the_image_is_loaded_by_process_1(
    blobs: BlobDirectory, runner: Runner, tmp_path: Path
) -> None:
    """A Python of the image's own lies where the host's does."""
    wanted = shell_image(blobs)
    bad = b"import os\nos.write(2, b'LOADED')\nos._exit(66)\n"
    names = {Path(one.__file__).parent for one in (io, os, signal) if one.__file__}
    places = [str(one).lstrip("/") for one in names]
    found = [file(f"{at}/{name}.py", bad) for at in places for name in ("linecache", "traceback")]
    found += [file(f"{at}/encodings/ascii.py", bad) for at in places]
    layers = (*wanted.layers, blobs.layer("python", found))
    path = emit(replace(wanted, layers=layers), blobs, tmp_path / "out").path
    done = runner(path)
    assert (done.stdout, done.returncode) == SAID, done.stderr
    done = runner(path, "--", "/nothing")
    assert done.returncode == 2
    assert "LOADED" not in done.stderr


def perl_server(blobs: BlobDirectory) -> Image:
    """An image that answers once on port 8080: one program and its libraries."""
    perl = Path("/usr/bin/perl")
    if not perl.exists():
        pytest.skip("perl is not installed (apt-get install perl-base)")
    program = (
        'socket(S, 2, 1, 6); bind(S, pack("S n a4 x8", 2, 8080, "\\0\\0\\0\\0")) or die $!; '
        'listen(S, 5); $| = 1; print "up\\n"; accept(C, S); sysread(C, $x, 5); '
        'syswrite(C, "got $x"); close(C); exit 3;'
    )
    needed = {"usr/bin/perl": perl.read_bytes()}
    for host, path in libraries(perl):
        needed[path if path.startswith("usr/") else f"usr/{path}"] = host.read_bytes()
    wanted = shell_image(blobs)
    more = blobs.layer("perl", [file(path, data, 0o755) for path, data in needed.items()])
    app = App(("/usr/bin/perl", "-e", program), working_directory="/")
    shell = [layer for layer in wanted.layers if "dash" not in layer.title]
    return replace(wanted, layers=(*shell, more, blobs.layer("d", [directory("srv")])), app=app)


def test_a_published_port_leads_inside(
    blobs: BlobDirectory, runner: Runner, tmp_path: Path
) -> None:
    path = emit(perl_server(blobs), blobs, tmp_path / "out").path
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        done = runner("--publish", f"{port}:8080", path)
        assert (done.returncode, f"port {port}: Address already in use" in done.stderr) == (2, True)
    with runner.started("--publish", f"127.0.0.1:{port}:8080", path) as process:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
            client.sendall(b"hello")
            answer = b"".join(iter(lambda: client.recv(64), b""))
        assert answer == b"got hello"
        assert process.wait(SECONDS) == 3
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_network_of_its_own_or_the_hosts(image: Path, runner: Runner) -> None:
    script = "while read one rest; do case $one in *:) echo $one;; esac; done < /proc/net/dev"
    done = runner(image, "--", "/bin/sh", "-c", script)
    assert done.stdout == "lo:\n", done.stderr
    done = runner("--network", "host", image, "--", "/bin/sh", "-c", script)
    ours = [line.split()[0] for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert done.stdout.split() == ours, done.stderr


def test_a_program_of_another_machine_is_named(image: Path, runner: Runner, tmp_path: Path) -> None:
    other = 243 if os.uname().machine != "riscv64" else 183
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 2, other, 1) + bytes(40))
    program.chmod(0o755)
    done = runner("--volume", f"{program}:/program:ro", image, "--", "/program")
    assert done.returncode == 2
    assert f"/program is no program that runs on {os.uname().machine}" in done.stderr


def test_a_terminal_is_the_commands(image: Path, runner: Runner) -> None:
    """Job control works, and the key of an interrupt reaches the command once."""
    pid, terminal = pty.fork()
    if not pid:
        script = 'trap "echo got" INT; echo up $-; read x; echo "[$x]"; exit 6'
        words = runner.argv(image, "--", "/bin/sh", "-c", script)
        os.execve(sys.executable, words, runner.env())
    text = b""
    while b"up" not in text:
        text += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    while b"got" not in text:
        text += os.read(terminal, 1024)
    os.write(terminal, b"word\n")
    try:
        while part := os.read(terminal, 1024):
            text += part
    except OSError:  # EIO: nobody has it any more
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6, text
    assert text.count(b"got") == 1


@dataclass(frozen=True)
class Stranger:
    """An ordinary user with a cache of his own, who runs what root's tests have made."""

    place: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]

    def __call__(self, *words: str | Path, ranges: Path | None = None) -> tuple[str, int, str]:
        """Output, status and remarks; with `ranges` as this machine's /etc/subuid and subgid."""
        line = [*self.argv, "-m", "buildit", "run", *map(str, words)]
        if ranges is not None:
            bind = 'for one in subuid subgid; do mount --bind "$0" /etc/$one; done; exec "$@"'
            line = ["unshare", "-m", "sh", "-euc", bind, str(ranges), *line]
        done = subprocess.run(
            line, env=self.env, capture_output=True, text=True, check=False, cwd="/"
        )
        return done.stdout, done.returncode, done.stderr


@pytest.fixture
def stranger(image: Path) -> Iterator[Stranger]:
    """Beside pytest's directories, which each pytest closes to others when it starts."""
    if os.geteuid() != 0 or (python := python_of_others()) is None:
        pytest.skip("only root can be somebody else, by a python3 that others may run")
    with tempfile.TemporaryDirectory(prefix="buildit-run-") as name:
        place = Path(name)
        place.chmod(0o711)
        shutil.copytree(image, place / "image")
        cache = place / "others"
        cache.mkdir()
        os.chown(cache, NOBODY, NOBODY)
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(filter(None, sys.path))}
        yield Stranger(place, drop, {**env, "XDG_CACHE_HOME": str(cache), "HOME": str(cache)})


MAPS = 'while read a b c; do echo "$a $c"; done < /proc/self/uid_map; '


def test_an_ordinary_user_is_the_only_one_inside(stranger: Stranger) -> None:
    image, nothing = stranger.place / "image", stranger.place / "none"
    nothing.touch()
    script = MAPS + "echo new > /etc/greeting; read a < /etc/greeting; echo $a; exit 5"
    for user, told in (("1000", True), ("0", False)):
        words = ("--user", user, image, "--", "/bin/sh", "-c", script)
        out, status, remarks = stranger(*words, ranges=nothing)
        assert (out, status) == (f"{user} 1\nnew\n", 5), remarks
        assert ("no range of ids" in remarks) == told


def test_an_ordinary_users_range(stranger: Stranger) -> None:
    """As /etc/subuid says; what the container's users wrote goes with the run."""
    tool("newuidmap")
    image, ranges = stranger.place / "image", stranger.place / "ranges"
    ranges.write_text("nobody:700000:65536\n")
    layer = stranger.place / "others/layer"
    script = MAPS + "(: > /etc/greeting) 2>/dev/null || echo not mine; echo x > /tmp/mine; exit 5"
    words = ("--user", "1000:1000", "--layer", layer, image, "--", "/bin/sh", "-c", script)
    out, status, remarks = stranger(*words, ranges=ranges)
    assert (out, status, remarks) == ("0 1\n1 65536\nnot mine\n", 5, "")
    made = (layer / "upper/tmp/mine").stat()
    assert (made.st_uid, made.st_gid) == (700999, 700999)
    out, status, remarks = stranger(*words[:2], image, ranges=ranges)
    assert status == 7, remarks
    assert list((stranger.place / "others").glob("buildit-run/tmp-*")) == []


HOSTILE = {
    "an escape": ("../../escape", tarfile.REGTYPE, ""),
    "an absolute path": ("/etc/escape", tarfile.REGTYPE, ""),
    "a device": ("dev/null", tarfile.CHRTYPE, ""),
    "a FIFO": ("fifo", tarfile.FIFOTYPE, ""),
    "a link to outside": ("hard", tarfile.LNKTYPE, "../../etc/passwd"),
    "a file twice": ("etc/twice", tarfile.REGTYPE, "twice"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tree_is_refused_and_nothing_stays(
    what: str, runner: Runner, tmp_path: Path
) -> None:
    name, kind, target = HOSTILE[what]
    path = tmp_path / "evil.rootfs.tar"
    with tarfile.open(path, "w") as tar:
        for each in ("etc", "bin"):
            one = tarfile.TarInfo(each)
            one.type, one.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(one)
        for _ in range(2 if target == "twice" else 1):
            one = tarfile.TarInfo(name)
            one.type, one.linkname = kind, "" if target == "twice" else target
            tar.addfile(one)
    before = sorted(tmp_path.iterdir())
    done = runner(path, "--", "/bin/sh")
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("error:") == 1
    assert sorted(tmp_path.iterdir()) == before
    left = [one.suffix for one in (runner.cache / "buildit-run").iterdir()]
    assert set(left) <= {".lock"}
