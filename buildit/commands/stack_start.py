"""StackStart the containers of a stack, each once those that it waits for are so far.

A thread for each: it makes its container at once, waits, starts it, and asks it until it is ready.
The first one that fails ends all.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.tar.write import write_tar
from buildit.errors import BuildError, BuilditError, Interrupted, UsageError
from buildit.events import MemberKept, MemberReady, MemberStarted, Reporter
from buildit.model.stack import Condition, Readiness, StackFile
from buildit.model.tree import Entry, Kind, sort_key
from buildit.podman.engine import Podman, reason_of
from buildit.podman.loglines import LogReader
from buildit.podman.probing import not_ready
from buildit.stack.converge import ContainerChange, KnownContainer, remove_container
from buildit.stack.local import KnownPort

LINES_SHOWN = 20
"""Last lines of a container that failed."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_MANY_TIMES = 5
"""How often a container may end before it is ready, where podman starts it again each time."""

Attach = Callable[[KnownContainer], None]
"""Called with each container once it runs."""


class MemberFailed(BuildError):  # noqa: N818 - what happened to it
    """A container does not do what it should; `details` are its last lines."""


@dataclass(frozen=True, slots=True)
class StartPlan:
    """What is to happen, and how far each is waited for: `ready` are the names of containers that
    must become ready (the others only start). `environment` is handed to podman's processes."""

    changes: tuple[ContainerChange, ...]
    ready: frozenset[str]


