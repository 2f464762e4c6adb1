"""What is said to a registry, and to whom: tokens, redirects, answers that are none."""

from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from buildit.archive.streams import run_all
from buildit.digest import digest_bytes, oci_digest
from buildit.errors import BuilditError, IntegrityError, UsageError
from buildit.model.config import Oci
from buildit.remote.registry.client import Registry
from buildit.remote.registry.login import Login, login_of
from buildit.remote.registry.reference import Reference, parse_reference
from buildit.remote.transport import LocationError, Response
from buildit.remote.web import Reply
from tests.registries import binhost_in

pytestmark = pytest.mark.unit

AT = parse_reference("oci://registry.example.org/web/nginx:1")
BASE = "https://registry.example.org/v2/web/nginx"
BEARER = 'Bearer realm="https://auth.example.org/token",service="r",scope="repository:x:pull"'


@dataclass
class FakeWeb:
    """Answers by method and URL, in their order; what was asked, with the login that was shown."""

    answers: dict[str, list[Reply]]
    asked: list[tuple[str, str]] = field(default_factory=list)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None = None,
        cap: int = 1 << 20,  # noqa: ARG002 - the protocol's
    ) -> Reply:
        words = f"{method} {url}"
        self.asked.append((words, headers.get("Authorization", "")))
        if body is not None and not isinstance(body, bytes):
            body.read()
        left = self.answers[words]
        return left.pop(0) if len(left) > 1 else left[0]

    @contextmanager
    def stream(
        self, url: str, headers: Mapping[str, str], offset: int, cap: int
    ) -> Iterator[Response | Reply]:
        found = self.send("GET", url, headers, cap=cap)
        if found.status != 200:
            yield found
            return
        yield Response(iter((found.content[offset:],)), offset, len(found.content), lambda: None)


def reply(status: int, content: object = b"", **headers: str) -> Reply:
    encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, encoded)


def registry(
    answers: dict[str, list[Reply]], login: Login | None = None
) -> tuple[Registry, FakeWeb]:
    web = FakeWeb(answers)
    return Registry(web, AT, lambda _: login), web


def test_a_token_is_asked_for_at_the_realm_with_the_login() -> None:
    login = Login("ada", "secret")
    wanted = "service=r&scope=repository%3Aweb%2Fnginx%3Apull"
    there, web = registry(
        {
            f"GET {BASE}/tags/list?n=1000": [
                reply(401, www_authenticate=BEARER),
                reply(200, {"tags": ["1"]}),
            ],
            f"GET https://auth.example.org/token?{wanted}": [reply(200, {"token": "t0ken"})],
        },
        login,
    )
    assert there.tags() == ["1"]
    assert [shown for _, shown in web.asked] == ["", login.basic(), "Bearer t0ken"]


def test_readers_at_once_share_one_token() -> None:
    """All are refused before one of them has asked."""
    refused = threading.Barrier(4)

    class AllAtOnce(FakeWeb):
        def send(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str],
            body: bytes | BinaryIO | None = None,
            cap: int = 1 << 20,
        ) -> Reply:
            answer = super().send(method, url, headers, body, cap)
            if method == "HEAD" and "Authorization" not in headers:
                refused.wait(30)
                return reply(401, www_authenticate=BEARER)
            return answer

    wanted = "service=r&scope=repository%3Aweb%2Fnginx%3Apull"
    token, blobs = f"GET https://auth.example.org/token?{wanted}", ["a", "b", "c", "d"]
    answers = {f"HEAD {BASE}/blobs/{one}": [reply(200, content_length="5")] for one in blobs}
    web = AllAtOnce({**answers, token: [reply(200, {"token": "t"})]})
    there = Registry(web, AT, lambda _: None)
    works = [partial(there.has_blob, one) for one in blobs]
    assert run_all(works, len(works)) == [5, 5, 5, 5]
    assert [words for words, _ in web.asked].count(token) == 1


