"""Run a command in a sandbox: start it, keep its log and its limits, and be sure that it is gone.

A build is one call of `run`. When it returns, or raises, no process of the build exists any more,
so what it wrote can be read without racing against it (THREATS.md, E4 and E9). Its log is the bytes
that it wrote, bounded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from buildit.errors import BuildError, BuilditError, Interrupted, StoreError, UsageError
from buildit.model.config import Limits
from buildit.model.secret import NO_SECRETS, Masker, Secrets
from buildit.sandbox.jail import GRACE, Jail, Lifeline, chain, prepare_places, started, undead
from buildit.sandbox.limits import CGroup, DiskWatch, HardLimits, TreeWatch, Watch, opened_group
from buildit.sandbox.probe import why_not

_TICK = 0.05  # seconds between looks at the stop event and the limits
_READ = 1 << 18
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    `status` is its exit status; where a signal ended it, 128 plus the signal, as shells say it.
    `limit` names what it exceeded: `memory`, `processes`, `seconds`, `idle` or `disk`; or `full`,
    where not the build is at fault but the store's file system is nearly full.
    """

    status: int
    signal: int | None
    limit: str | None


def run(
    jail: Jail,
    command: Sequence[str],
    *,
    trees: Path,
    work: Path,
    log: Path,
    limits: Limits,
    stop: threading.Event,
) -> Outcome:
    """Run a command offline in the jail, its output in `log`, until it ends or a limit ends it.

    `trees` holds the directories that `jail.lowers` names, `work` what its binds name; both are
    best in one store. Started by root, files in `work` belong to `store.disk.host_owner()`.
    Everything is killed when `stop` is set, and when this process dies in whatever way.

    Raises:
        BuildError: the sandbox could not be set up, the command is not in it, or its processes
            could not be killed.
        StoreError: the log cannot be written, or the chroot has no shell.
        Interrupted: `stop` was set.
    """
    places = prepare_places(jail, work, trees)
    line = chain(jail, command, places, HardLimits.current().ulimits(limits), terminal=False)
    source, sink = os.pipe2(os.O_CLOEXEC)
    with (
        open(source, "rb", 0) as read_end,
        open(sink, "wb", 0) as write_end,
        opened_group(limits) as group,
        opened_log(log, limits.log_bytes) as kept,
    ):
        with started(line, places.common, write_end.fileno(), session=True) as life:
            write_end.close()
            writable = tuple(work / bind.source for bind in jail.binds if bind.writable)
            looks = (DiskWatch(writable, limits.disk_bytes), _confine(life, group, limits))
            follow = Follow(life, read_end.fileno(), kept, limits, stop, looks)
            follow.to_the_end()
        limit = follow.limit or (None if group is None else group.exceeded())
        if follow.stopped:
            raise Interrupted("the build was interrupted")
        if life.status is None and limit is None:
            raise _not_started(life, log, command[0])
    return outcome(life.status, limit)


def shell(
    jail: Jail, command: Sequence[str], *, trees: Path, work: Path, limits: Limits
) -> Outcome:
    """The same jail on this process's terminal, for a person; no limit on time, disk or output.

    Call it from the main thread. The terminal is given back to this process at the end. bash knows
    how to live in a process group from outside its pid namespace; dash has job control too, but
    ends with status 2 because it cannot restore that group.

    Raises:
        UsageError: there is no terminal.
        BuildError: the sandbox could not be set up.
    """
    places = prepare_places(jail, work, trees)
    line = chain(jail, command, places, HardLimits.current().ulimits(limits), terminal=True)
    with (
        _terminal() as terminal,
        opened_group(limits) as group,
        started(line, places.common, terminal, session=False) as life,
    ):
        _confine(life, group, limits)
        life.process.wait()
    status = life.status
    if status is None:
        raise BuildError("the sandbox could not be set up or was killed", hint=why_not())
    return Outcome(status, _signal(status), None)


def outcome(status: int | None, limit: str | None) -> Outcome:
    """Of an exit status, None where all was killed."""
    status = 128 + signal.SIGKILL if status is None or limit is not None else status
    return Outcome(status, _signal(status), limit)


def _signal(status: int) -> int | None:
    return status - 128 if status - 128 in signal.valid_signals() else None


class Life(Protocol):
    """What runs: the process that ends last, and how all of it is ended."""

    @property
    def pid(self) -> int: ...

    def cut(self) -> None:
        """Have everything killed; may be called again."""


@dataclass(slots=True)
class Follow:
    """Read the log and look at the limits until the chain is gone; what ended it stays here.
    What comes of the pipes of `further` is in the log, and in a file of its own."""

    life: Life
    read_end: int
    kept: LogFile
    limits: Limits
    stop: threading.Event
    looks: Sequence[Watch]
    further: Mapping[int, LogFile] = field(default_factory=dict)
    limit: str | None = None
    stopped: bool = False
    _begun: float = field(default_factory=time.monotonic)
    _heard: float = field(default_factory=time.monotonic)
    _deadline: float | None = None

    def to_the_end(self) -> None:
        """Until the first process is reaped and nobody holds the pipe.

        Process 1 of the namespace holds it to its end, so by then the namespace is dead.
        """
        pidfd = os.pidfd_open(self.life.pid)
        with contextlib.ExitStack() as closing, selectors.DefaultSelector() as selector:
            closing.callback(os.close, pidfd)
            selector.register(pidfd, selectors.EVENT_READ)
            for pipe in {self.read_end, *self.further}:
                selector.register(pipe, selectors.EVENT_READ)
            look_at = 0.0
            while selector.get_map():
                for key, _ in selector.select(_TICK):
                    self._event(selector, key.fd)
                now = time.monotonic()
                if now >= look_at:
                    look_at = now + _TICK
                    self._tick(now)

    def _event(self, selector: selectors.BaseSelector, fd: int) -> None:
        if fd != self.read_end and fd not in self.further:
            selector.unregister(fd)
            self._end(time.monotonic())  # normally all is dead; else its first process was killed
        elif data := os.read(fd, _READ):
            self._heard = time.monotonic()
            self.kept.write(data)
            if fd in self.further:
                self.further[fd].write(data)
        else:
            selector.unregister(fd)

    def _tick(self, now: float) -> None:
        if self._deadline is not None:
            if now > self._deadline:
                raise undead(self.life.pid)
            return
        self.stopped = self.stop.is_set()
        if not self.stopped:
            if now - self._begun > self.limits.seconds:
                self.limit = "seconds"
            elif now - self._heard > self.limits.idle_seconds:
                self.limit = "idle"
            else:
                self.limit = next(filter(None, (look() for look in self.looks)), None)
        if self.stopped or self.limit is not None:
            self._end(now)

    def _end(self, now: float) -> None:
        self.life.cut()
        self._deadline = self._deadline or now + GRACE