class StackStart:
    """One start of a stack. `touched` are the names of containers that were made or started."""

    def __init__(
        self, podman: Podman, plan: StartPlan, report: Reporter, attach: Attach, place: str
    ) -> None:
        self.touched: set[str] = set()
        self._podman = podman
        self._plan = plan
        self._report = report
        self._attach = attach
        self._place = place
        self._reached: dict[str, set[Condition]] = {
            one.container.name: set() for one in plan.changes
        }
        self._moved = threading.Condition()
        self._stopped = False
        self._problems: list[BaseException] = []

    def run(self) -> None:
        """Returns once all are as far as they are waited for.

        Raises:
            BuilditError: the first thing that failed; the other threads have ended.
        """
        names = [one.container.name for one in self._plan.changes]
        threads = [
            threading.Thread(target=self._guarded, args=(one,), name=name, daemon=True)
            for one, name in zip(self._plan.changes, names, strict=True)
        ]
        try:
            for each in threads:
                each.start()
            for each in threads:
                each.join()
        except BaseException:
            self._stop()
            for each in threads:
                if each.ident is not None:
                    each.join()
            raise
        if self._problems:
            raise self._problems[0]

    def _stop(self) -> None:
        with self._moved:
            self._stopped = True
            self._moved.notify_all()

    def _guarded(self, change: ContainerChange) -> None:
        try:
            self._bring(change)
        except Interrupted:
            pass  # another one failed, or the caller ends all
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._problems.append(error)
            self._stop()

    def _check(self) -> None:
        """Raises Interrupted where all is to end."""
        if self._stopped:
            raise Interrupted("stopped")

    # -- one container

    def _bring(self, change: ContainerChange) -> None:
        one = change.container
        if change.how == "kept":
            self._report(MemberKept(one.shown))
            if change.before is not None and change.before.is_live:
                self._attach(change.before)
        else:
            self._make(change)
            self._wait_for_others(change)
            self._start(change)
        self._tell(one.name, "started")
        since = time.monotonic()
        if one.name in self._plan.ready:
            self._until_ready(change)
            if change.how != "kept":
                self._report(MemberReady(one.shown, time.monotonic() - since))
        self._tell(one.name, "ready")
        if one.name in self._completed():
            self._until_completed(change)
            self._tell(one.name, "completed")

    def _completed(self) -> Collection[str]:
        """Containers whose end others wait for."""
        return {
            name
            for change in self._plan.changes
            for name, condition in change.container.waits
            if condition == "completed"
        }

    def _make(self, change: ContainerChange) -> None:
        one = change.container
        self._check()
        self.touched.add(one.name)
        if change.how == "replaced" and change.before is not None:
            self._podman.run(*remove_container(change.before))
        if change.how in ("created", "replaced"):
            self._check()
            self._podman.run(*one.create)
            if files := one.member.files:
                self._podman.run(
                    "cp", "--archive=false", "-", f"{one.name}:/", stdin=files_tar(files)
                )

    def _wait_for_others(self, change: ContainerChange) -> None:
        with self._moved:
            for name, condition in change.container.waits:
                while condition not in self._reached.get(name, {condition}) and not self._stopped:
                    self._moved.wait()
        self._check()

    def _start(self, change: ContainerChange) -> None:
        one = change.container
        status, _, told = self._podman.tried("start", one.name)
        if status:
            raise start_problem(self._podman, change, told, status)
        why = {"replaced": "it is another one now", "started": "it had ended"}
        self._report(MemberStarted(one.shown, why.get(change.how, "")))
        self._attach(self._seen(one.name))

    def _tell(self, name: str, condition: Condition) -> None:
        with self._moved:
            self._reached[name].add(condition)
            self._moved.notify_all()

    def _seen(self, name: str) -> KnownContainer:
        found = self._podman.inspected([name])
        if not found:
            raise MemberFailed(f"the container {name} was removed meanwhile", place=self._place)
        return found[0]

    def _pause(self, seconds: float) -> None:
        with self._moved:
            if not self._stopped:
                self._moved.wait_for(lambda: self._stopped, seconds)
        self._check()

    def _until_ready(self, change: ContainerChange) -> None:
        one = change.container
        ready = one.ready
        seen = self._seen(one.name)
        if ready is None:
            if not seen.is_live and seen.status:
                raise self._failed(change, seen, f"ended with status {seen.status}")
            return
        patience = patience_of(ready)
        end, pause, before = time.monotonic() + patience, _FIRST_PAUSE, seen.restarts
        problem = "nothing was asked in time"
        while (left := end - time.monotonic()) > 0:
            self._check()
            if not is_alive(seen.pid):
                seen = self._seen(one.name)
                again = seen.is_live or seen.policy not in ("", "no")
                if not again or seen.restarts - before >= _MANY_TIMES:
                    if seen.status == 0 and not again:
                        return  # it has done what it is for
                    told = f"ended with status {seen.status} before it was ready"
                    raise self._failed(change, seen, told)
            if seen.pid:
                problem = not_ready(self._podman, seen, ready, min(ready.timeout, max(left, 0.1)))
                if not problem:
                    return
            self._pause(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE, max(ready.interval, _FIRST_PAUSE))
        raise self._failed(change, seen, f"is not ready after {patience} s: {problem}")

    def _until_completed(self, change: ContainerChange) -> None:
        while True:
            seen = self._seen(change.container.name)
            while is_alive(seen.pid):
                self._pause(_FIRST_PAUSE)
            seen = self._seen(change.container.name)
            if not seen.is_live and seen.state != "created":
                if seen.status:
                    told = f"ended with status {seen.status}, and others wait for its work"
                    raise self._failed(change, seen, told)
                return
            self._pause(_FIRST_PAUSE)

    def _failed(self, change: ContainerChange, seen: KnownContainer, what: str) -> MemberFailed:
        lines = last_lines(seen)
        hint = "its last lines are above" if lines else "it has written nothing"
        place = change.container.member.place or self._place
        return MemberFailed(f"{seen.shown} {what}", place=place, details=lines, hint=hint)


