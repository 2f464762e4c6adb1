"""One sandbox: what it is, as a value, the command lines that it becomes, and its processes.

The outer stage mounts in a user, mount and pid namespace, bubblewrap isolates inside it. It exists
because bubblewrap 0.8 has no overlay option, and because the paths above a store may be closed to
the build user: bubblewrap only ever sees paths below `STAGE`.

The chain of processes, each forking or becoming the next: `env` (every signal to its default
action, none blocked); started by root, `setpriv`, which makes it `HOST_ID` without groups or
capabilities; `setarch -R`; `unshare` (outer user, mount and pid namespace); a shell as the outer
process 1, which mounts and sets limits; bubblewrap; the command. Bubblewrap is process 1 of the
inside, where a build can read its environment and working directory: the one is fixed, the other
is `/`, so neither tells where the store is.

Process 1 keeps a watcher that reads the *lifeline*, a socket pair whose other end only buildit
holds. When that end closes, because buildit closes it or because it was killed in whatever way at
whatever moment, the watcher kills everything in the namespace; when process 1 ends, the kernel
does. PR_SET_PDEATHSIG alone would leave gaps between fork and prctl, and is cleared by a change of
uid. The same socket carries the word to begin, and bubblewrap's report.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.errors import BuildError, IntegrityError
from buildit.store.disk import HOST_ID, host_owner

STAGE = "/tmp"  # noqa: S108  a mount point that every host has
"""Where the outer namespace has a small tmpfs of its own: `work` (the work directory), `root` (the
merged root), `skeleton` (mount points that trees may lack), `filter`. Nothing of it is on disk."""

UID = 1000
"""User and group id inside, whoever runs buildit."""

FILTER_FD = 8
STATUS_FD = 9
_PAGE = 4096  # mount(2) copies one page of options, the closing NUL included
_TREE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")
_PLAIN = re.compile(r"(?:/[A-Za-z0-9._+~@%-]+)+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the work directory that is seen inside.

    `source` is relative to the work directory and crosses no symbolic link; `dest` is absolute.
    """

    source: str
    dest: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Jail:
    """One sandbox: its merged root, what is bound into it and its whole environment.

    `lowers` are names of trees, relative to the directory of trees: the top first, the toolchain
    last. `env` is total, except that bubblewrap adds `PWD`, equal to `cwd`. `tmp_bytes` bounds
    /tmp and /dev/shm, each. `emulator` is what binfmt_misc is told of a program that runs those of
    another architecture, relative to the directory of trees; empty where all runs by itself.

    Raises:
        BuildError: a path, a tree's name or a variable cannot be given to the kernel as it is.
    """

    lowers: tuple[str, ...]
    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    cwd: str
    hostname: str = "buildit"
    tmp_bytes: int = 2 << 30
    emulator: str = ""

    def __post_init__(self) -> None:
        if not self.lowers:
            raise BuildError("a sandbox needs at least one tree as its root")
        for lower in self.lowers:
            if _TREE.fullmatch(lower) is None:
                raise BuildError(f"not the name of a tree: {lower!r}")
        for path in (bind.source for bind in self.binds):
            if "\0" in path or {"", ".", ".."} & set(path.split("/")):
                hint = "relative, without '.' and '..'"
                raise BuildError(f"not a path inside the work directory: {path!r}", hint=hint)
        for path in (self.cwd, *(bind.dest for bind in self.binds)):
            if _PLAIN.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
                hint = "absolute, without '.' and '..', of letters, digits and . _ + ~ @ % -"
                raise BuildError(f"not a path for the inside of a sandbox: {path!r}", hint=hint)
        for name, value in self.env.items():
            if _VARIABLE.fullmatch(name) is None or "\0" in value:
                raise BuildError(f"not an environment variable: {name!r}")


