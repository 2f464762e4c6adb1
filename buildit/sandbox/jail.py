"""What one sandbox is, as a value, and the command lines that it becomes; no I/O here.

The launcher (`sandbox.launch`) mounts in an outer user, mount and pid namespace, bubblewrap
isolates inside it. The outer stage exists because bubblewrap 0.8 has no overlay option, and because
the paths above a store may be closed to the build user: bubblewrap only ever sees paths below
`STAGE`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buildit.errors import BuildError

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
    /tmp and /dev/shm, each.

    Raises:
        BuildError: a path, a tree's name or a variable cannot be given to the kernel as it is.
    """

    lowers: tuple[str, ...]
    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    cwd: str
    hostname: str = "buildit"
    tmp_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if not self.lowers:
            raise BuildError("a sandbox needs at least one tree as its root")
        for lower in self.lowers:
            if _TREE.fullmatch(lower) is None:
                raise BuildError(f"not the name of a tree: {lower!r}")
        for bind in self.binds:
            _check_source(bind.source)
            _check_inside(bind.dest)
        _check_inside(self.cwd)
        for name, value in self.env.items():
            if _VARIABLE.fullmatch(name) is None or "\0" in value:
                raise BuildError(f"not an environment variable: {name!r}")


def _check_source(path: str) -> None:
    if "\0" in path or not all(part not in {"", ".", ".."} for part in path.split("/")):
        raise BuildError(
            f"not a path inside the work directory: {path!r}", hint="relative, without '.' and '..'"
        )


def _check_inside(path: str) -> None:
    if _PLAIN.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
        raise BuildError(
            f"not a path for the inside of a sandbox: {path!r}",
            hint="absolute, without '.' and '..', of letters, digits and . _ + ~ @ % -",
        )


def mount_points(jail: Jail) -> tuple[str, ...]:
    """Paths that the root must have, relative to it; the skeleton supplies what trees lack."""
    fixed = ("dev", "proc", "tmp", jail.cwd[1:])
    return (*fixed, *(bind.dest[1:] for bind in jail.binds))


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
    groups = _groups(lowers)
    tops = (
        f"{STAGE}/g{number}" if len(group) > 1 else group[0] for number, group in enumerate(groups)
    )
    top = _options(*tops, bottom)
    if len(top) >= _PAGE:
        raise BuildError(
            f"{len(lowers)} trees are more than one overlay can hold",
            hint="merge some of the dependencies into one tree first",
        )
    below = ((f"g{n}", _options(*group)) for n, group in enumerate(groups) if len(group) > 1)
    return (*below, ("root", top))


def _groups(lowers: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for lower in lowers:
        if len(_options(*groups[-1], lower)) >= _PAGE:
            groups.append([])
        groups[-1].append(lower)
    return groups


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