def patience_of(ready: Readiness) -> int:
    """Seconds until a container counts as one that will never be ready: its start, and then as many
    tries as it may fail."""
    return ready.start + max(ready.interval, 1) * max(ready.retries, 1)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie (proc(5))."""
    if not pid:
        return False
    with suppress(OSError, IndexError):
        state = Path("/proc", str(pid), "stat").read_bytes().rpartition(b") ")[2][:1]
        return state not in (b"Z", b"X")
    return False


def last_lines(container: KnownContainer) -> tuple[str, ...]:
    """The last of what a container wrote."""
    reader = LogReader(container.shown, container.log)
    try:
        return tuple(line.text for line in deque(reader.lines(all_of_it=True), LINES_SHOWN))
    finally:
        reader.close()


# -- files


def files_tar(files: Sequence[StackFile]) -> bytes:
    """The files that are laid into a container."""
    found = {one.dest.lstrip("/"): one for one in files}
    contents = {path: one.content.encode("utf-8", "surrogateescape") for path, one in found.items()}
    entries = [
        Entry(
            path,
            Kind.FILE,
            0o444 if one.mode is None else one.mode,
            uid=_owner(one.uid, one),
            gid=_owner(one.gid, one),
            size=len(contents[path]),
        )
        for path, one in found.items()
    ]
    out = io.BytesIO()
    write_tar(sorted(entries, key=sort_key), lambda one: io.BytesIO(contents[one.path]), out)
    return out.getvalue()


def _owner(text: str, file: StackFile) -> int:
    if text and not text.isdecimal():
        hint = "write its number: what it is called is known in the container alone"
        raise UsageError(f"{file.dest} is of {text!r}, a name", place=file.place, hint=hint)
    return int(text or 0)


# -- ports


def start_problem(podman: Podman, change: ContainerChange, told: str, status: int) -> BuilditError:
    """What it means that a container does not start."""
    one = change.container
    if "address already in use" in told:
        for port in one.published:
            problem = taken_port(podman, port, one.shown, one.member.place)
            if problem is not None:
                return problem
    return MemberFailed(
        f"{one.shown} does not start: {reason_of(told, status)}", place=one.member.place
    )


def taken_port(podman: Podman, port: KnownPort, who: str, place: str) -> UsageError | None:
    """What is said of a port of this machine that something else has; None where it is free."""
    if not port.outside or port.protocol == "sctp":
        return None
    problem = _bind_problem(port)
    if problem is None:
        return None
    shown = f"{port.address or '0.0.0.0'}:{port.outside}"  # noqa: S104 - as it is shown
    if "permission" in problem.lower():
        message = f"{who} may not listen on {shown}: {problem}"
        return UsageError(message, place=place, hint="publish a port from 1024 on")
    holder = _holder(podman, port)
    message = f"the port {shown} of {who} is taken" + (f" by {holder}" if holder else "")
    hint = "end that, or publish another port"
    return UsageError(message, place=place, hint=hint)


def _bind_problem(port: KnownPort) -> str | None:
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, kind) as one:
        if port.protocol != "udp":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((port.address, port.outside))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _holder(podman: Podman, port: KnownPort) -> str:
    """Who has a port, where it can be known: a container, or a process."""
    with suppress(BuilditError):
        for one in podman.containers("--filter", "status=running"):
            if any(each.outside == port.outside for each in one.ports):
                return f"the container {one.name}"
    return process_at(port.outside)


def process_at(port: int) -> str:
    """The process that listens on a port of this machine (proc(5), net/tcp), as far as this user
    may see it: `nginx (pid 123)`, or empty."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{cells[9]}]")
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(path.readlink()) in inodes:
                return _named_process(path.parents[1])
    return ""


def _named_process(path: Path) -> str:
    """What a directory of /proc is of; conmon holds the ports of a container, perhaps of another
    storage or user."""
    name, words = (path / "comm").read_text().strip(), (path / "cmdline").read_bytes().split(b"\0")
    told = f"{name} (pid {path.name})"
    if name == "conmon" and b"-n" in words[:-1]:
        return f"the container {words[words.index(b'-n') + 1].decode('utf-8', 'replace')}, {told}"
    return told
