"""Who owns on the host what builds see: so that inside the sandbox it is always uid 1000."""

from __future__ import annotations

import os
from pathlib import Path

HOST_ID = 65529
"""Host uid and gid of builds that root starts: in 65520-65533, which neither Debian's policy
(9.2.2) nor systemd's dynamic users (61184-65519) give to anybody."""


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


def hand_over(tree: Path) -> None:
    """Give a whole tree, its links too, to the build user; a build sees one owner everywhere.

    Builds only ever see it through a read-only mount.

    Raises:
        OSError: an owner cannot be changed.
    """
    owner = host_owner()
    if owner is None:
        return
    for _, directories, files, fd in os.fwalk(tree):
        for name in (*directories, *files):
            os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
    os.chown(tree, *owner)
