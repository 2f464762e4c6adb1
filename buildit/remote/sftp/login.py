"""The way to an SFTP server: through OpenSSH's own client, whose configuration, keys and agent
hold, or through paramiko where that is not installed.

Never a question, never a shell, never an unknown host key: what needs a person is an error that
says which command to run. With paramiko host keys come from ~/.ssh/known_hosts alone, keys from the
agent and ~/.ssh; ~/.ssh/config is not read.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.errors import UsageError
from buildit.home import home_of
from buildit.model.config import Ssh
from buildit.remote.sftp.client import NO_SUCH_FILE, Sftp, StatusError
from buildit.remote.transport import LocationError, Response, check_cap, ssh_address
from buildit.trust.ssh import key_fingerprint

if TYPE_CHECKING:
    import paramiko

_READ = 256 << 10
_KEPT = 16 << 10
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


def connect(account: Ssh, waits: Waits | None = None) -> Sftp:
    """Log in: through OpenSSH's client where it is installed or BUILDIT_SSH names one.

    Raises:
        LocationError: the host cannot be reached, is not the known one, or refuses.
    """
    waits = waits or Waits()
    program = ssh_program(os.environ)
    openssh = os.environ.get("BUILDIT_SSH") or shutil.which(program[0])
    line: _Line = _Ssh(account, program, waits) if openssh else _Paramiko(account, waits)
    try:
        return Sftp(line)
    except LocationError as error:
        line.close()
        error.unreachable = True
        error.place = account.shown
        raise


class _Line:
    """The two ways of a session, sockets or paramiko's channels, which behave as such; neither is
    ever waited for without a limit."""

    def __init__(self, account: Ssh, waits: Waits, out: socket.socket, back: socket.socket) -> None:
        self._account, self._waits = account, waits
        self._out, self._back = out, back

    def send(self, data: bytes, *, patient: bool) -> None:
        with self._limited(self._out, patient=patient):
            self._out.sendall(data)

    def receive(self, *, patient: bool) -> bytes:
        with self._limited(self._back, patient=patient):
            return self._back.recv(_READ)

    @contextmanager
    def _limited(self, channel: socket.socket, *, patient: bool) -> Iterator[None]:
        limit = self._waits.answer if patient else self._waits.first
        try:
            channel.settimeout(limit)
            yield
        except TimeoutError as error:
            reason = f"no answer for {limit:.0f} seconds"
            raise LocationError(self._account.shown, reason, unreachable=True) from error
        except OSError as error:
            raise self.ended() from error

    def ended(self) -> LocationError:
        return why_ssh_ended(self._account, "", None)

    def close(self) -> None:
        raise NotImplementedError


# -- through OpenSSH


def ssh_program(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The ssh command and its first arguments: BUILDIT_SSH, else `ssh`.

    Raises:
        UsageError: the variable is not quoted as a shell has it.
    """
    text = environ.get("BUILDIT_SSH", "")
    try:
        return tuple(shlex.split(text)) or ("ssh",)
    except ValueError as error:
        reason = f"{text!r} cannot be read as a command: {str(error).lower()}"
        hint = "quote it as in a shell: BUILDIT_SSH='ssh -F FILE'"
        raise UsageError(reason, place="BUILDIT_SSH", hint=hint) from error


def ssh_argv(account: Ssh, program: tuple[str, ...], waits: Waits) -> list[str]:
    """The command line; pure."""
    options = {**_OPTIONS, "ConnectTimeout": str(waits.connect)}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    port = ["-p", str(account.port)] if account.port else []
    return [*program, *words, *port, "-T", "-s", "--", account.login, "sftp"]


