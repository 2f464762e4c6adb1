"""Start the processes of a sandbox, and end them whatever happens.

The chain, each forking or becoming the next: a shell that sets limits and waits for the word to
begin; `setarch -R`; `unshare` (outer user, mount and pid namespace); a shell as the outer process
1, which mounts; bubblewrap; the command. Process 1 keeps a watcher that reads the *lifeline*, a
pipe whose one writing end is buildit's. When that end closes, because buildit closes it or because
it was killed in whatever way at whatever moment, the watcher kills everything in the namespace;
when process 1 ends, the kernel does. PR_SET_PDEATHSIG alone would leave gaps between fork and
prctl, and is cleared by a change of uid.

Started by root, the first process already runs as `HOST_ID` without groups or capabilities.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.build.jail import (
    FILTER_FD,
    PRIVATE,
    STAGE,
    STATUS_FD,
    Bind,
    Jail,
    mount_points,
    overlays,
)
from buildit.build.launch_filter import filter_program
from buildit.errors import BuildError, IntegrityError

HOST_ID = 65529
"""Host uid and gid of builds that root starts: in 65520-65533, which neither Debian's policy
(9.2.2) nor systemd's dynamic users (61184-65519) give to anybody."""

PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of the chain are looked for; the caller's PATH has no say."""

GRACE = 10.0
"""Seconds that killed processes get to disappear."""

_ENVIRONMENT = {
    "PATH": PROGRAM_PATH,
    "LC_ALL": "C",
    "LIBMOUNT_FORCE_MOUNT2": "always",  # fsconfig(2) takes 256 bytes a value, mount(2) a page
}

# $1 … --: limits; the rest is executed. Reads "go MEMORY": the process is in its group by then.
_GATE = """\
read -r go memory || exit 125
[ "$memory" = - ] || ulimit -v "$memory" || exit 125
while [ "$1" != -- ]; do ulimit "-$1" "$2" || exit 125; shift 2; done
shift
exec "$@"
"""

# $1: work directory, $2: trees, $3: processes, then pairs of overlay and lowerdir up to --.
# The limit on processes is set in here, so that it counts this sandbox and not the user.
_STAGE = """\
exec 3<&0 <INPUT
{ while read -r _; do :; done; while :; do kill -s KILL -- -1; done; } <&3 2>/dev/null &
mount -n -c --rbind "$1" TMP || exit 125
cd -P "$2" || exit 125
ulimit -u "$3" 2>/dev/null || ulimit -p "$3" || exit 125
shift 3
while [ "$1" != -- ]; do
  mount -n -c -t overlay -o "ro,lowerdir=$2" overlay "TMP/PRIVATE/$1" || exit 125
  shift 2
done
shift
"$@" 3<&- FILTER<TMP/PRIVATE/filter STATUS>TMP/PRIVATE/status
exit
"""


def _stage(source: str) -> str:
    places = {"INPUT": source, "TMP": STAGE, "PRIVATE": PRIVATE}
    places |= {"FILTER": str(FILTER_FD), "STATUS": str(STATUS_FD)}
    text = _STAGE
    for name, value in places.items():
        text = text.replace(name, value)
    return text


