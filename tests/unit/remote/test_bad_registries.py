"""Registries that die, lie, are full, lead elsewhere or want another login: one clear message each,
and nothing half made remains. A server of this process does it over real connections."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from buildit.commands.images import push_image
from buildit.commands.pull import pull_image
from buildit.digest import digest_bytes, oci_digest
from buildit.errors import BuilditError, FetchError, IntegrityError, UsageError
from buildit.remote.registry import client, login
from buildit.remote.registry.client import LARGEST_MANIFEST, Registry
from buildit.remote.registry.login import Login, login_of
from buildit.remote.registry.reference import parse_reference
from buildit.remote.transport import LocationError, WebLimits
from buildit.remote.web import WebTransport
from buildit.store.cas import Store
from tests.odd_registry import Handler, OddRegistry, odd_registry
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers
from tests.unit.remote.test_registry_images import AMD, put_image

pytestmark = pytest.mark.unit

ADA = Login("ada", "secret")
Answer = Callable[[Handler], bool]


@pytest.fixture
def there() -> Iterator[OddRegistry]:
    with odd_registry() as found:
        yield found


@pytest.fixture
def web() -> Iterator[WebTransport]:
    limits = WebLimits(connect=2, headers=2, window=2)
    with closing(WebTransport(limits)) as found:
        yield found


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image to push."""
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    return emit(image(nginx_layers(blobs), "oci"), blobs, tmp_path / "made").path


def when(words: str, answer: Answer) -> Answer:
    """Answer so where `METHOD path` fits a pattern."""
    return lambda request: (
        re.search(words, f"{request.command} {request.path}") is not None and answer(request)
    )


def error(status: int, code: str = "") -> Answer:
    content = json.dumps({"errors": [{"code": code, "message": "so it is"}]}).encode()
    return lambda request: request.reply(status, content if code else b"")


# -- pushing


def hang_up(request: Handler) -> bool:
    request.close_connection = True
    return True


PUSHES: dict[str, tuple[Answer, str]] = {
    "dies before an upload": (when("^POST", hang_up), "connection failed"),
    "dies in an upload": (when("^PUT .*/uploads/", hang_up), "connection failed"),
    "is full (507)": (when("^PUT .*/uploads/", error(507)), "refuses to take it: HTTP 507"),
    "is full (500)": (when("^PUT .*/uploads/", error(500, "UNKNOWN")), "UNKNOWN: so it is"),
    "takes no such size": (when("^PUT .*/uploads/", error(413)), "refuses to take it: HTTP 413"),
    "refuses the manifest": (when("^PUT .*/manifests/", error(413)), "HTTP 413"),
    "may not be written": (when("^POST", error(403, "DENIED")), "the login is refused: DENIED"),
    "knows no uploads": (when("^POST", error(405, "UNSUPPORTED")), "UNSUPPORTED"),
    "names no place": (when("^POST", lambda one: one.reply(202)), "an upload has no location"),
    "sends us elsewhere": (
        when("^POST", lambda one: one.reply(202, Location="http://storage.example.net/up")),
        "leads to plain HTTP",
    ),
    "sends us to metadata": (
        when("^POST", lambda one: one.reply(202, Location="http://169.254.169.254/up")),
        "link-local",
    ),
    "redirects an upload": (
        when("^PUT .*/uploads/", lambda one: one.reply(307, Location="/other")),
        "HTTP 307",
    ),
    "stores another manifest": (
        when(
            "^PUT .*/manifests/",
            lambda one: one.reply(201, Docker_Content_Digest=f"sha256:{'0' * 64}"),
        ),
        "the registry stores the manifest",
    ),
    "says no size of a blob": (
        when("^HEAD", lambda one: one.reply(200, Content_Length="")),
        "says no size",
    ),
    "has blobs of another size": (
        when("^HEAD", lambda one: one.reply(200, Content_Length="7")),
        "has 7 bytes",
    ),
}


