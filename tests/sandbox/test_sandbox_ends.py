"""How builds end: status, limits, interruption, death of buildit. THREATS.md E4, E6-E10."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.sandbox.probes.harness import Sandbox, living, wait_until_dead

pytestmark = pytest.mark.sandbox


def leftovers(sandbox: Sandbox) -> list[str]:
    """Mounts, control groups and files that a finished run must not leave."""
    mounts = [
        line
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(sandbox.store) in line or "/tmp/skeleton" in line
    ]
    groups = [
        str(path)
        for path in Path("/sys/fs/cgroup").glob("**/buildit/*-*")
        if int(path.name.partition("-")[0]) in sandbox.started  # others may be at work
    ]
    private = [path.name for path in sandbox.work.iterdir() if path.name != "build"]
    return mounts + groups + private


@pytest.mark.parametrize(
    ("script", "status", "number"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, None),
        ("exit 255", 255, None),
        ("kill -SEGV $$", 139, 11),
        ("kill -KILL $$", 137, 9),
    ],
)
def test_status_and_signal(sandbox: Sandbox, script: str, status: int, number: int | None) -> None:
    answer = sandbox.shell(script)
    assert (answer.outcome["status"], answer.outcome["signal"]) == (status, number)
    assert answer.outcome["limit"] is None
    assert leftovers(sandbox) == []
    assert answer.descriptors <= 5


def test_the_log_is_what_was_written_and_nothing_else(sandbox: Sandbox) -> None:
    script = r"printf 'a\033[2Jb\000\377'; printf 'err\n' >&2; exit 1"
    logs = {sandbox.shell(script).log for _ in range(3)}
    assert logs == {b"a\x1b[2Jb\0\xfferr\n"}


def test_a_flood_keeps_head_and_tail_in_flat_memory(sandbox: Sandbox) -> None:
    script = 'print "head\\n"; print "x" x 1048576 for 1 .. 300; print "\\ntail\\n"'
    answer = sandbox.run("perl", "-e", script, limits={"log_bytes": 1 << 20})
    assert answer.outcome["status"] == 0
    assert answer.log.startswith(b"head\nxxx")
    assert answer.log.endswith(b"xxx\ntail\n")
    left_out = 300 * (1 << 20) + 11 - (1 << 20)
    assert b"\n[buildit: %d bytes left out here]\n" % left_out in answer.log
    assert len(answer.log) < (1 << 20) + 100
    assert answer.peak < 200 << 20


LONG = 120.0
"""Seconds that no test here takes on the busiest machine. Where another limit fails to end a
build, this one does, and is named instead."""
LIMITS: dict[str, tuple[str, dict[str, float]]] = {
    "seconds": ("exec sleep 3600", {"seconds": 0.6}),
    "idle": ("echo once; exec sleep 3600", {"idle_seconds": 0.6}),
    "memory": ("""exec perl -e 'push @a, "x" x 4194304 while 1'""", {"memory_bytes": 128 << 20}),
    "processes": (
        """exec perl -e 'while (1) { fork // select(undef, undef, undef, 0.01) }'""",
        {"processes": 60},
    ),
    "disk": (
        """exec perl -e 'while (1) { open($f, ">", "f" . $i++); print $f "x" x 100000 }'""",
        {"disk_bytes": 64 << 20},
    ),
}


@pytest.mark.parametrize("limit", sorted(LIMITS))
def test_a_limit_ends_the_build_and_is_named(sandbox: Sandbox, limit: str) -> None:
    script, limits = LIMITS[limit]
    token = f"limit-{limit}-{os.getpid()}"
    answer = sandbox.run("sh", "-c", script, token, limits={"seconds": LONG, **limits})
    if answer.outcome.get("limit") is None and limit == "memory":
        # without a cgroup the address space of one process ends first, and perl says so
        assert b"Out of memory" in answer.log
        assert answer.outcome["status"] != 0
    else:
        assert answer.outcome["limit"] == limit, answer
        assert answer.outcome["signal"] == 9
    assert living(token) == []
    assert leftovers(sandbox) == []


def test_many_small_eaters_are_counted_together(sandbox: Sandbox) -> None:
    script = "my $x = 'x' x 33554432; fork for 1 .. 3; substr($x, 4096 * $_, 1) = 'y' for 0 .. 8191"
    limits = {"memory_bytes": 160 << 20, "seconds": LONG}
    answer = sandbox.run("perl", "-e", f"{script}; sleep 3600", limits=limits)
    assert answer.outcome["limit"] == "memory"


_MEMFD_CREATE, _MMAP = {"x86_64": (319, 9), "aarch64": (279, 222)}[os.uname().machine]
_MEMFD = f"$d = syscall({_MEMFD_CREATE}, $name = 'x', 0); open($f, '>&=', $d) or die; fill($f)"
_MAP = f"$at = syscall({_MMAP}, 0, $most << 20, 1, 1, $d, 0)"
_READ = "unpack 'P1', pack 'J', $at + 4096 * $_ for 0 .. $most * 256 - 1"
_FILL = "sub fill { my $f = shift; syswrite $f, 'x' x 1048576 for 1 .. $most }"
_BOTH = "for ('/dev/shm/x', '/tmp/x')"
SHARED = {
    "memfd": (f"$most = 150; {_MEMFD}", 100),
    # in two processes, since one may not even map what is above the limit
    "mappings": (f"$most = 80; fork; {_MEMFD}; {_MAP}; close $f; {_READ}", 120),
    "files": (f"$most = 60; {_BOTH} {{ open($f, '>', $_); fill($f) }}", 100),
    "deleted": (f"$most = 60; {_BOTH} {{ open($g{{$_}}, '>', $_); unlink; fill($g{{$_}}) }}", 100),
}
"""Ways to hold memory that is no process's own, and the limit in MB that each of them breaks."""


