"""A container that runs, without an engine: namespaces, an overlay over its tree, one command.

Processes: buildit; the *outer* one, in new user, mount, network, IPC, UTS and cgroup namespaces;
process 1 of a new pid namespace, which mounts, reaps and forwards signals; the command. Each dies
with the one before, and all that runs inside with process 1. Published ports are one more process
of the outer kind, which accepts on the host's sockets and connects inside.

Paths of the host are cloned as mounts before the place where they are put together covers them, by
root while it is root: the ids that containers run as may not reach them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildit.errors import BuildError, UsageError
from buildit.model.secret import NO_SECRETS, Secrets
from buildit.sandbox.forward import forward_ports
from buildit.sandbox.inside import Inside, mount
from buildit.sandbox.jail import STAGE, filter_program
from buildit.sandbox.spaces import (
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUTS,
    SECRETS,
    Doorway,
    IdMap,
    call,
    die_with_parent,
    drop_capabilities,
    forked,
    gate,
    namespace,
    own_children,
    prctl,
    raise_told,
    set_filter,
    stay_closed,
    write_secrets,
)
from buildit.sandbox.usernet import UserNetwork
from buildit.store.disk import remove_tree

RESOLVER = "etc/resolv.conf"


@dataclass(frozen=True, slots=True)
class Mounted:
    """A directory or file of the host that is seen inside, at an absolute path."""

    source: Path
    dest: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret that is seen at a path, too, with a mode and an owner of its own."""

    name: str
    dest: str
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Contained:
    """One container, as numbers and paths.

    `trees` hold its files, the top first; `layer` has the directories `upper`, which takes what it
    writes, and `work`. `command` is looked for in the `PATH` of `environment`, which is all of it.
    `listeners` are sockets that listen on the host, with the port inside that each leads to.
    `memory` are paths with a file system of their own that goes at the end, and its options;
    `rlimits` are which, soft and hard of setrlimit(2).
    `secrets` are files in memory that only root may read, in `SECRETS`.
    `network` is one with a way out; `resolver` is where the file is that says who answers for
    names in it.
    `beside` is work in a process of its own, in the container's network but not in its root, such
    as to ask what listens there; it ends with the container.
    `mounts` are directories and files whose owners are already those of the container's users, as
    `trees` are. `secret_files` are further places of secrets.
    `bare` leaves out what differs from machine to machine and run to run: /sys, and places in
    memory by chance.
    """

    ids: IdMap
    trees: tuple[Path, ...]
    layer: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    volumes: tuple[Mounted, ...] = ()
    host_network: bool = False
    hostname: str = "buildit"
    listeners: tuple[tuple[socket.socket, int], ...] = ()
    memory: tuple[tuple[str, str], ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    bare: bool = False
    secrets: Secrets = NO_SECRETS
    beside: Callable[[], int] | None = None
    network: UserNetwork | None = None
    resolver: str = RESOLVER
    mounts: tuple[Mounted, ...] = ()
    secret_files: tuple[SecretFile, ...] = ()

    @property
    def serve(self) -> Callable[[int], int] | None:
        """What starts the way out of its network, if there is one."""
        if self.network is None:
            return None
        return partial(self.network.serve, become=self.ids.become)

    @property
    def volumes_from(self) -> int:
        """The number of the first volume among what is staged: first comes what is its own."""
        return len(self.trees) + len(self.mounts) + 1


PASSED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGWINCH, signal.SIGALRM, signal.SIGCONT),
)
_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)


def run_contained(one: Contained) -> int:
    """Run a container on this process's standard streams until its command ends; its exit status,
    128 and the signal's number where a signal ended it.

    Call it from the main thread, while there is no other.

    Raises:
        BuildError: it cannot be set up.
        UsageError: the command or the working directory is not in it.
    """
    with own_children():
        return _run(one)


