"""git over https for tests: `git http-backend` behind a small TLS server on loopback."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.gitting import ENV
from tests.servers import Certificates


class _Backend(BaseHTTPRequestHandler):
    """`/private/…` asks for a password, `/plain/…` leads to http://, the rest is git's below
    `root`; what git says is handed on as CGI has it (RFC 3875)."""

    def __init__(self, root: Path, *rest: object) -> None:
        self.root = root
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/private/"):
            self._answer(b"Status: 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n\r\n")
        elif path.startswith("/plain/"):
            host = self.headers["Host"]
            self._answer(
                f"Status: 302 Found\r\nLocation: http://{host}{self.path}\r\n\r\n".encode()
            )
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked = {
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
            }
            owned = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory"}
            env = {**ENV, **asked, **owned, "GIT_CONFIG_VALUE_0": "*"}
            argv = ["git", "http-backend"]
            done = subprocess.run(argv, env=env, input=body, capture_output=True, check=False)
            self._answer(done.stdout)

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, told: bytes) -> None:
        head, _, body = told.partition(b"\r\n\r\n")
        fields = [line.partition(": ")[::2] for line in head.decode().split("\r\n")]
        self.send_response(int(dict(fields).get("Status", "200").split()[0]))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def git_over_https(root: Path, made: Certificates) -> Iterator[str]:
    """The URL at which the repositories below `root` are served."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Backend, root)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
