"""What a build can see, reach and change: THREATS.md E1-E3, E11, E12."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sandbox.probes.harness import PROBES, Sandbox

pytestmark = pytest.mark.sandbox

TOKEN = "CANARY-only-the-host-knows"


def digest_of(tree: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        state = path.lstat()
        whole.update(f"{path} {state.st_mode:o} {state.st_mtime_ns}\n".encode())
        if path.is_file() and not path.is_symlink():
            whole.update(path.read_bytes())
    return whole.hexdigest()


def test_no_probe_gets_through(sandbox: Sandbox) -> None:
    outside = sandbox.store / "outside"
    outside.mkdir()
    for name in ("secret", "blob"):
        (outside / name).write_text(TOKEN)
        (outside / name).chmod(0o666)
    inputs = sandbox.work / "inputs"
    inputs.mkdir()
    (inputs / "given").write_text("an input")
    (inputs / "given").chmod(0o666)
    shutil.copyfile(PROBES / "attack.pl", inputs / "attack.pl")
    sandbox.binds.append({"source": "inputs", "dest": "/files", "writable": False})
    sandbox.env = {**sandbox.env, "SECRET": TOKEN}
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as file:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        file.bind(str(outside / "socket"))
        file.listen()
        os.chmod(outside / "socket", 0o777)
        guarded = (outside, inputs, sandbox.store / "trees")
        before = [digest_of(tree) for tree in guarded]
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0{TOKEN}")
            abstract.listen()
            canaries = [str(path) for path in (*sorted(outside.iterdir()), sandbox.work)]
            port = str(tcp.getsockname()[1])
            machine = os.uname().machine
            probe = ("perl", "/files/attack.pl", TOKEN, machine, port, *canaries)
            answer = sandbox.run(*probe)
    assert answer.outcome["status"] == 0, answer
    lines = answer.log.decode().splitlines()
    assert [line for line in lines if line.startswith("HIT")] == []
    words = lines[-1].split()
    assert words[0] == "TRIED"
    assert int(words[1]) >= 60
    assert int(words[3]) >= 40
    assert before == [digest_of(tree) for tree in guarded]


def test_the_probe_does_find_what_is_open(sandbox: Sandbox) -> None:
    """The same probe against a leak: without this, 0 hits could be a broken probe."""
    leak = sandbox.work / "build/leak"
    leak.write_text(TOKEN)
    leak.chmod(0o666)
    shutil.copyfile(PROBES / "attack.pl", sandbox.work / "build/attack.pl")
    machine = os.uname().machine
    answer = sandbox.run("perl", "/build/attack.pl", "PATH=", machine, "1", "/build/leak")
    hits = [line for line in answer.log.decode().splitlines() if line.startswith("HIT")]
    assert "HIT reads /build/leak" in hits
    assert "HIT writes /build/leak" in hits
    assert any(hit.startswith("HIT finds the token in /proc/") for hit in hits)


def test_the_environment_is_the_jails_and_nothing_else(sandbox: Sandbox) -> None:
    answer = sandbox.run("env")
    assert sorted(answer.log.split()) == [b"LC_ALL=C", b"PATH=/usr/bin", b"PWD=/build"]


def test_whoever_starts_it_the_inside_is_the_same(sandbox: Sandbox) -> None:
    script = """
    id; umask; uname -n; ulimit -n; ulimit -H -n; ulimit -c; ulimit -s; ulimit -t
    cat /proc/self/personality /proc/self/uid_map /proc/self/setgroups
    while read -r key value; do case $key in Sig*|Cap*|NoNewPrivs:|Seccomp:|Groups:)
      echo "$key $value" ;; esac; done </proc/self/status
    ls -ld / /build /tmp /dev/shm >/dev/null; pwd; read -r line || echo no input
    """
    previous = os.umask(0o077)
    try:
        answer = sandbox.shell(script)
    finally:
        os.umask(previous)
    lines = answer.log.decode().splitlines()
    assert lines[:8] == [
        "uid=1000 gid=1000 groups=1000",
        "0022",
        "buildit",
        "1024",
        "4096",
        "0",
        "8192",
        "unlimited",
    ]
    assert lines[8] == "00040000"  # ADDR_NO_RANDOMIZE
    assert lines[9].split()[::2] == ["1000", "1"]
    assert lines[10] == "deny"
    status = dict(line.split(" ", 1) for line in lines if ": " in line)
    zeros = "0000000000000000"
    names = ("SigIgn:", "SigBlk:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:")
    assert {status[name] for name in names} == {zeros}
    assert (status["NoNewPrivs:"], status["Seccomp:"]) == ("1", "2")
    assert lines[-2:] == ["/build", "no input"]


def test_addresses_do_not_vary(sandbox: Sandbox) -> None:
    # the mappings of the program, its heap and its libraries; the vvar pages are per boot
    script = "while read -r a b c d e path; do case $path in /*|'[stack]'|'[heap]') echo $a $path"
    maps = sandbox.shell(f"{script};; esac; done </proc/self/maps").log
    assert maps.count(b"\n") > 5
    assert maps == sandbox.shell(f"{script};; esac; done </proc/self/maps").log


def test_the_first_tree_wins_and_all_are_there(sandbox: Sandbox) -> None:
    trees = sandbox.store / "trees"
    sandbox.lowers = [f"{number:064x}" for number in range(130)]
    for number, name in enumerate(sandbox.lowers):
        (trees / name / "d").mkdir(parents=True)
        (trees / name / "d/own").with_suffix(f".{number}").touch()
        (trees / name / "d/common").write_text(f"{number}\n")
    sandbox.lowers.append("tiny")
    answer = sandbox.shell("cat /d/common; set -- /d/own.*; echo $#")
    assert answer.log == b"0\n130\n", answer.error


def test_files_and_directories_that_trees_lack_can_be_bound(sandbox: Sandbox) -> None:
    (sandbox.work / "one").write_text("one file\n")
    sandbox.binds.append({"source": "one", "dest": "/opt/deep/file", "writable": False})
    answer = sandbox.shell("cat /opt/deep/file; echo x >/opt/deep/file || echo refused")
    assert answer.log.splitlines()[0] == b"one file"
    assert answer.log.splitlines()[-1] == b"refused"


def test_loopback_is_its_own(sandbox: Sandbox) -> None:
    script = """
    socket(S, 2, 1, 0); bind(S, pack("S n C4 x8", 2, 4000, 127, 0, 0, 1)) or die; listen(S, 1);
    socket(C, 2, 1, 0); connect(C, pack("S n C4 x8", 2, 4000, 127, 0, 0, 1)) or die; print "ok"
    """
    assert sandbox.run("perl", "-e", script).log == b"ok"


def test_temporary_directories_are_bounded(sandbox: Sandbox) -> None:
    for directory in ("/tmp", "/dev/shm"):
        fill = f"dd if=/dev/zero of={directory}/x bs=1000000 count=100"
        answer = sandbox.shell(f"{fill} || echo full")
        assert answer.log.endswith(b"full\n"), directory


MIXED_UP = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Every signal that can be is ignored and blocked in what it starts."""


