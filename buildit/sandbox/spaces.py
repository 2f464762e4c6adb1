"""Namespaces made by system calls: who is whom inside (user_namespaces(7)), and work done there.

Containers that run may have users of their own, so their namespaces map a range of ids where the
machine grants one: real root takes a range that nobody has, an ordinary user that of
/etc/subuid by newuidmap. Without one there is a single user inside.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from buildit.errors import BuildError, BuilditError, IntegrityError, StoreError, UsageError
from buildit.model.secret import Secrets
from buildit.store.disk import has_uid, host_owner

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
"""clone(2)."""

RANGE_START, RANGE = 0x70000000, 0x0FFFFFFE
"""Host ids that root lends to containers: above those of systemd-nspawn (524288 to 0x6fffffff,
systemd's doc/UIDS-GIDS), below 2^31."""

_LEAST_RANGE = 65534
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """A function of the C library; its number where it is a system call without one.

    Raises:
        OSError: it says -1.
    """
    result: int = getattr(_libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, *values: int) -> None:
    """Raises OSError."""
    filled = [ctypes.c_ulong(one) for one in (*values, 0, 0, 0, 0)[:4]]
    call("prctl", option, *filled)


def die_with_parent() -> None:
    """Be killed when the parent's thread ends; a change of ids forgets it (prctl(2))."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def stay_closed() -> None:
    """Keep others out of this process's memory and files, /proc/PID/exe among them: without it a
    container's root could write to the host's interpreter (CVE-2019-5736)."""
    prctl(_PR_SET_DUMPABLE, 0)


Row = tuple[int, int, int]
"""First id inside, first id outside, how many."""


@dataclass(frozen=True, slots=True)
class IdMap:
    """Who is whom: maps of uids and gids, and how they are made.

    `become` are the ids on the host that a process of root takes first. `by_root` is whether this
    process writes the maps as root, `by_program` whether newuidmap does.
    """

    uids: tuple[Row, ...]
    gids: tuple[Row, ...]
    become: tuple[int, int] | None = None
    by_root: bool = False
    by_program: bool = False

    def several(self) -> bool:
        """Whether there is more than one user inside."""
        return len(self.uids) > 1

    def has(self, uid: int, gid: int) -> bool:
        return all(
            any(first <= one < first + count for first, _, count in rows)
            for one, rows in ((uid, self.uids), (gid, self.gids))
        )


def ids_for(uid: int, gid: int, user: str) -> IdMap:
    """The widest map that this process may have; `uid` and `gid` are the only ones inside where it
    is a single one. `user` is this process's name in /etc/subuid."""
    owner = host_owner()
    if owner is not None:
        text = Path("/proc/self/uid_map").read_text("utf-8")
        if has_uid(text, RANGE_START + RANGE - 1):
            rows = ((0, owner[0], 1), (1, RANGE_START, RANGE))
            return IdMap(rows, rows, owner, by_root=True)
        return one_id(uid, gid)
    programs = all(shutil.which(one) for one in ("newuidmap", "newgidmap"))
    found = [subordinate(_text(f"/etc/{name}"), user, os.getuid()) for name in ("subuid", "subgid")]
    if programs and found[0] is not None and found[1] is not None:
        maps = [
            ((0, own, 1), (1, *one))
            for own, one in zip((os.geteuid(), os.getegid()), found, strict=True)
            if one is not None
        ]
        return IdMap(maps[0], maps[1], by_program=True)
    return one_id(uid, gid)


def one_id(uid: int, gid: int) -> IdMap:
    """A single user inside, with these ids, which every machine grants."""
    owner = host_owner()
    us = owner or (os.geteuid(), os.getegid())
    return IdMap(((uid, us[0], 1),), ((gid, us[1], 1),), owner, by_root=owner is not None)


def subordinate(text: str, user: str, uid: int) -> tuple[int, int] | None:
    """The first large enough range (start, count) that subuid(5) grants; None without one."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        numbers = start.isdecimal() and count.isdecimal()
        if name in (user, str(uid)) and numbers and int(count) >= _LEAST_RANGE:
            return int(start), int(count)
    return None


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text("utf-8", "replace")
    return ""


# -- processes that enter them


def forked(work: Callable[[], int], tell: int) -> int:
    """A child process that does `work`, whose number it ends with; what it raises is written to
    `tell` and then told by `raise_told`. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    gc.freeze()  # looking through what it has of its parent would make copies of all those pages
    try:
        code = work()
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it is
        tell_error(tell, error)
    finally:
        os._exit(code)


def tell_error(tell: int, error: BaseException) -> None:
    """Write an error where `raise_told` reads."""
    told: dict[str, str | None] = {"message": str(error) or type(error).__name__}
    if isinstance(error, BuilditError):
        told = {"message": error.message, "hint": error.hint, "place": error.place}
        told["kind"] = type(error).__name__
    with suppress(OSError):
        os.write(tell, json.dumps(told).encode()[:4000] + b"\n")


def raise_told(read_end: int) -> None:
    """Wait until nobody can tell any more; the first error that was told.

    Raises:
        BuildError, IntegrityError, StoreError, UsageError: one was; of others the message.
    """
    data = b""
    while part := os.read(read_end, 4096):
        data += part
    if data:
        told = json.loads(data.split(b"\n", 1)[0])
        kind = _TOLD.get(told.get("kind"), BuildError)
        raise kind(told["message"], place=told.get("place"), hint=told.get("hint"))


_TOLD = {one.__name__: one for one in (IntegrityError, StoreError, UsageError)}


@dataclass(frozen=True, slots=True)
class Doorway:
    """How a child and its parent come to a user namespace: the child is in one, and waits for its
    maps. `serve` starts a process outside that serves the child, by its pid, until the end."""

    ids: IdMap
    ours: socket.socket
    theirs: socket.socket
    serve: Callable[[int], int] | None = None
    serving: list[int] = field(default_factory=list)

    def become(self) -> None:
        """In the child: leave root's ids behind, as the namespace is to be of nobody special."""
        if self.ids.become is not None:
            uid, gid = self.ids.become
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)

    def enter(self, others: int = 0) -> None:
        """In the child: be root of a user namespace of its own; `others` are further namespaces."""
        self.ours.close()
        try:
            call("unshare", NEWUSER | others)
        except OSError as error:
            hint = "user namespaces are needed: buildit doctor says what forbids them"
            message = f"no user namespace can be made: {os.strerror(error.errno or 0)}"
            raise BuildError(message, hint=hint) from error
        self.theirs.send(b".")
        if self.theirs.recv(1) != b".":
            os._exit(1)  # the parent is gone, or says why
        if self.ids.several():
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        die_with_parent()

    def let_in(self, pid: int) -> None:
        """In the parent: write the maps of the child once it is there.

        Raises:
            BuildError: they cannot be written.
        """
        self.theirs.close()
        if self.ours.recv(1) != b".":
            return  # it says why
        if self.ids.by_program:
            for program, rows in (("newuidmap", self.ids.uids), ("newgidmap", self.ids.gids)):
                words = [program, str(pid), *(str(one) for row in rows for one in row)]
                if os.spawnvp(os.P_WAIT, program, words) != 0:  # noqa: S606 - there is no shell
                    hint = "see /etc/subuid and /etc/subgid, and newuidmap(1)"
                    raise BuildError(f"{program} gives no range of ids", hint=hint)
        else:
            proc = Path("/proc", str(pid))
            if not self.ids.by_root:
                (proc / "setgroups").write_text("deny")
            for name, rows in (("uid_map", self.ids.uids), ("gid_map", self.ids.gids)):
                text = "".join(f"{first} {out} {count}\n" for first, out, count in rows)
                (proc / name).write_text(text)
        with suppress(ConnectionError):  # it ended, and says why
            self.ours.send(b".")
            if self.serve is not None and self.ours.recv(1) == b".":
                self.serving.append(self.serve(pid))
                self.ours.send(b".")

    def await_service(self) -> None:
        """In the child: wait until it is served, by who opens its namespaces in /proc."""
        prctl(_PR_SET_DUMPABLE, 1)
        self.theirs.send(b".")
        if self.theirs.recv(1) != b".":
            os._exit(1)  # the parent is gone, or says why
        stay_closed()


