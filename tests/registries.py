"""Registries for tests: Debian's docker-registry, on loopback, with TLS and a password where they
want it; one in memory, without a network; and a binhost in one, as the remotes' contract has it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen

import pytest

from buildit.digest import Digest, canonical, digest_bytes, oci_digest
from buildit.model.config import Oci
from buildit.remote.binhost import manifests
from buildit.remote.binhost.registry import RegistryRemote, RegistryTransport
from buildit.remote.registry.client import IMAGE_MANIFEST, Registry
from buildit.remote.registry.reference import parse_reference
from buildit.remote.transport import LocationError, Response, check_cap
from buildit.remote.web import Reply
from tests.remote_contract import There
from tests.servers import Certificates, certificates, free_port

USER, PASSWORD = "ada", "a secret"


@dataclass(frozen=True, slots=True)
class Served:
    """A registry that runs: `host` has its port, `storage` is where its blobs lie, `log` what it
    says of requests."""

    host: str
    storage: Path
    certificates: Certificates | None
    root: Path

    @property
    def log(self) -> Path:
        return self.root / "log"

    def collect_garbage(self) -> str:
        """Have it remove what no manifest with a tag refers to; what it says."""
        argv = ["docker-registry", "garbage-collect", "--delete-untagged"]
        done = subprocess.run([*argv, f"{self.root}/config.yml"], check=True, capture_output=True)
        return done.stdout.decode()

    def authentication(self, home: Path) -> Path:
        """What `podman login` would leave."""
        home.mkdir(parents=True, exist_ok=True)
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        path = home / "auth.json"
        path.write_text(json.dumps({"auths": {self.host: {"auth": known}}}))
        return path

    def put_blob(self, digest: Digest, content: bytes) -> None:
        """Give a blob other bytes than its name says."""
        place = f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
        (self.storage / place).write_bytes(content)


@contextmanager
def registry(root: Path, *, secure: bool = True) -> Iterator[Served]:
    """docker-registry; with `secure` it speaks TLS and wants USER and PASSWORD."""
    program = shutil.which("docker-registry")
    if program is None or (secure and shutil.which("htpasswd") is None):
        pytest.skip("docker-registry or htpasswd (apache2-utils) is not installed")
    root.mkdir(parents=True)
    port, storage = free_port(), root / "storage"
    lines = [
        "version: 0.1",
        "log: {level: error}",
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}",
    ]
    made = None
    if secure:
        made = certificates(root / "tls")
        words = ["htpasswd", "-Bbn", USER, PASSWORD]
        (root / "passwords").write_bytes(
            subprocess.run(words, capture_output=True, check=True).stdout
        )
        lines.append(f"auth: {{htpasswd: {{realm: tests, path: {root}/passwords}}}}")
        tls = f", tls: {{certificate: {made.certificate}, key: {made.key}}}"
    else:
        tls = ""
    lines.append(f"http: {{addr: '127.0.0.1:{port}', secret: x{tls}}}")
    (root / "config.yml").write_text("\n".join(lines) + "\n")
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", root / "config.yml"], stdout=log, stderr=log)
        try:
            _wait(port, process, root / "log")
            yield Served(f"127.0.0.1:{port}", storage, made, root)
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
        except HTTPError:
            return  # it answers: 401, or that it wants TLS
        except (URLError, OSError):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        else:
            return


def environ(home: Path) -> dict[str, str]:
    """The environment of somebody whose logins are in `home` alone."""
    kept = {name: value for name, value in os.environ.items() if "AUTH_FILE" not in name}
    return {
        **kept,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "DOCKER_CONFIG": f"{home}/docker",
    }


@dataclass
class MemoryRegistry:
    """A registry of dictionaries, spoken to as the client speaks to a host: distribution-spec 1.1,
    with no list of referrers where it has no such `api`. `fails` are what it answers instead, by
    `METHOD path`; `dead` cannot be reached."""

    api: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fails: Callable[[str, str], int] = lambda _method, _path: 0
    dead: bool = False

    def put_blob(self, digest: Digest, content: bytes) -> None:
        """Give a blob other bytes than its name says."""
        self.blobs[oci_digest(digest)] = content

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None = None,
        cap: int = 1 << 20,
    ) -> Reply:
        status, more, content = self._answer(method, url, headers, body)
        check_cap(url, len(content), cap)
        return Reply(status, {"content-length": str(len(content)), **more}, content)

    @contextmanager
    def stream(
        self, url: str, headers: Mapping[str, str], offset: int, cap: int
    ) -> Iterator[Response | Reply]:
        status, more, content = self._answer("GET", url, headers, None)
        if status != 200:
            yield Reply(status, more, content)
            return
        check_cap(url, len(content), cap)
        yield Response(iter((content[offset:],)), offset, len(content), lambda: None)

    def _answer(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | BinaryIO | None
    ) -> tuple[int, dict[str, str], bytes]:
        content = b"" if body is None else body if isinstance(body, bytes) else body.read()
        parts = urlsplit(url)
        path = parts.path.removeprefix("/v2/bin/host/")
        self.asked.append(f"{method} {path}")
        if self.dead:
            raise LocationError(url, "connection refused", unreachable=True)
        if status := self.fails(method, path):
            wanted = {"www-authenticate": 'Basic realm="tests"'} if status == 401 else {}
            return status, wanted, b'{"errors": [{"code": "TESTED"}]}'
        kind, _, name = path.partition("/")
        if kind == "blobs":
            return self._blob(method, name, parse_qs(parts.query), content)
        if kind == "manifests":
            return self._manifest(method, unquote(name), headers, content)
        if kind == "tags":
            return (200, {}, canonical({"tags": sorted(self.tags)})) if self.tags else _ABSENT
        if kind == "referrers" and self.api:
            found = [digest for digest, one in self.manifests.items() if _subject(one) == name]
            listed = [{"digest": one, "mediaType": IMAGE_MANIFEST} for one in found]
            return 200, {}, canonical({"schemaVersion": 2, "manifests": listed})
        return _ABSENT

    def _blob(
        self, method: str, name: str, query: Mapping[str, list[str]], content: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if method == "POST":
            return 202, {"location": f"/v2/bin/host/{'blobs/uploads/1'}"}, b""
        if method == "PUT":
            (digest,) = query["digest"]
            if oci_digest(digest_bytes(content)) != digest:
                return 400, {}, b'{"errors": [{"code": "DIGEST_INVALID"}]}'
            self.blobs[digest] = content
            return 201, {}, b""
        if name not in self.blobs:
            return _ABSENT
        if method == "HEAD":
            return 200, {"content-length": str(len(self.blobs[name]))}, b""
        return 200, {}, self.blobs[name]

    def _manifest(
        self, method: str, name: str, headers: Mapping[str, str], content: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if method == "GET":
            found = self.manifests.get(self.tags.get(name, name))
            return _ABSENT if found is None else (200, {"content-type": IMAGE_MANIFEST}, found)
        assert headers["Content-Type"]
        document, digest = json.loads(content), oci_digest(digest_bytes(content))
        lists = (document.get("layers", ()), [document["config"]] if "config" in document else ())
        for one in (one for listed in lists for one in listed):
            if len(self.blobs.get(one["digest"], b"")) != one["size"]:
                return 404, {}, b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]}'
        self.manifests[digest] = content
        if name != digest:
            self.tags[name] = digest
        kept = {"oci-subject": _subject(content)} if self.api and _subject(content) else {}
        return 201, {"docker-content-digest": digest, **kept}, b""


_ABSENT: tuple[int, dict[str, str], bytes] = (404, {}, b'{"errors": [{"code": "UNKNOWN"}]}')


def _subject(manifest: bytes) -> str:
    return str(json.loads(manifest).get("subject", {}).get("digest", ""))


def lay(
    registry: Registry, put_blob: Callable[[Digest, bytes], None], path: str, content: bytes
) -> None:
    """Put bytes below a binhost's root in a registry as no publisher would."""
    if (digest := manifests.blob_at(path)) is not None:
        put_blob(digest, content)
        return
    name = oci_digest(digest_bytes(content))
    registry.put_blob(name, len(content), lambda: io.BytesIO(content))
    _marked(registry, path, lambda marks, mark: {**marks, mark: name})


