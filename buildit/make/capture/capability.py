"""File capabilities as the extended attribute that carries them (capabilities(7), vfs_cap_data)."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from buildit.errors import RecipeError

CAPABILITY_XATTR = "security.capability"

_REVISION_2 = 0x02000000  # linux/capability.h: VFS_CAP_REVISION_2
_EFFECTIVE = 0x000001
_CLAUSE = re.compile(r"([a-z_]+(?:,[a-z_]+)*)(?:[=+]([eip]+))?")
_NAMES = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
    sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time
    sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog
    wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""
_BITS = {f"cap_{name}": 1 << bit for bit, name in enumerate(_NAMES.split())}


def encoded_capabilities(clauses: Sequence[str], *, place: str) -> bytes:
    """`security.capability`, 20 bytes, from clauses such as `cap_net_bind_service=ep`.

    A clause without flags means `=ep`. The kernel knows one effective bit for all.

    Raises:
        RecipeError: an unknown capability, or flags that the attribute cannot hold.
    """
    permitted = inheritable = effective = 0
    for clause in clauses:
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise RecipeError(
                f"malformed capabilities {clause!r}",
                place=place,
                hint="write cap_net_bind_service=ep",
            )
        names, flags = match[1].split(","), match[2] or "ep"
        unknown = next((name for name in names if name not in _BITS), None)
        if unknown is not None:
            raise RecipeError(
                f"unknown capability {unknown!r}", place=place, hint="capabilities(7) lists them"
            )
        bits = sum({_BITS[name] for name in names})
        permitted |= bits * ("p" in flags)
        inheritable |= bits * ("i" in flags)
        effective |= bits * ("e" in flags)
    if effective not in (0, permitted | inheritable):
        raise RecipeError(
            f"capabilities {' '.join(clauses)!r} are effective in part only",
            place=place,
            hint="the kernel keeps one effective bit: give all of them `e`, or none",
        )
    low = (1 << 32) - 1
    return struct.pack(
        "<IIIII",
        _REVISION_2 | (_EFFECTIVE if effective else 0),
        permitted & low,
        inheritable & low,
        permitted >> 32,
        inheritable >> 32,
    )
