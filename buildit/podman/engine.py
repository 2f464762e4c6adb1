"""podman, run: the one place where its processes begin.

They are in a process group of their own, so that a Ctrl-C of the terminal is for buildit alone:
none of them is cut off in the middle. `Podman.group` is that of a `podman.lifeline`, which waits
for them where buildit was killed.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.errors import BuildError
from buildit.sandbox.probe import cgroup_versions
from buildit.stack.converge import (
    EngineState,
    KnownContainer,
    KnownNetwork,
    read_containers,
    read_networks,
    read_secrets,
    read_volumes,
)
from buildit.stack.local import DIRECTORY_LABEL

_PROGRAM = "podman"
_HINT = "`buildit doctor` looks at podman, too"


class EngineError(BuildError):
    """A command of podman failed; `reason` is its own telling line."""

    def __init__(self, what: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"podman {what} failed: {reason}", hint=hint or _HINT)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Podman:
    """`options` stand before every command; `further` are options of containers that this machine
    needs; `group` is the process group that its processes join, 0 for one each. `is_root` where
    its networks are those of the machine, and not in a namespace of the user's own."""

    options: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    group: int = 0
    is_root: bool = True
    cwd: str = "/"

    def at(self, directory: Path) -> Podman:
        """The same in another working directory."""
        return replace(self, cwd=str(directory))

    def begin(
        self, *words: str, stdin: bytes | None = None, complaints: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """A command, begun; what it prints can be read.

        Raises:
            BuildError: podman is not there.
        """
        try:
            try:
                return self._popen(words, stdin is not None, complaints, self.group)
            except (PermissionError, ProcessLookupError):  # that of a watcher that was killed
                return self._popen(words, stdin is not None, complaints, 0)
        except FileNotFoundError as error:
            raise no_podman() from error

    def _popen(
        self, words: tuple[str, ...], talks: bool, complaints: int, group: int
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (_PROGRAM, *self.options, *words),
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            process_group=group,
            cwd=self.cwd,
        )

    def run(self, *words: str, stdin: bytes | None = None) -> str:
        """What a command prints.

        Raises:
            BuildError: podman is not there, or the command fails.
        """
        status, out, told = self.tried(*words, stdin=stdin)
        if status:
            verb = " ".join(words[: 2 if words[0] in _GROUPS else 1])
            raise EngineError(verb, reason_of(told, status))
        return out

    def tried(self, *words: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        """The status of a command, and what it prints and complains of.

        Raises:
            BuildError: podman is not there.
        """
        with self.begin(*words, stdin=stdin) as process:
            out, told = process.communicate(stdin)
        return process.returncode, out.decode("utf-8", "replace"), told.decode("utf-8", "replace")

    def piped(self, *words: str) -> bytes | None:
        """The bytes that a command prints; None where it fails."""
        with self.begin(*words, complaints=subprocess.DEVNULL) as process:
            out, _ = process.communicate()
        return out if process.returncode == 0 else None

    def replaced_by(self, *words: str) -> None:
        """Become podman.

        Raises:
            BuildError: podman is not there.
        """
        try:
            os.execvp(_PROGRAM, (_PROGRAM, *self.options, *words))  # noqa: S606 - as the user's PATH says
        except FileNotFoundError as error:
            raise no_podman() from error

    # -- what it has

    def state(self, directory: str) -> EngineState:
        """All that it has of the stack of a directory."""
        of = ("--filter", f"label={DIRECTORY_LABEL}={directory}")
        with ThreadPoolExecutor(4) as pool:
            containers = pool.submit(self.containers, *of)
            networks = pool.submit(self.run, "network", "ls", *of, "--format", "json")
            volumes = pool.submit(self.run, "volume", "ls", *of, "--format", "json")
            secrets = pool.submit(self._secrets)
            return EngineState(
                containers.result(),
                read_networks(networks.result()),
                read_volumes(volumes.result()),
                read_secrets(secrets.result(), directory),
            )

    def containers(self, *filters: str) -> tuple[KnownContainer, ...]:
        names = self.run("ps", "--all", "--quiet", "--no-trunc", *filters).split()
        return self.inspected(names)

    def inspected(self, names: list[str]) -> tuple[KnownContainer, ...]:
        """Those of the containers that are there."""
        if not names:
            return ()
        status, out, told = self.tried("container", "inspect", *names)
        if status and "no such container" not in told:
            raise EngineError("container inspect", reason_of(told, status))
        return read_containers(out)

    def _secrets(self) -> str:
        names = self.run("secret", "ls", "--format", "{{.ID}}").split()
        if not names:
            return ""
        status, out, told = self.tried("secret", "inspect", *names)
        if status and "no such secret" not in told:
            raise EngineError("secret inspect", reason_of(told, status))
        return out

    def networks(self, names: list[str]) -> dict[str, KnownNetwork]:
        """Networks by their names.

        Raises:
            BuildError: one is not there.
        """
        found = read_networks(self.run("network", "inspect", *names)) if names else ()
        return {one.name: one for one in found}


_GROUPS = ("network", "volume", "secret", "container", "image")


def no_podman() -> BuildError:
    hint = "install it (on Debian: apt install podman); `buildit doctor` looks at the rest"
    return BuildError("stacks run under podman, which is not installed", hint=hint)


def reason_of(told: str, status: int) -> str:
    """The telling line of what podman said."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error:")]
    line = next(iter([*errors[-1:], *lines[-1:]]), f"status {status}")
    return line.removeprefix("Error:").strip()


# -- what this machine needs


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What decides how podman is to be called: the texts of containers.conf, as it reads them
    (the later counts), of /proc/self/mountinfo, the effective capabilities and the hard limits of
    descriptors and processes."""

    configs: tuple[str, ...] = ()
    mounts: str = ""
    capabilities: int = -1
    files: int = -1
    processes: int = -1
    has_runc: bool = False
    is_root: bool = True


_CAP_SYS_RESOURCE = 1 << 24
_PROCESSES = 1 << 15  # pid_max of 32 bits (proc(5)): podman sets no more for itself
_USUAL = 1 << 20  # of both limits (containers/common, pkg/config/default.go)


def engine_options(facts: EngineFacts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options of podman, and options of containers, without which nothing would start here; what
    the user's containers.conf says stays as it is.

    crun refuses machines where cgroups of both versions are mounted; podman's own limits are above
    what a machine without CAP_SYS_RESOURCE may set.
    """
    said: dict[str, object] = {}
    for text in facts.configs:
        with suppress(tomllib.TOMLDecodeError):
            for name, table in tomllib.loads(text).items():
                said |= {f"{name}.{key}": value for key, value in dict(table).items()}
    options: tuple[str, ...] = ()
    if facts.has_runc and "engine.runtime" not in said and cgroup_versions(facts.mounts) == {1, 2}:
        options = ("--runtime", "runc")
    further: tuple[str, ...] = ()
    may = facts.capabilities & _CAP_SYS_RESOURCE or not facts.is_root
    if not may and "containers.default_ulimits" not in said:
        hard = {"nofile": facts.files, "nproc": facts.processes}
        low = {name: most for name, most in hard.items() if 0 <= most < _USUAL}
        low |= {"nproc": min(low["nproc"], _PROCESSES)} if "nproc" in low else {}
        further = tuple(
            word for name, most in low.items() for word in ("--ulimit", f"{name}={most}:{most}")
        )
    return options, further


def opened_engine(environ: Mapping[str, str]) -> Podman:
    """podman as it has to be called on this machine."""
    facts = _facts(environ)
    options, further = engine_options(facts)
    return Podman(options, further, is_root=facts.is_root)


def own_module(module: str, *words: str) -> tuple[str, ...]:
    """The command line that runs one of our modules in this interpreter, wherever it lies."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; "
    program += "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    package = str(Path(__file__).resolve().parents[2])
    return (sys.executable, "-c", program, package, module, *words)


def _facts(environ: Mapping[str, str]) -> EngineFacts:
    own = environ.get("CONTAINERS_CONF")
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    usual = ("/usr/share", "/etc", *((home,) if os.geteuid() else ()))
    paths = [Path(own)] if own else [Path(one, "containers/containers.conf") for one in usual]
    status = _text(Path("/proc/self/status"))
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    return EngineFacts(
        tuple(map(_text, paths)),
        _text(Path("/proc/self/mountinfo")),
        int(fields.get("CapEff", "-1").strip(), 16),
        resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        resource.getrlimit(resource.RLIMIT_NPROC)[1],
        shutil.which("runc", path=f"{environ.get('PATH', '')}:/usr/sbin:/sbin") is not None,
        os.geteuid() == 0,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
