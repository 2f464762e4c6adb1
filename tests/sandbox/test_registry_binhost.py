"""A binhost in Debian's docker-registry, with TLS and a password: the contract of remotes, garbage
collection, and what foreign clients make of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from buildit.digest import digest_bytes, oci_digest
from buildit.model.artifact import Artifact
from buildit.model.config import Oci
from buildit.remote.binhost.binhost import Push, Pushed
from buildit.remote.binhost.manifests import key_tag
from buildit.remote.registry.client import Registry
from buildit.remote.registry.login import Login
from buildit.remote.registry.reference import parse_reference
from buildit.remote.web import WebTransport
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.trust.policy import Accept
from buildit.trust.signers import Signer
from tests.engines import docker
from tests.hosts import BUILDER, accept, sign
from tests.registries import PASSWORD, USER, Served, registry, registry_there
from tests.remote_contract import CONTRACT, There, made
from tests.sandbox.test_images import libraries, run, tool

pytestmark = pytest.mark.sandbox

LOGIN = Login(USER, PASSWORD)
OTHER = "cd" * 32


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry(tmp_path_factory.mktemp("binhost") / "r") as found:
        yield found


@pytest.fixture
def web(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebTransport]:
    assert served.certificates is not None
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(served.certificates.authority))
    with closing(WebTransport()) as found:
        yield found


@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_the_contract(
    case: Callable[[There], None], served: Served, web: WebTransport, tmp_path: Path
) -> None:
    address = Oci(served.host, f"contract/{case.__name__}")
    client = Registry(web, parse_reference(str(address)), lambda _: LOGIN)
    case(registry_there(client, address, served.put_blob, tmp_path))


def push(there: There, store: Store, artifact: Artifact, builder: str = BUILDER) -> Pushed:
    """What a builder signed of it, by a publisher of its own."""
    judge: Accept = accept if builder == BUILDER else anyone
    work = Push(
        store, there.remote, judge, signer=Signer(builder, sign), compressed=True, codec="gzip"
    )
    return work([artifact.key])


def anyone(_content: bytes, _signature: bytes | None, _builder: str) -> None:
    """A policy that takes all."""


def test_garbage_collection_deleted_tags_and_two_builders(
    served: Served, web: WebTransport, tmp_path: Path
) -> None:
    address = Oci(served.host, "collected")
    client = Registry(web, parse_reference(str(address)), lambda _: LOGIN)

    def there() -> There:
        return registry_there(client, address, served.put_blob, tmp_path)

    with there().store("one") as store, there().store("two") as other:
        artifact = made(store, "www-servers/nginx", b"a layer\n" * 5000)
        with other.batch() as batch:
            for blob in (store.root / "blobs/sha256").iterdir():
                batch.put_bytes(blob.read_bytes())
        commit(other, artifact, OTHER, sign)
        push(there(), store, artifact)
        tag = key_tag(artifact.key, BUILDER)
        own = client.manifest(tag)
        push(there(), other, artifact, OTHER)
        assert client.manifest(tag) == own
        served.collect_garbage()
        asked = [(artifact.key, f"{one}.json") for one in (BUILDER, OTHER)]
        assert None not in there().reader.of(asked)
        with there().store("taken") as taken:
            assert there().binhost().pull(artifact.key, taken) is not None
        assert push(there(), store, artifact).blobs == 0
        source = artifact.materials[0][1]
        assert client.has_blob(oci_digest(source)) is not None
        for target in client.tags():
            delete(client, target)
        served.collect_garbage()
        assert client.has_blob(oci_digest(source)) is None, "given back"
        with there().store("none") as taken:
            assert there().binhost().pull(artifact.key, taken) is None
    # the registry that runs remembers no layers; what it has lost is brought again
    with there().store("one") as store:
        assert push(there(), store, artifact).statements == 1
    with there().store("again") as taken:
        assert there().binhost().pull(artifact.key, taken) is not None


def test_docker_runs_a_package(served: Served, web: WebTransport, tmp_path: Path) -> None:
    """Debian 12's, which reads no layers of zstd."""
    address = Oci(served.host, "docker")
    client = Registry(web, parse_reference(str(address)), lambda _: LOGIN)
    there = registry_there(client, address, served.put_blob, tmp_path)
    layer, dash = io.BytesIO(), Path(tool("dash"))
    with tarfile.open(fileobj=layer, mode="w", dereference=True) as tar:
        tar.add(dash, "bin/sh")
        for host, path in libraries(dash):
            tar.add(host, path)
    with there.store("own") as store:
        artifact = made(store, "app-shells/dash", layer.getvalue())
        push(there, store, artifact)
    name = f"{served.host}/docker:{key_tag(artifact.key, BUILDER)}"
    login = served.authentication(tmp_path / "login")
    login.rename(login.with_name("config.json"))
    with docker() as engine:
        program, *options = engine.argv
        run(program, "--config", str(login.parent), *options, "pull", "--quiet", name)
        done = engine.run(name, "/bin/sh", "-c", "echo it runs")
    assert (done.stdout, done.returncode) == ("it runs\n", 0), done.stderr


def test_skopeo_makes_a_mirror(served: Served, web: WebTransport, tmp_path: Path) -> None:
    def there(name: str) -> There:
        address = Oci(served.host, name)
        client = Registry(web, parse_reference(str(address)), lambda _: LOGIN)
        return registry_there(client, address, served.put_blob, tmp_path)

    with there("bin/host").store("own") as store:
        artifact = made(store, "www-servers/nginx", b"a layer\n" * 5000)
        push(there("bin/host"), store, artifact)
    assert served.certificates is not None
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/ca.crt").write_bytes(served.certificates.authority.read_bytes())
    ends = [f"{served.host}/bin/host", f"{served.host}/mirror"]
    words = ["sync", "--preserve-digests", "--src", "docker", "--dest", "docker"]
    for end in ("src", "dest"):
        words += [f"--{end}-cert-dir", f"{tmp_path}/certs", f"--{end}-creds", f"{USER}:{PASSWORD}"]
    run(tool("skopeo"), *words, *ends)
    with there("mirror/host").store("taken") as taken:
        assert there("mirror/host").binhost().pull(artifact.key, taken) is not None


def delete(client: Registry, tag: str) -> None:
    """Delete the manifest of a tag, as somebody does who cleans up (distribution-spec 1.1)."""
    found = client.manifest(tag)
    if found is not None:  # two tags may have had one manifest
        at, digest = client.at, oci_digest(digest_bytes(found[0]))
        url = f"https://{at.host}/v2/{at.name}/manifests/{digest}"
        assert client.web.send("DELETE", url, {"Authorization": LOGIN.basic()}).status == 202
