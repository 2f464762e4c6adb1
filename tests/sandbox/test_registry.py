"""Images in a registry, Debian's docker-registry: pushed, and read back by skopeo and podman."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from buildit.cli.images import ls_verb, pull_verb, verify_verb
from buildit.commands.images import push_image
from buildit.digest import canonical, digest_bytes, oci_digest
from buildit.errors import FetchError, IntegrityError, UsageError
from buildit.image.verify import verify
from buildit.remote.registry.client import IMAGE_MANIFEST, Registry, fallback_tag
from buildit.remote.registry.login import Login
from buildit.remote.registry.reference import Reference, parse_reference
from buildit.remote.web import WebTransport
from tests.engines import podman
from tests.registries import PASSWORD, USER, Served, registry
from tests.sandbox.test_images import odd_image, run, shell_image, tool
from tests.unit.image.samples import BlobDirectory, emit

pytestmark = pytest.mark.sandbox

LOGIN = Login(USER, PASSWORD)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry(tmp_path_factory.mktemp("registry") / "r") as found:
        yield found


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    (tmp_path / "blobs").mkdir()
    return BlobDirectory(tmp_path / "blobs")


@pytest.fixture
def web(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebTransport]:
    assert served.certificates is not None
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(served.certificates.authority))
    with closing(WebTransport()) as found:
        yield found


def at(served: Served, name: str) -> Reference:
    return parse_reference(f"oci://{served.host}/{name}")


def trusting(served: Served, root: Path) -> list[str]:
    """skopeo's and podman's options to trust the registry's certificate, and to log in."""
    assert served.certificates is not None
    root.mkdir(exist_ok=True)
    (root / "ca.crt").write_bytes(served.certificates.authority.read_bytes())
    return ["--cert-dir", str(root), "--creds", f"{USER}:{PASSWORD}"]


def test_an_image_keeps_its_digest(
    served: Served, web: WebTransport, blobs: BlobDirectory, tmp_path: Path
) -> None:
    wanted = odd_image(blobs, "")
    made = emit(wanted, blobs, tmp_path / "out")
    to = at(served, "web/nginx:1.0")
    done = push_image(made.path, to, Registry(web, to, lambda _: LOGIN))
    assert done.reference == replace(to, tag="", digest=made.identifier)
    assert (done.tag, done.blobs > 0, done.sent > 0) == ("1.0", True, True)
    again = push_image(made.path, to, Registry(web, to, lambda _: LOGIN))
    assert (again.blobs, again.sent) == (0, 0)
    archive = emit(replace(wanted, format="oci-archive"), blobs, tmp_path / "out").path
    untagged = at(served, "web/nginx")
    third = push_image(archive, untagged, Registry(web, untagged, lambda _: LOGIN))
    assert (third.blobs, third.tag) == (0, "1.22.1-p1")
    assert Registry(web, to, lambda _: LOGIN).tags() == ["1.0", "1.22.1-p1"]
    other = at(served, "other/nginx:1.0")
    mounted = push_image(made.path, other, Registry(web, other, lambda _: LOGIN))
    assert (mounted.blobs, mounted.sent) == (0, 0)
    skopeo, options = tool("skopeo"), trusting(served, tmp_path / "certs")
    seen = json.loads(run(skopeo, "inspect", *options, f"docker://{served.host}/web/nginx:1.0"))
    assert seen["Digest"] == made.identifier
    copied = [word.replace("--c", "--src-c") for word in options]
    source, copy = f"docker://{served.host}/web/nginx:1.0", tmp_path / "copy"
    run(skopeo, "copy", "--insecure-policy", "--preserve-digests", *copied, source, f"oci:{copy}:x")
    assert verify((made.path, copy)).passed()


def test_podman_runs_what_was_pushed(
    served: Served, web: WebTransport, blobs: BlobDirectory, tmp_path: Path
) -> None:
    made = emit(shell_image(blobs, compress="gzip"), blobs, tmp_path / "out")
    to = at(served, "shell:1")
    push_image(made.path, to, Registry(web, to, lambda _: LOGIN))
    with podman() as program:
        options = trusting(served, tmp_path / "certs")
        run(*program.argv, "pull", "--quiet", *options, f"{served.host}/shell:1")
        done = program.run(f"{served.host}/shell:1")
    assert (done.stdout, done.returncode) == ("synced buildit /tmp\n", 7), done.stderr


