"""In a network of its own, as a machine: what `run` steps with a network reach of it and beyond.

`unshare --net --mount` starts it, as root. A second network, behind a veth, is the outside, with
link-local addresses. Writes JSON: for each question whether it was answered, and what was seen.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from buildit.archive.contents import parse_contents
from buildit.errors import BuilditError
from buildit.make.makers import make_task
from buildit.make.run_task import run_task
from buildit.model.artifact import RUNTIME
from buildit.model.plan import RunStep
from buildit.model.tree import Kind
from tests.sandbox.probes.harness import NOBODY, python_of_others
from tests.sandbox.test_run_steps import EPOCH, HERE, Steps, made_steps, programs

OUTSIDE, HOST, METADATA = "192.0.2.1", "192.0.2.2", "169.254.169.254"
ASKED = (OUTSIDE, HOST, METADATA, "169.254.1.1", "10.0.2.2", "127.0.0.1")
SERVER = f"""
import socket, threading
def names():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.bind(("0.0.0.0", 53))
    while True:
        asked, who = one.recvfrom(4096)
        end = asked.index(0, 12) + 5
        head = asked[:2] + bytes((0x81, 0x80, 0, 1, 0, asked[end - 3] == 1, 0, 0, 0, 0))
        answer = bytes((0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4)) + socket.inet_aton("{OUTSIDE}")
        one.sendto(head + asked[12:end] + (answer if asked[end - 3] == 1 else b""), who)
threading.Thread(target=names, daemon=True).start()
one = socket.create_server(("0.0.0.0", 8000))
while True:
    other, _ = one.accept(); other.sendall(b"up\\n"); other.close()
