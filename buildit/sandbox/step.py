"""A command over the layers of an image, as `run` steps have it: in a container, and under the
limits, the log and the end of a build (`sandbox.run`).

What it sees of the machine is what is the same on all: no network but its own loopback, no /sys,
memory where nothing is kept (/tmp, /run, /dev/shm), one host name, no input, no terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from buildit.errors import Interrupted
from buildit.model.config import Limits
from buildit.model.secret import NO_SECRETS, Secrets
from buildit.sandbox.container import PASSED, Contained, contain
from buildit.sandbox.limits import DiskWatch, HardLimits, TreeWatch, Watch, opened_group
from buildit.sandbox.run import Follow, Outcome, opened_log, outcome
from buildit.sandbox.spaces import IdMap, forked, gate, own_children, raise_told

MEMORY = 2 << 30
"""Bytes that a file system in memory may take."""
MOUNT_POINTS = ("dev", "proc", "run", "tmp")
"""Where something is mounted over the image's own."""


def room(
    ids: IdMap,
    trees: tuple[Path, ...],
    layer: Path,
    command: tuple[str, ...],
    env: dict[str, str],
    secrets: Secrets = NO_SECRETS,
) -> Contained:
    """The container of a step: root of it, at its top."""
    memory = (("tmp", f"mode=1777,size={MEMORY}"), ("run", f"mode=755,size={MEMORY}"))
    where = Contained(ids, trees, layer, command, env, "/", 0, 0, memory=memory, bare=True)
    return replace(where, secrets=secrets)


@dataclass(slots=True)
class _Forked:
    """A child of this process, until it is waited for."""

    pid: int
    status: int | None = None

    def cut(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status, as a shell says it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.status = code if code >= 0 else 128 - code
        return self.status


def run_step(
    one: Contained,
    *,
    log: Path,
    limits: Limits,
    stop: threading.Event,
    outputs: tuple[Path, Path] | None = None,
    ends: Watch | None = None,
) -> Outcome:
    """Run a container until its command ends or a limit ends it, its output in `log`. When this
    returns, or raises, no process of it exists any more. Call it from the main thread.

    `outputs` are files that have its standard output and error besides; `ends` is looked at as
    limits are: with what it says, which is then the outcome's limit, the container is ended.

    Raises:
        BuildError: it cannot be set up.
        UsageError: the command or the working directory is not in it.
        StoreError: the log cannot be written.
        Interrupted: `stop` was set.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_children())
        group = stack.enter_context(opened_group(limits))
        kept = stack.enter_context(opened_log(log, limits.log_bytes, one.secrets))
        files = [stack.enter_context(opened_log(path, limits.log_bytes)) for path in outputs or ()]
        pipes = [stack.enter_context(_pipe(one)) for _ in files or (kept,)]
        rlimits = HardLimits.current().rlimits(limits, memory=group is None)
        written_to = pipes[0][1].fileno(), pipes[-1][1].fileno()
        with _started(replace(one, rlimits=rlimits), written_to) as (life, let_go):
            for _, write_end in pipes:
                write_end.close()
            watch = None if group is None else group.exceeded
            if group is not None:
                try:
                    group.add(life.pid)
                except OSError:
                    watch = None
            let_go()
            volumes = (each.source for each in one.volumes if not each.read_only)
            written = (one.layer / "upper", *volumes)
            looks = (DiskWatch(written, limits.disk_bytes), watch or TreeWatch(life.pid, limits))
            further = zip((read_end.fileno() for read_end, _ in pipes), files, strict=False)
            follow = Follow(
                life,
                pipes[0][0].fileno(),
                kept,
                limits,
                stop,
                looks if ends is None else (ends, *looks),
                dict(further),
            )
            follow.to_the_end()
            status = life.wait()
        limit = follow.limit or (None if group is None else group.exceeded())
        if follow.stopped:
            raise Interrupted("the build was interrupted")
    return outcome(status, limit)


@contextlib.contextmanager
def _pipe(one: Contained) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A pipe for what a container writes, which its root can own."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    with open(source, "rb", 0) as read_end, open(sink, "wb", 0) as write_end:
        if one.ids.become is not None:
            os.fchown(sink, *one.ids.become)
        yield read_end, write_end


@contextlib.contextmanager
def _started(
    one: Contained, outputs: tuple[int, int]
) -> Iterator[tuple[_Forked, Callable[[], None]]]:
    """The first process of a container, which waits until it is let go; it is gone at the end."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    with open(told, "rb", 0) as read_end, gate(one.ids, one.serve) as way:

        def begin() -> int:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for number, descriptor in enumerate((nothing, *outputs)):
                os.dup2(descriptor, number)
            return contain(one, way, tell)

        # the processes of the container wait for signals, this one does not
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (*PASSED, signal.SIGCHLD))
        try:
            life = _Forked(forked(begin, tell))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(tell)

        def let_go() -> None:
            way.let_in(life.pid)
            raise_told(read_end.fileno())

        try:
            yield life, let_go
        finally:
            if life.status is None:
                life.cut()
                life.wait()