def overlays(lowers: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The overlays to mount, in order: (name below `STAGE`, its options).

    One, as long as the names fit a page; else groups of trees and an overlay of the groups (the
    kernel stacks two deep). The last one is `root`, with the skeleton of mount points at its
    bottom.

    Raises:
        BuildError: even the groups do not fit a page (some thousands of trees).
    """
    bottom = f"{STAGE}/skeleton"
    whole = _options(*lowers, bottom)
    if len(whole) < _PAGE:
        return (("root", whole),)
    groups: list[list[str]] = [[]]
    for lower in lowers:
        if len(_options(*groups[-1], lower)) >= _PAGE:
            groups.append([])
        groups[-1].append(lower)
    named = {f"g{number}": group for number, group in enumerate(groups)}
    tops = (f"{STAGE}/{name}" if len(group) > 1 else group[0] for name, group in named.items())
    top = _options(*tops, bottom)
    if len(top) >= _PAGE:
        hint = "merge some of the dependencies into one tree first"
        raise BuildError(f"{len(lowers)} trees are more than one overlay can hold", hint=hint)
    below = ((name, _options(*group)) for name, group in named.items() if len(group) > 1)
    return (*below, ("root", top))


def _options(*lowers: str) -> str:
    # xino: one st_dev and stable inode numbers although the skeleton is on another file system
    return f"ro,xino=on,lowerdir={':'.join(lowers)}"


def bwrap_argv(jail: Jail, command: Sequence[str], *, terminal: bool = False) -> list[str]:
    """The bubblewrap command line of a build: no terminal, no input; or on the caller's terminal.

    The caller opens `FILTER_FD` on the system call filter and `STATUS_FD` for bubblewrap's report.
    Without a session of its own a program could push input into the terminal (CVE-2017-5226);
    there the filter is what refuses TIOCSTI and TIOCLINUX, so job control works.
    """
    # --unshare-all alone takes the user and cgroup namespaces only where it can: ask for both
    argv = ["bwrap", *(() if terminal else ("--new-session",))]
    argv += ["--unshare-all", "--unshare-user", "--unshare-cgroup", "--disable-userns"]
    argv += ["--die-with-parent", "--cap-drop", "ALL", "--uid", str(UID), "--gid", str(UID)]
    argv += ["--hostname", jail.hostname, "--clearenv"]
    argv += ["--seccomp", str(FILTER_FD), "--json-status-fd", str(STATUS_FD)]
    size = ("--perms", "1777", "--size", str(jail.tmp_bytes), "--tmpfs")
    argv += ["--ro-bind", f"{STAGE}/root", "/", "--proc", "/proc", "--dev", "/dev"]
    argv += [*size, "/dev/shm", "--remount-ro", "/dev", *size, "/tmp"]  # noqa: S108
    for bind in jail.binds:
        how = "--bind" if bind.writable else "--ro-bind"
        argv += [how, f"{STAGE}/work/{bind.source}", bind.dest]
    for name, value in sorted(jail.env.items()):
        argv += ["--setenv", name, value]
    return [*argv, "--chdir", jail.cwd, "--", *command]


# -- what is started, and ended whatever happens

PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of the chain are looked for; the caller's PATH has no say."""

GRACE = 10.0
"""Seconds that killed processes get to disappear."""

ENVIRONMENT = {
    "PATH": PROGRAM_PATH,
    "LC_ALL": "C",
    "LIBMOUNT_FORCE_MOUNT2": "always",  # fsconfig(2) takes 256 bytes a value, mount(2) a page
}

BINFMT = "/proc/sys/fs/binfmt_misc"
"""Where a user namespace can have its own table of interpreters, since Linux 6.7; it holds for the
namespaces below, and nothing of it is seen from outside."""

# $1 work directory, $2 trees, $3 limit on processes, $4 filter, $5 directories and $6 files of the
# skeleton (plain words, see `Jail`), $7 an emulator's registration; then pairs for ulimit, --,
# pairs of overlay and options, --, bubblewrap. The limit on processes is set in here so that it
# counts this sandbox, not the user.
# cd has left OLDPWD and PWD, a shell may add `_`: bubblewrap gets none of them
_SAID = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
_STAGE = f"""\
exec 3<&0 <INPUT
echo ready >&3
set -f
mount -n -c -t tmpfs -o mode=755,size=4m tmpfs {STAGE} || exit 125
(cd {STAGE} && mkdir -p work root $5 && for file in $6; do : >"$file" || exit; done) || exit 125
printf "$4" >{STAGE}/filter || exit 125
mount -n -c --rbind "$1" {STAGE}/work || exit 125
cd -P "$2" || exit 125
if [ "$7" ]; then
  mount -n -c -t binfmt_misc binfmt_misc {BINFMT} || exit 125
  printf %s "$7" >{BINFMT}/register || exit 125
fi
ulimit -u "$3" 2>/dev/null || ulimit -p "$3" || exit 125
shift 7
while [ "$1" != -- ]; do ulimit "-$1" "$2" || exit 125; shift 2; done
shift
while [ "$1" != -- ]; do
  [ -d "{STAGE}/$1" ] || mkdir "{STAGE}/$1" || exit 125
  mount -n -c -t overlay -o "$2" overlay "{STAGE}/$1" || exit 125
  shift 2
done
shift
cd / || exit 125
read -r go memory <&3 || exit 125
[ "$memory" = - ] || ulimit -v "$memory" || exit 125
{{ while read -r _; do :; done; while :; do kill -s KILL -- -1; done; }} <&3 2>/dev/null &
env -i {_SAID} "$@" {STATUS_FD}>&3 3<&- {FILTER_FD}<{STAGE}/filter
exit
"""


_EXIT = re.compile(rb'"exit-code": *(\d+)')


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run lies on the host: `common` is the nearest directory above both."""

    common: Path
    work: str
    trees: str


def prepare_places(jail: Jail, work: Path, trees: Path) -> Places:
    """Look at what the sandbox is made of, and let the build user in.

    Started by root, `work` itself and what stands at the top of each writable bind become the
    build user's; what lies deeper must be so already (`host_owner`).

    Raises:
        BuildError: a tree or a bind is missing or unsafe, or closed to the build user.
    """
    for lower in jail.lowers:
        if not (trees / lower).is_dir():
            hint = "buildit store verify"
            raise BuildError(f"no such tree: {lower}", place=str(trees), hint=hint)
    real = work.resolve(), trees.resolve()
    common = Path(os.path.commonpath(real))
    places = Places(common, *(f"./{one.relative_to(common)}" for one in real))
    owner = host_owner()
    try:
        with Root.open(work) as root:
            for bind in jail.binds:
                _check_bind(bind, root, work)
                if owner is not None and bind.writable:
                    root.chown(bind.source, *owner)
        if owner is not None:
            os.chown(work, *owner)
            _check_reachable(places)
    except (IntegrityError, OSError) as error:
        text = f"the sandbox cannot use its work directory: {error}"
        raise BuildError(text, place=str(work)) from error
    return places


def _check_bind(bind: Bind, root: Root, work: Path) -> None:
    try:
        kind = stat.S_IFMT(root.lstat(bind.source).st_mode)
    except FileNotFoundError:
        text = f"nothing to bind at {bind.dest}: {bind.source} does not exist"
        raise BuildError(text, place=str(work)) from None
    if kind not in {stat.S_IFDIR, stat.S_IFREG}:  # bubblewrap would follow a link
        text = f"cannot bind {bind.source} at {bind.dest}: neither a directory nor a file"
        raise BuildError(text, place=str(work), hint="a symbolic link is never followed")


def _check_reachable(places: Places) -> None:
    for start in (places.work, places.trees):
        path = places.common / start
        for directory in (path, *path.parents):
            state = directory.stat()
            if not state.st_mode & 0o001 and state.st_uid != HOST_ID:
                text = f"builds started by root run as uid {HOST_ID}, which may not enter it"
                raise BuildError(text, place=str(directory), hint=f"chmod o+x {directory}")
            if directory == places.common:
                break


def chain(
    jail: Jail, command: Sequence[str], places: Places, ulimits: Sequence[str], terminal: bool
) -> tuple[str, ...]:
    """The command line of a whole chain; without input, or on the caller's terminal.

    `ulimits` are the number of processes, then pairs for `ulimit`.
    """
    processes, *limits = ulimits
    work = places.common / places.work
    plain = {bind.dest[1:] for bind in jail.binds if (work / bind.source).is_file()}
    # what the root must have; the skeleton supplies what trees lack
    points = {"dev", "proc", "tmp", jail.cwd[1:], *(bind.dest[1:] for bind in jail.binds)}
    directories = {*points, *map(os.path.dirname, plain)} - plain - {""}
    mounts = [word for pair in overlays(jail.lowers) for word in pair]
    # /proc has to be of the new pid namespace: bubblewrap opens /proc/PID/ns of its child
    # subprocess leaves what the caller ignores (nohup, `trap ''`) or blocks as it is, and a shell
    # may not undo it (POSIX, 2.11 Signals); `env --default-signal` does both, for every signal
    argv = ["env", "--default-signal", *drop_root(), "setarch", "-R"]
    argv += ["unshare", "--user", "--map-root-user", "--mount-proc", "--pid", "--fork"]
    script = _STAGE.replace("INPUT", "&1" if terminal else "/dev/null")
    argv += ["sh", "-c", script, "buildit-stage", places.work, places.trees, processes]
    argv.append(_filter_words())
    for paths in (directories, plain):
        argv.append(" ".join(f"skeleton/{path}" for path in sorted(paths)))
    argv.append(jail.emulator)
    bwrap = bwrap_argv(jail, command, terminal=terminal)
    return (*argv, *limits, "--", *mounts, "--", *bwrap)


def drop_root() -> tuple[str, ...]:
    """What makes root the user that builds run as.

    Not subprocess, which then cannot vfork(2): copying page tables costs milliseconds.
    """
    if (owner := host_owner()) is None:
        return ()
    return ("setpriv", f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups")


@cache
def _filter_words() -> str:
    """The filter as the shell's printf takes bytes in its format, NUL included."""
    return "".join(f"\\{byte:03o}" for byte in filter_program(os.uname().machine))


@dataclass(slots=True)
class Lifeline:
    """A started chain: its first process, and the socket that keeps it alive."""

    process: subprocess.Popen[bytes]
    _socket: socket.socket
    status: int | None = None
    """The command's exit status as bubblewrap reported it, once the chain has ended by itself."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> int | None:
        """The process 1 of the outer namespace as seen from here, or None: it died at once.

        Raises:
            OSError: the kernel does not tell (no CONFIG_PROC_CHILDREN).
            BuildError: it does neither.
        """
        self._socket.settimeout(3 * GRACE)
        try:
            if not self._socket.recv(len(b"ready\n"), socket.MSG_WAITALL):
                return None
        except TimeoutError:
            raise undead(self.process.pid) from None
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return int(children[0]) if children else None

    def begin(self, memory_bytes: int | None) -> None:
        """Let it go on; `memory_bytes` bounds each process's address space."""
        kilobytes = "-" if memory_bytes is None else str(memory_bytes >> 10)
        with contextlib.suppress(ConnectionError):  # it died at once: its log says why
            self._socket.sendall(f"go {kilobytes}\n".encode())

    def cut(self) -> None:
        """Have everything killed; may be called again."""
        if self._socket.fileno() >= 0:
            # what bubblewrap has written by now, as `--json-status-fd` does: a JSON value a line
            self._socket.setblocking(False)
            text = b""
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while data := self._socket.recv(4096):
                    text += data
            found = _EXIT.search(text)
            self.status = int(found[1]) if found else None
            self._socket.close()


@contextlib.contextmanager
def started(argv: Sequence[str], cwd: Path, output: int, *, session: bool) -> Iterator[Lifeline]:
    """Start the chain, waiting for `begin`; at the end it is cut and gone.

    `cwd` is entered as the caller, since the paths above may be closed to the build user. `output`
    is the descriptor that it writes to; `session` takes it off the terminal.

    Raises:
        BuildError: the first process cannot be started, or killed processes do not end.
    """
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=ENVIRONMENT,
            umask=0o022,
            start_new_session=session,
        )
    except OSError as problem:
        ours.close()
        raise BuildError(f"the sandbox cannot be started: {problem}") from problem
    finally:
        theirs.close()
    life = Lifeline(process, ours)
    try:
        yield life
    finally:
        life.cut()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            raise undead(process.pid) from None