QUIET = _stage("/dev/null")
TERMINAL = _stage("&1")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run lies on the host: `common` is the nearest directory above both."""

    common: Path
    work: str
    trees: str

    @classmethod
    def of(cls, work: Path, trees: Path) -> Places:
        work, trees = work.resolve(), trees.resolve()
        common = Path(os.path.commonpath((work, trees)))
        return cls(common, f"./{work.relative_to(common)}", f"./{trees.relative_to(common)}")


def host_owner() -> tuple[int, int] | None:
    """uid and gid that files of a build must have on the host; None: the caller's own will do.

    Root of a user namespace that has no such uid is nobody special, and keeps its own.
    """
    if os.geteuid() != 0 or not has_uid(Path("/proc/self/uid_map").read_text(), HOST_ID):
        return None
    return (HOST_ID, HOST_ID)


def has_uid(uid_map: str, uid: int) -> bool:
    """Whether a user namespace has the uid (user_namespaces(7): lines of first, outside, count)."""
    rows = (map(int, line.split()) for line in uid_map.splitlines())
    return any(first <= uid < first + count for first, _, count in rows)


@contextlib.contextmanager
def prepared(jail: Jail, work: Path, trees: Path) -> Iterator[Places]:
    """The sandbox's private directory below `work`, removed at the end.

    Started by root, `work` itself and what stands at the top of each writable bind become the
    build user's; what lies deeper must be so already (`host_owner`).

    Raises:
        BuildError: a tree or a bind is missing or unsafe, or closed to the build user.
    """
    places = Places.of(work, trees)
    _check_trees(jail, trees)
    try:
        with Root.open(work) as root:
            _remove_private(root)
            _own(jail, root, work)
            _check_reachable(places)
            _make_private(jail, root)
            try:
                yield places
            finally:
                _remove_private(root)
    except (IntegrityError, OSError) as error:
        raise BuildError(
            f"the sandbox cannot use its work directory: {error}", place=str(work)
        ) from error


def _check_trees(jail: Jail, trees: Path) -> None:
    for lower in jail.lowers:
        if not (trees / lower).is_dir():
            raise BuildError(
                f"no such tree: {lower}",
                place=str(trees),
                hint="buildit store verify",
            )


def _own(jail: Jail, root: Root, work: Path) -> None:
    owner = host_owner()
    for bind in jail.binds:
        _check_bind(bind, root, work)
        if owner is not None and bind.writable:
            root.chown(bind.source, *owner)
    if owner is not None:
        os.chown(work, *owner)


def _check_bind(bind: Bind, root: Root, work: Path) -> None:
    try:
        kind = stat.S_IFMT(root.lstat(bind.source).st_mode)
    except FileNotFoundError:
        raise BuildError(
            f"nothing to bind at {bind.dest}: {bind.source} does not exist", place=str(work)
        ) from None
    if kind not in {stat.S_IFDIR, stat.S_IFREG}:  # bubblewrap would follow a link
        raise BuildError(
            f"cannot bind {bind.source} at {bind.dest}: neither a directory nor a file",
            place=str(work),
            hint="a symbolic link is never followed",
        )


def _check_reachable(places: Places) -> None:
    if host_owner() is None:
        return
    for start in (places.work, places.trees):
        path = places.common / start
        for directory in (path, *path.parents):
            state = directory.stat()
            if not state.st_mode & 0o001 and state.st_uid != HOST_ID:
                raise BuildError(
                    f"builds started by root run as uid {HOST_ID}, which may not enter it",
                    place=str(directory),
                    hint=f"chmod o+x {directory}",
                )
            if directory == places.common:
                break


def _make_private(jail: Jail, root: Root) -> None:
    skeleton = f"{PRIVATE}/skeleton"
    _make(root, PRIVATE)
    _make(root, skeleton)
    kinds = {bind.dest[1:]: root.lstat(bind.source).st_mode for bind in jail.binds}
    for point in mount_points(jail):
        _make_point(root, skeleton, point, stat.S_ISDIR(kinds.get(point, stat.S_IFDIR)))
    for name, _ in overlays(jail.lowers):
        _make(root, f"{PRIVATE}/{name}")
    _put(root, f"{PRIVATE}/filter", filter_program(os.uname().machine))
    _put(root, f"{PRIVATE}/status", b"")
    owner = host_owner()
    if owner is not None:
        root.chown(f"{PRIVATE}/status", *owner)


def _make_point(root: Root, skeleton: str, point: str, directory: bool) -> None:
    parts = point.split("/")
    above = parts if directory else parts[:-1]
    for count in range(1, len(above) + 1):
        with contextlib.suppress(FileExistsError):
            _make(root, f"{skeleton}/{'/'.join(above[:count])}")
    if not directory:
        with contextlib.suppress(FileExistsError):
            _put(root, f"{skeleton}/{point}", b"")


def _make(root: Root, path: str) -> None:
    root.mkdir(path, 0o700)
    root.chmod(path, 0o755)  # the umask is the caller's


def _put(root: Root, path: str, data: bytes) -> None:
    fd = root.create(path, 0o644)
    with open(fd, "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), 0o644)


def _remove_private(root: Root) -> None:
    try:
        root.lstat(PRIVATE)
    except FileNotFoundError:
        return
    _remove(root, PRIVATE)


def _remove(root: Root, path: str) -> None:
    if not stat.S_ISDIR(root.lstat(path).st_mode):
        root.unlink(path)
        return
    for name in root.listdir(path):
        _remove(root, f"{path}/{name}")
    root.rmdir(path)


@dataclass(frozen=True, slots=True)
class Chain:
    """The command line of a whole chain: everything that `start` needs to know of a run."""

    argv: tuple[str, ...]
    places: Places


def chain(
    jail: Jail, places: Places, bwrap: Sequence[str], *, script: str, words: Sequence[str]
) -> Chain:
    """`bwrap` is bubblewrap's argv, `script` QUIET or TERMINAL.

    `words` are the number of processes, then pairs for `ulimit`.
    """
    processes, *limits = words
    mounts = [word for pair in overlays(jail.lowers) for word in pair]
    argv = ["sh", "-c", _GATE, "buildit-gate", *limits, "--", "setarch", "-R"]
    # /proc has to be of the new pid namespace: bubblewrap opens /proc/PID/ns of its child
    argv += ["unshare", "--user", "--map-root-user", "--mount-proc", "--pid", "--fork"]
    argv += ["sh", "-c", script, "buildit-stage", places.work, places.trees, processes]
    return Chain((*argv, *mounts, "--", *bwrap), places)


@dataclass(slots=True)
class Lifeline:
    """A started chain: its first process, and the pipe that keeps it alive."""

    process: subprocess.Popen[bytes]
    _fd: int

    def begin(self, memory_bytes: int | None) -> None:
        """Let it go on; `memory_bytes` bounds each process's address space."""
        kilobytes = "-" if memory_bytes is None else str(memory_bytes >> 10)
        with contextlib.suppress(BrokenPipeError):  # it died at once: its log says why
            os.write(self._fd, f"go {kilobytes}\n".encode())

    def cut(self) -> None:
        """Have everything killed; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def started(line: Chain, output: int, *, session: bool) -> Iterator[Lifeline]:
    """Start the chain, waiting for `begin`; at the end it is cut and gone.

    `output` is the descriptor that it writes to; `session` takes it off the terminal.

    Raises:
        BuildError: the first process cannot be started, or killed processes do not end.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        process = _popen(line, read_end, output, session=session)
    except OSError as problem:
        os.close(write_end)
        raise BuildError(f"the sandbox cannot be started: {problem}") from problem
    finally:
        os.close(read_end)
    life = Lifeline(process, write_end)
    try:
        yield life
    finally:
        life.cut()
        _reap(process)


def _popen(line: Chain, source: int, output: int, *, session: bool) -> subprocess.Popen[bytes]:
    uid, gid = host_owner() or (None, None)
    return subprocess.Popen(
        line.argv,
        stdin=source,
        stdout=output,
        stderr=output,
        cwd=line.places.common,  # entered before the uid is dropped: the paths above may be closed
        env=_ENVIRONMENT,
        umask=0o022,
        start_new_session=session,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else [],
    )


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        raise undead(process.pid) from None


def undead(pid: int) -> BuildError:
    return BuildError(
        f"killed processes of the build did not end within {GRACE:.0f} s",
        hint=f"look at process {pid} and its children: ps -o pid,stat,wchan,args -g {pid}",
    )