def test_a_token_of_one_repository_is_not_shown_for_another() -> None:
    token = "GET https://auth.example.org/token?service=r&scope=repository%3Aweb%2Fnginx"
    answers = {
        f"HEAD {BASE}{below}/blobs/a": [
            reply(401, www_authenticate=BEARER),
            reply(200, content_length="5"),
        ]
        for below in ("", "/box")
    }
    answers[f"{token}%3Apull"] = [reply(200, {"token": "one"})]
    answers[f"{token}%2Fbox%3Apull"] = [reply(200, {"token": "other"})]
    there, web = registry(answers)
    remote = binhost_in(there, Oci("registry.example.org", "web/nginx"))
    assert there.has_blob("a") == 5
    assert remote.beside("box").has_blob("a") == 5
    assert [shown for _, shown in web.asked] == ["", "", "Bearer one", "", "", "Bearer other"]


def test_an_identity_token_is_exchanged() -> None:
    there, web = registry(
        {
            f"GET {BASE}/tags/list?n=1000": [
                reply(401, www_authenticate=BEARER),
                reply(200, {"tags": []}),
            ],
            "POST https://auth.example.org/token": [reply(200, {"access_token": "t"})],
        },
        Login("", "identity"),
    )
    assert there.tags() == []
    assert [shown for _, shown in web.asked] == ["", "", "Bearer t"]


@pytest.mark.parametrize(
    ("challenge", "message"),
    [
        ('Bearer realm="http://auth.example.org/token"', "leads from https down to http://auth"),
        ('Bearer realm="http://127.0.0.1:9/token"', "leads from https down to http://127"),
        ('Bearer realm="https://127.0.0.1:9/token"', "leads to this machine"),
        ('Bearer realm="https://localhost/token"', "leads to this machine"),
        ('Bearer realm="http://169.254.169.254/token"', "link-local"),
        ("Bearer", "of a kind that is not known"),
        ("Negotiate", "of a kind that is not known"),
        ("", "of a kind that is not known"),
    ],
)
def test_a_realm_that_gets_no_login(challenge: str, message: str) -> None:
    answers = {f"GET {BASE}/tags/list?n=1000": [reply(401, www_authenticate=challenge)]}
    there, web = registry(answers, Login("ada", "secret"))
    with pytest.raises(LocationError, match=message):
        there.tags()
    assert [shown for _, shown in web.asked] == [""]


def test_a_redirect_to_another_host_gets_no_login() -> None:
    content = b"blob"
    digest = oci_digest(digest_bytes(content))
    elsewhere = "https://storage.example.net/x?signed=1"
    there, web = registry(
        {
            f"GET {BASE}/blobs/{digest}": [
                reply(401, www_authenticate="Basic realm=r"),
                reply(307, location=elsewhere),
            ],
            f"GET {elsewhere}": [reply(200, content)],
        },
        Login("ada", "secret"),
    )
    assert there.blob(digest, 100) == content
    assert [bool(shown) for _, shown in web.asked] == [False, True, False]


@pytest.mark.parametrize(
    "location",
    ["http://storage.example.net/x", "http://localhost/x", "ftp://x/y", "https://[::1]/x"],
)
def test_a_redirect_that_is_not_followed(location: str) -> None:
    digest = oci_digest(digest_bytes(b"blob"))
    there, web = registry({f"GET {BASE}/blobs/{digest}": [reply(307, location=location)]})
    with pytest.raises(LocationError, match=r"redirects (from https down|to)"):
        there.blob(digest, 100)
    assert len(web.asked) == 1


def test_an_upload_elsewhere_gets_no_login_and_no_plain_http() -> None:
    digest = oci_digest(digest_bytes(b"blob"))
    begin = f"POST {BASE}/blobs/uploads/"
    elsewhere = "https://storage.example.net/up"
    there, web = registry(
        {
            begin: [reply(401, www_authenticate="Basic realm=r"), reply(202, location=elsewhere)],
            f"PUT {elsewhere}?digest={digest.replace(':', '%3A')}": [reply(201)],
        },
        Login("ada", "secret"),
    )
    assert there.put_blob(digest, 4, lambda: io.BytesIO(b"blob"))
    assert [bool(shown) for _, shown in web.asked] == [False, True, False]
    for place, message in (
        ("http://storage.example.net/up", "leads from https down to"),
        ("https://127.0.0.1/up", "leads to this machine"),
    ):
        there, web = registry({begin: [reply(202, location=place)]})
        with pytest.raises(LocationError, match=message):
            there.put_blob(digest, 4, lambda: io.BytesIO(b"blob"))
        assert len(web.asked) == 1


