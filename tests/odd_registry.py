"""A registry in this process that does as it is told, well or badly: distribution-spec 1.1 with the
API of referrers, over plain HTTP on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from buildit.digest import canonical, digest_bytes, oci_digest
from buildit.remote.registry.client import IMAGE_INDEX, IMAGE_MANIFEST, Registry
from buildit.remote.registry.login import Login
from buildit.remote.registry.reference import parse_reference
from buildit.remote.web import WebTransport

Odd = Callable[["Handler"], bool]
"""Whether it gave the answer itself."""


class Handler(BaseHTTPRequestHandler):
    """One request; `content` is its body, `odd` what tests do with it first."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece
    there: OddRegistry
    content: bytes = b""

    def log_message(self, *_: object) -> None:
        """Tests look at `asked`."""

    def _any(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        shown = self.headers.get("Authorization", "")
        self.there.asked.append((f"{self.command} {self.path}", shown))
        if not self.there.odd(self):
            self.there.well(self)

    do_GET = do_HEAD = do_PUT = do_POST = _any  # noqa: N815 - as http.server calls them

    def reply(self, status: int, content: bytes = b"", **headers: str) -> bool:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(content))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()
        return True

    def cut(self, status: int, content: bytes, length: int) -> bool:
        """Promise `length` bytes, serve fewer, and hang up."""
        self.reply(status, content, Content_Length=str(length))
        self.close_connection = True
        return True


@dataclass
class OddRegistry:
    """`api` is the one of referrers. `odd` is asked before each good answer."""

    port: int = 0
    api: bool = True
    odd: Odd = lambda _: False
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def at(self, web: WebTransport, name: str, login: Login | None = None) -> Registry:
        return Registry(web, parse_reference(f"oci://{self.host}/{name}"), lambda _: login)

    def words(self, begin: str = "") -> list[str]:
        return [words for words, _ in self.asked if words.startswith(begin)]

    # -- what tests put there

    def put_blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = oci_digest(digest_bytes(content))
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def put_manifest(
        self, document: object, media_type: str = IMAGE_MANIFEST, tag: str = ""
    ) -> dict[str, Any]:
        content = canonical(document)
        digest = oci_digest(digest_bytes(content))
        self.manifests[digest] = (media_type, content)
        if tag:
            self.tags[tag] = digest
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    # -- how it answers well

    def well(self, request: Handler) -> None:
        parts = urlsplit(request.path)
        _, _, rest = parts.path.partition("/v2/")
        if not rest:
            request.reply(200)
            return
        for kind in ("blobs", "manifests", "referrers", "tags"):
            name, found, target = rest.rpartition(f"/{kind}/")
            if found and name:
                answer = getattr(self, f"_{kind}")
                answer(request, target, parse_qs(parts.query))
                return
        request.reply(404)

    def _blobs(self, request: Handler, target: str, query: dict[str, list[str]]) -> None:
        if request.command == "POST":
            request.reply(202, Location=f"{urlsplit(request.path).path}one")
        elif request.command == "PUT":
            digest = oci_digest(digest_bytes(request.content))
            if digest != query["digest"][0]:
                request.reply(400, _errors("DIGEST_INVALID"))
                return
            self.blobs[digest] = request.content
            request.reply(201)
        elif target not in self.blobs:
            request.reply(404, _errors("BLOB_UNKNOWN"))
        else:
            content = self.blobs[target]
            begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
            ranged = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            if begin:
                request.reply(206, content[begin:], Content_Range=ranged)
            else:
                request.reply(200, content)

    def _manifests(self, request: Handler, target: str, _: object) -> None:
        if request.command == "PUT":
            digest = oci_digest(digest_bytes(request.content))
            document = json.loads(request.content)
            self.manifests[digest] = (request.headers["Content-Type"], request.content)
            if target != digest:
                self.tags[target] = digest
            more = {"OCI_Subject": document["subject"]["digest"]} if "subject" in document else {}
            request.reply(201, Docker_Content_Digest=digest, **(more if self.api else {}))
            return
        found = self.manifests.get(self.tags.get(target, target))
        if found is None:
            request.reply(404, _errors("MANIFEST_UNKNOWN"))
        else:
            request.reply(200, found[1], Content_Type=found[0])

    def _referrers(self, request: Handler, target: str, _: object) -> None:
        if not self.api:
            request.reply(404)
            return
        found = []
        for digest, (media_type, content) in self.manifests.items():
            document = json.loads(content)
            if document.get("subject", {}).get("digest") == target:
                one = {"mediaType": media_type, "digest": digest, "size": len(content)}
                found.append({**one, "artifactType": document.get("artifactType", "")})
        index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": found}
        request.reply(200, canonical(index), Content_Type=IMAGE_INDEX)

    def _tags(self, request: Handler, _: str, __: object) -> None:
        request.reply(200, canonical({"tags": sorted(self.tags)}))


def _errors(code: str) -> bytes:
    return canonical({"errors": [{"code": code, "message": "so it is"}]})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients hang up where they have heard enough."""


@contextmanager
def odd_registry() -> Iterator[OddRegistry]:
    there = OddRegistry()
    server = _Server(("127.0.0.1", 0), type("Of", (Handler,), {"there": there}))
    there.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