@pytest.mark.parametrize("caller", ["nohup", "trap", "all"])
def test_signals_are_default_whatever_the_caller_does(sandbox: Sandbox, caller: str) -> None:
    before: dict[str, tuple[str, ...]] = {
        "nohup": ("nohup",),
        "trap": ("sh", "-c", """trap '' INT QUIT USR1 USR2 PIPE TSTP; exec "$@" """, "sh"),
        "all": (sys.executable, "-c", MIXED_UP),
    }
    started = replace(sandbox, argv=(*before[caller], *sandbox.argv))
    answer = started.shell("cat /proc/self/status; kill -QUIT $$; echo alive")
    status = dict(line.split(":\t", 1) for line in answer.log.decode().splitlines())
    assert {status[name] for name in ("SigIgn", "SigBlk", "SigCgt")} == {"0" * 16}
    assert answer.outcome["signal"] == signal.SIGQUIT


WHERE = """
for each in /proc/[0-9]*; do
  for name in environ cmdline comm auxv; do cat "$each/$name"; echo; done
  for name in cwd root exe; do echo "$each $name"; done
  while read -r key value; do case $key in Name:|Uid:|Gid:|Groups:|Cap*|Sig[BIC]*) echo "$value"
  esac; done <"$each/status"
done >/build/seen
env >>/build/seen
cd /; env >>/build/seen
cat /proc/self/mountinfo /proc/self/mounts /proc/self/mountstats >/build/mounts
"""


def test_nothing_inside_tells_where_the_store_is(sandbox: Sandbox) -> None:
    answer = sandbox.shell(WHERE)
    assert answer.outcome["status"] == 0, answer
    seen = (sandbox.work / "build/seen").read_bytes()
    assert b"PATH=/usr/bin" in seen
    assert str(sandbox.store).encode() not in seen
    assert b"OLDPWD=/build" in seen  # the shell's own, by its own cd
    assert seen.count(b"OLDPWD") == 1
    # The kernel says where in its file system a directory lies that is bound, and on which device;
    # nothing short of another file system hides it (docs/packages.md says so).
    table = (sandbox.work / "build/mounts").read_text().splitlines()
    telling = {line.split()[4] for line in table if f"{sandbox.work.name}/" in line}
    assert telling <= {"/build"}
