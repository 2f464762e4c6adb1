"""Two machines and a registry with TLS and a password: one publishes, the other builds nothing.

Also after garbage was collected, podman and skopeo take packages and images."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildit.remote.registry.client import Registry
from buildit.remote.registry.login import Login
from buildit.remote.registry.reference import parse_reference
from buildit.remote.web import WebTransport
from tests.engines import podman
from tests.integration.program import Done, Program
from tests.integration.seeds import Seed, place
from tests.integration.test_binhosts import digests, keep_debs
from tests.integration.world import Project
from tests.registries import PASSWORD, USER, Served, registry
from tests.servers import keygen

pytestmark = pytest.mark.sandbox


@dataclass(frozen=True)
class Far:
    """A registry that the first machine has published to, and what that machine said."""

    served: Served
    key: Path
    project: Project
    program: Program
    done: Done

    @property
    def authority(self) -> str:
        assert self.served.certificates is not None
        return str(self.served.certificates.authority)

    def reaching(self, program: Program) -> Program:
        login = str(self.served.authentication(self.served.root / "login"))
        return program.with_env(SSL_CERT_FILE=self.authority, REGISTRY_AUTH_FILE=login)

    def second(self, seed: Seed, here: Path) -> tuple[Project, Program]:
        """Another machine: nothing in its store, no distfiles, the first one's key trusted."""
        project = seed.locked_project(here / "second")
        (project.box / "distfiles").unlink()
        kind, public = Path(f"{self.key}.pub").read_text().split()[:2]
        (project.root / "signers").write_text(f"first@example.org {kind} {public}\n")
        project.config.write_text(
            "trees: [./tree]\ntrust: {allowed-signers: ./signers}\n"
            "repository: {name: far, download-type: oci, "
            f"download-path: '{self.served.host}/bin'}}\n"
        )
        return project, self.reaching(seed.program.with_store(here / "store"))

    def packages(self, there: Registry) -> dict[str, str]:
        """The tag of each package."""
        manifests = {tag: there.manifest(tag) for tag in there.tags() if len(tag) == 64 + 1 + 32}
        documents = {tag: json.loads(found[0]) for tag, found in manifests.items() if found}
        title = "org.opencontainers.image.title"
        return {one["annotations"][title]: tag for tag, one in documents.items()}