class _Ssh(_Line):
    """One ssh process. Sockets lead to it, which know timeouts, and are faster than pipes."""

    def __init__(self, account: Ssh, program: tuple[str, ...], waits: Waits) -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        (out, stdin), (back, stdout), (self._talk, stderr) = pairs
        super().__init__(account, waits, out, back)
        self._ours = (out, back, self._talk)
        self._said = b""
        try:
            # its own session: Ctrl-C is ours to handle, and there is no terminal to ask at
            self._process = subprocess.Popen(
                ssh_argv(account, program, waits),
                stdin=stdin.fileno(),
                stdout=stdout.fileno(),
                stderr=stderr.fileno(),
                start_new_session=True,
            )
        except OSError as error:
            self._let_go()
            reason = f"{program[0]} cannot be started: {error.strerror}"
            hint = "install openssh-client, or correct BUILDIT_SSH"
            raise LocationError(account.shown, reason, hint=hint, unreachable=True) from error
        finally:
            for theirs in (stdin, stdout, stderr):
                theirs.close()
        self._listener = threading.Thread(target=self._listen, name="buildit-ssh", daemon=True)
        with suppress(RuntimeError):  # a machine may refuse threads: it is only for us
            self._listener.start()

    def _listen(self) -> None:
        with suppress(OSError):
            while said := self._talk.recv(_READ):
                self._said = (self._said + said)[-_KEPT:]

    def ended(self) -> LocationError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        code = self._process.poll()
        self._kill()
        if self._listener.ident is not None:
            self._listener.join(0.2)
        said = self._said
        if self._listener.is_alive():  # what it left behind goes on talking: no half line is quoted
            said = said[: said.rfind(b"\n") + 1] or said
        return why_ssh_ended(self._account, said.decode("utf-8", "replace"), code)

    def close(self) -> None:
        for way in self._ours[:2]:
            with suppress(OSError):
                way.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._let_go()

    def _let_go(self) -> None:
        for way in self._ours:
            with suppress(OSError):
                way.shutdown(socket.SHUT_RDWR)  # what listens there wakes up
            way.close()

    def _kill(self) -> None:
        """End it with all that it started, such as a ProxyCommand."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def why_ssh_ended(account: Ssh, said: str, code: int | None) -> LocationError:
    """Why ssh ended, from what it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" @\t\r")]
    last = lines[-1] if lines else f"ssh ended with {code}"
    if "Host key verification failed" in said or "host key is known" in said:
        return _host_key(account, said)
    lost = code is None or code < 0 or "closed" in said or not lines
    reason = "the connection was lost" if lost else f"ssh: {last.removeprefix('ssh: ')}"
    hint = None
    if "Permission denied" in said:
        lost, reason = False, f"the server refuses the login: {last}"
        port = f"-p {account.port} " if account.port else ""
        hint = (
            "add your public key to authorized_keys there, or let the agent hold the one that is; "
            f"try: ssh {port}{account.login}"
        )
    elif "subsystem request failed" in said:
        lost, reason = False, "the server offers no SFTP"
        hint = "enable it there: Subsystem sftp internal-sftp in sshd_config"
    return LocationError(account.shown, reason, hint=hint, unreachable=True, transient=lost)


def _host_key(account: Ssh, said: str) -> LocationError:
    shown = re.findall(r"SHA256:[A-Za-z0-9+/]{43}", said)
    prints = {f"{shown[-1]}"} if shown else offered_keys(account)
    keys = ", ".join(sorted(prints)) or "not known: ssh-keyscan does not reach it"
    name = shlex.quote(account.known_as)
    port = f"-p {account.port} " if account.port else ""
    scan = f"ssh-keyscan {port}{account.host} >> ~/.ssh/known_hosts"
    reason = f"the host key of {account.known_as} is not known ({keys})"
    if "IDENTIFICATION HAS CHANGED" in said:
        changed = f"the host key of {account.known_as} has changed (now {keys})"
        reason = f"{changed}: somebody may stand in between"
        scan = f"ssh-keygen -R {name} && {scan}"
    compare = "compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server"
    hint = f"{compare}; if it is right: {scan}"
    return LocationError(account.shown, reason, hint=hint, unreachable=True)


def offered_keys(account: Ssh) -> set[str]:
    """Type and fingerprint of the keys that a server offers now; for people to compare."""
    argv = ["ssh-keyscan", "-T", "5", "-p", str(account.port or 22), "--", account.host]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    found = set()
    for line in done.stdout[: 64 << 10].decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) >= 3 and not line.startswith("#"):
            kind = words[1].removeprefix("ssh-").partition("-")[0].upper()  # as ssh-keygen -l
            with suppress(ValueError):
                found.add(f"{kind} {key_fingerprint(base64.b64decode(words[2]))}")
    return found


# -- through paramiko


class _Paramiko(_Line):
    """One channel of one connection."""

    def __init__(self, account: Ssh, waits: Waits) -> None:
        try:
            import paramiko
        except ImportError as error:
            hint = "install openssh-client (better), or: pip install 'buildit[ssh]'"
            reason = "neither ssh nor paramiko is here"
            raise LocationError(account.shown, reason, hint=hint, unreachable=True) from error
        self._client = paramiko.SSHClient()
        try:
            channel = _logged_in(self._client, account, waits)
        except BaseException:
            self._client.close()
            raise
        super().__init__(account, waits, channel, channel)

    def close(self) -> None:
        self._client.close()