def test_logins_are_those_of_podman_and_docker(
    served: Served, web: WebTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = at(served, "box")
    for name in ("HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(FetchError, match="wants a login") as caught:
        Registry(web, to).tags()
    assert f"podman login {served.host}" in str(caught.value.hint)
    kept = tmp_path / "config.json"
    wrong = base64.b64encode(f"{USER}:wrong".encode()).decode()
    kept.write_text(json.dumps({"auths": {served.host: {"auth": wrong}}}))
    with pytest.raises(FetchError, match="the login is refused: UNAUTHORIZED"):
        Registry(web, to).tags()
    helper = tmp_path / "bin/docker-credential-tests"
    helper.parent.mkdir()
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\nread host\n[ $host = {served.host} ] && echo '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    kept.write_text(json.dumps({"credHelpers": {served.host: "tests"}}))
    assert Registry(web, to).tags() == []
    kept.write_text(json.dumps({"credHelpers": {served.host: "../x"}}))
    with pytest.raises(UsageError, match="is no name of a credential helper"):
        Registry(web, to).tags()


def test_referrers_by_the_tag_that_clients_keep(
    served: Served, web: WebTransport, blobs: BlobDirectory, tmp_path: Path
) -> None:
    made = emit(shell_image(blobs), blobs, tmp_path / "out")
    to = at(served, "referred:1")
    there = Registry(web, to, lambda _: LOGIN)
    push_image(made.path, to, there)
    subject, _ = there.manifest("1") or (b"", "")
    assert there.referrers(made.identifier) == []
    empty = b"{}"
    there.put_blob(oci_digest(digest_bytes(empty)), 2, lambda: io.BytesIO(empty))
    blank = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2}
    blank["digest"] = oci_digest(digest_bytes(empty))
    for number in (1, 2, 2):
        document = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": f"application/x-test-{number}",
            "config": blank,
            "layers": [blank],
            "subject": {
                "mediaType": IMAGE_MANIFEST,
                "digest": made.identifier,
                "size": len(subject),
            },
        }
        there.add_referrer(canonical(document), made.identifier)
    found = there.referrers(made.identifier)
    assert [one["artifactType"] for one in found] == [
        "application/x-test-1",
        "application/x-test-2",
    ]
    assert fallback_tag(made.identifier) in there.tags()


def test_an_image_that_is_damaged_is_not_tagged(
    served: Served, web: WebTransport, blobs: BlobDirectory, tmp_path: Path
) -> None:
    made = emit(shell_image(blobs), blobs, tmp_path / "out")
    layers = sorted((made.path / "blobs/sha256").iterdir(), key=lambda one: one.stat().st_size)
    content = bytearray(layers[-1].read_bytes())
    content[1000] ^= 1
    layers[-1].write_bytes(content)
    to = at(served, "damaged:1")
    there = Registry(web, to, lambda _: LOGIN)
    with pytest.raises((FetchError, IntegrityError)) as caught:
        push_image(made.path, to, there)
    assert "DIGEST_INVALID" in caught.value.message
    assert there.manifest("1") is None
    with pytest.raises(UsageError, match="pushed to a digest"):
        push_image(made.path, to.by_digest(made.identifier), there)
    with pytest.raises(UsageError, match="cannot be read"):
        push_image(tmp_path / "nothing", to, there)
    (tmp_path / "file").write_bytes(b"no image")
    with pytest.raises(UsageError, match="neither an OCI layout"):
        push_image(tmp_path / "file", to, there)


def test_this_machine_may_speak_plainly(blobs: BlobDirectory, tmp_path: Path) -> None:
    made = emit(shell_image(blobs), blobs, tmp_path / "out")
    with registry(tmp_path / "plain", secure=False) as served, closing(WebTransport()) as web:
        to = at(served, "a/b/c:1")
        there = Registry(web, to, lambda _: None)
        push_image(made.path, to, there)
        assert there.tags() == ["1"]
        other = at(served, "other:1")
        second = Registry(web, other, lambda _: None)
        digest = json.loads((made.path / "index.json").read_bytes())["manifests"][0]["digest"]
        manifest, _ = there.manifest(digest) or (b"", "")
        layer = json.loads(manifest)["layers"][0]
        sent = second.put_blob(layer["digest"], layer["size"], io.BytesIO, "a/b/c")
        assert (sent, second.has_blob(layer["digest"])) == (False, layer["size"])


def test_an_image_is_read_and_pulled_by_the_command(
    served: Served,
    web: WebTransport,
    blobs: BlobDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What skopeo pushed, with gzip, is listed, verified against ours and pulled; skopeo and podman
    take the layout."""
    made = emit(shell_image(blobs), blobs, tmp_path / "out")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(served.authentication(tmp_path / "home")))
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    skopeo, options = tool("skopeo"), trusting(served, tmp_path / "certs")
    there = f"{served.host}/read/shell:1"
    to = [word.replace("--c", "--dest-c") for word in options]
    copy = [skopeo, "copy", "--quiet", "--insecure-policy", "--dest-compress"]
    run(*copy, *to, f"oci:{made.path}", f"docker://{there}")
    listed = CliRunner().invoke(ls_verb, [f"docker://{there}"], catch_exceptions=False)
    assert listed.exit_code == 0, listed.output
    assert "/etc/greeting" in listed.output
    same = CliRunner().invoke(verify_verb, [str(made.path), f"oci://{there}"])
    assert "All hold the same tree." in same.output, same.output
    pulled = CliRunner().invoke(pull_verb, [f"oci://{there}"], catch_exceptions=False)
    assert pulled.exit_code == 0, pulled.output
    layout = tmp_path / "out/shell-1-linux-amd64.oci"
    seen = json.loads(run(skopeo, "inspect", *options, f"docker://{there}"))
    assert json.loads(run(skopeo, "inspect", f"oci:{layout}:1"))["Digest"] == seen["Digest"]
    with podman() as program:
        image = program.load(f"oci:{layout}:1", "localhost/pulled:1")
        done = program.run(image)
    assert (done.stdout, done.returncode) == ("synced buildit /tmp\n", 7), done.stderr
    absent = CliRunner().invoke(pull_verb, [f"oci://{served.host}/read/shell:2"])
    assert isinstance(absent.exception, FetchError)
    assert absent.exception.hint == "its tags: 1"
