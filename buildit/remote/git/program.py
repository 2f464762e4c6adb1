"""git as a program that is told nothing by the machine, and no more than it must be by places.

No configuration of the system or the user, no hooks, helpers, prompts or lazy fetches; of the
environment only how places are reached. Of what it runs, only ssh is not git's own.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from buildit.archive.admit import shown
from buildit.errors import FetchError
from buildit.remote.fetch import LARGEST_DOWNLOAD
from buildit.remote.sftp.login import ssh_program

_KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK"),
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""What git sees of the caller's environment: how to reach places, and `~/.netrc`."""

_SSH = (
    " -oBatchMode=yes -oStrictHostKeyChecking=yes -oForwardAgent=no -oClearAllForwardings=yes"
    " -oPermitLocalCommand=no -oConnectTimeout=20 -oServerAliveInterval=15 -oServerAliveCountMax=4"
)
_ENVIRONMENT = {
    "GIT_ASKPASS": "",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_SSH_VARIANT": "ssh",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.untrackedCache=false"),
    *("core.attributesFile=/dev/null", "core.excludesFile=/dev/null", "credential.helper="),
    *("gc.auto=0", "maintenance.auto=false", "fetch.recurseSubmodules=false"),
    *("transfer.bundleURI=false", "fetch.writeCommitGraph=false", "fetch.unpackLimit=1"),
    *("http.followRedirects=initial", "http.lowSpeedLimit=500", "http.lowSpeedTime=60"),
)


class PlaceFailed(Exception):  # noqa: N818 - no error yet: another place may do
    """A place does not have what is wanted: why, and what could have been meant. `wrong` where it
    has something else."""

    def __init__(self, reason: str, hint: str = "", *, wrong: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.hint, self.wrong = reason, hint, wrong


def _environment(protocols: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    ssh = shlex.join(ssh_program(os.environ)) + _SSH
    return {**kept, **_ENVIRONMENT, "GIT_SSH_COMMAND": ssh, "GIT_ALLOW_PROTOCOL": protocols}


def _argv(*words: str) -> list[str]:
    settings = (word for one in _SETTINGS for word in ("-c", one))
    return ["git", "--no-pager", *settings, *words]


def start_git(
    words: Sequence[str], protocols: str = "", *, talks: bool = False
) -> subprocess.Popen[bytes]:
    """git, begun; it may write no larger file than a download may be. `protocols` are those that it
    may speak, parted by colons. One that `talks` is written to; else its complaints can be read.

    Raises:
        FetchError: this machine has no git.
    """
    try:
        process = subprocess.Popen(
            _argv(*words),
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if talks else subprocess.PIPE,
            env=_environment(protocols),
        )
    except FileNotFoundError as error:
        hint = "install git (on Debian: apt install git), then run the same command again"
        raise FetchError("a source is fetched by git, which is not installed", hint=hint) from error
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most == resource.RLIM_INFINITY or most > LARGEST_DOWNLOAD:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LARGEST_DOWNLOAD, most))
    return process


def run_git(*words: str, protocols: str = "") -> bytes:
    """What git prints.

    Raises:
        FetchError: this machine has no git.
        PlaceFailed: it failed; the reason is its own.
    """
    with start_git(words, protocols) as process:
        try:
            out, told = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise PlaceFailed(_reason(told, process.returncode))
    return out


def _reason(told: bytes, status: int) -> str:
    """The telling line of what git said."""
    lines = [line.strip() for line in told.decode("utf-8", "replace").splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    ssh = [line for line in lines if "Host key verification" in line or "ermission denied" in line]
    line = next(iter([*ssh, *fatal[:1], *lines[-1:]]), f"git failed with status {status}")
    return shown(line.removeprefix("fatal: ").removeprefix("error: "))


def listed_files(directory: Path) -> list[str] | None:
    """The paths of a working tree that git knows or would add, relative to `directory`; other
    repositories in it as one path. None where the directory is in no repository.

    Raises:
        FetchError: git is not installed, or cannot read the repository.
    """
    above = (directory, *directory.parents)
    if not any(os.path.lexists(one / ".git") for one in above):
        return None
    asked = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    try:
        listed = run_git("-c", "safe.directory=*", "-C", str(directory), *asked)
    except PlaceFailed as error:
        message = f"git cannot list the files of {directory}: {error.reason}"
        hint = "mend the repository; or build from a copy without .git"
        raise FetchError(message, place=str(directory), hint=hint) from error
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]
