"""What this machine offers to sandboxes and to the rest of buildit, for `buildit doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildit.model.config import Limits
from buildit.sandbox.filter import FILTERED
from buildit.sandbox.launch import PROGRAM_PATH
from buildit.sandbox.limits import open_group
from buildit.store.build_owner import HOST_ID, host_owner

_SYSCTL = Path("/proc/sys")
_TIMEOUT = 20.0


class Level(StrEnum):
    FINE = "fine"
    WEAK = "weak"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Probed:
    """One thing looked at: `subject`, what was found in `text`, and `hint` where it is not fine.

    `MISSING` stops builds; `WEAK` costs something and does not.
    """

    subject: str
    level: Level
    text: str
    hint: str | None = None


def probe(store: Path) -> tuple[Probed, ...]:
    """Look at everything that builds need; `store` (or its nearest parent) is where they happen."""
    return tuple(finding for look in _LOOKS for finding in look(store))


def why_not() -> str:
    """The likeliest reason why a sandbox did not start, with its remedy, in one line."""
    for look in (_machine, _programs, _namespaces):
        for finding in look(Path("/")):
            if finding.level is Level.MISSING:
                return f"{finding.subject}: {finding.text}; {finding.hint}"
    return "the log's last lines say what failed; buildit doctor looks at the whole machine"


def _machine(_: Path) -> Iterator[Probed]:
    system = os.uname()
    text = f"{system.sysname} {system.release} on {system.machine}"
    if system.machine in FILTERED:
        yield Probed("kernel", Level.FINE, text)
    else:
        hint = f"build on one of: {', '.join(sorted(FILTERED))}"
        yield Probed("kernel", Level.MISSING, f"no sandbox for {text}", hint)


_PACKAGES = {
    "bwrap": "bubblewrap",
    "unshare": "util-linux",
    "setarch": "util-linux",
    "setpriv": "util-linux",
    "env": "coreutils",
    "mount": "mount",
    "sh": "dash",
}


def _programs(_: Path) -> Iterator[Probed]:
    for program, package in _PACKAGES.items():
        path = shutil.which(program, path=PROGRAM_PATH)
        if path is None:
            text = f"not found in {PROGRAM_PATH}"
            yield Probed(program, Level.MISSING, text, f"apt install {package}")
        elif program == "bwrap":
            yield _bwrap(path)
        elif program == "env" and _output(path, "--default-signal", "true") is None:
            hint = "apt install coreutils (8.31 or newer; busybox has no --default-signal)"
            yield Probed(program, Level.MISSING, f"{path} cannot reset signals", hint)
        else:
            yield Probed(program, Level.FINE, path)


def _bwrap(path: str) -> Probed:
    version = (_output(path, "--version") or "no version").strip()
    if "--disable-userns" not in (_output(path, "--help") or ""):
        hint = "apt install bubblewrap (0.8 or newer)"
        return Probed("bwrap", Level.MISSING, f"{version} at {path} is too old", hint)
    return Probed("bwrap", Level.FINE, f"{version} at {path}")


_FORBIDDEN = (
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def forbidden(sysctl: Path) -> str | None:
    """The command that lifts what keeps users from making user namespaces, if a sysctl does."""
    for name, value, remedy in _FORBIDDEN:
        path = sysctl / name
        if path.is_file() and path.read_text().strip() == value:
            return remedy
    return None


_OVERLAY = (
    "mount -n -t tmpfs tmpfs /tmp && mkdir /tmp/a /tmp/b /tmp/c && "
    "mount -n -t overlay -o ro,lowerdir=/tmp/a:/tmp/b overlay /tmp/c"
)


def _namespaces(_: Path) -> Iterator[Probed]:
    unshare = (
        "unshare",
        "--user",
        "--map-root-user",
        "--mount-proc",
        "--pid",
        "--fork",
        "sh",
        "-c",
    )
    problem = _problem(*unshare, ":")
    if problem is not None:
        hint = forbidden(_SYSCTL) or (
            "allow user namespaces: in a container, --security-opt seccomp=unconfined"
        )
        yield Probed("user namespaces", Level.MISSING, f"forbidden here ({problem})", hint)
        return
    text = "allowed" if host_owner() is None else f"allowed; builds run as uid {HOST_ID}"
    yield Probed("user namespaces", Level.FINE, text)
    problem = _problem(*unshare, _OVERLAY)
    if problem is None:
        yield Probed("overlay", Level.FINE, "mounts in a user namespace")
    else:
        hint = "Linux 5.11 or newer, with the module: modprobe overlay"
        yield Probed("overlay", Level.MISSING, f"does not mount ({problem})", hint)


def _limits(_: Path) -> Iterator[Probed]:
    group = open_group(Limits())
    if group is None:
        text = (
            "rlimits and a watcher, five times a second: processes, their memory, memfds, /tmp and "
            "/dev/shm; no cgroup is delegated"
        )
        hint = (
            "systemd-run --user --scope delegates one, which counts detached SysV segments, pipes "
            "and descriptors in flight as well"
        )
        yield Probed("limits", Level.WEAK, text, hint)
        return
    group.close()
    yield Probed("limits", Level.FINE, f"cgroup v{group.version} below {group.memory.parent}")


_TOOLS = {
    "gpgv": ("gpgv", "signatures of Debian's indices; without it, pip install 'buildit[gpg]'"),
    "git": ("git", "sources from git"),
    "ssh-keygen": ("openssh-client", "signatures of attestations"),
}


def _tools(_: Path) -> Iterator[Probed]:
    for program, (package, use) in _TOOLS.items():
        path = shutil.which(program)
        if path is None:
            hint = f"apt install {package}"
            yield Probed(program, Level.WEAK, f"not found: needed for {use}", hint)
        else:
            yield Probed(program, Level.FINE, path)


def _space(store: Path) -> Iterator[Probed]:
    place = next(each for each in (store, *store.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free < 5 << 30:
        yield Probed("disk", Level.WEAK, text, "buildit store gc")
    else:
        yield Probed("disk", Level.FINE, text)


_LOOKS: tuple[Callable[[Path], Iterator[Probed]], ...] = (
    _machine,
    _programs,
    _namespaces,
    _limits,
    _tools,
    _space,
)


def _output(*argv: str) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _problem(*argv: str) -> str | None:
    """Run it as builds would run; the last line of what it complained about, or None."""
    uid, gid = host_owner() or (None, None)
    try:
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            cwd="/",
            env={"PATH": PROGRAM_PATH, "LC_ALL": "C", "LIBMOUNT_FORCE_MOUNT2": "always"},
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[0] if lines else f"exit status {done.returncode}"