"""
ASK = r"""
for my $to (qw(ASKED)) {
  socket(S,2,1,6) or die; my $word = "";
  eval { local $SIG{ALRM} = sub { die "late\n" }; alarm 4;
    if (connect(S, pack("SnC4x8",2,8000,split /\./, $to))) { $word = <S> } else { $word = "$!" }
    alarm 0; }; alarm 0;
  chomp $word; print "$to $word\n"; close S;
}
my @ip = gethostbyname("web.example.org");
print "name ", join(".", unpack("C4", $ip[4] // "")), "\n";
socket(S,2,2,0) or die;
my $route = pack("x8 x16 x16 x16 SsLL x64", 1, 0, 0, 0);
$! = 0; ioctl(S, 0x890C, $route); print "delete-route $!\n";
$! = 0; ioctl(S, 0x890B, $route); print "add-route $!\n";
my $down = pack("a16sx14", "tap0", 0);
$! = 0; ioctl(S, 0x8914, $down); print "set-down $!\n";
$! = 0; socket(R,2,3,1); print "raw-socket $!\n";
open(F, ">>", "/etc/resolv.conf") or print "resolver $!\n";
open(F, ">", "/srv/left"); close F;
"""

RUN = """
import sys
from pathlib import Path
from buildit.commands.run_image import RunOptions, run_image
from buildit.errors import BuilditError
try:
    one = RunOptions(Path(sys.argv[1]), tuple(sys.argv[2:]), user_network=True)
    sys.exit(run_image(one, lambda _: None))
except BuilditError as error:
    sys.exit(f"{error}; {error.hint}")
"""
"""`buildit run --network user`, where Python has nothing but its own modules."""


def ran(*words: str) -> None:
    subprocess.run(words, check=True)


def as_machine() -> subprocess.Popen[bytes]:
    """Make the networks; the process that is the outside."""
    ran("mount", "--make-rprivate", "/")
    ran("ip", "link", "set", "lo", "up")
    outside = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-u", "-c", f"input(); exec({SERVER!r})"],
        stdin=subprocess.PIPE,
    )
    here = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{outside.pid}/ns/net") == here:
        time.sleep(0.01)
    there = ("nsenter", "-t", str(outside.pid), "-n", "ip")
    ran("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(outside.pid))
    ran("ip", "address", "add", f"{HOST}/24", "dev", "v0")
    for address in (f"{OUTSIDE}/24", f"{METADATA}/32", "169.254.1.1/32"):
        ran(*there, "address", "add", address, "dev", "v1")
    ran(*there, "link", "set", "lo", "up")
    ran(*there, "link", "set", "v1", "up")
    ran("ip", "link", "set", "v0", "up")
    ran("ip", "route", "add", "default", "via", OUTSIDE)
    assert outside.stdin is not None
    outside.stdin.write(b"\n")
    outside.stdin.flush()
    resolver = Path("/tmp/resolver-of-test")
    resolver.write_text(f"nameserver {OUTSIDE}\n")
    ran("mount", "--bind", str(resolver), os.path.realpath("/etc/resolv.conf"))
    resolver.unlink()
    return outside


def serve_here() -> None:
    one = socket.create_server(("0.0.0.0", 8000))
    while True:
        other, _ = one.accept()
        other.sendall(b"up\n")
        other.close()


def answered(address: str) -> bool:
    for _ in range(100):
        try:
            with socket.create_connection((address, 8000), 4) as one:
                return one.recv(9) == b"up\n"
        except ConnectionRefusedError:
            time.sleep(0.05)
    return False


def step(steps: Steps, script: str, *, network: bool) -> tuple[list[str], list[str]]:
    argv = ("/usr/bin/perl", "-e", script)
    one = RunStep(argv, (("LC_ALL", "C"),), "range", "ask", "container.yaml:3:3", network=network)
    task = run_task(one, steps.below, (), EPOCH, HERE)
    made = make_task(task, {}, steps.place)
    assert made.log is not None
    layer = parse_contents(steps.store.read(made.outputs[RUNTIME].contents))
    return steps.store.read(made.log).decode().splitlines()[1:], [one.path for one in layer]


def as_directory(image: Path) -> None:
    """The programs of the tests as an unpacked image."""
    rows, texts = programs()
    for one in rows:
        if one.kind is Kind.DIRECTORY:
            (image / one.path).mkdir(parents=True, exist_ok=True)
    for one in rows:
        if one.kind is Kind.SYMLINK:
            (image / one.path).symlink_to(one.target)
        elif one.kind is Kind.FILE:
            (image / one.path).write_bytes(texts[one.path])
            (image / one.path).chmod(0o755)
    image.chmod(0o755)
    (image / "tmp").mkdir()
    for above in (image, *image.parents[:2]):
        above.chmod(0o755)


def run_image(image: Path, cache: Path, python: list[str]) -> list[str]:
    """What a container asks and is answered by `buildit run --network user`."""
    script = ASK.partition("my @ip")[0].replace("ASKED", f"{OUTSIDE} {HOST} 10.0.2.2")
    done = subprocess.run(
        [*python, "-c", RUN, str(image), "/usr/bin/perl", "-e", script],
        env={"XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.getcwd(), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout or done.stderr).splitlines()


def main(directory: Path) -> None:
    outside = as_machine()
    try:
        threading.Thread(target=serve_here, daemon=True).start()
        from_here = {one: answered(one) for one in (OUTSIDE, HOST, METADATA, "127.0.0.1")}
        pid = os.fork()  # the sandbox wants a process without threads
        if pid == 0:
            inside(directory, from_here)
            os._exit(0)
        os.waitpid(pid, 0)
    finally:
        outside.kill()


def inside(directory: Path, from_here: dict[str, bool]) -> None:
    script = ASK.replace("ASKED", " ".join(ASKED))
    found: dict[str, object] = {"host": from_here}
    with made_steps(directory) as steps:
        for name, network in (("with", True), ("without", False)):
            try:
                lines, layer = step(steps, script, network=network)
                found[name] = dict(line.split(" ", 1) for line in lines if " " in line)
                found[f"{name}-layer"] = layer
            except BuilditError as error:
                found[name] = {"error": str(error), "details": [*error.details]}
        found["told"] = steps.warnings()
    image = directory / "image"
    as_directory(image)
    found["run"] = run_image(image, directory / "cache", [sys.executable])
    if (python := python_of_others()) is not None:
        tun = directory / "tun"
        os.mknod(tun, stat.S_IFCHR, os.stat("/dev/net/tun").st_rdev)
        tun.chmod(0o666)  # as udev has it
        ran("mount", "--bind", str(tun), "/dev/net/tun")
        cache = directory / "cache-of-nobody"
        cache.mkdir()
        os.chown(cache, NOBODY, NOBODY)
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python]
        found["nobody"] = run_image(image, cache, as_nobody)
        tun.chmod(0o600)
        found["closed"] = run_image(image, cache, as_nobody)
    here = os.readlink("/proc/self/ns/net")
    left = (one for one in Path("/proc").glob("[0-9]*/comm") if "slirp" in one.read_text())
    found["left"] = [one.parent.name for one in left if os.readlink(one.parent / "ns/net") == here]
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