def opened(there: Registry, digest: str) -> None:
    with there.open_blob(digest, 0, 100):
        pass


WAYS: dict[str, Callable[[Registry, str], object]] = {
    "blob": lambda there, digest: there.blob(digest, 100),
    "open_blob": opened,
    "put_blob": lambda there, digest: there.put_blob(digest, 4, lambda: io.BytesIO(b"blob")),
}
EVIL = 'Bearer realm="https://evil.example/token",service="r",scope="repository:x:pull"'


@pytest.mark.parametrize("challenge", [EVIL, "Basic realm=r"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [[], [reply(401, www_authenticate="Basic realm=r")]])
def test_another_host_cannot_ask_for_the_login(
    challenge: str, way: str, before: list[Reply]
) -> None:
    """Where the registry leads elsewhere, whoever is there is not to say who gets the login."""
    digest = oci_digest(digest_bytes(b"blob"))
    elsewhere = "https://storage.example.net/x"
    refusal = [reply(401, www_authenticate=challenge)]
    there, web = registry(
        {
            f"GET {BASE}/blobs/{digest}": [*before, reply(307, location=elsewhere)],
            f"POST {BASE}/blobs/uploads/": [*before, reply(202, location=elsewhere)],
            f"GET {elsewhere}": refusal,
            f"PUT {elsewhere}?digest={digest.replace(':', '%3A')}": refusal,
        },
        Login("ada", "secret"),
    )
    with pytest.raises(LocationError, match=r"leads to storage\.example\.net, which wants a"):
        WAYS[way](there, digest)
    assert len(web.asked) == 2 + len(before)
    assert {shown for words, shown in web.asked if BASE not in words} == {""}


def test_a_token_is_for_what_is_done() -> None:
    digest = oci_digest(digest_bytes(b"blob"))
    token = "GET https://auth.example.org/token?service=r&scope=repository%3Aweb%2Fnginx%3Apull"
    also = "&scope=repository%3Aother%3Apull"
    refused = reply(401, www_authenticate=BEARER)
    there, web = registry(
        {
            f"HEAD {BASE}/blobs/{digest}": [refused, reply(404)],
            f"POST {BASE}/blobs/uploads/": [refused, reply(201)],
            token: [reply(200, {"token": "read"})],
            f"{token}%2Cpush{also}": [reply(200, {"token": "write"})],
        },
        Login("ada", "secret"),
    )
    there.also = frozenset({"other"})
    assert there.has_blob(digest) is None
    assert not there.put_blob(digest, 4, lambda: io.BytesIO(b"blob"))
    assert there.has_blob(digest) is None
    shown = [login for words, login in web.asked if BASE in words]
    assert shown == ["", "Bearer read", "", "Bearer write", "Bearer read"]


def test_docker_hub_is_meant_as_docker_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """distribution's reference package, and docker's IndexServer."""
    for text, name in {
        "docker://docker.io/nginx:1": "library/nginx",
        "oci://index.docker.io/nginx:1": "library/nginx",
        "oci://docker.io/web/nginx:1": "web/nginx",
    }.items():
        at = parse_reference(text)
        assert at == Reference("docker.io", name, "1")
        web = FakeWeb({f"GET https://registry-1.docker.io/v2/{name}/manifests/1": [reply(404)]})
        assert Registry(web, at, lambda _: None).manifest("1") is None
    assert parse_reference("oci://h/nginx").name == "nginx"
    server = "https://index.docker.io/v1/"
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin/docker-credential-hub"
    answer = json.dumps({"Username": "ada", "Secret": "secret"})
    helper.write_text(
        f"#!/bin/sh\nread server\n[ $server = {server} ] && echo '{answer}' && exit\n"
        "echo credentials not found; exit 1\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    auth = base64.b64encode(b"ada:secret").decode()
    for kept in (
        {"credsStore": "hub"},
        {"credHelpers": {server: "hub"}},
        {"credHelpers": {"docker.io": "hub"}, "credsStore": "none"},
        {"auths": {server: {"auth": auth}}},
        {"auths": {"docker.io": {"auth": auth}}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(kept))
        at, environ = parse_reference("oci://docker.io/nginx"), {"DOCKER_CONFIG": str(tmp_path)}
        assert login_of(at, environ) == Login("ada", "secret"), kept


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (500, b"", "refuses to serve it: HTTP 500"),
        (
            403,
            {"errors": [{"code": "DENIED", "message": "no"}]},
            "the login is refused: DENIED: no",
        ),
        (429, {"errors": [{"code": "TOOMANYREQUESTS"}]}, "TOOMANYREQUESTS"),
        (200, b"<html>", "answers with no JSON"),
        (200, b"[]", "no object of JSON"),
        (200, b"[" * 100_000, "answers with no JSON"),
    ],
)
def test_answers_that_are_none(status: int, content: object, message: str) -> None:
    there, _ = registry({f"GET {BASE}/tags/list?n=1000": [reply(status, content)]})
    with pytest.raises(LocationError, match=message):
        there.tags()


def test_other_bytes_are_told() -> None:
    digest = oci_digest(digest_bytes(b"right"))
    there, _ = registry({f"GET {BASE}/blobs/{digest}": [reply(200, b"wrong")]})
    with pytest.raises(IntegrityError, match="serves other bytes"):
        there.blob(digest, 100)
    there, _ = registry({f"GET {BASE}/manifests/{digest}": [reply(200, b"wrong")]})
    with pytest.raises(IntegrityError, match="serves other bytes"):
        there.manifest(digest)
    there, _ = registry({f"PUT {BASE}/manifests/1": [reply(201, docker_content_digest=digest)]})
    with pytest.raises(IntegrityError, match="stores the manifest"):
        there.put_manifest(b"{}", "x", "1")


def test_a_list_of_tags_goes_on() -> None:
    first = reply(200, {"tags": ["b"]}, link='</v2/web/nginx/tags/list?last=b&n=1000>; rel="next"')
    there, _ = registry(
        {
            f"GET {BASE}/tags/list?n=1000": [first],
            f"GET {BASE}/tags/list?last=b&n=1000": [reply(200, {"tags": ["a"]})],
        }
    )
    assert there.tags() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://h/n", Reference("h", "n")),
        ("oci://h.example:5000/a/b__c:1.0", Reference("h.example:5000", "a/b__c", "1.0")),
        ("oci://[::1]:5000/a", Reference("[::1]:5000", "a")),
        (f"oci://h/n@sha256:{'a' * 64}", Reference("h", "n", "", f"sha256:{'a' * 64}")),
    ],
)
def test_a_reference_is_read(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://h/n", "named by oci://"),
        ("oci://h", "is no host"),
        ("oci://user@h/n", "is no host"),
        ("oci:///n", "is no host"),
        ("oci://h/", "is no name"),
        ("oci://h/Upper", "is no name"),
        ("oci://h/a//b", "is no name"),
        ("oci://h/../b", "is no name"),
        (f"oci://h/{'a' * 256}", "is no name"),
        ("oci://h/n:", "is no tag"),
        ("oci://h/n:a+b", "is no tag"),
        (f"oci://h/n:{'a' * 129}", "is no tag"),
        ("oci://h/n@sha256:abc", "is no digest"),
    ],
)
def test_what_is_no_reference(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_reference(text)
    assert isinstance(caught.value, BuilditError)
    assert "oci://HOST/NAME:TAG" in str(caught.value.hint)
