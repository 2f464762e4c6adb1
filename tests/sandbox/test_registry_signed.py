"""What is said of a pushed image, as others read it: oras and cosign of Debian 13, ssh-keygen and
openssl; against Debian's docker-registry, which has no API of referrers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildit.commands.images import PushedImage, push_image
from buildit.commands.statement import keep_image
from buildit.digest import Digest
from buildit.model.image import Emission
from buildit.remote.registry.client import Registry, fallback_tag
from buildit.remote.registry.login import Login
from buildit.remote.registry.reference import parse_reference
from buildit.remote.registry.referrers import COSIGN_ARTIFACT, STATEMENT_MEDIA, cosign_tag
from buildit.remote.web import WebTransport
from buildit.trust.ssh import NAMESPACE, SigningKey, signing_key
from tests.registries import PASSWORD, USER, Served, environ, registry
from tests.sandbox.test_images import run, shell_image
from tests.trixie import unpacked
from tests.unit.image.samples import BlobDirectory, emit

pytestmark = pytest.mark.sandbox

SAID = {
    "format": "1",
    "image": {"format": "oci", "digest": "x"},
    "name": "shell",
    "version": "1",
    "packages": [{"name": "sys-apps/dash", "license": "BSD-3-Clause"}],
}


@dataclass(frozen=True, slots=True)
class Bench:
    """A registry, an image with a statement, and programs with the login of its user."""

    served: Served
    web: WebTransport
    image: Emission
    programs: Path
    environ: Mapping[str, str]
    root: Path

    def push(self, name: str, key: SigningKey | None) -> PushedImage:
        return push_image(self.image.path, self.at(name).at, self.at(name), key)

    def at(self, name: str) -> Registry:
        to = parse_reference(f"oci://{self.served.host}/{name}:1")
        return Registry(self.web, to, lambda _: Login(USER, PASSWORD))

    def run(self, program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = [self.programs / program, *words]
        return subprocess.run(
            argv, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def verified(self, pem: Path, name: str, *more: str) -> bool:
        words = ["--key", str(pem), "--insecure-ignore-tlog=true", *more]
        done = self.run("cosign", "verify", *words, f"{self.served.host}/{name}:1")
        if done.returncode:
            assert "no signatures found" in done.stderr or "no matching" in done.stderr
            return False
        (claims,) = json.loads(done.stdout)
        image, identity = (claims["critical"][name] for name in ("image", "identity"))
        assert image == {"docker-manifest-digest": self.image.identifier}
        assert identity == {"docker-reference": f"{self.served.host}/{name}"}
        return True

    def oras(self, *words: str | Path) -> str:
        assert self.served.certificates is not None
        authority = self.served.certificates.authority
        done = self.run("oras", *words, "--plain-http=false", "--ca-file", authority)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    programs = unpacked(tmp_path_factory.mktemp("trixie"), ("cosign", "oras"))
    root = tmp_path_factory.mktemp("signed")
    (root / "blobs").mkdir()
    blobs = BlobDirectory(root / "blobs")
    with registry(root / "registry") as served, pytest.MonkeyPatch.context() as patch:
        assert served.certificates is not None
        authority = str(served.certificates.authority)
        patch.setenv("REQUESTS_CA_BUNDLE", authority)
        patch.setenv("BUILDIT_STORE", str(root / "store"))
        image = emit(shell_image(blobs), blobs, root / "out")
        keep_image(image, Digest("0" * 64), SAID)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (root / "docker").mkdir()
        config = {"auths": {served.host: {"auth": login}}}
        (root / "docker/config.json").write_text(json.dumps(config))
        own = {**environ(root), "SSL_CERT_FILE": authority, "COSIGN_PASSWORD": ""}
        with closing(WebTransport()) as web:
            yield Bench(served, web, image, programs, own, root)


def make_key(path: Path, kind: str = "ed25519") -> Path:
    """An OpenSSH key; its public half for cosign, as docs/registries.md has it, is PATH.pem."""
    run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path)
    pem = path.with_name(f"{path.name}.pem")
    if kind == "ed25519":
        documented = Path("docs/registries.md").read_text()
        (line,) = [one.strip() for one in documented.splitlines() if "openssl pkey" in one]
        line = line.replace("id_ed25519.pub", f"{path}.pub").replace("key.pem", str(pem))
        run("sh", "-c", line)
    else:
        pem.write_text(run("ssh-keygen", "-e", "-m", "PKCS8", "-f", f"{path}.pub"))
    return pem


@contextmanager
def agent_of(key: Path, root: Path) -> Iterator[Path]:
    """An agent that holds a key; its socket."""
    socket = root / "agent"
    argv = ["ssh-agent", "-D", "-a", str(socket)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            subprocess.run(["ssh-add", "-q", key], env=environment, check=True)
            yield socket
        finally:
            process.terminate()


def test_cosign_verifies_and_oras_lists_what_is_pushed(bench: Bench, tmp_path: Path) -> None:
    pem = make_key(tmp_path / "key")
    other = make_key(tmp_path / "other")
    key = signing_key(tmp_path / "key", None)
    done = bench.push("web/shell", key)
    assert bench.verified(pem, "web/shell")
    assert bench.verified(pem, "web/shell", "--experimental-oci11")
    assert not bench.verified(other, "web/shell")
    seen = bench.oras("discover", "-o", "json", f"{bench.served.host}/web/shell:1")
    listed = {one["artifactType"]: one["digest"] for one in json.loads(seen)["manifests"]}
    assert listed == {STATEMENT_MEDIA: done.statement, COSIGN_ARTIFACT: done.signature}
    tags = {"1", fallback_tag(bench.image.identifier), cosign_tag(bench.image.identifier)}
    assert set(bench.at("web/shell").tags()) == tags
    before = [bench.at("web/shell").manifest(tag) for tag in sorted(tags)]
    assert bench.push("web/shell", key).signature == done.signature
    assert [bench.at("web/shell").manifest(tag) for tag in sorted(tags)] == before
    # a second builder signs beside the first
    bench.push("web/shell", signing_key(tmp_path / "other", None))
    assert bench.verified(pem, "web/shell")
    assert bench.verified(other, "web/shell")
    assert len(bench.at("web/shell").referrers(bench.image.identifier)) == 4


def test_ssh_keygen_verifies_the_statement_that_oras_pulls(bench: Bench, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    done = bench.push("stated", signing_key(tmp_path / "key", None))
    bench.oras("pull", "-o", tmp_path, f"{bench.served.host}/stated@{done.statement}")
    public = (tmp_path / "key.pub").read_text()
    (tmp_path / "allowed").write_text(f"ada@example.org {public}")
    who = ["-f", str(tmp_path / "allowed"), "-I", "ada@example.org", "-n", NAMESPACE]
    with (tmp_path / "statement.json").open("rb") as stream:
        words = ["ssh-keygen", "-Y", "verify", *who, "-s", f"{tmp_path}/statement.json.sig"]
        judged = subprocess.run(words, stdin=stream, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stderr
    statement = json.loads((tmp_path / "statement.json").read_bytes())
    digest = bench.image.identifier.removeprefix("sha256:")
    assert statement["subject"] == [{"name": "shell:1", "digest": {"sha256": digest}}]
    assert statement["predicate"]["packages"] == SAID["packages"]


def test_cosign_verifies_what_an_agent_signs(bench: Bench, tmp_path: Path) -> None:
    pem = make_key(tmp_path / "key")
    with agent_of(tmp_path / "key", tmp_path) as socket:
        (tmp_path / "key").unlink()
        bench.push("agent", signing_key(tmp_path / "key.pub", socket))
    assert bench.verified(pem, "agent")


def test_keys_of_other_kinds_and_no_key(bench: Bench, tmp_path: Path) -> None:
    pem = make_key(tmp_path / "ecdsa", "ecdsa")
    bench.push("ecdsa", signing_key(tmp_path / "ecdsa", None))
    assert bench.verified(pem, "ecdsa")
    rsa = make_key(tmp_path / "rsa", "rsa")
    done = bench.push("rsa", signing_key(tmp_path / "rsa", None))
    assert (done.statement != "", done.signature) == (True, "")
    assert not bench.verified(rsa, "rsa")
    done = bench.push("unsigned", None)
    assert (done.statement != "", done.signature) == (True, "")
    manifest, _ = bench.at("unsigned").manifest(done.statement) or (b"", "")
    assert [one["mediaType"] for one in json.loads(manifest)["layers"]] == [STATEMENT_MEDIA]


def test_our_signature_goes_beside_cosign_s(bench: Bench, tmp_path: Path) -> None:
    pem = make_key(tmp_path / "key")
    bench.push("mixed", None)
    subprocess.run(
        [bench.programs / "cosign", "generate-key-pair"],
        cwd=tmp_path,
        env=bench.environ,
        check=True,
        capture_output=True,
    )
    sign = ["--key", f"{tmp_path}/cosign.key", "--tlog-upload=false", "-y"]
    at = f"{bench.served.host}/mixed@{bench.image.identifier}"
    assert bench.run("cosign", "sign", *sign, at).returncode == 0
    bench.push("mixed", signing_key(tmp_path / "key", None))
    assert bench.verified(pem, "mixed")
    assert bench.verified(tmp_path / "cosign.pub", "mixed")