def _run(one: Contained) -> int:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*PASSED, signal.SIGCHLD))
    terminal = _foreground()
    read_end, tell = os.pipe()
    try:
        with gate(one.ids, one.serve) as way:
            pid = forked(lambda: contain(one, way, tell, terminal), tell)
            os.close(tell)
            for listener, _ in one.listeners:
                listener.close()
            try:
                way.let_in(pid)
                raise_told(read_end)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            return _relay(pid)
    finally:
        os.close(read_end)
        if terminal:
            with suppress(OSError):
                # the command's group had it; in the background SIGTTOU would stop this process
                ignored = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.tcsetpgrp(0, os.getpgrp())
                signal.signal(signal.SIGTTOU, ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _foreground() -> bool:
    """Whether standard input is the terminal of this session, and this process in front of it."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _relay(pid: int, *, first: bool = False) -> int:
    """Pass signals on to a child until it ends, and reap whatever else does; its status.

    What the kernel sends for a key of the terminal, all of the group in front of it get: it is not
    passed on. `first` is process 1, which lets nothing stand stopped: nobody could continue it.
    """
    while True:
        found = signal.sigwaitinfo((*PASSED, signal.SIGCHLD))
        if found.si_signo != signal.SIGCHLD:
            if not (found.si_code > 0 and found.si_signo in _OF_TERMINAL):
                with suppress(ProcessLookupError):
                    os.kill(pid, found.si_signo)
            continue
        while True:
            options = os.WNOHANG | (os.WUNTRACED if first else 0)
            try:
                ended, status = os.waitpid(-1, options)
            except ChildProcessError:
                break
            if ended == 0:
                break
            if os.WIFSTOPPED(status):
                if ended == pid:
                    os.kill(pid, signal.SIGCONT)
            elif ended == pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


# -- the outer process


def contain(one: Contained, way: Doorway, tell: int, terminal: bool = False) -> int:
    """In a child process: be the outer one; the command's exit status."""
    own = NEWNS | NEWIPC | NEWUTS | NEWCGROUP | (0 if one.host_network else NEWNET)
    own_sources = [(one.layer, False), *((tree, False) for tree in one.trees)]
    own_sources += [(each.source, each.read_only) for each in one.mounts]
    volumes = [(each.source, each.read_only) for each in one.volumes]
    if one.ids.become is not None:
        # only root may reach the paths, and show root's files as those of the container's root
        with namespace(one.ids) if volumes else nullcontext() as mapping:
            call("unshare", NEWNS)
            _stage(own_sources, volumes, mapping, one.network)
        way.become()
        way.enter(own)
        _private()
    else:
        way.enter(own)
        _stage(own_sources, volumes, None, one.network)

    if one.network is not None:
        way.await_service()
        one.network.close_routes()

    def apart(work: Callable[[], int]) -> int:
        os.close(tell)  # who reads waits for its end
        die_with_parent()
        stay_closed()
        return work()

    serve = partial(forward_ports, one.listeners) if one.listeners else None
    works = [work for work in (serve, one.beside) if work is not None]
    further = [forked(partial(apart, work), tell) for work in works]
    for listener, _ in one.listeners:
        listener.close()
    call("unshare", NEWPID)
    _write("/proc/sys/user/max_user_namespaces", "0")  # as bubblewrap's --disable-userns
    first = forked(lambda: _first(one, tell, terminal), tell)
    os.close(tell)
    stay_closed()
    status = _relay(first)
    for process in further:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
    return status


_REC, _PRIVATE, _BIND, _REMOUNT = 0x4000, 1 << 18, 0x1000, 0x20
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_SEALED = _NOSUID | _NODEV | _NOEXEC
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _TREE_CLOEXEC, _FROM_EMPTY = 1, os.O_CLOEXEC, 4
_ATTR_IDMAP = 0x100000


def _private() -> None:
    mount("none", "/", "none", _REC | _PRIVATE)


_Source = tuple[Path, bool]
"""A path of the host, and whether it can only be read."""


def _stage(
    own: Sequence[_Source],
    volumes: Sequence[_Source],
    mapping: int | None,
    network: UserNetwork | None,
) -> None:
    """Mount a tmpfs at `STAGE` with what of the host is seen inside, as `0`, `1`, …; the `own` come
    first. With a `mapping`, files of the volumes' root belong to the container's root. Of a
    `network` there is a resolv.conf.

    Raises:
        BuildError: something cannot be mounted.
    """
    _private()
    clones = [
        *(_clone(path, read_only, None) for path, read_only in own),
        *(_clone(path, read_only, mapping) for path, read_only in volumes),
    ]
    mount("tmpfs", STAGE, "tmpfs", _NOSUID | _NODEV, "mode=755,size=4m")
    for number, (descriptor, is_directory) in enumerate(clones):
        place = f"{STAGE}/{number}"
        _point(place, is_directory)
        words = (descriptor, b"", _AT_FDCWD, place.encode(), _FROM_EMPTY)
        call("syscall", ctypes.c_long(_MOVE_MOUNT), *words)
        os.close(descriptor)
    if network is not None:
        _write(f"{STAGE}/resolv.conf", f"nameserver {network.resolver}\n")
        os.chmod(f"{STAGE}/resolv.conf", 0o644)
    os.mkdir(f"{STAGE}/root")


def _clone(path: Path, read_only: bool, mapping: int | None) -> tuple[int, bool]:
    """A copy of the mount there with all mounts beneath it, and whether it is a directory.

    Raises:
        BuildError: it cannot be mounted, or one of those beneath it not with this map.
    """
    try:
        is_directory = path.is_dir()
        descriptor = _cloned(path, _AT_RECURSIVE, read_only, mapping)
    except OSError as error:
        hint = None
        message = f"{path} cannot be mounted: {os.strerror(error.errno or 0)}"
        if mapping is not None:
            hint = "a volume's file system must allow mapped ids: ext4, xfs, btrfs, tmpfs do"
            beneath = _mounts_beneath(path) if _allows(os.fspath(path), mapping) else []
            if bad := [one for one in beneath if not _allows(one, mapping)]:
                # not shown without them: what is written would land beneath, out of sight
                message = f"{path} cannot be mounted with what is mounted beneath it: "
                message += ", ".join(bad[:5]) + (", …" if bad[5:] else "")
                hint = "name the directories that are wanted, each by a --volume of its own"
        raise BuildError(message, hint=hint) from error
    return descriptor, is_directory


def _cloned(path: Path, recursive: int, read_only: bool, mapping: int | None) -> int:
    """Raises OSError."""
    flags = _CLONE | _TREE_CLOEXEC | recursive
    opened = (ctypes.c_long(_OPEN_TREE), _AT_FDCWD, os.fsencode(path), flags)
    descriptor = call("syscall", *opened)
    wanted = _NOSUID | _NODEV | (_RDONLY if read_only else 0)
    more = _ATTR_IDMAP if mapping is not None else 0
    # struct mount_attr: __u64 attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("QQQQ", wanted | more, 0, 0, mapping or 0)
    of = (ctypes.c_long(_MOUNT_SETATTR), descriptor, b"", _AT_EMPTY_PATH | recursive)
    try:
        call("syscall", *of, attributes, ctypes.c_size_t(len(attributes)))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _allows(path: str, mapping: int) -> bool:
    try:
        os.close(_cloned(Path(path), 0, False, mapping))
    except OSError:
        return False
    return True


def _mounts_beneath(path: Path) -> list[str]:
    """proc_pid_mountinfo(5): the fifth field is where, with blanks and the like as octal digits."""
    above = os.path.realpath(path).rstrip("/")
    lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n")[:-1]
    places = [
        re.sub(r"\\([0-7]{3})", lambda one: chr(int(one[1], 8)), line.split(" ")[4])
        for line in lines
    ]
    return sorted({one for one in places if one.startswith(f"{above}/") and one != "/"})


def _point(path: str, is_directory: bool) -> None:
    if is_directory:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# -- process 1

_NODES = ("full", "null", "random", "tty", "urandom", "zero")
_LINKS = {
    "fd": "/proc/self/fd",
    "ptmx": "pts/ptmx",
    "stderr": "/proc/self/fd/2",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
}
_COVERED = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def _first(one: Contained, tell: int, terminal: bool) -> int:
    die_with_parent()
    call("sethostname", one.hostname.encode(), len(one.hostname))
    if not one.host_network:
        _raise_loopback()
    # from now on files are the image's: no code of it may come in here, nothing is imported
    sys.meta_path.clear()
    sys.path.clear()
    _build(one)
    prctl(15, ctypes.addressof(_NAME))
    stay_closed()
    command = forked(lambda: _command(one, tell, terminal), tell)
    os.close(tell)
    return _relay(command, first=True)


_NAME = ctypes.create_string_buffer(b"init")  # PR_SET_NAME


def _raise_loopback() -> None:
    """netdevice(7): SIOCGIFFLAGS, then SIOCSIFFLAGS with IFF_UP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, 0x8913, request))[1]
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", flags | 1))


def _build(one: Contained) -> None:
    """Mount the root and all that is in it, and make it the root.

    Raises:
        BuildError: something cannot be mounted.
    """
    root = f"{STAGE}/root"
    lower = ":".join(f"{STAGE}/{number}" for number in range(1, len(one.trees) + 1))
    layers = f"lowerdir={lower},upperdir={STAGE}/0/upper,workdir={STAGE}/0/work"
    try:
        mount("overlay", root, "overlay", _NOSUID | _NODEV, f"userxattr,{layers}")
    except OSError as error:
        hint = "what is written needs a local file system: ext4, xfs, btrfs; and Linux 5.11"
        message = f"the layer cannot be mounted: {os.strerror(error.errno or 0)}"
        raise BuildError(message, place=str(one.layer), hint=hint) from error
    with Inside(root) as inside:
        proc = inside.mounted("proc", "proc", _SEALED)
        for name in _COVERED:
            with suppress(OSError):  # not on every kernel
                _bound(f"{proc}/{name}", f"{proc}/{name}", _RDONLY)
        _devices(inside)
        if not one.host_network and not one.bare:
            with suppress(OSError):  # where this machine's own /sys is covered in part
                mount("sysfs", inside.point("sys"), "sysfs", _RDONLY | _SEALED)
        for path, options in one.memory:
            inside.mounted(path, "tmpfs", _NOSUID | _NODEV, options)
        if one.secrets:
            place = inside.mounted(SECRETS, "tmpfs", _SEALED, "mode=755,size=64m")
            write_secrets(place, one.secrets)
            for file in one.secret_files:
                _own_secret(one, f"{place}/{file.name}", file)
            mount("none", place, "none", _REMOUNT | _RDONLY | _SEALED)
            for file in one.secret_files:
                if file.dest != f"/{SECRETS}/{file.name}":
                    there = inside.point(file.dest, directory=False)
                    mount(f"{place}/{file.name}", there, "none", _BIND)
        if one.network is not None:
            place = inside.point(one.resolver, directory=False)
            mount(f"{STAGE}/resolv.conf", place, "none", _BIND)
            place = inside.point(one.resolver, directory=False)  # what is mounted there
            mount("none", place, "none", _BIND | _REMOUNT | _RDONLY | _SEALED)
        for number, each in enumerate((*one.mounts, *one.volumes), len(one.trees) + 1):
            source = f"{STAGE}/{number}"
            place = inside.point(each.dest, directory=os.path.isdir(source))
            mount(source, place, "none", _BIND | _REC)
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", 2)  # MNT_DETACH
    os.chdir("/")


def _own_secret(one: Contained, path: str, file: SecretFile) -> None:
    if one.ids.several():
        os.chown(path, file.uid, file.gid)
    os.chmod(path, file.mode)


def _bound(source: str, target: str, flags: int) -> None:
    mount(source, target, "none", _BIND | _REC)
    mount("none", target, "none", _BIND | _REMOUNT | flags | _SEALED)


def _devices(inside: Inside) -> None:
    dev = inside.mounted("dev", "tmpfs", _NOSUID, "mode=755,size=1m")
    for name in _NODES:
        _point(f"{dev}/{name}", False)
        mount(f"/dev/{name}", f"{dev}/{name}", "none", _BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    flags = _NOSUID | _NOEXEC
    mount("devpts", f"{dev}/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", f"{dev}/shm", "tmpfs", flags | _NODEV, "mode=1777")


# -- the command

_ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)


def _command(one: Contained, tell: int, terminal: bool) -> int:
    """Become the command; what is wrong with it is told.

    Raises:
        UsageError: it is not there, or the working directory is not.
    """
    if terminal:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        os.tcsetpgrp(0, os.getpid())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    _own_pipes(one.uid)
    drop_capabilities()
    if one.ids.several():
        os.setgroups(list(one.groups))
        os.setresgid(one.gid, one.gid, one.gid)
        os.setresuid(one.uid, one.uid, one.uid)
    os.umask(0o022)
    for kind, soft, hard in one.rlimits:
        resource.setrlimit(kind, (soft, hard))
    if one.bare:
        call("personality", ctypes.c_ulong(_ADDR_NO_RANDOMIZE))
    try:
        os.chdir(one.cwd)
    except OSError as error:
        message = f"the working directory {one.cwd} cannot be entered: {error.strerror}"
        raise UsageError(message, hint="name another: --workdir DIR") from error
    set_filter(filter_program(os.uname().machine))
    os.closerange(3, tell)
    os.closerange(tell + 1, 1 << 16)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    problem: OSError = FileNotFoundError(2, os.strerror(2))
    for path in _places(one):
        try:
            os.execve(path, one.command, one.environment)  # noqa: S606 - there is no shell
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                problem = error
    hint = "name a command of the image behind `--`; buildit ls shows what it holds"
    message = f"{one.command[0]} cannot be started: {problem.strerror}"
    if problem.errno == errno.ENOEXEC:
        message = f"{one.command[0]} is no program that runs on {os.uname().machine}"
        hint = "run the image of this machine's platform; a script begins with `#!`"
    raise UsageError(message, hint=hint)


def _own_pipes(uid: int) -> None:
    """Give the command the pipes that it writes to: programs open /dev/stdout by its name, which
    only an owner may (runc does so too)."""
    for number in (1, 2):
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.fchown(number, uid, -1)


def _places(one: Contained) -> list[str]:
    name = one.command[0]
    if "/" in name:
        return [name]
    return [f"{place or '.'}/{name}" for place in one.environment.get("PATH", "").split(":")]


def removed(paths: Sequence[str]) -> Callable[[], None]:
    """Work for `spaces.in_namespace`: remove what containers wrote, whoever wrote it."""

    def work() -> None:
        for path in paths:
            with suppress(OSError):
                remove_tree(Path(path))

    return work