@pytest.mark.parametrize("way", sorted(SHARED))
def test_memory_that_no_process_owns_counts(sandbox: Sandbox, way: str) -> None:
    script, megabytes = SHARED[way]
    limits = {"memory_bytes": megabytes << 20, "seconds": LONG}
    answer = sandbox.run("perl", "-e", f"{_FILL} {script}; sleep 3600", limits=limits)
    assert answer.outcome["limit"] == "memory", answer


def test_shared_memory_counts_once(sandbox: Sandbox) -> None:
    """Eight processes that map the same 40 MB hold 40 MB."""
    script = f"$most = 40; {_MEMFD}; {_MAP}; fork for 1 .. 3; {_READ}; sleep 2"
    limits = {"memory_bytes": 200 << 20, "seconds": LONG}
    answer = sandbox.run("perl", "-e", f"{_FILL} {script}", limits=limits)
    assert (answer.outcome["limit"], answer.outcome["status"]) == (None, 0), answer


def test_one_file_cannot_pass_the_disk_limit(sandbox: Sandbox) -> None:
    script = "truncate(STDOUT, 2**40) or print STDERR 'refused'"
    command = f'trap "" XFSZ; perl -e "{script}" >big'
    answer = sandbox.shell(command, limits={"disk_bytes": 1 << 20})
    assert answer.log == b"refused"


DAEMONS = r"""
perl -e '
  $SIG{$_} = "IGNORE" for qw(TERM INT HUP QUIT);
  exit if fork; setpgrp; exit if fork;
  open(my $f, "+<", "out"); while (1) { seek $f, 0, 0; print $f $i++, "\n"; $f->flush }
' TOKEN &
perl -e 'kill "STOP", $$' TOKEN &
setsid sleep 3600 TOKEN 2>/dev/null &
sh -c 'trap "" TERM; while :; do sleep 1; done' TOKEN >/dev/null 2>&1 &
while [ ! -s out ]; do :; done
"""


def test_daemons_die_before_the_caller_reads(sandbox: Sandbox) -> None:
    out = sandbox.work / "build/out"
    out.touch()
    out.chmod(0o666)
    for turn in range(5):
        token = f"daemon-{os.getpid()}-{turn}"
        answer = sandbox.shell(DAEMONS.replace("TOKEN", token), limits={"seconds": LONG})
        assert answer.outcome["status"] == 0, answer.log
        before = out.read_bytes()
        assert living(token) == []
        time.sleep(0.05)
        assert out.read_bytes() == before


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_stop_interrupts(sandbox: Sandbox) -> None:
    token = f"stop-{os.getpid()}"
    script = "trap '' TERM INT; echo >ready; sleep 3600"
    with sandbox.start("sh", "-c", script, token) as process:
        wait_for(sandbox.work / "build/ready")
        assert living(token) != []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert sandbox.answer().error["kind"] == "Interrupted"
    assert living(token) == []
    assert leftovers(sandbox) == []


def test_ctrl_c_interrupts(sandbox: Sandbox) -> None:
    token = f"int-{os.getpid()}"
    with sandbox.start("sh", "-c", "echo >ready; sleep 3600", token) as process:
        wait_for(sandbox.work / "build/ready")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0  # the driver leaves KeyboardInterrupt to python
        assert living(token) == []
    assert leftovers(sandbox) == []


def test_kill_9_of_buildit_at_any_moment_leaves_no_process(sandbox: Sandbox) -> None:
    chance = random.Random(9)
    for turn in range(12):
        token = f"kill-{os.getpid()}-{turn}"
        process = sandbox.start("sh", "-c", "sleep 3600 & setsid sleep 3600 & wait", token)
        with process:
            # python itself starts for about 50-150 ms; then the chain grows for 20-60 ms
            time.sleep(0.04 + 0.02 * turn + chance.random() * 0.02)
            process.kill()
        assert wait_until_dead(token) == [], turn
    # the next run sweeps the control groups of the dead
    assert sandbox.shell("true").outcome["status"] == 0
    assert leftovers(sandbox) == []


def test_kill_9_of_the_first_process_alone_is_noticed(sandbox: Sandbox) -> None:
    token = f"first-{os.getpid()}"
    with sandbox.start("sh", "-c", "echo >ready; sleep 3600", token) as process:
        wait_for(sandbox.work / "build/ready")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        assert process.wait(60) == 0
    assert sandbox.answer().error["kind"] == "BuildError"
    assert living(token) == []
