"""What this machine offers to sandboxes and to the rest of buildit, for `buildit doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildit.model.config import Limits
from buildit.model.platform import PLATFORMS
from buildit.sandbox.jail import BINFMT, ENVIRONMENT, FILTERED, PROGRAM_PATH, drop_root
from buildit.sandbox.limits import opened_group
from buildit.sandbox.usernet import no_user_network
from buildit.store.disk import HOST_ID, host_owner


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


def _found(subject: str, good: str | None, bad: str, hint: str, weak: bool = False) -> Probed:
    """What is fine is said by `good`; where that is None, `bad` is and what to do about it."""
    if good is not None:
        return Probed(subject, Level.FINE, good)
    return Probed(subject, Level.WEAK if weak else Level.MISSING, bad, hint)


def _machine(_: Path) -> Iterator[Probed]:
    system = os.uname()
    text = f"{system.sysname} {system.release} on {system.machine}"
    hint = f"build on one of: {', '.join(sorted(FILTERED))}"
    good = text if system.machine in FILTERED else None
    yield _found("kernel", good, f"no sandbox for {text}", hint)


_PACKAGES = {
    "bwrap": "bubblewrap",
    **dict.fromkeys(("unshare", "setarch", "setpriv"), "util-linux"),
    "env": "coreutils",
    "mount": "mount",
    "sh": "dash",
}


def _programs(_: Path) -> Iterator[Probed]:
    for program, package in _PACKAGES.items():
        path = good = shutil.which(program, path=PROGRAM_PATH)
        bad, hint = f"not found in {PROGRAM_PATH}", f"apt install {package}"
        if path is not None and program == "bwrap":
            version = f"{(_ran(path, '--version')[0] or 'no version').strip()} at {path}"
            good = version if "--disable-userns" in (_ran(path, "--help")[0] or "") else None
            bad, hint = f"{version} is too old", f"{hint} (0.8 or newer)"
        elif path is not None and program == "env":
            good = None if _ran(path, "--default-signal", "true")[1] else path
            bad = f"{path} cannot reset signals"
            hint = f"{hint} (8.31 or newer; busybox has no --default-signal)"
        yield _found(program, good, bad, hint)


_FORBIDDEN = (
    ("user.max_user_namespaces", "0", "10000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)


def forbidden(sysctl: Path) -> str | None:
    """The command that lifts what keeps users from making user namespaces, if a sysctl does."""
    for name, value, better in _FORBIDDEN:
        path = sysctl / name.replace(".", "/")
        if path.is_file() and path.read_text().strip() == value:
            return f"sysctl {name}={better}"
    return None


_OVERLAY = (
    "mount -n -t tmpfs tmpfs /tmp && mkdir /tmp/a /tmp/b /tmp/c && "
    "mount -n -t overlay -o ro,lowerdir=/tmp/a:/tmp/b overlay /tmp/c"
)
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount-proc", "--pid", "--fork", "sh", "-c")


def _namespaces(_: Path) -> Iterator[Probed]:
    problem = _ran(*drop_root(), *_UNSHARE, ":")[1]
    allowed = "allowed" if host_owner() is None else f"allowed; builds run as uid {HOST_ID}"
    hint = "allow user namespaces: in a container, --security-opt seccomp=unconfined"
    hint, good = forbidden(Path("/proc/sys")) or hint, None if problem else allowed
    yield _found("user namespaces", good, f"forbidden here ({problem})", hint)
    if not problem:
        problem = _ran(*drop_root(), *_UNSHARE, _OVERLAY)[1]
        good = None if problem else "mounts in a user namespace"
        hint = "Linux 5.11 or newer, with the module: modprobe overlay"
        yield _found("overlay", good, f"does not mount ({problem})", hint)


_BINFMT = f"mount -n -t binfmt_misc binfmt_misc {BINFMT} && [ -w {BINFMT}/register ]"


def no_emulation() -> str:
    """Why programs of another architecture cannot be run by an emulator; empty where they can."""
    return _ran(*drop_root(), *_UNSHARE, _BINFMT)[1]


EMULATION_HINT = (
    "Linux 6.7 or newer, where a user namespace has binfmt_misc of its own, with the module: "
    "modprobe binfmt_misc; or build on a machine of that platform"
)


def _emulation(_: Path) -> Iterator[Probed]:
    here = os.uname().machine
    others = ", ".join(name for name, one in PLATFORMS.items() if one.machine != here)
    problem = no_emulation()
    good = None if problem else f"{others}: by QEMU, fetched where a build needs it"
    bad = f"{others}: only what nothing is built for; no emulator can be registered ({problem})"
    yield _found("other platforms", good, bad, EMULATION_HINT, weak=True)


def _user_network(_: Path) -> Iterator[Probed]:
    problem, hint = no_user_network() or ("", "")
    good = None if problem else "by slirp4netns, for `run: {network: yes}` and `buildit run`"
    bad = f"{problem}: needed for `run: {{network: yes}}` and `buildit run --network user`"
    yield _found("user-mode network", good, bad, hint, weak=True)


def _limits(_: Path) -> Iterator[Probed]:
    with opened_group(Limits()) as group:
        good = None if group is None else f"cgroup v{group.version} below {group.memory.parent}"
    bad = "rlimits and a watcher, five times a second: processes, their memory, "
    bad += "memfds, /tmp and /dev/shm; no cgroup is delegated"
    hint = "systemd-run --user --scope delegates one, which counts detached SysV segments, pipes "
    hint += "and descriptors in flight as well"
    yield _found("limits", good, bad, hint, weak=True)


_OLDEST_PODMAN = 4


def _podman(_: Path) -> Iterator[Probed]:
    path = shutil.which("podman")
    version = "" if path is None else (_ran(path, "--version")[0] or "").rpartition(" ")[2].strip()
    number = version.partition(".")[0]
    good = number.isdecimal() and int(number) >= _OLDEST_PODMAN
    bad = f"podman {version} is too old" if version else "not found" if path is None else "broken"
    hint = "apt install podman (4.0 or newer)"
    if good and _is_hybrid() and shutil.which("runc", path=PROGRAM_PATH) is None:
        good, bad = False, "crun starts nothing where cgroups of both versions are mounted"
        hint = "apt install runc"
    told = f"{version} at {path}" if good else None
    yield _found("podman", told, f"{bad}: needed for `buildit up`", hint, weak=True)


def _is_hybrid() -> bool:
    """Whether cgroups of both versions are mounted (proc(5), mountinfo)."""
    mounts = Path("/proc/self/mountinfo").read_text()
    return cgroup_versions(mounts) == {1, 2}


def cgroup_versions(mounts: str) -> set[int]:
    """The versions of cgroups that a mountinfo shows."""
    kinds = {line.partition(" - ")[2].partition(" ")[0] for line in mounts.splitlines()}
    return {version for name, version in (("cgroup", 1), ("cgroup2", 2)) if name in kinds}


_TOOLS = {
    "gpgv": ("gpgv", "signatures of Debian's indices; without it, pip install 'buildit[gpg]'"),
    "git": ("git", "sources from git"),
    "ssh-keygen": ("openssh-client", "signatures of attestations"),
}


def _tools(_: Path) -> Iterator[Probed]:
    for program, (package, use) in _TOOLS.items():
        bad, hint = f"not found: needed for {use}", f"apt install {package}"
        yield _found(program, shutil.which(program), bad, hint, weak=True)


def _space(store: Path) -> Iterator[Probed]:
    place = next(each for each in (store, *store.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free at {place}"
    yield _found("disk", text if free >= 5 << 30 else None, text, "buildit store gc", weak=True)


_LOOKS = (
    _machine,
    _programs,
    _namespaces,
    _emulation,
    _user_network,
    _limits,
    _tools,
    _podman,
    _space,
)


def _ran(*argv: str) -> tuple[str | None, str]:
    """What a program printed, None where it failed; and what it complained of first, if it did."""
    try:
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            errors="replace",
            timeout=20,
            cwd="/",
            env=ENVIRONMENT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, str(error)
    if done.returncode == 0:
        return done.stdout, ""
    return None, (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
