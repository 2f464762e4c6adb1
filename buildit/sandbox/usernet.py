"""User-mode networking for a container's network: slirp4netns, outside of it, does the talking.

Nothing of the machine itself is to be reached: neither its loopback nor its own addresses, nor
link-local ones, behind which clouds keep credentials. slirp4netns refuses the first by itself; the
others are unreachable routes, and the container has no right to change a route. IPv4 alone.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import shutil
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import BuildError, UnsatisfiableError
from buildit.sandbox.inside import mount
from buildit.sandbox.jail import STAGE
from buildit.sandbox.spaces import NEWNS, call, die_with_parent

PROGRAM = "slirp4netns"
TUN = "/dev/net/tun"
LINK_LOCAL = "169.254.0.0/16"

_PATH = "/usr/bin:/usr/local/bin:/bin:/usr/sbin:/usr/local/sbin:/sbin"
_NETWORKS = ("10.0.2.0/24", "10.219.72.0/24", "172.29.219.0/24", "192.168.219.0/24")
"""Networks for the inside; the first in which this machine has no address is taken."""

_PATIENCE = 10.0
_REC, _PRIVATE, _NOSUID, _NOEXEC, _BIND = 0x4000, 1 << 18, 2, 8, 0x1000
_UP, _HOST, _REJECT, _ADD_ROUTE = 1, 4, 0x200, 0x890B  # route(8), netdevice(7)


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """A network to be: where slirp4netns is, what the addresses inside are of, and which of this
    machine's are not to be reached."""

    program: str
    network: str
    own: tuple[str, ...]

    @property
    def resolver(self) -> str:
        """The address inside that answers for names: the third of the network (slirp4netns(1))."""
        return str(ipaddress.ip_network(self.network)[3])

    def serve(self, pid: int, become: tuple[int, int] | None) -> int:
        """Start it for the network of a process, whose user it takes on; its pid.

        Raises:
            BuildError: it does not start.
        """
        ready, say = os.pipe2(os.O_CLOEXEC)
        log = os.memfd_create("slirp4netns", os.MFD_CLOEXEC)
        words = (
            *(self.program, "--configure", "--mtu=65520", "--disable-host-loopback"),
            *("--enable-sandbox", "--enable-seccomp", f"--cidr={self.network}", "--ready-fd=3"),
            *(f"--userns-path=/proc/{pid}/ns/user", str(pid), "tap0"),
        )
        try:
            child = os.fork()
            if child == 0:
                _become_slirp(words, become, say, log)
            os.close(say)
            if not _ready(ready):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                said = os.pread(log, 4096, 0).decode("utf-8", "replace").strip().splitlines()
                hint = f"{TUN} must be open to the user: chmod 0666 {TUN}, or run buildit as root"
                message = f"{PROGRAM} does not start: {said[-1] if said else 'it says nothing'}"
                raise BuildError(message, hint=hint, details=tuple(said[-5:-1]))
            return child
        finally:
            os.close(ready)
            os.close(log)

    def close_routes(self) -> None:
        """In the network, as root of its user namespace: make unreachable what is not for it.

        Raises:
            OSError: a route cannot be made.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for text in (LINK_LOCAL, *self.own):
                one = ipaddress.IPv4Network(text)
                flags = _UP | _REJECT | (_HOST if one.prefixlen == 32 else 0)
                words = (_address(str(one.network_address)), bytes(16), _address(str(one.netmask)))
                # struct rtentry, in the order and with the holes of the kernel's
                route = struct.pack("@L16s16s16sHhLPhPLLH6x", 0, *words, flags, *(0,) * 8)
                fcntl.ioctl(any_socket, _ADD_ROUTE, route)


def user_network() -> UserNetwork:
    """A network as this machine can have it.

    Raises:
        UnsatisfiableError: it lacks what it takes; the hint says what.
    """
    program = shutil.which(PROGRAM, path=_PATH)
    problem = no_user_network()
    if problem is not None or program is None:
        message, hint = problem or ("", "")
        raise UnsatisfiableError(f"there is no user-mode network here: {message}", hint=hint)
    own = tuple(local_addresses(Path("/proc/net/fib_trie").read_text("ascii")))
    taken = [ipaddress.IPv4Network(one) for one in own]
    free = (one for one in _NETWORKS if not any(map(ipaddress.IPv4Network(one).overlaps, taken)))
    return UserNetwork(program, next(free, _NETWORKS[-1]), own)


def no_user_network() -> tuple[str, str] | None:
    """What this machine lacks for user-mode networks, and what helps; None where they work."""
    if shutil.which(PROGRAM, path=_PATH) is None:
        return f"{PROGRAM} is not installed", f"apt install {PROGRAM}"
    try:
        there = stat.S_ISCHR(os.stat(TUN).st_mode)
    except OSError:
        there = False
    if not there:
        return f"{TUN} is not there", "modprobe tun; in a container, --device /dev/net/tun"
    if os.geteuid() != 0 and not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} is closed to this user", f"chmod 0666 {TUN}, as udev has it, or run as root"
    return None


_LEAF = re.compile(r"\|-- ([0-9.]+)\n((?:\s+/[0-9]+ .*\n?)*)")
_LOCAL = re.compile(r"/([0-9]+) host LOCAL")
_WIDEST = 8  # what is wider is for packets with a mark (TPROXY), and would be all of the Internet


def local_addresses(fib_trie: str) -> Iterator[str]:
    """What this machine answers for but its loopback, from the kernel's /proc/net/fib_trie: the
    addresses of all interfaces, and networks (`10.1.0.0/16`) that are routed to it as local."""
    found = dict.fromkeys(
        address if bits == "32" else f"{address}/{bits}"
        for address, kinds in _LEAF.findall(fib_trie)
        for bits in _LOCAL.findall(kinds)
        if int(bits) >= _WIDEST
    )
    return (one for one in found if not ipaddress.IPv4Network(one).is_loopback)


def _address(text: str) -> bytes:
    """struct sockaddr_in."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _ready(source: int) -> bool:
    os.set_blocking(source, False)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            return os.read(source, 1) != b""
        except BlockingIOError:
            time.sleep(0.001)
    return False


def _become_slirp(words: Sequence[str], become: tuple[int, int] | None, say: int, log: int) -> None:
    """In a child: never returns."""
    try:
        if become is not None:
            _own_tun(become)
            os.setgroups([])
            os.setresgid(become[1], become[1], become[1])
            os.setresuid(become[0], become[0], become[0])
        die_with_parent()
        say, log = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (say, log))
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for number, descriptor in enumerate((nothing, log, log, say)):
            os.dup2(descriptor, number)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(words[0], [*words], {"PATH": _PATH})  # noqa: S606 - there is no shell
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it is
        with suppress(OSError):
            os.write(log, f"{error}\n".encode())
    finally:
        os._exit(127)


def _own_tun(owner: tuple[int, int]) -> None:
    """As root, in mounts of its own: a device node that the user may open whom slirp4netns runs as,
    whatever mode the machine's has."""
    number = os.stat(TUN).st_rdev
    call("unshare", NEWNS)
    mount("none", "/", "none", _REC | _PRIVATE)
    mount("tmpfs", STAGE, "tmpfs", _NOSUID | _NOEXEC, "mode=755,size=64k")
    place = f"{STAGE}/tun"
    os.mknod(place, stat.S_IFCHR | 0o600, number)
    os.chown(place, *owner)
    mount(place, TUN, "none", _BIND)