def _confine(life: Lifeline, group: CGroup | None, limits: Limits) -> Watch:
    """Put the chain under its limits and let it begin; what looks at them from now on."""
    if group is not None:
        with contextlib.suppress(OSError):
            process = life.ready()
            if process is not None:
                group.add(process)
            life.begin(None)
            return group.exceeded
    life.begin(HardLimits.current().address_limit(limits))
    return TreeWatch(life.process.pid, limits)


@contextlib.contextmanager
def opened_log(path: Path, limit: int, secrets: Secrets = NO_SECRETS) -> Iterator[LogFile]:
    """Raises StoreError where it cannot be written."""
    try:
        with contextlib.closing(LogFile(path, limit, secrets)) as kept:
            yield kept
    except OSError as error:
        message = f"the log cannot be written: {error.strerror}"
        hint = "free some space there, or name another store (`store:`), and run it again"
        raise StoreError(message, place=str(path), hint=hint) from error


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UsageError(f"a shell needs a terminal: {error}") from error
    try:
        yield terminal
    finally:
        # the shell inside took the foreground; a background process may only take it back with
        # SIGTTOU blocked (tcsetpgrp(3))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(terminal)


_NOT_RUN = re.compile(r"bwrap: execvp (?P<program>.*): (?P<reason>[^:]+)")


def _not_started(life: Lifeline, log: Path, program: str) -> BuilditError:
    """Why the command never ran; `program` is its first word."""
    if life.process.returncode == 128 + signal.SIGKILL:
        hint = "look for the kernel's out-of-memory killer: dmesg | tail"
        return BuildError("the sandbox was killed from outside", hint=hint)
    lines = tuple(printable_output(line) for line in end_of(log, 64 << 10)[-6:])
    not_run = _NOT_RUN.fullmatch(lines[-1]) if lines else None
    if not_run is None or not_run["program"] != program:
        return BuildError("the sandbox could not be set up", hint=why_not(), details=lines)
    # All was mounted and isolated: the machine is fit, the chroot is not (execve(2)).
    message = f"the chroot cannot run {program}: {not_run['reason']}"
    if not_run["reason"] == os.strerror(errno.E2BIG):
        return BuildError(message, hint="shorten the step or its environment", details=lines)
    if program == "sh":
        hint = "an unpacked tree of the store is damaged: buildit store verify"
        return StoreError(message, hint=hint, details=lines)
    hint = "add the .deb that has it to the recipe: depends: {build: [debian:NAME]}"
    return BuildError(message, hint=hint, details=lines)


class LogFile:
    """A file that keeps the first and the last `limit / 2` bytes of what is written to it.

    The later half is a ring inside the file while the build runs, so memory stays flat; closing
    brings it in order. Where bytes were left out, one line between the halves says how many.
    Bytes are stored raw and nothing with a time or a name in it is added: a build that writes the
    same twice leaves the same log. What gives a secret away never gets into it.
    """

    def __init__(self, path: Path, limit: int, secrets: Secrets = NO_SECRETS) -> None:
        """Create or empty the file. `limit` is in bytes, at least 2.

        Raises:
            OSError: the file cannot be written.
        """
        self._half = limit // 2
        self._masker = Masker(secrets) if secrets else None
        self.written = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)

    def write(self, data: bytes) -> None:
        self._put(data if self._masker is None else self._masker.mask(data))

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            turn = self.written % self._half
            place = self.written if self.written < self._half else self._half + turn
            part = os.pwrite(self._fd, rest[: self._half - turn], place)
            self.written += part
            rest = rest[part:]

    def close(self) -> None:
        if self._masker is not None:
            self._put(self._masker.rest())
        left_out = self.written - 2 * self._half
        turn = left_out % self._half
        with open(self._fd, "r+b") as file:
            if left_out > 0:
                file.seek(self._half)
                ring = file.read(self._half)
                file.seek(self._half)
                mark = b"\n[buildit: %d bytes left out here]\n" % left_out
                file.writelines((mark, ring[turn:], ring[:turn]))


def printable_output(data: bytes) -> str:
    """Text for a terminal: nothing in it can move the cursor, ring or reorder what is shown.

    Invalid UTF-8 becomes U+FFFD; control characters (tab and newline stay) are written `\\x1b`.
    """

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNSAFE.sub(escaped, data.decode("utf-8", "replace"))


def end_of(path: Path, size: int) -> list[bytes]:
    """The lines of the last bytes of a log; none where there is no log."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - size))
            return stream.read().splitlines()
    except FileNotFoundError:
        return []