def drop(registry: Registry, path: str) -> None:
    """Take a part of a statement away."""
    _marked(registry, path, lambda marks, mark: {one: marks[one] for one in marks if one != mark})


def _marked(
    registry: Registry, path: str, change: Callable[[Mapping[str, str], str], Mapping[str, str]]
) -> None:
    part = manifests.part_at(path)
    assert part is not None
    found = registry.manifest(part.tag)
    assert found is not None
    document = json.loads(found[0])
    document["annotations"] = change(document["annotations"], part.mark)
    registry.put_manifest(canonical(document), IMAGE_MANIFEST, part.tag)


def registry_there(
    client: Registry, address: Oci, put_blob: Callable[[Digest, bytes], None], tmp: Path
) -> There:
    """A binhost in a registry; `put_blob` gives a blob of it other bytes."""
    asked: list[str] = []
    remote, reader = binhost_in(client, address), binhost_in(client, address, asked)
    laid, dropped = partial(lay, client, put_blob), partial(drop, client)
    return There(remote, reader, laid, dropped, lambda: asked, tmp)


def remembered(web: MemoryRegistry, tmp: Path) -> There:
    """A binhost in a registry in memory."""
    address = Oci("registry.example.org", "bin/host")
    client = Registry(web, parse_reference(str(address)), lambda _: None)
    return registry_there(client, address, web.put_blob, tmp)


def binhost_in(client: Registry, address: Oci, asked: list[str] | None = None) -> RegistryRemote:
    """A binhost in a repository; `asked` are the paths that are read."""
    reading = RegistryTransport(address, client, lambda: None)

    class Counting:
        def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:
            if asked is not None:
                asked.append(url)
            return reading.get(url, offset, cap)

        def close(self) -> None:
            """Nothing was opened."""

    return RegistryRemote(reading, Counting())