@pytest.mark.parametrize("case", PUSHES)
def test_a_push_that_cannot_end_well(
    there: OddRegistry, web: WebTransport, made: Path, case: str
) -> None:
    there.odd, message = PUSHES[case]
    with pytest.raises(BuilditError, match=message) as caught:
        push_image(made, there.at(web, "box:1").at, there.at(web, "box:1"))
    assert caught.value.place
    assert caught.value.hint
    assert there.tags == {}, "a tag of something that is not whole"
    there.odd = lambda _: False
    done = push_image(made, there.at(web, "box:1").at, there.at(web, "box:1"))
    assert there.tags == {"1": done.reference.digest}


def test_what_was_sent_before_it_broke_is_not_sent_again(
    there: OddRegistry, web: WebTransport, made: Path
) -> None:
    there.odd = when("^PUT .*/manifests/", error(500))
    with pytest.raises(FetchError) as caught:
        push_image(made, there.at(web, "box:1").at, there.at(web, "box:1"))
    assert caught.value.place == f"oci://{there.host}/box:1"
    there.odd = lambda _: False
    assert push_image(made, there.at(web, "box:1").at, there.at(web, "box:1")).blobs == 0


def test_a_list_that_others_overwrite(there: OddRegistry, web: WebTransport) -> None:
    """Where a registry lists no referrers, two clients write one manifest."""
    there.api = False
    at = there.at(web, "box:1")
    lost = [0]

    def overwritten(request: Handler) -> bool:
        there.well(request)
        if lost[0] < 2:
            lost[0] += 1
            there.tags.pop(f"sha256-{'1' * 64}")
        return True

    there.odd = when("^PUT .*/manifests/sha256-", overwritten)
    document = {"artifactType": "x", "subject": {"digest": f"sha256:{'1' * 64}"}}
    content = json.dumps(document).encode()
    at.add_referrer(content, f"sha256:{'1' * 64}")
    assert [one["artifactType"] for one in at.referrers(f"sha256:{'1' * 64}")] == ["x"]
    lost[0] = -10
    there.tags.clear()
    with pytest.raises(LocationError, match="does not keep what is added"):
        at.add_referrer(content, f"sha256:{'1' * 64}")


# -- pulling