def _logged_in(client: paramiko.SSHClient, account: Ssh, waits: Waits) -> paramiko.Channel:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
        def missing_host_key(self, _client: object, _name: str, key: paramiko.PKey) -> None:
            said = f"No host key is known {key_fingerprint(key.asbytes())}"
            raise why_ssh_ended(account, said, 255)

    home = home_of(os.environ)
    if home is None:
        reason = "there is no home directory, and so no known host"
        hint = "set HOME to where .ssh/known_hosts is"
        raise LocationError(account.shown, reason, hint=hint)
    revoked = _know(client, Path(home, ".ssh/known_hosts"))
    client.set_missing_host_key_policy(Refuse())
    try:
        client.connect(
            account.host,
            port=account.port or 22,
            username=account.user or None,
            timeout=waits.connect,
            banner_timeout=waits.first,
            auth_timeout=waits.first,
        )
        transport = client.get_transport()
        if transport is None:
            raise why_ssh_ended(account, "", None)
        if transport.get_remote_server_key().asbytes() in revoked:
            reason = f"the host key of {account.known_as} is revoked in ~/.ssh/known_hosts"
            hint = "somebody may stand in between: ask whoever runs the server"
            raise LocationError(account.shown, reason, hint=hint, unreachable=True)
        channel = transport.open_session(window_size=8 << 20)
        channel.settimeout(waits.answer)
        channel.invoke_subsystem("sftp")
    except paramiko.BadHostKeyException as error:
        key = error.key.asbytes()
        said = f"Host key verification failed IDENTIFICATION HAS CHANGED {key_fingerprint(key)}"
        raise why_ssh_ended(account, said, 255) from error
    except paramiko.AuthenticationException as error:
        raise why_ssh_ended(account, "Permission denied (publickey).", 255) from error
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        # ValueError: a file in ~/.ssh that is no key
        raise why_ssh_ended(account, str(error) or type(error).__name__, 255) from error
    return channel


def _know(client: paramiko.SSHClient, path: Path) -> set[bytes]:
    """Make the hosts of a known_hosts file known (sshd(8)); the keys that it revokes.

    Lines for certificate authorities, and those that cannot be read, say nothing about a key.
    """
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
    from paramiko.ssh_exception import SSHException

    try:
        lines = path.read_text("utf-8", "replace").split("\n") if path.exists() else []
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise LocationError(str(path), reason, unreachable=True) from error
    revoked: set[bytes] = set()
    for line in lines:
        try:
            entry = HostKeyEntry.from_line(line.removeprefix("@revoked").strip())
        except (InvalidHostKey, SSHException, ValueError):
            continue
        if entry is None or line.startswith(("@cert-authority", "#")):
            continue
        if line.startswith("@revoked"):
            revoked.add(entry.key.asbytes())
            continue
        for name in entry.hostnames:
            client.get_host_keys().add(name, entry.key.get_name(), entry.key)
    return revoked


# -- bytes by `ssh://` URL, whose path is relative to the login directory, with two slashes absolute


class _FileError(LocationError):
    """About one file; the session goes on."""


class SftpTransport:
    """Sessions by account, opened at first use; each serves one thread at a time."""

    def __init__(self, connect: Callable[[Ssh], Sftp] = connect) -> None:
        self._connect = connect
        self._sessions: dict[Ssh, Sftp] = {}
        self._locks: dict[Ssh, threading.RLock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def session(self, account: Ssh) -> Iterator[Sftp]:
        """The session of an account, for this thread alone; one that failed is not used again.

        Raises:
            LocationError: it cannot be opened, or was lost inside.
        """
        login = replace(account, path="")
        with self._guard:
            lock = self._locks.setdefault(login, threading.RLock())
        with lock:
            sftp = self._sessions.get(login)
            if sftp is None:
                sftp = self._sessions[login] = self._connect(login)
            try:
                yield sftp
            except _FileError:
                raise
            except (LocationError, KeyboardInterrupt):  # the latter may have cut a packet in two
                self._sessions.pop(login, None)
                sftp.close()
                raise

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        account = ssh_address(url)
        with self.session(account) as sftp:
            try:
                status = sftp.status(account.path)
            except StatusError as error:
                raise _refused(url, error) from error
            if status is None:
                raise _FileError(url, "no such file", absent=True)
            if not status.regular:
                raise _FileError(url, "is not a regular file")
            size = status.size
            try:
                check_cap(url, size, cap)
            except LocationError as error:
                raise _FileError(url, error.reason, wrong=True) from None
            start = offset if offset <= size else 0
            chunks = _translated(sftp.chunks(account.path, start, size), url, start, size)
            with closing(chunks):
                yield Response(chunks, start, size, lambda: None)

    def close(self) -> None:
        for sftp in self._sessions.values():
            with suppress(LocationError):
                sftp.close()
        self._sessions.clear()


def _refused(url: str, error: StatusError) -> LocationError:
    return _FileError(url, f"the server refuses: {error.text}", absent=error.code == NO_SUCH_FILE)


def _translated(
    chunks: Iterator[bytes], url: str, position: int, size: int
) -> Generator[bytes, None, None]:
    try:
        for chunk in chunks:
            position += len(chunk)
            yield chunk
    except StatusError as error:
        raise _refused(url, error) from error
    if position < size:
        raise _FileError(url, f"the file ended after {position} of {size} bytes", transient=True)