@contextmanager
def own_children() -> Iterator[None]:
    """While a process waits for its children: who started it may have left SIGCHLD ignored, which
    execve(2) keeps, and then nothing says that a child ended, or how (waitpid(2)). Only the main
    thread can change that: around others that make children, it does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def gate(ids: IdMap, serve: Callable[[int], int] | None = None) -> Iterator[Doorway]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        way = Doorway(ids, ours, theirs, serve)
        try:
            yield way
        finally:
            for pid in way.serving:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def own_name() -> str:
    """This process's user, as /etc/subuid may name it; empty where it has no name."""
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return ""


def in_namespace(
    ids: IdMap,
    work: Callable[[], None],
    directory: Path,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Do something as root of a user namespace, in a process of its own that begins in a directory;
    `meanwhile` is done by the caller, such as to read what that process writes.

    Raises:
        BuildError, IntegrityError, StoreError, UsageError: what the work raised, or its message; or
            it was killed, and is not done.
    """

    def inside() -> int:
        os.chdir(directory)
        way.become()
        way.enter()
        work()
        return 0

    with _telling(ids) as (way, read_end, tell):
        pid = forked(inside, tell)
        _follow(way, pid, read_end, tell, meanwhile)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:  # and it had no time to say why
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        hint = "look for the kernel's out-of-memory killer: dmesg | tail"
        raise BuildError(f"a process of buildit's own {how}", hint=hint)


@contextmanager
def namespace(ids: IdMap) -> Iterator[int]:
    """A descriptor of a user namespace with this map, in which nobody is.

    Raises:
        BuildError: there can be none.
    """
    hold = os.pipe()

    def inside() -> int:
        os.close(hold[1])
        way.become()
        way.enter()
        os.close(tell)
        os.read(hold[0], 1)
        return 0

    with _telling(ids) as (way, read_end, tell):
        pid = forked(inside, tell)
        try:
            _follow(way, pid, read_end, tell)
            descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(hold[1])
            os.close(hold[0])
            with suppress(ChildProcessError):  # where it failed, it was waited for
                os.waitpid(pid, 0)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def _telling(ids: IdMap) -> Iterator[tuple[Doorway, int, int]]:
    read_end, tell = os.pipe()
    try:
        with own_children(), gate(ids) as way:
            yield way, read_end, tell
    finally:
        os.close(read_end)


def _follow(
    way: Doorway, pid: int, read_end: int, tell: int, meanwhile: Callable[[], None] = lambda: None
) -> None:
    os.close(tell)
    try:
        way.let_in(pid)
        meanwhile()
        raise_told(read_end)
    except BaseException:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def set_filter(program: bytes) -> None:
    """Put this process and all that it starts under a system call filter, and under the rule that
    no program gives further rights (seccomp(2), PR_SET_NO_NEW_PRIVS).

    Raises:
        OSError: the kernel refuses it.
    """
    prctl(38, 1)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: unsigned short len; struct sock_filter *filter
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    whole = ctypes.create_string_buffer(head, len(head))
    prctl(22, 2, ctypes.addressof(whole))


SECRETS = "run/secrets"
"""Where a command finds its secrets, each in a file of its id."""


def write_secrets(directory: str, secrets: Secrets) -> None:
    """Raises OSError."""
    for one in secrets.given:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with open(os.open(f"{directory}/{one.name}", flags, 0o400), "wb") as file:
            file.write(one.value)


_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 29, 31)
"""chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot mknod
audit_write setfcap: what engines leave (capabilities(7))."""


def drop_capabilities() -> None:
    """Take away for good what no container needs. Raises OSError."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())
    for number in range(last + 1):
        if number not in _CAPABILITIES:
            prctl(24, number)