@pytest.fixture
def there(far: Far, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", far.authority)
    with closing(WebTransport()) as sender:
        at = parse_reference(f"oci://{far.served.host}/bin")
        yield Registry(sender, at, lambda _: Login(USER, PASSWORD))


def published(project: Project, key: Path, host: str) -> None:
    project.config.write_text(
        f"trees: [./tree]\nsigning-key: {key}\nrepository:\n  name: far\n"
        f"  upload-type: oci\n  upload-path: {host}/bin\n"
        f"  download-type: oci\n  download-path: {host}/bin\n"
    )


@pytest.fixture(scope="module")
def far(seed: Seed) -> Iterator[Far]:
    with place("oci") as root, registry(root / "registry") as served:
        key = keygen(root / "signing")
        project = seed.locked_project(root / "project")
        published(project, key, served.host)
        store = seed.new_store(root)
        keep_debs(seed, store)
        unmade = Far(served, key, project, seed.program, Done(0, "", ""))
        program = unmade.reaching(seed.program.with_store(store))
        done = program.run(str(project.box), "--output", str(root / "out"), "--push").good()
        yield Far(served, key, project, program, done)


def test_a_second_machine_builds_nothing(far: Far, there: Registry, seed: Seed, here: Path) -> None:
    assert "Uploading packages to 'far'   [OK]" in far.done.err
    far.served.collect_garbage()
    project, program = far.second(seed, here)
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "Found HASH in 'far'...   [OK]" in done.err
    assert "building" not in done.err
    assert digests(done) == digests(far.done)
    again = far.program.run("push", str(far.project.box), "--json").good()
    assert json.loads(again.out)[0]["sent"] == 0
    pinned = re.findall("^(?:deb|source) .*?([0-9a-f]{64})", project.lock.read_text(), re.M)
    assert len(pinned) > 20
    assert [one for one in pinned if there.has_blob(f"sha256:{one}") is None] == []


def test_foreign_clients_take_all_of_it(far: Far, there: Registry, here: Path) -> None:
    """A package runs where its closure lies under it; the container has a repository of its own."""
    far.served.collect_garbage()
    packages = far.packages(there)
    assert {"libs/greet", "app/hello", "app/notes", "debian:libc6"} <= packages.keys()
    place = f"{far.served.host}/bin"
    (here / "certs").mkdir()
    (here / "certs/ca.crt").write_bytes(Path(far.authority).read_bytes())
    options = ["--cert-dir", f"{here}/certs", "--creds", f"{USER}:{PASSWORD}"]
    run("skopeo", "inspect", *options, f"docker://{place}/tiny:1.0-p1")
    hello = packages["app/hello"]
    under = [packages[name] for name in ("debian:libc6", "libs/greet")]
    with tarfile.open(here / "links.tar", "w") as links:  # of merged /usr, as images have them
        for name in ("lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            links.addfile(link)
    lines = ["FROM scratch", "ADD links.tar /"]
    lines += [f"COPY --from={place}:{tag} / /" for tag in (*under, hello)]
    lines += ['ENTRYPOINT ["/usr/bin/hello"]']
    (here / "Containerfile").write_text("\n".join(lines) + "\n")
    with podman() as program:
        for tag in (*under, hello):
            run(*program.argv, "pull", "--quiet", *options, f"{place}:{tag}")
        words = ["--isolation", "chroot", "--network", "host", "--tag", "made", str(here)]
        run(*program.argv, "build", "--pull=never", *words)
        done = program.run("made")
        assert done.stdout.startswith("good day, dear reader!"), done.stderr
        run(*program.argv, "pull", "--quiet", *options, f"{place}/tiny:1.0-p1")
        assert program.run(f"{place}/tiny:1.0-p1").stdout.startswith("good day, dear reader!")


def test_the_container_has_a_repository_of_its_own(far: Far, there: Registry) -> None:
    own = replace(there, at=replace(there.at, name="bin/tiny"))
    name = "1.0-p1-linux-amd64"
    tags = {tag for tag in own.tags() if not tag.startswith("sha256-")}
    others = {f"{name}.aci", f"{name}.container", f"{name}.statement"}
    assert tags == {"1.0-p1", name, *others}
    assert own.manifest(name) == own.manifest("1.0-p1")
    files = titled(own, f"{name}.container")
    assert {"container.yaml", "buildit.lock", "pkgs/hello/patches/polite.patch"} <= files.keys()
    assert own.blob(files["files/run.sh"], 1000) == (far.project.box / "files/run.sh").read_bytes()
    (title,) = (one for one in titled(own, f"{name}.aci") if one.endswith(".aci"))
    image = next(path for path in far.done.images() if path.name == title)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert titled(own, f"{name}.aci")[title] == f"sha256:{digest}"


def titled(there: Registry, tag: str) -> dict[str, str]:
    """The files of an artifact, as oras names them, and their digests."""
    layers = json.loads((there.manifest(tag) or (b"", ""))[0])["layers"]
    return {one["annotations"]["org.opencontainers.image.title"]: one["digest"] for one in layers}


def test_a_registry_that_lets_nobody_in_is_told_of_once(far: Far, seed: Seed, here: Path) -> None:
    project, program = far.second(seed, here)
    (here / "nobody").mkdir()
    nobody = program.with_env(REGISTRY_AUTH_FILE="", HOME=str(here / "nobody"))
    done = nobody.run("plan", str(project.box)).good()
    assert done.err.count("'far' is left out: the registry wants a login") == 1
    assert f"podman login {far.served.host}" in done.err
    published(project, far.key, far.served.host)
    assert "a registry has no pages" in nobody.run("pages", "far", cwd=project.root).err
    there = far.program.with_env(REGISTRY_AUTH_FILE="", HOME=str(here / "nobody"))
    done = there.run("push", str(far.project.box))
    assert (done.code, "publishing failed: the registry wants a login" in done.err) == (4, True)
    wrong = far.reaching(program).run(str(project.box), f"--discover=oci://{far.served.host}/Bin")
    assert "is no repository of a registry" in wrong.err


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout
