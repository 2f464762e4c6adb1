"""The way to an SFTP server where OpenSSH's client is missing: paramiko, under the same rules.

Host keys come from ~/.ssh/known_hosts alone, keys from the agent and ~/.ssh; ~/.ssh/config is
not read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.home import home_of
from buildit.remote.sftp.ssh_account import Account
from buildit.remote.sftp.ssh_pipe import READ, Waits, explained
from buildit.remote.transport import LocationError
from buildit.trust.sshsig import fingerprint

if TYPE_CHECKING:
    import paramiko


class ParamikoPipe:
    """One channel of one connection."""

    def __init__(self, account: Account, waits: Waits) -> None:
        self._account = account
        self._waits = waits
        try:
            import paramiko
        except ImportError as error:
            raise LocationError(
                account.shown,
                "neither ssh nor paramiko is here",
                hint="install openssh-client (better), or: pip install 'buildit[ssh]'",
                unreachable=True,
            ) from error
        self._client = paramiko.SSHClient()
        try:
            self._channel = _connected(self._client, account, waits)
        except BaseException:
            self._client.close()
            raise

    def send(self, data: bytes | bytearray | memoryview, *, patient: bool = False) -> None:
        try:
            self._channel.settimeout(self._waits.answer if patient else self._waits.first)
            self._channel.sendall(bytes(data))
        except OSError as error:
            raise self.ended() from error

    def receive(self, *, patient: bool = False) -> bytes:
        try:
            self._channel.settimeout(self._waits.answer if patient else self._waits.first)
            return bytes(self._channel.recv(READ))
        except TimeoutError as error:
            limit = self._channel.gettimeout() or 0
            reason = f"no answer for {limit:.0f} seconds"
            raise LocationError(self._account.shown, reason, unreachable=True) from error
        except OSError as error:
            raise self.ended() from error

    def ended(self) -> LocationError:
        return explained(self._account, "", None)

    def close(self) -> None:
        self._client.close()


def _connected(client: paramiko.SSHClient, account: Account, waits: Waits) -> paramiko.Channel:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
        def missing_host_key(self, _client: object, _name: str, key: paramiko.PKey) -> None:
            raise _unknown(account, key)

    home = home_of(os.environ)
    if home is None:
        raise LocationError(
            account.shown,
            "there is no home directory, and so no known host",
            hint="set HOME to where .ssh/known_hosts is",
        )
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
            raise explained(account, "", None)
        if transport.get_remote_server_key().asbytes() in revoked:
            raise LocationError(
                account.shown,
                f"the host key of {account.known_as} is revoked in ~/.ssh/known_hosts",
                hint="somebody may stand in between: ask whoever runs the server",
                unreachable=True,
            )
        channel = transport.open_session(window_size=8 << 20)
        channel.settimeout(waits.answer)
        channel.invoke_subsystem("sftp")
    except paramiko.BadHostKeyException as error:
        said = f"IDENTIFICATION HAS CHANGED {fingerprint(error.key.asbytes())}"
        raise explained(account, f"Host key verification failed {said}", 255) from error
    except paramiko.AuthenticationException as error:
        raise explained(account, "Permission denied (publickey).", 255) from error
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        # ValueError: a file in ~/.ssh that is no key
        raise explained(account, str(error) or type(error).__name__, 255) from error
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
        raise LocationError(
            str(path), f"cannot be read: {error.strerror}", unreachable=True
        ) from error
    revoked: set[bytes] = set()
    for line in lines:
        marked = line.startswith("@revoked")
        try:
            entry = HostKeyEntry.from_line(line.removeprefix("@revoked").strip())
        except (InvalidHostKey, SSHException, ValueError):
            continue
        if entry is None or line.startswith(("@cert-authority", "#")):
            continue
        if marked:
            revoked.add(entry.key.asbytes())
            continue
        for name in entry.hostnames:
            client.get_host_keys().add(name, entry.key.get_name(), entry.key)
    return revoked


def _unknown(account: Account, key: paramiko.PKey) -> LocationError:
    said = f"No host key is known {fingerprint(key.asbytes())}"
    return explained(account, f"Host key verification failed {said}", 255)