def undead(pid: int) -> BuildError:
    hint = f"look at process {pid} and its children: ps -o pid,stat,wchan,args -g {pid}"
    return BuildError(f"killed processes of the build did not end within {GRACE:.0f} s", hint=hint)


# -- the system call filter of every sandbox: a classic BPF program, assembled by hand
#
# Namespaces already hide the host. The filter takes away what is not in a namespace (kernel keys,
# the kernel log, vsock, the terminal's input queue) and the kernel interfaces that no build needs
# and attackers like (THREATS.md, E1-E3). See seccomp(2), linux/filter.h, linux/audit.h.

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # low halves of the arguments: both are little-endian
_LOAD, _JEQ, _JGE, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_X32 = 0x40000000  # the bit of x32's numbers, which would pass by a list of x86_64's

_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK; no vsock, packet, alg …
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

# Of every call the numbers on x86_64 and on aarch64; since 424 they are the same.
ABSENT: Mapping[str, tuple[int, int]] = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
}  # fmt: skip
REFUSED: Mapping[str, tuple[int, int | None]] = {
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "setns": (308, 268),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "open_by_handle_at": (304, 265),
    "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip


# its AUDIT_ARCH, the numbers of socket and ioctl, and its place in the lists
FILTERED = {"x86_64": (0xC000003E, 41, 16, 0), "aarch64": (0xC00000B7, 198, 29, 1)}


def filter_program(machine: str) -> bytes:
    """The filter for a machine (`os.uname().machine`) as bubblewrap's `--seccomp` reads it.

    Programs of the machine's other architectures (i386, x32, arm) find no system call at all.

    Raises:
        BuildError: no filter is known for this machine.
    """
    if machine not in FILTERED:
        hint = f"build on one of: {', '.join(sorted(FILTERED))}"
        raise BuildError(f"sandboxes are not known for the machine {machine!r}", hint=hint)
    audit, socket_number, ioctl_number, place = FILTERED[machine]
    refused, absent = _answer(errno.EPERM), _answer(errno.ENOSYS)
    code = [_op(_LOAD, _ARCH), _op(_JEQ, audit, 1, 0), absent]
    code += [_op(_LOAD, _NR), _op(_JGE, _X32, 0, 1), absent]
    for listed, answer in ((ABSENT, absent), (REFUSED, refused)):
        for number in sorted(filter(None, (numbers[place] for numbers in listed.values()))):
            code += [_op(_JEQ, number, 0, 1), answer]
    request = [word for one in _TERMINAL for word in (_op(_JEQ, one, 0, 1), refused)]
    family = [word for one in _FAMILIES for word in (_op(_JEQ, one, 0, 1), _op(_RETURN, _ALLOW))]
    requests = [_op(_LOAD, _ARG1), *request, _op(_RETURN, _ALLOW)]
    families = [_op(_LOAD, _ARG0), *family, _answer(errno.EAFNOSUPPORT)]
    for number, rules in ((ioctl_number, requests), (socket_number, families)):
        code += [_op(_JEQ, number, 0, len(rules)), *rules]
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _answer(code: int) -> bytes:
    return _op(_RETURN, _ERRNO | code)


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`: code, jumps relative to the next instruction, constant."""
    return struct.pack("<HBBI", code, yes, no, value)
