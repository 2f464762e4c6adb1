"""The way to an SFTP server through OpenSSH's own client: its configuration, keys and agent hold.

Never a question, never a shell, never an unknown host key: what needs a person is an error that
says which command to run.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from buildit.errors import UsageError
from buildit.remote.sftp.ssh_account import Account
from buildit.remote.transport import LocationError

READ = 256 << 10
EARLY = 64 << 20
"""Bytes of answers that may come while we send; what was asked for comes to far less."""
KEPT = 16 << 10
"""Bytes of what ssh says on stderr; a server can make it say any amount."""
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "ControlMaster": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds to connect, for the answer to a question, and for one after which a disk has to
    write first (a slow disk's fsync)."""

    connect: int = 5
    first: float = 20.0
    answer: float = 300.0


def ssh_program(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The ssh command and its first arguments: BUILDIT_SSH, else `ssh`.

    Raises:
        UsageError: the variable is not quoted as a shell has it.
    """
    text = environ.get("BUILDIT_SSH", "")
    try:
        return tuple(shlex.split(text)) or ("ssh",)
    except ValueError as error:
        raise UsageError(
            f"{text!r} cannot be read as a command: {str(error).lower()}",
            place="BUILDIT_SSH",
            hint="quote it as in a shell: BUILDIT_SSH='ssh -F FILE'",
        ) from error


def ssh_argv(account: Account, program: tuple[str, ...], waits: Waits) -> list[str]:
    """The command line; pure."""
    options = {**_OPTIONS, "ConnectTimeout": str(waits.connect)}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    port = ["-p", str(account.port)] if account.port else []
    return [*program, *words, *port, "-T", "-s", "--", account.login, "sftp"]


class SshPipe:
    """One ssh process; its stdin and stdout are never waited for without a limit."""

    def __init__(self, account: Account, program: tuple[str, ...], waits: Waits) -> None:
        self._account = account
        self._waits = waits
        self._said = b""
        self._late = False
        try:
            # its own session: Ctrl-C is ours to handle, and there is no terminal to ask at
            self._process = subprocess.Popen(
                ssh_argv(account, program, waits),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise LocationError(
                account.shown,
                f"{program[0]} cannot be started: {error.strerror}",
                hint="install openssh-client, or correct BUILDIT_SSH",
                unreachable=True,
            ) from error
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (stream.fileno() for stream in streams if stream)
        for fd in (self._in, self._out, self._err):
            os.set_blocking(fd, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, 1 << 20)
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._early = bytearray()

    def send(self, data: bytes | bytearray | memoryview, *, patient: bool = False) -> None:
        with memoryview(data) as whole:
            at = 0
            while at < len(whole):
                ready = self._wait(writing=True, patient=patient)
                if self._out in ready:
                    # answers that come meanwhile are taken, lest both sides wait for each other
                    got = self._read(self._out)
                    if got == b"":
                        raise self.ended()
                    self._early += got or b""
                    if len(self._early) > EARLY:
                        raise LocationError(self._account.shown, "the server answers without end")
                if self._in in ready:
                    try:
                        at += os.write(self._in, whole[at : at + READ])
                    except BlockingIOError:
                        continue
                    except OSError:
                        raise self.ended() from None

    def receive(self, *, patient: bool = False) -> bytes:
        if self._early:
            got, self._early = bytes(self._early), bytearray()
            return got
        while True:
            if self._out in self._wait(writing=False, patient=patient):
                data = self._read(self._out)
                if data is not None:
                    return data

    def ended(self) -> LocationError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        code = self._process.poll()
        self._kill()
        for _ in range(8):  # what it left behind might go on talking
            self._keep(self._read(self._err) or b"")
        return explained(self._account, self._said.decode("utf-8", "replace"), code)

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _kill(self) -> None:
        """End it with all that it started, such as a ProxyCommand."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _wait(self, *, writing: bool, patient: bool) -> set[int]:
        """The pipes that are ready; what ssh says on stderr is kept on the way."""
        limit = self._waits.answer if patient else self._waits.first
        poll = select.poll()
        for fd in (self._out, self._err):
            poll.register(fd, select.POLLIN)
        if writing:
            poll.register(self._in, select.POLLOUT)
        until = time.monotonic() + limit
        while True:
            left = until - time.monotonic()
            ready = {fd for fd, _ in poll.poll(max(left, 0) * 1000)}
            if not ready or left < 0:  # what it says on stderr is no answer
                raise LocationError(
                    self._account.shown,
                    f"no answer for {limit:.0f} seconds",
                    unreachable=True,
                )
            if self._err in ready:
                got = self._read(self._err)
                if got == b"":
                    poll.unregister(self._err)
                self._keep(got or b"")
                ready.discard(self._err)
            if ready:
                return ready

    def _keep(self, text: bytes) -> None:
        self._said = (self._said + text)[-KEPT:]

    def _read(self, fd: int) -> bytes | None:
        """Some bytes; none at the end; None where there are none yet."""
        try:
            return os.read(fd, READ)
        except BlockingIOError:
            return None
        except OSError:
            return b""


def explained(account: Account, said: str, code: int | None) -> LocationError:
    """Why ssh ended, from what it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" @\t\r")]
    last = lines[-1] if lines else f"ssh ended with {code}"
    if "Host key verification failed" in said or "host key is known" in said:
        return _host_key(account, said)
    if "Permission denied" in said:
        return LocationError(
            account.shown,
            f"the server refuses the login: {last}",
            hint="add your public key to authorized_keys there, or let the agent hold the one that "
            f"is; try: ssh {_words(account)}",
            unreachable=True,
        )
    if "subsystem request failed" in said:
        return LocationError(
            account.shown,
            "the server offers no SFTP",
            hint="enable it there: Subsystem sftp internal-sftp in sshd_config",
            unreachable=True,
        )
    lost = code is None or code < 0 or "closed" in said or not lines
    reason = "the connection was lost" if lost else f"ssh: {last.removeprefix('ssh: ')}"
    return LocationError(account.shown, reason, unreachable=True, transient=lost)


def _host_key(account: Account, said: str) -> LocationError:
    changed = "IDENTIFICATION HAS CHANGED" in said
    shown = re.findall(r"SHA256:[A-Za-z0-9+/]{43}", said)
    prints = {f"{shown[-1]}"} if shown else offered_keys(account)
    keys = ", ".join(sorted(prints)) or "not known: ssh-keyscan does not reach it"
    name = shlex.quote(account.known_as)
    port = f"-p {account.port} " if account.port else ""
    scan = f"ssh-keyscan {port}{account.host} >> ~/.ssh/known_hosts"
    compare = "compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server"
    if changed:
        return LocationError(
            account.shown,
            f"the host key of {account.known_as} has changed (now {keys}): somebody may stand in "
            "between",
            hint=f"{compare}; if it is right: ssh-keygen -R {name} && {scan}",
            unreachable=True,
        )
    return LocationError(
        account.shown,
        f"the host key of {account.known_as} is not known ({keys})",
        hint=f"{compare}; if it is right: {scan}",
        unreachable=True,
    )


def offered_keys(account: Account) -> set[str]:
    """Type and fingerprint of the keys that a server offers now; for people to compare."""
    from buildit.trust.sshsig import fingerprint

    argv = ["ssh-keyscan", "-T", "5", "-p", str(account.port or 22), "--", account.host]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    found = set()
    for line in done.stdout[: 64 << 10].decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) >= 3 and not line.startswith("#"):
            with contextlib.suppress(ValueError):
                found.add(f"{_kind(words[1])} {fingerprint(base64.b64decode(words[2]))}")
    return found


def _kind(word: str) -> str:
    """`ED25519` of `ssh-ed25519`, as ssh-keygen -l has it."""
    known = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}
    return known.get(word, "ECDSA" if word.startswith("ecdsa-") else word)


def _words(account: Account) -> str:
    return f"-p {account.port} {account.login}" if account.port else account.login
