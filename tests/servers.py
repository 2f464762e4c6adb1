"""Real servers on loopback: OpenSSH's sshd and nginx with TLS, each in a directory of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SFTP = "internal-sftp"
"""Without the login shell, whose start-up files are nothing to these tests."""
WAIT = 60.0
_PORTS = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A port of this machine that nobody has: below those that the kernel gives to clients, and
    in another order in each process, so that no two tests choose the same."""
    while True:
        port = 11_000 + next(_PORTS) % 20_000
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the server does not listen")


def keygen(path: Path, kind: str = "ed25519") -> Path:
    """A key pair without passphrase."""
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


@dataclass
class Sshd:
    """One sshd that lets one key in, as the user who runs it. `program` is BUILDIT_SSH for it."""

    root: Path
    port: int
    subsystem: str = SFTP
    process: subprocess.Popen[bytes] | None = None

    @property
    def host_key(self) -> Path:
        return self.root / "host_key"

    @property
    def user_key(self) -> Path:
        return self.root / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def program(self) -> str:
        return f"ssh -F {self.root}/ssh_config"

    def url(self, path: Path) -> str:
        """An `ssh://` URL of an absolute path."""
        return f"ssh://127.0.0.1:{self.port}/{path}"

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        keygen(self.host_key)
        keygen(self.user_key)
        shutil.copy(f"{self.user_key}.pub", self.root / "authorized_keys")
        self.know()
        (self.root / "sshd_config").write_text(
            f"""\
ListenAddress 127.0.0.1
Port {self.port}
HostKey {self.host_key}
PidFile none
AuthorizedKeysFile {self.root}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp {self.subsystem}
MaxStartups 100
LogLevel ERROR
"""
        )
        (self.root / "ssh_config").write_text(
            f"""\
Host *
    IdentityFile {self.user_key}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {self.known_hosts}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking no
    BatchMode no
    ForwardAgent yes
"""
        )

    def know(self) -> None:
        """Make the host key known to the client."""
        kind, key = Path(f"{self.host_key}.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = self.root / "sshd.log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.root / "sshd_config")],
                stderr=stream,
                start_new_session=True,
            )
        wait_for(self.port, self.process)

    def stop(self) -> None:
        """End it with every session that it serves, at once."""
        if self.process is None:
            return
        for pid in (*_below(self.process.pid), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process = None

    def kill_sessions(self) -> None:
        """End every session, and go on listening."""
        assert self.process is not None
        for pid in _below(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _below(pid: int) -> list[int]:
    """All processes that this one started, and those that they did."""
    found: list[int] = []
    pending = [pid]
    while pending:
        one = pending.pop()
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
        except OSError:
            continue
        found += children
        pending += children
    return found


@contextmanager
def sshd(root: Path, subsystem: str = SFTP) -> Iterator[Sshd]:
    server = Sshd(root, free_port(), subsystem)
    server.prepare()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Certificates:
    """A certificate authority and a certificate for 127.0.0.1 and localhost that it signed."""

    root: Path
    name: str = "server"

    @property
    def authority(self) -> Path:
        return self.root / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.root / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        return self.root / f"{self.name}.key"


def certificates(
    root: Path, name: str = "server", names: str = "IP:127.0.0.1,DNS:localhost", faked: str = ""
) -> Certificates:
    """Make one; `faked` is the day (faketime) on which a certificate for one day is made."""
    root.mkdir(parents=True, exist_ok=True)
    made = Certificates(root, name)
    _openssl(
        [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            f"{root}/ca.key",
            "-out",
            str(made.authority),
            "-days",
            "30",
            "-subj",
            "/CN=buildit test authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ]
    ) if not made.authority.exists() else None
    _openssl(
        [
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            str(made.key),
            "-out",
            f"{root}/{name}.csr",
            "-subj",
            f"/CN={name}",
        ]
    )
    (root / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    _openssl(
        [
            "x509",
            "-req",
            "-in",
            f"{root}/{name}.csr",
            "-CA",
            str(made.authority),
            "-CAkey",
            f"{root}/ca.key",
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            f"{root}/{name}.ext",
            "-out",
            str(made.certificate),
        ],
        faked,
    )
    return made


def _openssl(words: list[str], faked: str = "") -> None:
    before = ["faketime", faked] if faked else []
    subprocess.run([*before, "openssl", *words], check=True, capture_output=True)


@dataclass
class Nginx:
    """One nginx that serves `site` over TLS."""

    root: Path
    site: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def requests(self) -> list[str]:
        """What was asked, with the status: `GET /k/… 200`. A line comes after its answer."""
        path = self.root / "access.log"
        lines, before = "", "-"
        while lines != before:
            time.sleep(0.1)
            lines, before = path.read_text() if path.exists() else "", lines
        return lines.splitlines()


@contextmanager
def nginx(root: Path, site: Path, made: Certificates, further: str = "") -> Iterator[Nginx]:
    """Serve a directory; `further` are lines of its `server` block."""
    root.mkdir(parents=True, exist_ok=True)
    server = Nginx(root, site, free_port())
    user = "user root;" if os.geteuid() == 0 else ""
    (root / "nginx.conf").write_text(
        f"""\
{user}
worker_processes 1;
daemon off;
error_log {root}/error.log;
pid {root}/pid;
events {{ worker_connections 512; }}
http {{
    log_format short '$request_method $request_uri $status $bytes_sent';
    access_log {root}/access.log short;
    default_type application/octet-stream;
    keepalive_requests 100000;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    server {{
        listen 127.0.0.1:{server.port} ssl http2;
        ssl_certificate {made.certificate};
        ssl_certificate_key {made.key};
        root {site};
        {further}
    }}
}}
"""
    )
    argv = ["nginx", "-e", f"{root}/error.log", "-p", str(root), "-c", str(root / "nginx.conf")]
    server.process = subprocess.Popen(argv, start_new_session=True)
    try:
        wait_for(server.port, server.process)
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
