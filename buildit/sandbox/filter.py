"""The system call filter of every sandbox: a classic BPF program, assembled by hand.

Namespaces already hide the host. The filter takes away what is not in a namespace (kernel keys,
the kernel log, vsock, the terminal's input queue) and the kernel interfaces that no build needs
and attackers like (THREATS.md, E1-E3). See seccomp(2), linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from buildit.errors import BuildError

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # low halves of the arguments: both are little-endian
_LOAD, _JEQ, _JGE, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_X32 = 0x40000000  # the bit of x32's numbers, which would pass by a list of x86_64's

_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK; no vsock, packet, alg …
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

# Of every call the numbers on x86_64 and on aarch64; since 424 they are the same.
_ABSENT = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
}  # fmt: skip
_REFUSED = {
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


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers of one architecture: `absent` answer ENOSYS, `refused` answer EPERM."""

    audit: int
    socket: int
    ioctl: int
    absent: dict[str, int]
    refused: dict[str, int]


def _of(place: int, calls: Mapping[str, tuple[int | None, ...]]) -> dict[str, int]:
    return {name: number for name, both in calls.items() if (number := both[place]) is not None}


FILTERED = {
    "x86_64": _Numbers(0xC000003E, 41, 16, _of(0, _ABSENT), _of(0, _REFUSED)),
    "aarch64": _Numbers(0xC00000B7, 198, 29, _of(1, _ABSENT), _of(1, _REFUSED)),
}


def filter_program(machine: str) -> bytes:
    """The filter for a machine (`os.uname().machine`) as bubblewrap's `--seccomp` reads it.

    Programs of the machine's other architectures (i386, x32, arm) find no system call at all.

    Raises:
        BuildError: no filter is known for this machine.
    """
    numbers = FILTERED.get(machine)
    if numbers is None:
        hint = f"build on one of: {', '.join(sorted(FILTERED))}"
        raise BuildError(f"sandboxes are not known for the machine {machine!r}", hint=hint)
    refused, absent = _answer(errno.EPERM), _answer(errno.ENOSYS)
    code = [_op(_LOAD, _ARCH), _op(_JEQ, numbers.audit, 1, 0), absent]
    code += [_op(_LOAD, _NR), _op(_JGE, _X32, 0, 1), absent]
    for listed, answer in ((numbers.absent, absent), (numbers.refused, refused)):
        for number in sorted(listed.values()):
            code += [_op(_JEQ, number, 0, 1), answer]
    request = [word for one in _TERMINAL for word in (_op(_JEQ, one, 0, 1), refused)]
    family = [word for one in _FAMILIES for word in (_op(_JEQ, one, 0, 1), _op(_RETURN, _ALLOW))]
    requests = [_op(_LOAD, _ARG1), *request, _op(_RETURN, _ALLOW)]
    families = [_op(_LOAD, _ARG0), *family, _answer(errno.EAFNOSUPPORT)]
    for number, rules in ((numbers.ioctl, requests), (numbers.socket, families)):
        code += [_op(_JEQ, number, 0, len(rules)), *rules]
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _answer(code: int) -> bytes:
    return _op(_RETURN, _ERRNO | code)


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`: code, jumps relative to the next instruction, constant."""
    return struct.pack("<HBBI", code, yes, no, value)