def half(request: Handler) -> bool:
    content = request.there.blobs[request.path.rpartition("/")[2]]
    return request.cut(200, content[: len(content) // 2], len(content))


LAYER = r"GET .*/blobs/"
PULLS: dict[str, tuple[Answer, str]] = {
    "serves other bytes": (
        when(LAYER, lambda one: one.reply(200, _other(one))),
        "serves other bytes as",
    ),
    "serves more": (when(LAYER, lambda one: one.reply(200, b"x" * 100_000)), "more than the"),
    "serves more than it says": (
        when(LAYER, lambda one: one.reply(200, b"x" * 100_000, Content_Length="1")),
        "it serves 1 bytes of",
    ),
    "serves half": (when(LAYER, half), "connection (ended after|failed: Incomplete)"),
    "dies": (when(LAYER, hang_up), "connection failed"),
    "is broken": (when(LAYER, error(500)), "refuses to serve it: HTTP 500"),
    "lacks a blob": (when(LAYER, error(404, "BLOB_UNKNOWN")), "BLOB_UNKNOWN"),
    "hides a blob": (when(LAYER, error(403, "DENIED")), "the login is refused: DENIED"),
    "leads down to plain HTTP": (
        when(LAYER, lambda one: one.reply(307, Location="http://storage.example.net/x")),
        "leads to plain HTTP",
    ),
    "leads to metadata": (
        when(LAYER, lambda one: one.reply(307, Location="http://169.254.169.254/latest")),
        "link-local",
    ),
    "leads to a file": (
        when(LAYER, lambda one: one.reply(307, Location="file:///etc/passwd")),
        "URL scheme 'file' is refused",
    ),
    "leads in a circle": (
        when(LAYER, lambda one: one.reply(307, Location=one.path)),
        "more than 5 redirects",
    ),
    "leads nowhere": (when(LAYER, lambda one: one.reply(307)), "redirect"),
    "serves a large manifest": (
        when("GET .*/manifests/", lambda one: one.reply(200, b" " * (LARGEST_MANIFEST + 1))),
        "more than the",
    ),
    "serves a page": (
        when("GET .*/manifests/", lambda one: one.reply(200, b"<html>a login page</html>")),
        "is not JSON",
    ),
    "serves a deep one": (
        when("GET .*/manifests/", lambda one: one.reply(200, b"[" * 100_000)),
        "is not JSON",
    ),
}


def _other(request: Handler) -> bytes:
    return bytes(len(request.there.blobs[request.path.rpartition("/")[2]]))


@pytest.mark.parametrize("case", PULLS)
def test_a_pull_that_cannot_end_well(
    there: OddRegistry, web: WebTransport, tmp_path: Path, case: str
) -> None:
    manifest = there.manifests[put_image(there, tag="1")["digest"]][1]
    config = json.loads(manifest)["config"]["digest"]
    odd, message = PULLS[case]
    there.odd = lambda request: config not in request.path and odd(request)
    with Store.open(tmp_path / "store") as store:
        with pytest.raises(BuilditError, match=message) as caught:
            pull_image(there.at(web, "box:1"), AMD, store, tmp_path / "out")
        assert caught.value.place
        assert caught.value.hint
        assert [*(tmp_path / "out").glob("*")] == [], "half an image"
        there.odd = lambda _: False
        done = pull_image(there.at(web, "box:1"), AMD, store, tmp_path / "out")
    assert done.blobs == 4, "a blob of the bad answer was kept"


def test_what_breaks_off_goes_on_from_there(
    there: OddRegistry, web: WebTransport, tmp_path: Path
) -> None:
    put_image(there, tag="1")
    once: set[str] = set()

    def broken(request: Handler) -> bool:
        if request.path in once or "Range" in request.headers:
            return False
        once.add(request.path)
        return half(request)

    there.odd = when(LAYER, broken)
    with Store.open(tmp_path / "store") as store:
        assert pull_image(there.at(web, "box:1"), AMD, store, tmp_path / "out").blobs == 4
    # and where a registry knows no ranges
    once.clear()

    def unranged(request: Handler) -> bool:
        del request.headers["Range"]
        return broken(request)

    there.odd = when(LAYER, unranged)
    with Store.open(tmp_path / "second") as store:
        assert pull_image(there.at(web, "box:1"), AMD, store, tmp_path / "out").blobs == 4


# -- lists


@pytest.mark.parametrize("path", ["tags/list", "referrers/"])
def test_lists_without_end(
    there: OddRegistry, web: WebTransport, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAGES", 20)
    count = [0]

    def page(request: Handler) -> bool:
        count[0] += 1
        content = json.dumps({"tags": [f"t{count[0]}"], "manifests": []}).encode()
        return request.reply(
            200, content, Link=f'<{request.path.partition("?")[0]}?{after()}>; rel="next"'
        )

    def after() -> str:
        return f"last={count[0]}" if endless else "last=same"

    at = there.at(web, "box:1")
    there.odd = when(path, page)
    endless = False
    with pytest.raises(LocationError, match="leads back to itself"):
        at.tags() if path.startswith("tags") else at.referrers(f"sha256:{'0' * 64}")
    endless = True
    with pytest.raises(LocationError, match="has no end"):
        at.tags() if path.startswith("tags") else at.referrers(f"sha256:{'0' * 64}")
    assert count[0] < 30


# -- logins


def test_a_login_stays_with_the_host_that_wants_it(
    there: OddRegistry, web: WebTransport, tmp_path: Path
) -> None:
    """Blobs often lie elsewhere: whoever keeps them gets no login of the registry."""
    put_image(there, tag="1")
    with odd_registry() as elsewhere, Store.open(tmp_path / "store") as store:
        elsewhere.blobs = there.blobs

        def guarded(request: Handler) -> bool:
            if "Authorization" not in request.headers:
                return request.reply(401, WWW_Authenticate='Basic realm="r"')
            if "/blobs/" in request.path:
                at = f"http://{elsewhere.host}{request.path}?signed={quote('a b')}"
                return request.reply(307, Location=at)
            return False

        there.odd = guarded
        pull_image(there.at(web, "box:1", ADA), AMD, store, tmp_path / "out")
        assert len(elsewhere.asked) == 5  # the config twice: what is in the image is asked first
        assert {shown for _, shown in elsewhere.asked} == {""}
        assert ADA.basic() in {shown for _, shown in there.asked}


LOGINS: dict[str, tuple[dict[str, str], str]] = {
    "a realm by http": (
        {"WWW_Authenticate": 'Bearer realm="http://auth.example.net/token"'},
        "leads to plain HTTP",
    ),
    "a realm of metadata": (
        {"WWW_Authenticate": 'Bearer realm="http://169.254.169.254/token"'},
        "link-local",
    ),
    "no realm": ({"WWW_Authenticate": "Bearer"}, "asks for a login of a kind"),
    "another kind": ({"WWW_Authenticate": "Negotiate"}, "asks for a login of a kind"),
    "nothing": ({}, "asks for a login of a kind"),
}


@pytest.mark.parametrize("case", LOGINS)
def test_a_login_that_is_asked_for_wrongly(
    there: OddRegistry, web: WebTransport, case: str
) -> None:
    headers, message = LOGINS[case]
    there.odd = lambda request: request.path != "/v2/" and request.reply(401, b"", **headers)
    with pytest.raises(LocationError, match=message) as caught:
        there.at(web, "box:1", ADA).tags()
    assert caught.value.place
    assert {shown for _, shown in there.asked} == {""}


def test_a_login_that_does_not_count(there: OddRegistry, web: WebTransport) -> None:
    there.odd = lambda request: request.reply(401, WWW_Authenticate='Basic realm="r"')
    with pytest.raises(LocationError, match="the login is refused") as caught:
        there.at(web, "box:1", ADA).tags()
    assert f"podman login {there.host}" in str(caught.value.hint)
    with pytest.raises(LocationError, match="wants a login"):
        there.at(web, "box:1").tags()


HELPERS: dict[str, tuple[str, str]] = {
    "garbage": ("echo 'no JSON'", "gives no login for"),
    "a list": ("echo '[]'", "gives no login for"),
    "nothing": ("true", "gives no login for"),
    "a failure": ("echo broken; exit 1", "fails for .*: broken"),
    "no text": (r"printf '\377\377'", "gives no login for"),
    "numbers": ("""echo '{"Username": 1, "Secret": null}'""", "gives no login for"),
    "no end": ("sleep 60", "no answer for 1 seconds"),
    "no end, and nothing to read": ("exec >&-; sleep 60", "no answer for 1 seconds"),
    "a flood": ("yes", "it says too much"),
}


@pytest.mark.parametrize("case", HELPERS)
def test_a_helper_that_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    script, message = HELPERS[case]
    helper = tmp_path / "bin/docker-credential-odd"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(login, "_SECONDS", 1)
    (tmp_path / "config.json").write_text('{"credHelpers": {"h.example": "odd"}}')
    begun = time.monotonic()
    with pytest.raises(UsageError, match=message) as caught:
        login_of(parse_reference("oci://h.example/n"), {"DOCKER_CONFIG": str(tmp_path)})
    assert time.monotonic() - begun < 30
    assert caught.value.hint


@pytest.mark.parametrize("name", ["../x", "A", "a b", "a/b", "a\n", "ä"])
def test_a_helper_s_name_is_a_word(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"h.example": name}}))
    with pytest.raises(UsageError, match="is no name of a credential helper"):
        login_of(parse_reference("oci://h.example/n"), {"DOCKER_CONFIG": str(tmp_path)})


def test_a_blob_that_is_not_what_it_is_named_for(there: OddRegistry, web: WebTransport) -> None:
    digest = oci_digest(digest_bytes(b"right"))
    there.blobs[digest] = b"wrong"
    with pytest.raises(IntegrityError, match="serves other bytes"):
        there.at(web, "box:1").blob(digest, 100)


def test_a_host_that_is_not_there(web: WebTransport) -> None:
    at = parse_reference("oci://127.0.0.1:9/box:1")
    with pytest.raises(LocationError, match="connection refused") as caught:
        Registry(web, at, lambda _: None).put_blob("sha256:" + "0" * 64, 0, io.BytesIO)
    assert caught.value.unreachable
